//! What a cluster is entered with.

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::logins::{AwsLogin, AzureLogin, GoogleLogin, Login};
use super::{Gateway, Provider};
use crate::deployments::names;
use crate::requests::Invalid;

/// Longest endpoint.
const MAX_ENDPOINT: usize = 2_048;
/// Most bytes of a token, a key or a certificate.
const MAX_CREDENTIAL: usize = 64 << 10;

/// A cluster to register.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCluster {
    /// Its id: a DNS label.
    pub id: String,
    /// Its name for people, at most 200 characters; its id when absent.
    #[serde(default)]
    pub name: Option<String>,
    /// What kind it is.
    pub provider: Provider,
    /// Its API server, `https://…`. None means the cluster that the control plane itself runs in.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The certificates that its own is verified by, PEM; those of the system when absent.
    #[serde(default)]
    pub certificate_authority: Option<String>,
    /// The token of the account `eve-horizon/eve-control-plane`.
    #[serde(default)]
    #[schema(value_type = Option<String>, write_only)]
    pub token: Option<SecretString>,
    /// A client certificate instead of a token, PEM.
    #[serde(default)]
    pub client_certificate: Option<String>,
    /// Its key, PEM.
    #[serde(default)]
    #[schema(value_type = Option<String>, write_only)]
    pub client_key: Option<SecretString>,
    /// A login at AWS instead of a token, for EKS: the control plane asks the cluster with it for tokens of its
    /// account, and for nothing else.
    #[serde(default)]
    pub aws: Option<AwsLogin>,
    /// The same at Google Cloud, for GKE: the key of a service account.
    #[serde(default)]
    pub google: Option<GoogleLogin>,
    /// The same at Azure, for AKS with Entra ID: the secret of an application.
    #[serde(default)]
    pub azure: Option<AzureLogin>,
    /// What the host names of its environments end with: `apps.example.com` gives the environment `dev` of
    /// `acme` the suffix `.dev.acme.apps.example.com`. Without it nothing is reached from outside.
    #[serde(default)]
    pub domain: Option<String>,
    /// The Gateway that leads requests to apps, by HTTPRoutes: it wins over an ingress class.
    #[serde(default)]
    pub gateway: Option<Gateway>,
    /// The class of the Ingresses that lead requests to apps.
    #[serde(default)]
    pub ingress_class: Option<String>,
    /// Apps are reached by https: the Gateway, or the ingress controller, has certificates for the domain.
    #[serde(default)]
    pub https: bool,
}

/// What stands beside a cluster's credentials, and is no secret.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::deployments) struct ClusterConfig {
    /// PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Gateway>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_class: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub https: bool,
}

impl ClusterConfig {
    /// What the host names of an environment end with, with a dot first; none if nothing is reached from
    /// outside.
    pub fn host_suffix(&self, env: &str, org: &str) -> Option<String> {
        self.domain.as_ref().map(|domain| format!(".{env}.{org}.{domain}"))
    }
}

/// What a cluster is entered with, once it is opened.
pub enum Credentials {
    /// The account of the pod that the control plane runs in.
    InCluster,
    /// A bearer token.
    Token(SecretString),
    /// A client certificate and its key, PEM.
    Certificate(String, SecretString),
    /// A login at a cloud.
    Login(Login),
}

/// As it is sealed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_certificate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    login: Option<Login>,
}

