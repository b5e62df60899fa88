//! `eve env …`: namespaces of an organisation in clusters.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Globals;
use super::client::Client;
use super::error::{Error, Exit};
use super::json::Inputs;
use super::output::{Output, Render, View, cell, optional, text_cell};
use crate::deployments::environments::{
    Environment, EnvironmentConfig, EnvironmentStatus, NewEnvironment,
};
use crate::deployments::secrets::SecretStore;
use crate::http::{Items, Me};

/// How often a server is asked how far it is.
const PACE: Duration = Duration::from_millis(500);

/// Make, show and delete environments: where apps are deployed
///
/// An environment is a namespace in a cluster that is this organisation's alone.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// List the environments
    #[command(after_help = "Example:\n  eve env list")]
    List,
    Create(Create),
    /// Show an environment
    #[command(after_help = "Example:\n  eve env show prod")]
    Show {
        /// Its name
        name: String,
    },
    Kubeconfig(Kubeconfig),
    /// Print the credential as clients of Kubernetes ask for it
    #[command(hide = true)]
    Credential,
    Delete(Delete),
}

/// Print a kubeconfig of an environment, for helm, k9s and others
///
/// There is no token in it: whoever uses it asks this program for yours, which has to be logged in. What
/// you may do is what you may do with `eve kubectl`. It takes a server with https, because clients of
/// Kubernetes send no token without; the certificates that its own is verified by are in the file, if the
/// context has them.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve env kubeconfig prod --file prod.yaml
  KUBECONFIG=prod.yaml helm list
  KUBECONFIG=prod.yaml k9s")]
