//! `eve cluster …`: where apps can be deployed; for platform administrators.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::Globals;
use super::client::Client;
use super::error::{Error, Exit};
use super::output::{Output, Render, View, cell, optional, text_cell};
use crate::deployments::clusters::{Cluster, ClusterCheck, ClusterStatus, Gateway, Provider};
use crate::deployments::kubernetes::manifests;
use crate::http::Items;

/// Register clusters, and see whether they are fit; for platform administrators
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// List the clusters
    #[command(after_help = "Example:\n  eve cluster list")]
    List,
    /// Show a cluster
    #[command(after_help = "Example:\n  eve cluster show eks-prod")]
    Show {
        /// Its id
        id: String,
    },
    Add(Box<Add>),
    /// Enter a cluster with another credential, or at another place; its environments stay
    ///
    /// What is not given is forgotten, as if it were registered anew.
    #[command(after_help = "\
Example:
  eve cluster update --id eks-prod --provider eks --endpoint https://xxx.eks.amazonaws.com \\
    --ca-file ca.crt --token-file token")]
    Update(Box<Add>),
    /// See whether a cluster answers, and what is missing in it
    #[command(
        after_help = "Example:\n  eve cluster check eks-prod\n\nExit codes: 0 it is ready, 1 it is not."
    )]
    Check {
        /// Its id
        id: String,
    },
    /// Forget a cluster in which there are no environments; nothing in it is changed
    #[command(after_help = "Example:\n  eve cluster remove eks-prod")]
    Remove {
        /// Its id
        id: String,
    },
    Manifest(Manifest),
}

/// Register a cluster, and look at it
///
/// The control plane enters it with the token of its own account, which `eve cluster manifest` makes.
/// Credentials are read from files or standard input, kept sealed, and never shown again.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  # Make what Eve Horizon needs in a cluster, and register it with the token of its account
  eve cluster manifest | kubectl apply --server-side -f -
  kubectl -n eve-horizon get secret eve-control-plane-token -o jsonpath='{.data.token}' | base64 -d |
    eve cluster add --id local --provider local --kubeconfig ~/.kube/config --token-file -

  eve cluster add --id eks-prod --provider eks --endpoint https://xxx.eks.amazonaws.com \\
    --ca-file ca.crt --token-file token

  # By a login at the cloud, which may ask for tokens of that account
  eve cluster add --id gke-prod --provider gke --endpoint https://203.0.113.7 \\
    --ca-file ca.crt --login-file service-account.json

Logins, each a JSON object:
  eks   {\"access_key_id\", \"secret_access_key\", \"session_token\" if it is temporary, \"region\", \"cluster_name\"}
  gke   the key of a service account, as Google hands it out
  aks   {\"tenant_id\", \"client_id\", \"client_secret\"} of an application in Entra ID

What is missing in the cluster is printed; `eve cluster check` looks again.")]
pub struct Add {
    /// Its id, such as eks-prod
    #[arg(long, value_name = "ID")]
    id: String,
    /// Its name for people [default: its id]
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// What kind it is: local, eks, gke or aks; ecs and docker are not supported yet
    #[arg(long, value_name = "KIND", hide_possible_values = true, default_value = "local", value_parser = provider())]
    provider: Provider,
    /// Its API server [default: the kubeconfig's, or the cluster that the control plane runs in]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// The certificates that the API server's own is verified by, PEM
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The token of the account eve-horizon/eve-control-plane; - for standard input
    #[arg(long, value_name = "FILE|-")]
    token_file: Option<PathBuf>,
    /// A login at the provider's cloud instead: a JSON object, see below; - for standard input
    #[arg(long, value_name = "FILE|-", conflicts_with = "token_file")]
    login_file: Option<PathBuf>,
    /// Take what is not given otherwise from a kubeconfig
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Which of the kubeconfig's contexts [default: its current one]
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    kube_context: Option<String>,
    /// What host names of apps end with, such as apps.example.com
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// The Gateway that leads from host names to apps
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = gateway)]
    gateway: Option<Gateway>,
    /// The class of the Ingresses that do, where there is no Gateway
    #[arg(long, value_name = "CLASS")]
    ingress_class: Option<String>,
    /// Gateway or ingress controller have certificates for the domain: apps are reached by https
    #[arg(long)]
    https: bool,
}

fn gateway(text: &str) -> Result<Gateway, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(Gateway { namespace: namespace.to_owned(), name: name.to_owned() })
        }
        _ => Err("must be NAMESPACE/NAME, such as eve-gateway/tenants".into()),
    }
}

