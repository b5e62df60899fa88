//! `eve deploy create`.

use std::time::Duration;

use super::super::Globals;
use super::super::duration;
use super::super::error::{Error, Exit};
use super::super::json::Inputs;
use super::super::output::Output;
use super::{Patience, Target, wait};
use crate::deployments::secrets::SecretReference;
use crate::deployments::{
    Autoscale, Canary, Deployment, NewDeployment, Patch, Settings, Variables, is_setting,
};

/// Deploy an app to an environment, or another version of it
///
/// What is left out stays as it was: another image keeps its replicas and its environment variables.
/// The app listens on the port in $PORT; others reach it under its name, on port 80.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve deploy create --app api-service --env prod --image acme/api:v1.2.3 --replicas 3
  eve deploy create --app api-service --env dev --image acme/api:v1.2.4 --wait \\
    --env-vars '{\"DATABASE_URL\": \"...\", \"API_KEY\": \"...\"}'
  eve deploy create --app api-service --env dev --image acme/api:v1.2.4 --unset health-path
  eve deploy create --app api-service --env prod --image acme/api:v1.2.3 --host api
  eve deploy create --app api-canary --env prod --image acme/api:v1.2.4 \\
    --canary-of api-service --traffic 10

  # With secrets of the environment, which `eve secret set` makes
  eve deploy create --app api-service --env prod --image acme/api:v1.2.4 --secret DATABASE_URL \\
    --secret PGPASSWORD=DATABASE_PASSWORD --secret-file /etc/tls/key.pem=TLS_KEY

Exit codes with --wait: 0 it runs, 1 it has failed, or the time was over.")]
pub struct Create {
    #[command(flatten)]
    target: Target,
    /// The image: [registry/]repository[:tag][@digest]
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// Register the app if there is none of that name
    #[arg(long)]
    register: bool,
    #[command(flatten)]
    wishes: Wishes,
    #[command(flatten)]
    patience: Patience,
    /// What to run instead of the image's entry point, behind --
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// How an app is to run: what is left out stays as it was.
#[derive(clap::Args, Debug)]
pub struct Wishes {
    /// How many replicas: 0 to 1000 [default: as before, 1 at first]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    replicas: Option<i64>,
    /// Environment variables, all of them: a JSON object of texts. They are kept sealed
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    env_vars: Option<String>,
    /// A secret of the environment that it gets as an environment variable; all of them are named, those of
    /// before are forgotten
    #[arg(long, value_name = "[VARIABLE=]NAME")]
    secret: Vec<String>,
    /// A secret of the environment that it gets as a file
    #[arg(long, value_name = "PATH=NAME", value_parser = SecretReference::of_file)]
    secret_file: Vec<SecretReference>,
    /// None of the secrets that it had
    #[arg(long, conflicts_with_all = ["secret", "secret_file"])]
    no_secrets: bool,
    /// The port that it listens on [default: 8080]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// A path that answers 200 once it can take traffic
    #[arg(long, value_name = "PATH")]
    health_path: Option<String>,
    /// CPU that each replica asks for, such as 250m or 2
    #[arg(long, value_name = "CORES")]
    cpu: Option<String>,
    /// Memory that each replica may have, such as 256Mi
    #[arg(long, value_name = "BYTES")]
    memory: Option<String>,
    /// A number of replicas that follows the load: least and most, such as 2..10
    #[arg(long, value_name = "MIN..MAX", value_parser = autoscale)]
    autoscale: Option<Autoscale>,
    /// The user that it runs as, where the image names none but root
    #[arg(long, value_name = "UID")]
    run_as_user: Option<u32>,
    /// How long it may take to be there before it has failed [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    deadline: Option<Duration>,
    /// A host that leads to it from outside, instead of those of before: a name alone, or the whole host.
    /// May be repeated
    #[arg(long, value_name = "NAME", conflicts_with = "no_host")]
    host: Vec<String>,
    /// No host leads to it any more
    #[arg(long)]
    no_host: bool,
    /// It takes a share of this app's requests, in the same environment
    #[arg(long, value_name = "APP", requires = "traffic")]
    canary_of: Option<String>,
    /// The share, in percent: 1 to 100. Without a gateway requests are split among replicas, and without
    /// --replicas it gets as many as come nearest
    #[arg(long, value_name = "PERCENT", requires = "canary_of", allow_negative_numbers = true)]
    traffic: Option<i32>,
    /// A setting that is to be as if it had never been said: health-path, cpu, memory, command, port,
    /// autoscale, hosts, canary, …; more than once for several
    #[arg(long, value_name = "SETTING", value_parser = setting)]
    unset: Vec<String>,
}

fn autoscale(text: &str) -> Result<Autoscale, String> {
    let wrong = || format!("`{text}` is not a range of replicas, such as 2..10");
    let (min, max) = text.split_once("..").ok_or_else(wrong)?;
    let number = |text: &str| text.trim().parse().map_err(|_| wrong());
    Ok(Autoscale { min: number(min)?, max: number(max)?, cpu_percent: 80 })
}

/// A setting as flags name it, as the API does.
fn setting(text: &str) -> Result<String, String> {
    let name = match text {
        "deadline" => "deadline_s".to_owned(),
        "host" => "hosts".to_owned(),
        "secret" | "secret-file" => "secrets".to_owned(),
        "canary-of" | "traffic" => "canary".to_owned(),
        text => text.replace('-', "_"),
    };
    is_setting(&name).map(|()| name)
}

impl Wishes {
    /// The secrets that it refers to from now on; none if that stays as it is.
    fn secrets(&self) -> Option<Vec<SecretReference>> {
        let variables = self.secret.iter().map(|text| SecretReference::of_variable(text));
        let named: Vec<_> = variables.chain(self.secret_file.iter().cloned()).collect();
        (self.no_secrets || !named.is_empty()).then_some(named)
    }

