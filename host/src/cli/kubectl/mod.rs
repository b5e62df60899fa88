//! `eve kubectl …`: the user's own kubectl in an environment.
//!
//! Flow: `forward` listens on this machine for as long as the command runs, and passes what kubectl asks on
//! to the server with the caller's credentials; kubectl is told where by a kubeconfig of its own.
//!
//! Invariants:
//! - No credential is in a file or in kubectl's hands: the forwarder adds it. What the kubeconfig has
//!   instead is an address that nobody can guess, of a port of this machine that closes with the command.
//! - Arguments, standard streams, signals and the exit code are kubectl's own.

mod forward;
pub mod kubeconfig;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};

use super::Globals;
use super::error::Error;
use super::output::{Output, plain};
use crate::deployments::environments::Environment;
use forward::Forwarder;

/// The variable that names another program.
const PROGRAM: &str = "EVE_KUBECTL";

/// Run kubectl in an environment
///
/// Runs the kubectl that is installed on this machine, in the environment's namespace, with what you may
/// do there: whoever may deploy to it may change what Eve Horizon has not made itself, and enter
/// containers; everybody else may look. Nobody reads Secrets. What is changed is in the audit log.
///
/// Everything behind the environment is kubectl's, as it is; eve's own flags come before.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve kubectl --env prod get pods
  eve kubectl --env prod logs -f deployment/api-service
  eve kubectl --env prod exec -it deployment/api-service -- sh
  eve kubectl --env dev port-forward service/api-service 8080:80
  eve kubectl --env dev apply --server-side -f cache.yaml

EVE_KUBECTL names another kubectl than the one in PATH. The exit code is kubectl's.
For other tools, see `eve env kubeconfig`.")]
pub struct Kubectl {
    /// The environment
    #[arg(long, value_name = "ENV")]
    env: String,
    /// What kubectl is to do
    #[arg(
        value_name = "ARGUMENTS",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    arguments: Vec<OsString>,
}

/// Runs it; kubectl's exit code.
pub async fn run(command: Kubectl, globals: &Globals, out: &Output) -> Result<u8, Error> {
    let client = globals.connect()?;
    // Whether there is one is better said before kubectl begins.
    let environment: Environment = client.get(&["envs", &command.env]).await?;
    let folder = tempfile::Builder::new()
        .prefix("eve-kubectl-")
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir()
        .map_err(|error| Error::local(format!("cannot make a temporary folder: {error}")))?;
    let forwarder = Forwarder::start(client, &command.env).await?;
    let file = folder.path().join("kubeconfig");
    let text = kubeconfig::local(&forwarder.url(), &command.env, &environment.namespace);
    write_private(&file, &text)?;

    let program = std::env::var_os(PROGRAM).filter(|program| !program.is_empty());
    let program = program.unwrap_or_else(|| "kubectl".into());
    let signals = Signals::listen()?;
    let child = tokio::process::Command::new(&program)
        .args(&command.arguments)
        .env("KUBECONFIG", &file)
        // It is kept by address, and this one is never used again.
        .env("KUBECACHEDIR", folder.path().join("cache"))
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| cannot_start(&program, &error))?;
    let status = signals.attend(child).await?;
    let code = code(status);
    if let Some(message) = forwarder.unsaid().filter(|_| code != 0) {
        out.note(&format!("eve: {}", plain(&message)));
    }
    Ok(code)
}

fn cannot_start(program: &OsString, error: &io::Error) -> Error {
    let program = Path::new(program).display();
    match error.kind() {
        io::ErrorKind::NotFound => Error::local_hint(
            format!("there is no `{program}` on this machine"),
            format!(
                "install kubectl (https://kubernetes.io/docs/tasks/tools/), or name it in {PROGRAM}; \
                 `eve deploy` needs none"
            ),
        ),
        _ => Error::local(format!("cannot start `{program}`: {error}")),
    }
}

/// Readable by its owner only, from the start.
pub fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let failed = |source| Error::File { doing: "write", path: path.into(), source };
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

fn code(status: ExitStatus) -> u8 {
    // As shells have it.
    let signalled = || status.signal().map(|signal| 128 + signal);
    let code = status.code().or_else(signalled).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// What is sent to this process while kubectl runs.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> Result<Signals, Error> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Error::local(format!("cannot listen for signals: {error}")))
        };
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            quit: listen(SignalKind::quit())?,
        })
    }

    /// Waits for a child's end, and passes signals on to it.
    async fn attend(mut self, mut child: Child) -> Result<ExitStatus, Error> {
        // A terminal sends to all of its foreground: kubectl has had those already, and a second Ctrl-C
        // means something else to many programs than the first.
        let on_terminal = io::stdin().is_terminal();
        loop {
            let signal = tokio::select! {
                status = child.wait() => {
                    return status.map_err(|error| Error::local(format!("cannot wait for kubectl: {error}")));
                }
                _ = self.interrupt.recv() => Some(Signal::INT).filter(|_| !on_terminal),
                _ = self.quit.recv() => Some(Signal::QUIT).filter(|_| !on_terminal),
                _ = self.terminate.recv() => Some(Signal::TERM),
                _ = self.hangup.recv() => Some(Signal::HUP),
            };
            let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
            if let (Some(signal), Some(id)) = (signal, id) {
                // It has not been waited for, so the id is still its own; an error means that it ended.
                let _ = kill_process(id, signal);
            }
        }
    }
}