impl NewCluster {
    /// Whether it can be registered as it is.
    pub(in crate::deployments) fn check(&self) -> Result<(), Invalid> {
        names::label("id", &self.id, 63)?;
        if let Some(name) = &self.name
            && (name.trim().is_empty() || name.chars().count() > 200 || name.contains('\0'))
        {
            return Err(Invalid::new("name", "must be 1 to 200 characters"));
        }
        if !self.provider.is_kubernetes() {
            return Err(Invalid::new(
                "provider",
                format_args!(
                    "`{}` is not supported yet: nothing could be deployed there; these are: local, eks, gke, aks",
                    self.provider.as_str()
                ),
            ));
        }
        if let Some(endpoint) = &self.endpoint {
            check_endpoint(endpoint)?;
        } else if self.provider != Provider::Local {
            return Err(Invalid::new(
                "endpoint",
                "must be given: the URL of the API server, https://…",
            ));
        }
        let secret =
            |secret: &Option<SecretString>| secret.as_ref().map(|s| s.expose_secret().len());
        for (field, length) in [
            ("certificate_authority", self.certificate_authority.as_ref().map(String::len)),
            ("token", secret(&self.token)),
            ("client_certificate", self.client_certificate.as_ref().map(String::len)),
            ("client_key", secret(&self.client_key)),
        ] {
            if length.is_some_and(|length| !(1..=MAX_CREDENTIAL).contains(&length)) {
                return Err(Invalid::new(
                    field,
                    format_args!("must be 1 to {MAX_CREDENTIAL} bytes"),
                ));
            }
        }
        let pem = |field: &str, text: &str, label: &str| match text
            .contains(&format!("-----BEGIN {label}"))
        {
            true => Ok(()),
            false => Err(Invalid::new(field, format_args!("must be PEM: -----BEGIN {label}-----"))),
        };
        if let Some(authority) = &self.certificate_authority {
            pem("certificate_authority", authority, "CERTIFICATE")?;
        }
        if let Some(token) = &self.token
            && !token.expose_secret().trim().bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(Invalid::new(
                "token",
                "must be a bearer token: visible characters without spaces",
            ));
        }
        self.check_login()?;
        match (&self.token, &self.client_certificate, &self.client_key) {
            (_, None, None) => {}
            (None, Some(certificate), Some(_)) => {
                pem("client_certificate", certificate, "CERTIFICATE")?;
            }
            (Some(_), ..) => {
                return Err(Invalid::new(
                    "token",
                    "give a token or a client certificate, not both",
                ));
            }
            (None, ..) => {
                return Err(Invalid::new(
                    "client_certificate",
                    "a client certificate and its key go together",
                ));
            }
        }
        if let Some(domain) = &self.domain {
            let label = |label: &str| names::label("domain", label, 63).is_ok();
            if domain.len() > 150 || !domain.split('.').all(label) {
                return Err(Invalid::new("domain", "must be a domain, such as apps.example.com"));
            }
        }
        if let Some(gateway) = &self.gateway {
            names::label("gateway.namespace", &gateway.namespace, 63)?;
            // It is the value of a label, too.
            subdomain("gateway.name", &gateway.name, 63)?;
        }
        if let Some(class) = &self.ingress_class {
            subdomain("ingress_class", class, 253)?;
        }
        Ok(())
    }

    /// The login at a cloud, if there is one.
    fn login(&self) -> Option<Login> {
        let aws = self.aws.clone().map(Login::Aws);
        let google = self.google.clone().map(Login::Google);
        aws.or(google).or(self.azure.clone().map(Login::Azure))
    }

    fn check_login(&self) -> Result<(), Invalid> {
        let Some(login) = self.login() else { return Ok(()) };
        let (field, provider) = (login.field(), login.provider());
        let others = [
            self.aws.is_some(),
            self.google.is_some(),
            self.azure.is_some(),
            self.token.is_some(),
            self.client_certificate.is_some() || self.client_key.is_some(),
        ];
        if others.into_iter().filter(|given| *given).count() > 1 {
            let message = "give one credential: a login, a token or a client certificate";
            return Err(Invalid::new(field, message));
        }
        if self.provider != provider {
            return Err(Invalid::new(
                field,
                format_args!(
                    "is for clusters of `{}`, and this one is of `{}`",
                    provider.as_str(),
                    self.provider.as_str()
                ),
            ));
        }
        login.check()
    }

    /// What is no secret.
    pub(in crate::deployments) fn config(&self) -> ClusterConfig {
        ClusterConfig {
            certificate_authority: self.certificate_authority.clone(),
            domain: self.domain.clone(),
            gateway: self.gateway.clone(),
            ingress_class: self.ingress_class.clone(),
            https: self.https,
        }
    }

    /// What is, in one piece; none if there is nothing.
    pub(in crate::deployments) fn secret(&self) -> Option<SecretString> {
        let exposed = |secret: &Option<SecretString>| {
            secret.as_ref().map(|secret| secret.expose_secret().trim().to_owned())
        };
        let sealed = Sealed {
            token: exposed(&self.token),
            client_certificate: self.client_certificate.clone(),
            client_key: exposed(&self.client_key),
            login: self.login(),
        };
        let any =
            sealed.token.is_some() || sealed.client_certificate.is_some() || sealed.login.is_some();
        any.then(|| serde_json::to_string(&sealed).expect("texts always serialise").into())
    }
}