    /// The environment variables, and everything else.
    pub fn read(&self, command: &[String]) -> Result<(Option<Variables>, Patch), Error> {
        let mut inputs = Inputs::default();
        let env_vars = match self.env_vars.as_deref() {
            Some(argument) => Some(inputs.read("--env-vars", argument)?.parse::<Variables>()?),
            None => None,
        };
        let hosts = match self.no_host {
            true => Some(Vec::new()),
            false => (!self.host.is_empty()).then(|| self.host.clone()),
        };
        let canary = self.canary_of.clone().zip(self.traffic);
        let mut settings = Patch::from(Settings {
            port: self.port,
            health_path: self.health_path.clone(),
            cpu: self.cpu.clone(),
            memory: self.memory.clone(),
            command: command.to_vec(),
            autoscale: self.autoscale,
            run_as_user: self.run_as_user,
            deadline_s: self
                .deadline
                .map(|deadline| u32::try_from(deadline.as_secs()).unwrap_or(u32::MAX)),
            secrets: self.secrets(),
            hosts,
            canary: canary.map(|(of, percent)| Canary { of, percent }),
        });
        for setting in &self.unset {
            settings.unset(setting).map_err(|why| Error::usage(format!("--unset: {why}")))?;
        }
        Ok((env_vars, settings))
    }

    /// How many replicas.
    pub fn replicas(&self) -> Option<i64> {
        self.replicas
    }
}

impl Create {
    fn body(&self) -> Result<NewDeployment, Error> {
        let (env_vars, settings) = self.wishes.read(&self.command)?;
        Ok(NewDeployment {
            app: self.target.app.clone(),
            register: self.register,
            image: self.image.clone(),
            replicas: self.wishes.replicas(),
            env_vars,
            settings,
        })
    }

    /// Runs it.
    pub async fn run(self, globals: &Globals, out: &Output) -> Result<Exit, Error> {
        let body = self.body()?;
        let client = globals.connect()?;
        let path = ["envs", &*self.target.env, "deployments"];
        let made: Deployment = client.post(&path, &body).await?;
        wait::show(&client, made, self.patience, out).await
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        create: Create,
    }

