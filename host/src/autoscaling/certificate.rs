//! What the API server knows us by.
//!
//! All replicas have one authority, in the Secret that the chart makes empty: whoever finds it so fills it, and a
//! second one who does so at the same time hears that it has changed and reads again. Certificates are of each
//! process, in its memory. A new authority is made long before the old one ends, and the APIService then names
//! both, until the certificates of before are gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use base64::Engine as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::json;

use super::front_proxy::Trust;
use crate::authority::{Authority, DAY, end_of};
use crate::deployments::kubernetes::connection::patiently;
use crate::deployments::kubernetes::failure::Failure;

/// What authorities are called, before a name of their own.
const NAME: &str = "Eve Horizon external metrics";
/// The Service before us, and the Secret with the authority: the chart makes both.
const SERVICE: &str = "eve-external-metrics";
/// What tells the API server that we are there.
const API_SERVICE: &str = "v1beta1.external.metrics.k8s.io";
/// In the Secret: the authority and its key.
const AUTHORITY_KEY: &str = "authority.pem";
/// In the Secret: what the APIService is told.
const BUNDLE_KEY: &str = "ca.crt";
/// How long an authority is good for, and how long before its end the next is made.
const AUTHORITY: Duration = DAY.saturating_mul(5 * 365);
const AUTHORITY_LEFT: Duration = DAY.saturating_mul(365);
/// The same for the certificate of a process.
const CERTIFICATE: Duration = DAY.saturating_mul(90);
const CERTIFICATE_LEFT: Duration = DAY.saturating_mul(30);
/// Authorities that are told at one time.
const MOST_AUTHORITIES: usize = 4;
/// How often somebody else may have changed the Secret before it is left for the next look.
const TRIES: usize = 5;

/// A certificate, and the authority that it is of.
pub struct Shown {
    authority: String,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

/// Makes whatever is not there or runs out, and tells the API server.
pub async fn ensure(
    client: &Client,
    namespace: &str,
    known: Option<Shown>,
) -> anyhow::Result<Shown> {
    let now = SystemTime::now();
    for _ in 0..TRIES {
        let shared = shared(client, namespace, now).await?;
        if !tell(client, namespace, &shared).await? {
            continue;
        }
        let authority = shared.authority;
        return match known.filter(|known| known.lasts(&authority, now + CERTIFICATE_LEFT)) {
            Some(known) => Ok(known),
            None => Shown::new(&authority, namespace, now),
        };
    }
    anyhow::bail!("the authority of external metrics is changed by somebody else all the time")
}

/// The authority of all replicas.
struct Shared {
    authority: Authority,
    /// What the API server is to be told.
    bundle: String,
    /// Of the Secret that has them.
    version: Option<String>,
}

impl Shown {
    fn new(authority: &Authority, namespace: &str, now: SystemTime) -> anyhow::Result<Shown> {
        let name = format!("{SERVICE}.{namespace}.svc");
        let signed = authority.sign(&[name], CERTIFICATE, now)?;
        Ok(Shown {
            authority: authority.certificate().to_owned(),
            certificate: CertificateDer::from_pem_slice(signed.certificate.as_bytes())?,
            key: PrivateKeyDer::from_pem_slice(signed.key.as_bytes())?,
        })
    }

    fn lasts(&self, authority: &Authority, until: SystemTime) -> bool {
        self.authority == authority.certificate()
            && end_of(&self.certificate).is_some_and(|end| end > until)
    }

    /// How hands are shaken with those whom the cluster trusts.
    pub fn config(&self, trust: &Trust) -> anyhow::Result<Arc<ServerConfig>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(trust.roots()?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .context("requestheader-client-ca-file")?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Reads the authority, or makes one.
async fn shared(client: &Client, namespace: &str, now: SystemTime) -> anyhow::Result<Shared> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let about = || format!("the Secret {namespace}/{SERVICE}");
    for _ in 0..TRIES {
        let mut secret = match patiently(secrets.get(SERVICE)).await {
            Err(Failure::Gone(_)) => anyhow::bail!(
                "{} is not there: the chart makes it with autoscaling.mode=hpa, and `helm upgrade` once more",
                about()
            ),
            found => found.with_context(|| format!("reading {}", about()))?,
        };
        let mut data = secret.data.take().unwrap_or_default();
        if let Some(authority) = held(&data, AUTHORITY_KEY)
            .and_then(|text| Authority::parse(NAME, text).ok())
            .filter(|authority| authority.lasts(now + AUTHORITY_LEFT))
        {
            let bundle = held(&data, BUNDLE_KEY).unwrap_or_default();
            let bundle = match bundle.contains(authority.certificate().trim()) {
                true => bundle.to_owned(),
                false => authority.certificate().to_owned(),
            };
            let version = secret.metadata.resource_version;
            return Ok(Shared { authority, bundle, version });
        }
        let authority = Authority::new(NAME, AUTHORITY, now)?;
        let bundle = bundle(&authority, held(&data, BUNDLE_KEY).unwrap_or_default(), now);
        data.insert(AUTHORITY_KEY.to_owned(), ByteString(authority.text().into()));
        data.insert(BUNDLE_KEY.to_owned(), ByteString(bundle.clone().into()));
        secret.data = Some(data);
        // With the version that was read: whoever comes second hears that it has changed.
        match patiently(secrets.replace(SERVICE, &PostParams::default(), &secret)).await {
            Ok(written) => {
                tracing::info!("external metrics have a new authority");
                let version = written.metadata.resource_version;
                return Ok(Shared { authority, bundle, version });
            }
            Err(Failure::Conflict(_)) => {}
            Err(error) => return Err(error).with_context(|| format!("writing {}", about())),
        }
    }
    anyhow::bail!("{} is changed by somebody else all the time", about())
}

fn held<'a>(data: &'a BTreeMap<String, ByteString>, key: &str) -> Option<&'a str> {
    std::str::from_utf8(&data.get(key)?.0).ok()
}