/// Print what Eve Horizon needs in a cluster, to be applied by an administrator of it
///
/// Namespaces, the roles of identities, admission policies, and the control plane's own account, which
/// they confine.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve cluster manifest | kubectl apply --server-side -f -
  eve cluster manifest > eve-horizon.yaml")]
pub struct Manifest {
    /// Without the token of the account: the control plane runs in this cluster
    #[arg(long)]
    in_cluster: bool,
}

fn provider() -> impl TypedValueParser<Value = Provider> {
    PossibleValuesParser::new(Provider::ALL.map(Provider::as_str)).map(|word| {
        let found = Provider::ALL.into_iter().find(|known| known.as_str() == word);
        found.unwrap_or(Provider::Local)
    })
}

impl Render for Cluster {
    fn render(&self, view: &View) -> String {
        view.details([
            ("id", cell(&self.id)),
            ("name", cell(&self.name)),
            ("provider", cell(self.provider.as_str())),
            ("endpoint", optional(self.endpoint.as_ref())),
            ("credentials", cell(if self.has_credentials { "sealed" } else { "none" })),
            ("status", cell(self.status.as_str())),
            ("message", optional(self.message.as_ref())),
            ("version", optional(self.version.as_ref())),
            ("domain", optional(self.domain.as_ref())),
            (
                "gateway",
                optional(self.gateway.as_ref().map(|it| format!("{}/{}", it.namespace, it.name))),
            ),
            ("ingress class", optional(self.ingress_class.as_ref())),
            ("environments", cell(self.environments.to_string())),
            ("created", view.moment(self.created_at)),
        ])
    }
}

impl Render for Items<Cluster> {
    fn render(&self, view: &View) -> String {
        if self.items.is_empty() {
            return "No clusters. `eve cluster add --id ID` registers one.".to_owned();
        }
        let rows = self.items.iter().map(|cluster| {
            [
                cell(&cluster.id),
                cell(cluster.provider.as_str()),
                cell(cluster.status.as_str()),
                optional(cluster.version.as_ref()),
                cell(cluster.environments.to_string()),
                optional(cluster.message.as_ref().or(cluster.endpoint.as_ref())),
            ]
        });
        view.table(["ID", "PROVIDER", "STATUS", "VERSION", "ENVIRONMENTS", "ENDPOINT"], 5, rows)
    }
}

impl Render for ClusterCheck {
    fn render(&self, view: &View) -> String {
        let several = |items: &[String]| match items.is_empty() {
            true => cell("-"),
            false => text_cell(items.join("\n")),
        };
        view.details([
            ("status", cell(self.status.as_str())),
            ("version", optional(self.version.as_ref())),
            ("error", optional(self.error.as_ref())),
            ("missing", several(&self.missing)),
            ("warnings", several(&self.warnings)),
        ])
    }
}

/// Runs `eve cluster …`.
pub async fn run(command: Command, globals: &Globals, out: &Output) -> Result<Exit, Error> {
    match command {
        Command::List => {
            out.show(&globals.connect()?.get::<Items<Cluster>>(&["clusters"]).await?)?;
        }
        Command::Show { id } => {
            out.show(&globals.connect()?.get::<Cluster>(&["clusters", &id]).await?)?;
        }
        Command::Add(command) => {
            let body = command.body()?;
            let client = globals.connect()?;
            let made: Cluster = client.post(&["clusters"], &body).await?;
            checked(&client, &made, out).await?;
        }
        Command::Update(command) => {
            let body = command.body()?;
            let client = globals.connect()?;
            let changed: Cluster = client.put(&["clusters", &command.id], &body).await?;
            checked(&client, &changed, out).await?;
        }
        Command::Check { id } => {
            let path = ["clusters", id.as_str(), "check"];
            let check: ClusterCheck = globals.connect()?.post(&path, &json!({})).await?;
            out.show(&check)?;
            return Ok(match check.status {
                ClusterStatus::Ready => Exit::Ok,
                _ => Exit::Failed,
            });
        }
        Command::Remove { id } => {
            globals.connect()?.delete(&["clusters", &id]).await?;
            out.note(&format!("removed {id}; nothing in the cluster was changed"));
        }
        Command::Manifest(command) => out.text(manifests::all(!command.in_cluster).trim_end())?,
    }
    Ok(Exit::Ok)
}

/// Looks at a cluster that was registered, and shows it as it is then.
async fn checked(client: &Client, cluster: &Cluster, out: &Output) -> Result<(), Error> {
    let check: ClusterCheck = client.post(&["clusters", &cluster.id, "check"], &json!({})).await?;
    out.show(&client.get::<Cluster>(&["clusters", &cluster.id]).await?)?;
    tell(&check, out);
    Ok(())
}