    fn body(words: &[&str]) -> Result<serde_json::Value, String> {
        let base = ["create", "--app", "api", "--env", "dev", "--image", "acme/api:v1"];
        let line = Line::try_parse_from(base.iter().chain(words)).map_err(|e| e.to_string())?;
        let body = line.create.body().map_err(|error| error.to_string())?;
        Ok(serde_json::to_value(body).expect("JSON"))
    }

    #[test]
    fn flags_become_a_deployment() {
        assert_eq!(body(&[]), Ok(json!({"app": "api", "image": "acme/api:v1", "settings": {}})));
        let all = [
            "--replicas",
            "3",
            "--env-vars",
            r#"{"A": "b"}"#,
            "--port",
            "80",
            "--health-path",
            "/up",
            "--cpu",
            "1",
            "--memory",
            "1Gi",
            "--autoscale",
            "2..10",
            "--deadline",
            "90s",
            "--wait",
            "--run-as-user",
            "1000",
            "--",
            "/app",
            "-x",
        ];
        assert_eq!(
            body(&all),
            Ok(json!({
                "app": "api", "image": "acme/api:v1", "replicas": 3, "env_vars": {"A": "b"},
                "settings": {
                    "port": 80, "health_path": "/up", "cpu": "1", "memory": "1Gi",
                    "autoscale": {"min": 2, "max": 10, "cpu_percent": 80}, "deadline_s": 90,
                    "run_as_user": 1000, "command": ["/app", "-x"],
                },
            }))
        );
        let secrets = ["--secret", "A", "--secret-file", "/run/b=B", "--secret", "C=D"];
        assert_eq!(
            body(&secrets).map(|body| body["settings"]["secrets"].clone()),
            Ok(json!([
                {"name": "A"}, {"name": "D", "variable": "C"}, {"name": "B", "file": "/run/b"},
            ]))
        );
        let none = body(&["--no-secrets"]).map(|body| body["settings"].clone());
        assert_eq!(none, Ok(json!({"secrets": []})));
        assert!(body(&["--no-secrets", "--secret", "A"]).is_err());
        assert!(body(&["--secret-file", "/run/b"]).is_err_and(|e| e.contains("PATH=NAME")));
        assert!(body(&["--env-vars", r#"{"A": 1}"#]).is_err_and(|e| e.contains("string")));
        assert!(body(&["--env-vars", "[]"]).is_err());
        assert!(body(&["--autoscale", "2"]).is_err_and(|e| e.contains("2..10")));
        assert_eq!(
            body(&["--unset", "health-path", "--unset", "deadline", "--cpu", "1"]),
            Ok(json!({
                "app": "api", "image": "acme/api:v1",
                "settings": { "health_path": null, "deadline_s": null, "cpu": "1" },
            }))
        );
        let unset = ["--unset", "host", "--unset", "secret", "--unset", "canary"];
        assert_eq!(
            body(&unset).map(|body| body["settings"].clone()),
            Ok(json!({ "hosts": null, "secrets": null, "canary": null }))
        );
        assert!(body(&["--unset", "hosts", "--host", "api"]).is_err_and(|e| e.contains("at once")));
        assert!(body(&["--unset", "x"]).is_err_and(|e| e.contains("`health_path`")));
        assert!(body(&["--unset", "cpu", "--cpu", "1"]).is_err_and(|e| e.contains("at once")));
        assert!(body(&["--timeout", "1m"]).is_err_and(|e| e.contains("--wait")));
        let settings = |words: &[&str]| body(words).map(|body| body["settings"].clone());
        let hosts = ["--host", "api", "--host", "www"];
        assert_eq!(settings(&hosts), Ok(json!({"hosts": ["api", "www"]})));
        assert_eq!(settings(&["--no-host"]), Ok(json!({"hosts": []})));
        assert!(body(&["--no-host", "--host", "api"]).is_err());
        let canary = ["--canary-of", "api-service", "--traffic", "10"];
        let wanted = json!({"canary": {"of": "api-service", "percent": 10}});
        assert_eq!(settings(&canary), Ok(wanted));
        assert!(body(&canary[..2]).is_err_and(|e| e.contains("--traffic")));
        assert!(body(&canary[2..]).is_err_and(|e| e.contains("--canary-of")));
    }
}