pub struct Kubeconfig {
    /// The environment
    name: String,
    /// Write it to a file that only you can read
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Make an environment; for admins
///
/// Waits until its namespace is there, and says why if it cannot be made.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve env create --name prod --cluster eks-prod --namespace acme-prod
  eve env create --name prod --cluster eks-prod --config '{\"deployers\": \"admin\"}'
  eve env create --name prod --cluster eks-prod --secret-store eve-tenants

Settings in --config:
  deployers     the least role that may deploy to it: member (the default), admin or owner
  worker_types  the worker types whose skills may deploy to it
  approval      whether a person approves what skills ask for: true or false (the default)
  quota         what all apps in it may have together: {\"pods\": 50, \"cpu\": 20, \"memory_gib\": 40}

Exit codes: 0 it is ready, 1 it could not be made; it is tried again until it is deleted.")]
pub struct Create {
    /// Its name, such as prod
    #[arg(long, value_name = "NAME")]
    name: String,
    /// The cluster
    #[arg(long, value_name = "ID")]
    cluster: String,
    /// Its namespace in the cluster [default: the organisation's short name, - and its own]
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// What it allows and has room for: a JSON object
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    config: Option<String>,
    /// Keep its secrets in this ClusterSecretStore of External Secrets; for administrators of the platform
    #[arg(long, value_name = "NAME")]
    secret_store: Option<String>,
    /// What their keys begin with there [default: eve-horizon/ORGANISATION/ENVIRONMENT/]
    #[arg(long, value_name = "PREFIX", requires = "secret_store")]
    secret_prefix: Option<String>,
    /// Do not wait until it is ready
    #[arg(long)]
    no_wait: bool,
}

/// Delete an environment, its namespace and all that is in it; for admins
///
/// One whose cluster is gone for ever stays `deleting`. With --abandon it is forgotten, with the history of
/// what was deployed in it, and nothing in the cluster is touched; what is left behind there, should it come
/// back, is said, and stands in the audit log. While the cluster answers only an administrator of the platform
/// may do that.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve env delete staging
  eve env delete staging --force      although apps are deployed in it
  eve env delete staging --abandon    although its cluster will never answer again")]
pub struct Delete {
    /// Its name
    name: String,
    /// What is deployed in it as well
    #[arg(long)]
    force: bool,
    /// Forget it without touching its cluster, which is gone for ever
    #[arg(long, conflicts_with = "force")]
    abandon: bool,
    /// Do not wait until it is gone
    #[arg(long)]
    no_wait: bool,
}

impl Render for Environment {
    fn render(&self, view: &View) -> String {
        let config = serde_json::to_string_pretty(&self.config.0).unwrap_or_default();
        view.details([
            ("name", cell(&self.name)),
            ("cluster", cell(&self.cluster)),
            ("namespace", cell(&self.namespace)),
            ("status", cell(self.status.as_str())),
            ("message", optional(self.message.as_ref())),
            ("deployments", cell(self.deployments.to_string())),
            ("config", text_cell(config)),
            ("created", view.moment(self.created_at)),
        ])
    }
}

impl Render for Items<Environment> {
    fn render(&self, view: &View) -> String {
        if self.items.is_empty() {
            return "No environments. `eve env create --name NAME --cluster ID` makes one."
                .to_owned();
        }
        let rows = self.items.iter().map(|env| {
            [
                cell(&env.name),
                cell(&env.cluster),
                cell(&env.namespace),
                cell(env.status.as_str()),
                cell(env.deployments.to_string()),
                optional(env.message.as_ref()),
            ]
        });
        view.table(["NAME", "CLUSTER", "NAMESPACE", "STATUS", "DEPLOYMENTS", "MESSAGE"], 5, rows)
    }
}

/// Runs `eve env …`.
pub async fn run(command: Command, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    match command {
        Command::List => {
            out.show(&globals.connect()?.get::<Items<Environment>>(&["envs"]).await?)?;
        }
        Command::Show { name } => {
            out.show(&globals.connect()?.get::<Environment>(&["envs", &name]).await?)?;
        }
        Command::Kubeconfig(command) => return kubeconfig(command, globals, out).await,
        Command::Credential => return credential(globals, out),
        Command::Create(command) => return create(command, globals, out).await,
        Command::Delete(command) => return delete(command, globals, out).await,
    }
    Ok(Exit::Ok)
}

async fn create(command: Create, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    let mut inputs = Inputs::default();
    let mut config: EnvironmentConfig = match command.config.as_deref() {
        None => EnvironmentConfig::default(),
        Some(argument) => inputs.read("--config", argument)?.parse()?,
    };
    if let Some(name) = command.secret_store {
        let prefix = command.secret_prefix.unwrap_or_default();
        config.secret_store = Some(SecretStore { name, prefix });
    }
    let new = NewEnvironment {
        name: command.name,
        cluster: command.cluster,
        namespace: command.namespace,
        config,
    };
    let client = globals.connect()?;
    let mut env: Environment = client.post(&["envs"], &new).await?;
    if command.no_wait {
        out.show(&env)?;
        return Ok(Exit::Ok);
    }
    let begun = Instant::now();
    while env.status == EnvironmentStatus::Provisioning
        && begun.elapsed() < Duration::from_secs(120)
    {
        tokio::time::sleep(PACE).await;
        env = client.get(&["envs", &new.name]).await?;
        if let Some(message) = &env.message
            && begun.elapsed() > Duration::from_secs(20)
        {
            out.note(&format!("still waiting: {message}"));
            break;
        }
    }
    out.show(&env)?;
    Ok(match env.status {
        EnvironmentStatus::Ready => Exit::Ok,
        _ => Exit::Failed,
    })
}

async fn kubeconfig(command: Kubeconfig, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    let client = globals.connect()?;
    if !client.url().starts_with("https://") {
        return Err(Error::usage_hint(
            format!("clients of Kubernetes send no token to {}, which is not https", client.url()),
            format!(
                "`eve kubectl --env {}` works without; `eve dev` speaks https at the same address, and \
                 `eve serve` with --tls-cert and --tls-key, or behind a proxy that does",
                command.name
            ),
        ));
    }
    let environment: Environment = client.get(&["envs", &command.name]).await?;
    let me: Me = client.get(&["me"]).await?;
    let org = me.org.ok_or_else(|| Error::usage("name the organisation: --org"))?.slug;
    let text = super::kubectl::kubeconfig::direct(
        client.url(),
        client.certificate_authority(),
        &org,
        &environment.name,
        &environment.namespace,
    );
    match command.file {
        Some(file) => {
            super::kubectl::write_private(&file, &text)?;
            out.note(&format!("wrote {}", file.display()));
        }
        None => out.text(text.trim_end())?,
    }
    Ok(Exit::Ok)
}

/// What an exec plugin answers (https://kubernetes.io/docs/reference/config-api/client-authentication.v1/).
fn credential(globals: &Globals, out: &Output) -> Result<Exit, Error> {
    let server = globals.server_of_any_context()?;
    let token = server.token.ok_or_else(|| {
        Error::usage_hint(
            format!("no token for {} is known", server.url),
            format!("log in: eve login --url {}", server.url),
        )
    })?;
    out.json(&serde_json::json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": { "token": token.expose() },
    }))?;
    Ok(Exit::Ok)
}

async fn delete(command: Delete, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    let client = globals.connect()?;
    // Only what is said: a server of before knows nothing of abandoning.
    let mut query = vec![("force", command.force.to_string())];
    if command.abandon {
        query.push(("abandon", "true".to_owned()));
    }
    let env: Environment = client.delete_where(&["envs", &command.name], &query).await?;
    if let Some(message) = env.message.as_ref().filter(|_| command.abandon) {
        out.note(message);
    }
    if command.no_wait {
        out.show(&env)?;
        return Ok(Exit::Ok);
    }
    match gone(&client, &command.name).await? {
        None => {
            out.note(&format!("deleted {}", command.name));
            Ok(Exit::Ok)
        }
        Some(env) => {
            out.show(&env)?;
            Ok(Exit::Failed)
        }
    }
}

/// Waits until it is no more; what is still there if that takes too long.
async fn gone(client: &Client, name: &str) -> Result<Option<Environment>, Error> {
    let begun = Instant::now();
    loop {
        match client.get::<Environment>(&["envs", name]).await {
            Err(error) if error.exit() == Exit::NotFound => return Ok(None),
            Err(error) => return Err(error),
            Ok(env) if begun.elapsed() > Duration::from_secs(180) => return Ok(Some(env)),
            Ok(_) => tokio::time::sleep(PACE).await,
        }
    }
}