/// A new authority, and those of before that are still good.
fn bundle(authority: &Authority, before: &str, now: SystemTime) -> String {
    let mut all = authority.certificate().to_owned();
    let end = "-----END CERTIFICATE-----";
    let known = before.split_inclusive(end).filter(|pem| {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok();
        der.and_then(|der| end_of(&der)).is_some_and(|end| end > now)
    });
    for pem in known.take(MOST_AUTHORITIES - 1) {
        all.push_str(pem.trim());
        all.push('\n');
    }
    all
}

/// Tells the API server whom to believe; false if somebody else has changed what it is told, or what it is to be
/// told, in the meantime.
async fn tell(client: &Client, namespace: &str, shared: &Shared) -> anyhow::Result<bool> {
    let services: Api<APIService> = Api::all(client.clone());
    let found = match patiently(services.get(API_SERVICE)).await {
        Err(Failure::Gone(_)) => anyhow::bail!(
            "the APIService {API_SERVICE} is not there: the chart makes it with autoscaling.mode=hpa, and \
             `helm upgrade` once more"
        ),
        found => found.with_context(|| format!("reading the APIService {API_SERVICE}"))?,
    };
    let spec = found.spec.unwrap_or_default();
    let service = spec.service.unwrap_or_default();
    let (place, name) = (service.namespace.unwrap_or_default(), service.name.unwrap_or_default());
    anyhow::ensure!(
        (place.as_str(), name.as_str()) == (namespace, SERVICE),
        "external metrics of this cluster are served by the Service {place}/{name}, and only one can serve them: \
         scale with that (KEDA: autoscaling.mode=keda), or remove its APIService {API_SERVICE} and run \
         `helm upgrade`"
    );
    if spec.ca_bundle.is_some_and(|told| told.0 == shared.bundle.as_bytes()) {
        return Ok(true);
    }
    // Read after the APIService was: what is older than that must not take the place of what is newer.
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let now = patiently(secrets.get_metadata(SERVICE)).await;
    let now = now.with_context(|| format!("reading the Secret {namespace}/{SERVICE} again"))?;
    if now.metadata.resource_version != shared.version {
        return Ok(false);
    }
    let patch = json!({
        // Of what was looked at, and of nothing that has come in its place.
        "metadata": { "resourceVersion": found.metadata.resource_version },
        "spec": { "caBundle": base64::engine::general_purpose::STANDARD.encode(&shared.bundle) },
    });
    let params = PatchParams::default();
    match patiently(services.patch(API_SERVICE, &params, &Patch::Merge(&patch))).await {
        Ok(_) => Ok(true),
        Err(Failure::Conflict(_)) => Ok(false),
        Err(error) => Err(error)
            .with_context(|| format!("writing the authority into the APIService {API_SERVICE}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_authority_is_told_beside_those_of_before() {
        let then = SystemTime::now();
        let first = Authority::new(NAME, AUTHORITY, then).expect("an authority");
        let told = bundle(&first, "", then);
        assert_eq!(told, first.certificate());
        let now = then + AUTHORITY - AUTHORITY_LEFT;
        assert!(!first.lasts(now + AUTHORITY_LEFT), "the next is due");
        let second = Authority::new(NAME, AUTHORITY, now).expect("an authority");
        let told = bundle(&second, &told, now);
        let both: Vec<_> = CertificateDer::pem_slice_iter(told.as_bytes()).flatten().collect();
        assert_eq!(both.len(), 2);
        let shown = Shown::new(&first, "eve-horizon", now).expect("a certificate");
        assert!(shown.lasts(&first, now + CERTIFICATE_LEFT));
        assert!(!shown.lasts(&first, now + CERTIFICATE), "it ends");
        assert!(!shown.lasts(&second, now), "it is of the authority of before");
        let later = then + AUTHORITY + DAY;
        let third = Authority::new(NAME, AUTHORITY, later).expect("an authority");
        let left = bundle(&third, &told, later);
        assert!(!left.contains(first.certificate().trim()), "what has ended is told no more");
        assert!(left.contains(second.certificate().trim()));
        assert!(bundle(&third, "nonsense", later) == third.certificate());
    }

    #[test]
    fn an_authority_is_the_same_when_it_is_read_again() {
        let now = SystemTime::now();
        let made = Authority::new(NAME, AUTHORITY, now).expect("an authority");
        let read = Authority::parse(NAME, made.text()).expect("the same");
        assert_eq!(read.certificate(), made.certificate());
        let names = ["eve-external-metrics.eve-horizon.svc".to_owned()];
        let signed = read.sign(&names, CERTIFICATE, now).expect("a certificate");
        let text = format!("{}{}", signed.certificate, signed.key);
        assert!(made.vouches(text.as_bytes(), &names, now));
        assert!(!made.vouches(
            text.as_bytes(),
            &["eve-external-metrics.other.svc".to_owned()],
            now
        ));
    }
}