/// What a look has found, beside the answer.
fn tell(check: &ClusterCheck, out: &Output) {
    for (what, lines) in [("missing", &check.missing), ("warning", &check.warnings)] {
        for line in lines {
            out.note(&format!("{what}: {line}"));
        }
    }
    if let Some(error) = &check.error {
        out.note(&format!("registered, but it cannot be used yet: {error}"));
    }
}

impl Add {
    fn body(&self) -> Result<Value, Error> {
        if !self.provider.is_kubernetes() {
            return Err(Error::usage_hint(
                format!("clusters of the kind `{}` are not supported yet", self.provider.as_str()),
                "these are: local, eks, gke, aks",
            ));
        }
        let mut body = json!({
            "id": self.id, "name": self.name, "provider": self.provider,
            "endpoint": self.endpoint, "domain": self.domain, "gateway": self.gateway,
            "ingress_class": self.ingress_class, "https": self.https,
        });
        if let Some(file) = &self.kubeconfig {
            let found = Kubeconfig::read(file, self.kube_context.as_deref())?;
            if self.endpoint.is_none() {
                body["endpoint"] = json!(found.server);
            }
            body["certificate_authority"] = json!(found.authority);
            if self.token_file.is_none() && self.login_file.is_none() {
                for (key, value) in found.credential? {
                    body[key] = json!(value);
                }
            }
        }
        if let Some(file) = &self.ca_file {
            body["certificate_authority"] = json!(text(file)?);
        }
        if let Some(file) = &self.token_file {
            body["token"] = json!(text(file)?.trim());
        }
        if let Some(file) = &self.login_file {
            let field = match self.provider {
                Provider::Eks => "aws",
                Provider::Gke => "google",
                Provider::Aks => "azure",
                _ => {
                    let message =
                        format!("a cluster of the kind `{}` has no cloud", self.provider.as_str());
                    return Err(Error::usage_hint(
                        message,
                        "--login-file goes with eks, gke and aks",
                    ));
                }
            };
            let login: Value = serde_json::from_str(&text(file)?).map_err(|error| {
                // Where, and not what stands there: it is a secret.
                let place = format!("line {}, column {}", error.line(), error.column());
                Error::usage(format!("{} is not JSON: {place}", file.display()))
            })?;
            body[field] = login;
        }
        Ok(body)
    }
}

/// The text of a file, or of standard input.
fn text(file: &Path) -> Result<String, Error> {
    if file == Path::new("-") {
        return std::io::read_to_string(std::io::stdin()).map_err(Error::Stdin);
    }
    std::fs::read_to_string(file).map_err(|source| Error::File {
        doing: "read",
        path: file.to_owned(),
        source,
    })
}

