//! Host names: one label in front of what all hosts of an environment end with.
//!
//! Only the label is kept: the cluster's domain may change, and the hosts move with it.

use super::Door;
use crate::deployments::clusters::ClusterConfig;
use crate::deployments::names;
use crate::requests::Invalid;

/// Longest host name (RFC 1035, without its last dot).
const MAX_HOST: usize = 253;

/// An environment, as far as hosts are concerned.
#[derive(Clone, Debug)]
pub struct Place {
    env: String,
    org: String,
    cluster: String,
    config: ClusterConfig,
}

impl Place {
    /// Of an environment's name, the organisation's short name, and the cluster.
    pub fn new(env: &str, org: &str, cluster: &str, config: ClusterConfig) -> Place {
        Place { env: env.to_owned(), org: org.to_owned(), cluster: cluster.to_owned(), config }
    }

    /// Whether the doors of the cluster have certificates.
    pub fn is_https(&self) -> bool {
        self.config.https
    }

    /// Whether the cluster's door is a Gateway.
    pub fn has_gateway(&self) -> bool {
        self.config.gateway.is_some()
    }

    /// Whole names, and what leads from them to an app; or which setting of the cluster is missing.
    pub fn outside(&self, labels: &[String]) -> Result<(Vec<String>, Option<Door>), String> {
        if labels.is_empty() {
            return Ok((Vec::new(), None));
        }
        let suffix = self.suffix()?;
        let door = match (&self.config.gateway, &self.config.ingress_class) {
            (Some(gateway), _) => Door::Gateway(gateway.clone()),
            (None, Some(class)) => Door::Ingress(class.clone()),
            (None, None) => {
                return Err(format!(
                    "nothing leads from outside to apps of the cluster `{}`: an administrator of the \
                     platform names a Gateway or an ingress class (`eve cluster update --gateway \
                     NAMESPACE/NAME` or `--ingress-class NAME`)",
                    self.cluster
                ));
            }
        };
        Ok((labels.iter().map(|label| format!("{label}{suffix}")).collect(), Some(door)))
    }

    fn suffix(&self) -> Result<String, String> {
        self.config.host_suffix(&self.env, &self.org).ok_or_else(|| {
            format!(
                "the cluster `{}` has no domain for host names: an administrator of the platform names one \
                 (`eve cluster update --domain DOMAIN`)",
                self.cluster
            )
        })
    }

    /// What is kept of a host as it was said.
    pub fn label(&self, host: &str) -> Result<Result<String, Invalid>, String> {
        let suffix = self.suffix()?;
        let label = host.strip_suffix(&suffix).unwrap_or(host);
        if label.contains('.') {
            let shown: String = host.chars().take(MAX_HOST).collect();
            return Ok(Err(Invalid::new(
                "settings.hosts",
                format_args!(
                    "`{}` must be a name alone, such as api, or one name in front of `{suffix}`",
                    shown.escape_default()
                ),
            )));
        }
        if let Err(invalid) = names::label("settings.hosts", label, 63) {
            return Ok(Err(invalid));
        }
        if label.len() + suffix.len() > MAX_HOST {
            return Ok(Err(Invalid::new(
                "settings.hosts",
                format_args!("`{label}{suffix}` may have at most {MAX_HOST} characters"),
            )));
        }
        Ok(Ok(label.to_owned()))
    }
}

/// Where an app is reached from outside; nowhere if the cluster is not set up for it.
pub fn urls(place: &Place, labels: &[String]) -> Vec<String> {
    let scheme = if place.is_https() { "https" } else { "http" };
    let (hosts, _) = place.outside(labels).unwrap_or_default();
    hosts.into_iter().map(|host| format!("{scheme}://{host}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn place(config: serde_json::Value) -> Place {
        Place::new("prod", "acme", "eks", serde_json::from_value(config).expect("a config"))
    }

    #[test]
    fn hosts_are_one_name_in_front_of_the_suffix() {
        let place = place(json!({ "domain": "apps.example.com", "ingress_class": "nginx" }));
        let label = |host: &str| place.label(host).expect("a domain");
        assert_eq!(label("api"), Ok("api".into()));
        assert_eq!(label("api.prod.acme.apps.example.com"), Ok("api".into()));
        for bad in [
            "",
            "API",
            "*",
            "*.prod.acme.apps.example.com",
            ".prod.acme.apps.example.com",
            "prod.acme.apps.example.com",
            "a.b.prod.acme.apps.example.com",
            "api.dev.acme.apps.example.com",
            "api.prod.corp.apps.example.com",
            "apiprod.acme.apps.example.com",
            "api.prod.acme.apps.example.com.",
            "api.prod.acme.apps.example.com.evil.org",
            "bank.example.com",
            "a b",
            "a/b",
            "ä",
            "a\0",
            &"x".repeat(64),
        ] {
            assert!(label(bad).is_err(), "{bad}");
        }
        let (hosts, door) = place.outside(&["api".into(), "www".into()]).expect("a door");
        assert_eq!(hosts, ["api.prod.acme.apps.example.com", "www.prod.acme.apps.example.com"]);
        assert_eq!(door, Some(Door::Ingress("nginx".into())));
        assert_eq!(urls(&place, &["api".into()]), ["http://api.prod.acme.apps.example.com"]);
    }

    #[test]
    fn what_the_cluster_lacks_is_said() {
        let hosts = ["api".to_owned()];
        let nothing = place(json!({}));
        assert!(nothing.outside(&hosts).is_err_and(|why| why.contains("--domain")));
        assert!(nothing.label("api").is_err_and(|why| why.contains("--domain")));
        assert_eq!(nothing.outside(&[]), Ok((Vec::new(), None)));
        let nowhere = place(json!({ "domain": "apps.example.com" }));
        let why = nowhere.outside(&hosts).expect_err("no door");
        assert!(why.contains("--gateway") && why.contains("--ingress-class"), "{why}");
        assert!(urls(&nowhere, &hosts).is_empty());
        let both = place(json!({
            "domain": "x.org", "gateway": {"namespace": "a", "name": "b"}, "ingress_class": "c",
            "https": true,
        }));
        assert!(matches!(both.outside(&hosts), Ok((_, Some(Door::Gateway(_))))));
        assert_eq!(urls(&both, &hosts), ["https://api.prod.acme.x.org"]);
    }
}
