//! Who asks. The API server has authenticated them, and says who they are in headers; that it is the API server
//! is shown by its certificate. Which authority, which names and which headers is the cluster's to say, in the
//! ConfigMap `extension-apiserver-authentication`.

use std::collections::BTreeMap;

use anyhow::Context as _;
use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use http::{HeaderMap, HeaderName};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_cert::der::Decode as _;
use x509_cert::der::asn1::{PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::ObjectIdentifier;

use crate::deployments::kubernetes::connection::patiently;
use crate::http::listener::Listener;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// Whom the cluster says is its API server, and how that speaks for others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// DER.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Common names; whatever has a certificate, if there are none.
    names: Vec<String>,
    users: Vec<HeaderName>,
    uids: Vec<HeaderName>,
    groups: Vec<HeaderName>,
    /// What the names of headers with further attributes begin with, in small letters.
    extras: Vec<String>,
}

/// For whom something is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Their name.
    pub user: String,
    /// Their id, if the API server tells.
    pub uid: Option<String>,
    /// Their groups.
    pub groups: Vec<String>,
    /// What else the authenticator knows, such as scopes.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The common name in the certificate of whoever has connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer(Option<String>);

impl Connected<IncomingStream<'_, Listener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Peer {
        Peer(stream.io().peer_certificate().and_then(common_name))
    }
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let read = x509_cert::Certificate::from_der(certificate).ok()?;
    let mut attributes = read.tbs_certificate.subject.0.iter().flat_map(|part| part.0.iter());
    let found = attributes.find(|attribute| attribute.oid == COMMON_NAME)?;
    let utf8 = found.value.decode_as::<Utf8StringRef<'_>>().map(|text| text.as_str().to_owned());
    let plain = || found.value.decode_as::<PrintableStringRef<'_>>();
    utf8.or_else(|_| plain().map(|text| text.as_str().to_owned())).ok()
}

impl Trust {
    /// What the cluster says now.
    pub async fn read(client: &Client) -> anyhow::Result<Trust> {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
        let name = "extension-apiserver-authentication";
        let found = patiently(api.get(name))
            .await
            .with_context(|| format!("reading the ConfigMap kube-system/{name}"))?;
        Self::of(&found.data.unwrap_or_default())
            .with_context(|| format!("the ConfigMap kube-system/{name}"))
    }

    fn of(data: &BTreeMap<String, String>) -> anyhow::Result<Trust> {
        let authorities = data.get("requestheader-client-ca-file").context(
            "has no requestheader-client-ca-file: the API server runs without --requestheader-client-ca-file, \
             and aggregates no other APIs",
        )?;
        let authorities: Vec<_> = CertificateDer::pem_slice_iter(authorities.as_bytes())
            .collect::<Result<_, _>>()
            .context("requestheader-client-ca-file is not PEM")?;
        anyhow::ensure!(
            !authorities.is_empty(),
            "requestheader-client-ca-file holds no certificate"
        );
        let list = |key: &str| -> anyhow::Result<Vec<String>> {
            let text = data.get(key).map_or("[]", String::as_str);
            serde_json::from_str(text).with_context(|| format!("{key} is no list of texts"))
        };
        let headers = |key: &str| -> anyhow::Result<Vec<HeaderName>> {
            list(key)?
                .iter()
                .map(|name| HeaderName::try_from(name).with_context(|| format!("{key}: {name}")))
                .collect()
        };
        let users = headers("requestheader-username-headers")?;
        anyhow::ensure!(!users.is_empty(), "requestheader-username-headers names no header");
        Ok(Trust {
            authorities,
            names: list("requestheader-allowed-names")?,
            users,
            uids: headers("requestheader-uid-headers")?,
            groups: headers("requestheader-group-headers")?,
            extras: list("requestheader-extra-headers-prefix")?
                .into_iter()
                .map(|prefix| prefix.to_ascii_lowercase())
                .collect(),
        })
    }