impl Credentials {
    /// Of what was sealed.
    pub(in crate::deployments) fn parse(secret: &[u8]) -> Option<Credentials> {
        let sealed: Sealed = serde_json::from_slice(secret).ok()?;
        match sealed {
            Sealed { token: Some(token), .. } => Some(Credentials::Token(token.into())),
            Sealed { client_certificate: Some(certificate), client_key: Some(key), .. } => {
                Some(Credentials::Certificate(certificate, key.into()))
            }
            Sealed { login: Some(login), .. } => Some(Credentials::Login(login)),
            _ => None,
        }
    }
}

/// The name of an object: DNS labels with dots between them (RFC 1123).
fn subdomain(field: &str, name: &str, longest: usize) -> Result<(), Invalid> {
    if name.len() > longest {
        return Err(Invalid::new(field, format_args!("may have at most {longest} characters")));
    }
    name.split('.').try_for_each(|label| names::label(field, label, 63))
}

fn check_endpoint(endpoint: &str) -> Result<(), Invalid> {
    let invalid = |why: &str| Err(Invalid::new("endpoint", why));
    if endpoint.len() > MAX_ENDPOINT {
        return invalid("is too long");
    }
    let Ok(url) = url::Url::parse(endpoint) else {
        return invalid("must be the URL of the API server, https://…");
    };
    if url.scheme() != "https" {
        return invalid("must begin with https://: a credential goes there");
    }
    if url.host_str().is_none_or(str::is_empty) {
        return invalid("names no host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return invalid("may not contain a user or a password");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return invalid("may not contain `?` or `#`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(mut cluster: serde_json::Value) -> Result<(), String> {
        let defaults = json!({"id": "a", "provider": "local", "endpoint": "https://10.0.0.1:6443"});
        for (key, value) in defaults.as_object().expect("an object") {
            cluster.as_object_mut().expect("an object").entry(key).or_insert(value.clone());
        }
        let cluster: NewCluster = serde_json::from_value(cluster).map_err(|e| e.to_string())?;
        cluster.check().map_err(|invalid| format!("{}: {}", invalid.field, invalid.message))
    }

    #[test]
    fn what_is_uploaded_is_a_place_and_a_credential_and_nothing_else() {
        let pem = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
        let key = "-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n";
        for good in [
            json!({}),
            json!({"endpoint": null}),
            json!({"token": "abc.def", "certificate_authority": pem, "domain": "apps.example.com"}),
            json!({"client_certificate": pem, "client_key": key, "provider": "eks"}),
            json!({"gateway": {"namespace": "eve-gateway", "name": "tenants.v1"}, "https": true}),
            json!({"ingress_class": "nginx"}),
        ] {
            assert_eq!(check(good.clone()), Ok(()), "{good}");
        }
        for (bad, word) in [
            (json!({"id": "A"}), "id"),
            (json!({"id": "../a"}), "id"),
            (json!({"provider": "ecs"}), "provider"),
            (json!({"provider": "docker"}), "not supported yet"),
            (json!({"provider": "nomad"}), "nomad"),
            (json!({"provider": "eks", "endpoint": null}), "endpoint"),
            (json!({"endpoint": "http://10.0.0.1"}), "https"),
            (json!({"endpoint": "file:///etc/passwd"}), "https"),
            (json!({"endpoint": "https://user:pass@h"}), "password"),
            (json!({"endpoint": "https://h/?a=b"}), "?"),
            (json!({"endpoint": "10.0.0.1"}), "URL"),
            (json!({"token": ""}), "token"),
            (json!({"token": "a\nb"}), "token"),
            (json!({"token": "a", "client_certificate": pem, "client_key": key}), "both"),
            (json!({"client_certificate": pem}), "together"),
            (json!({"client_key": key}), "together"),
            (json!({"certificate_authority": "/etc/ca.crt"}), "PEM"),
            (json!({"gateway": {"namespace": "a.b", "name": "g"}}), "gateway.namespace"),
            (json!({"gateway": {"namespace": "a", "name": "/g"}}), "gateway.name"),
            (json!({"gateway": "a/g"}), "Gateway"),
            (json!({"ingress_class": "nginx,other"}), "ingress_class"),
            (json!({"exec": {"command": "sh"}}), "exec"),
            (json!({"insecure_skip_tls_verify": true}), "insecure"),
            (json!({"proxy_url": "http://h"}), "proxy_url"),
            (json!({"tls_server_name": "x"}), "tls_server_name"),
        ] {
            let refused = check(bad.clone()).expect_err(&bad.to_string());
            assert!(refused.contains(word), "{bad}: {refused}");
        }
    }

    #[test]
    fn a_login_goes_with_its_cloud_and_with_nothing_else() {
        let aws = json!({
            "access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "hush",
            "region": "eu-central-1", "cluster_name": "prod",
        });
        let azure = json!({
            "tenant_id": "01990000-0000-7000-8000-000000000001",
            "client_id": "01990000-0000-7000-8000-000000000002", "client_secret": "hush",
        });
        for good in
            [json!({"provider": "eks", "aws": aws}), json!({"provider": "aks", "azure": azure})]
        {
            assert_eq!(check(good.clone()), Ok(()), "{good}");
        }
        let with = |key: &str, value: serde_json::Value| {
            let mut changed = aws.clone();
            changed[key] = value;
            json!({"provider": "eks", "aws": changed})
        };
        let mut elsewhere = azure.clone();
        elsewhere["tenant_id"] = json!("evil.example");
        for (bad, word) in [
            (json!({"provider": "gke", "aws": aws}), "clusters of `eks`"),
            (json!({"aws": aws}), "clusters of `eks`"),
            (json!({"provider": "eks", "aws": aws, "token": "a"}), "one credential"),
            (json!({"provider": "eks", "aws": aws, "azure": azure}), "one credential"),
            (json!({"provider": "aks", "azure": elsewhere}), "UUID"),
            (with("region", json!("eu-central-1.evil.example")), "aws.region"),
            (with("endpoint_url", json!("https://evil.example")), "endpoint_url"),
            (with("credential_process", json!("sh")), "credential_process"),
            (with("role_arn", json!("arn:aws:iam::1:role/x")), "role_arn"),
        ] {
            let refused = check(bad.clone()).expect_err(&bad.to_string());
            assert!(refused.contains(word), "{bad}: {refused}");
        }
        let whole = json!({"id": "a", "provider": "eks", "endpoint": "https://h", "aws": aws});
        let cluster: NewCluster = serde_json::from_value(whole).expect("a cluster");
        assert!(!format!("{cluster:?}").contains("hush"));
        let secret = cluster.secret().expect("a secret");
        let opened = Credentials::parse(secret.expose_secret().as_bytes());
        let Some(Credentials::Login(Login::Aws(login))) = opened else { panic!("a login") };
        assert_eq!(login.secret_access_key.expose_secret(), "hush");
    }

    #[test]
    fn secrets_are_kept_in_one_piece_and_never_printed() {
        let cluster: NewCluster =
            serde_json::from_value(json!({"id": "a", "provider": "local", "token": " hush \n"}))
                .expect("a cluster");
        assert!(!format!("{cluster:?}").contains("hush"));
        let secret = cluster.secret().expect("a secret");
        let opened = Credentials::parse(secret.expose_secret().as_bytes());
        assert!(
            matches!(opened, Some(Credentials::Token(token)) if token.expose_secret() == "hush")
        );
        assert!(Credentials::parse(b"{\"role_arn\": \"x\"}").is_none());
    }
}