/// What of a kubeconfig can be taken elsewhere: a place, and a credential that is one by itself.
struct Kubeconfig {
    server: Option<String>,
    authority: Option<String>,
    credential: Result<Vec<(&'static str, String)>, Error>,
}

impl Kubeconfig {
    fn read(file: &Path, context: Option<&str>) -> Result<Kubeconfig, Error> {
        let wrong = |what: String| Error::usage(format!("{}: {what}", file.display()));
        let parsed: kube::config::Kubeconfig = serde_saphyr::from_str(&text(file)?)
            .map_err(|error| wrong(format!("is no kubeconfig: {error}")))?;
        let name = context
            .map(str::to_owned)
            .or(parsed.current_context.clone())
            .ok_or_else(|| wrong("has no current context; name one with --kube-context".into()))?;
        let context = parsed
            .contexts
            .iter()
            .find(|context| context.name == name)
            .and_then(|context| context.context.clone())
            .ok_or_else(|| wrong(format!("there is no context `{name}`")))?;
        let cluster = parsed
            .clusters
            .iter()
            .find(|cluster| cluster.name == context.cluster)
            .and_then(|cluster| cluster.cluster.clone())
            .ok_or_else(|| wrong(format!("there is no cluster `{}`", context.cluster)))?;
        if cluster.insecure_skip_tls_verify == Some(true) {
            return Err(wrong(
                "insecure-skip-tls-verify: Eve Horizon verifies API servers; give --ca-file".into(),
            ));
        }
        if cluster.proxy_url.is_some() {
            return Err(wrong("proxy-url: the control plane goes to API servers directly".into()));
        }
        if cluster.tls_server_name.is_some() {
            return Err(wrong(
                "tls-server-name: the certificate must be for the endpoint's own name".into(),
            ));
        }
        // Paths in a kubeconfig are relative to it.
        let beside = |path: &str| file.parent().unwrap_or(Path::new("")).join(path);
        let authority = inline(cluster.certificate_authority_data.as_deref())
            .map_err(|error| wrong(format!("certificate-authority-data: {error}")))?;
        let authority = match (authority, &cluster.certificate_authority) {
            (Some(authority), _) => Some(authority),
            (None, Some(path)) => Some(text(&beside(path))?),
            (None, None) => None,
        };
        let user = parsed
            .auth_infos
            .iter()
            .find(|user| context.user.as_ref() == Some(&user.name))
            .and_then(|user| user.auth_info.clone())
            .unwrap_or_default();
        let refused = |what: &str| {
            Err(Error::usage_hint(
                format!(
                    "{}: the user of the context `{name}` signs in with {what}, which cannot be taken to a \
                     server",
                    file.display()
                ),
                "make a token for the account of `eve cluster manifest`, and give it with --token-file",
            ))
        };
        let credential = if user.exec.is_some() {
            refused("a program (exec)")
        } else if user.auth_provider.is_some() {
            refused("an auth provider")
        } else if user.username.is_some() {
            refused("a password")
        } else if user.impersonate.is_some() {
            refused("impersonation")
        } else if let Some(token) = &user.token {
            Ok(vec![("token", token.expose_secret().to_owned())])
        } else if let Some(path) = &user.token_file {
            text(&beside(path)).map(|token| vec![("token", token.trim().to_owned())])
        } else {
            let certificate = match &user.client_certificate {
                Some(path) => Some(text(&beside(path))?),
                None => inline(user.client_certificate_data.as_deref())
                    .map_err(|error| wrong(format!("client-certificate-data: {error}")))?,
            };
            let key = match &user.client_key {
                Some(path) => Some(text(&beside(path))?),
                None => inline(user.client_key_data.as_ref().map(|key| key.expose_secret()))
                    .map_err(|error| wrong(format!("client-key-data: {error}")))?,
            };
            match (certificate, key) {
                (Some(certificate), Some(key)) => {
                    Ok(vec![("client_certificate", certificate), ("client_key", key)])
                }
                _ => refused("nothing"),
            }
        };
        Ok(Kubeconfig { server: cluster.server, authority, credential })
    }
}

/// The text in a field of base64.
fn inline(data: Option<&str>) -> Result<Option<String>, String> {
    let Some(data) = data else { return Ok(None) };
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(data.trim())
        .map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map(Some).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(user: &str, cluster: &str) -> Result<Value, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config");
        std::fs::write(folder.path().join("ca.crt"), "-----BEGIN CERTIFICATE-----")
            .expect("a file");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {{server: 'https://h:6443', {cluster}}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\n"
        );
        std::fs::write(&file, text).expect("a file");
        let add = Add {
            id: "a".into(),
            name: None,
            provider: Provider::Local,
            endpoint: None,
            ca_file: None,
            token_file: None,
            login_file: None,
            kubeconfig: Some(file),
            kube_context: None,
            domain: None,
            gateway: None,
            ingress_class: None,
            https: false,
        };
        add.body().map_err(|error| error.to_string())
    }

    #[test]
    fn of_a_kubeconfig_only_the_place_and_a_credential_are_taken() {
        let body = read("token: abc", "certificate-authority: ca.crt").expect("a body");
        assert_eq!(body["endpoint"], "https://h:6443");
        assert_eq!(body["token"], "abc");
        assert_eq!(body["certificate_authority"], "-----BEGIN CERTIFICATE-----");
        let body = read(
            "client-certificate-data: Y2VydA==, client-key-data: a2V5",
            "certificate-authority-data: Y2E=",
        )
        .expect("a body");
        assert_eq!(body["client_certificate"], "cert");
        assert_eq!(body["client_key"], "key");
        assert_eq!(body["certificate_authority"], "ca");
        for (user, cluster, word) in [
            ("exec: {apiVersion: v1, command: aws}", "", "exec"),
            ("auth-provider: {name: gcp, config: {}}", "", "auth provider"),
            ("username: a, password: b", "", "password"),
            ("token: a, as: root", "", "impersonation"),
            ("", "", "nothing"),
            ("token: a", "insecure-skip-tls-verify: true", "insecure"),
            ("token: a", "proxy-url: 'http://p'", "proxy-url"),
            ("token: a", "tls-server-name: x", "tls-server-name"),
        ] {
            let refused = read(user, cluster).expect_err(word);
            assert!(refused.contains(word), "{word}: {refused}");
        }
    }
}