    /// The authorities that a certificate may be of.
    pub fn roots(&self) -> anyhow::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for authority in &self.authorities {
            roots.add(authority.clone()).context("requestheader-client-ca-file")?;
        }
        Ok(roots)
    }

    /// For whom something is asked; none if whoever has connected may not say, or does not.
    pub fn caller(&self, peer: &Peer, headers: &HeaderMap) -> Option<Caller> {
        let name = peer.0.as_ref()?;
        if !self.names.is_empty() && !self.names.contains(name) {
            return None;
        }
        // Names may be of any script.
        let text = |value: &http::HeaderValue| {
            std::str::from_utf8(value.as_bytes()).ok().map(str::to_owned)
        };
        let first = |names: &[HeaderName]| {
            let found = names.iter().find_map(|name| headers.get(name).and_then(text));
            found.filter(|text| !text.is_empty())
        };
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (header, value) in headers {
            let key = self.extras.iter().find_map(|prefix| header.as_str().strip_prefix(prefix));
            if let Some(key) = key {
                let key = percent_encoding::percent_decode_str(key).decode_utf8().ok()?;
                extra.entry(key.to_ascii_lowercase()).or_default().push(text(value)?);
            }
        }
        // A group that is left out could be one that may not.
        let groups: Option<_> =
            self.groups.iter().flat_map(|name| headers.get_all(name)).map(text).collect();
        Some(Caller { user: first(&self.users)?, uid: first(&self.uids), groups: groups?, extra })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{Authority, DAY};

    /// As kubeadm sets it up.
    fn data() -> BTreeMap<String, String> {
        let authority = Authority::new("front proxy", DAY, std::time::SystemTime::now());
        let authority = authority.expect("an authority").certificate().to_owned();
        [
            ("client-ca-file", "whatever"),
            ("requestheader-allowed-names", r#"["front-proxy-client"]"#),
            ("requestheader-client-ca-file", &authority),
            ("requestheader-extra-headers-prefix", r#"["X-Remote-Extra-"]"#),
            ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
            ("requestheader-uid-headers", r#"["X-Remote-Uid"]"#),
            ("requestheader-username-headers", r#"["X-Remote-User"]"#),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    fn headers(of: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in of {
            let value = http::HeaderValue::from_bytes(value.as_bytes()).expect("a value");
            headers.append(*name, value);
        }
        headers
    }

    #[test]
    fn the_api_server_says_who_asks_and_nobody_else_does() {
        let trust = Trust::of(&data()).expect("trust");
        let asked = headers(&[
            ("x-remote-user", "system:serviceaccount:kube-system:horizontal-pod-autoscaler"),
            ("x-remote-uid", "7"),
            ("x-remote-group", "system:serviceaccounts"),
            ("x-remote-group", "system:authenticated"),
            ("x-remote-group", "größe"),
            ("x-remote-extra-authentication.kubernetes.io%2fcredential-id", "JTI=1"),
            ("x-forwarded-for", "192.0.2.1"),
        ]);
        let peer = |name: &str| Peer(Some(name.to_owned()));
        let caller = trust.caller(&peer("front-proxy-client"), &asked).expect("a caller");
        assert_eq!(caller.user, "system:serviceaccount:kube-system:horizontal-pod-autoscaler");
        assert_eq!(caller.uid.as_deref(), Some("7"));
        assert_eq!(caller.groups, ["system:serviceaccounts", "system:authenticated", "größe"]);
        let extra =
            [("authentication.kubernetes.io/credential-id".to_owned(), vec!["JTI=1".to_owned()])];
        assert_eq!(caller.extra, extra.into());
        assert_eq!(trust.caller(&peer("somebody"), &asked), None);
        assert_eq!(trust.caller(&Peer(None), &asked), None);
        assert_eq!(trust.caller(&peer("front-proxy-client"), &headers(&[])), None);
        let nobody = headers(&[("x-remote-user", ""), ("x-remote-group", "system:masters")]);
        assert_eq!(trust.caller(&peer("front-proxy-client"), &nobody), None);
        let anybody = Trust { names: Vec::new(), ..trust };
        assert!(anybody.caller(&peer("somebody"), &asked).is_some(), "without names any will do");
        assert_eq!(anybody.caller(&Peer(None), &asked), None);
    }

    #[test]
    fn a_cluster_that_aggregates_nothing_is_told_apart() {
        for (key, value, words) in [
            ("requestheader-client-ca-file", None, "runs without --requestheader-client-ca-file"),
            ("requestheader-client-ca-file", Some(""), "holds no certificate"),
            ("requestheader-username-headers", None, "names no header"),
            ("requestheader-username-headers", Some("X-Remote-User"), "is no list"),
            ("requestheader-group-headers", Some(r#"["a b"]"#), "a b"),
        ] {
            let mut data = data();
            match value {
                Some(value) => data.insert(key.to_owned(), value.to_owned()),
                None => data.remove(key),
            };
            let error = Trust::of(&data).expect_err(words);
            assert!(format!("{error:#}").contains(words), "{error:#}");
        }
    }
}
