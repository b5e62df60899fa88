//! The certificate that connections are shown, and its files.
//!
//! Whoever renews certificates writes other files (cert-manager in place of a mounted Secret, certbot over a
//! link), tells nobody, and may be between the two of them when we look. So the files are read every
//! [`LOOK`], and what is new is taken when it is whole: a chain whose first certificate is of the key.
//! Otherwise the certificate of before stays, and the log says why, once what is there has stayed the same
//! for two looks.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio_util::sync::CancellationToken;

use crate::authority::end_of;

/// How often the files are read. They change every few weeks, and have some KiB.
const LOOK: Duration = Duration::from_secs(5);
/// Most bytes of a file: a chain has four certificates or so.
const MOST_BYTES: u64 = 1 << 20;

/// Where a certificate is. Both may be one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// PEM: the server's own certificate first, then those that lead to an authority.
    pub certificate: PathBuf,
    /// PEM: its key, not encrypted.
    pub key: PathBuf,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is far too large.
    #[error("{} has more than {MOST_BYTES} bytes: that is no PEM of a certificate or key", .0.display())]
    TooLarge(PathBuf),
    /// A file is not what it should be.
    #[error("{} holds no {what}", path.display())]
    Missing {
        /// Which.
        path: PathBuf,
        /// What it should have.
        what: &'static str,
        /// Why not, if it is half of it.
        #[source]
        source: Option<pem::Error>,
    },
    /// They do not go together.
    #[error("the key in {} is not that of the first certificate in {}", .0.key.display(), .0.certificate.display())]
    Mismatch(Files),
    /// Nothing can be done with them.
    #[error("the certificate in {} and the key in {} cannot be used", files.certificate.display(), files.key.display())]
    Unusable {
        /// Where.
        files: Files,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// A certificate that follows its files.
#[derive(Debug)]
pub struct Certificate {
    files: Files,
    held: Arc<Held>,
}

/// What connections are shown.
#[derive(Debug)]
struct Held(RwLock<Arc<Whole>>);

/// A chain and its key, as they were in the files.
#[derive(Debug)]
struct Whole {
    key: Arc<CertifiedKey>,
    ends: Option<DateTime<Utc>>,
    digest: [u8; 32],
}

impl Held {
    fn get(&self) -> Arc<Whole> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, whole: Whole) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(whole);
    }
}

impl ResolvesServerCert for Held {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get().key.clone())
    }
}

impl Certificate {
    /// Reads a certificate for the first time.
    pub async fn load(files: Files) -> Result<Arc<Certificate>, CertificateError> {
        let whole = Whole::of(&files, &read(&files).await?)?;
        whole.tell();
        let held = Arc::new(Held(RwLock::new(Arc::new(whole))));
        Ok(Arc::new(Certificate { files, held }))
    }

    /// What shakes hands with it.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring has what TLS 1.2 and 1.3 need")
            .with_no_client_auth()
            .with_cert_resolver(self.held.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// Until when it is good, if it says so in a way that we understand.
    pub fn ends(&self) -> Option<DateTime<Utc>> {
        self.held.get().ends
    }

    /// Follows the files until `stop`. A process that dies meanwhile reads them anew when it starts.
    pub async fn follow(&self, stop: CancellationToken) {
        let mut refused = Refused::default();
        while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            match self.look().await {
                Ok(None) => refused = Refused::default(),
                Ok(Some(ends)) => {
                    refused = Refused::default();
                    let ends = ends.map(|ends| ends.to_rfc3339());
                    tracing::info!(
                        certificate = %self.files.certificate.display(),
                        ends,
                        "the certificate has changed: the new one is used from now on"
                    );
                }
                Err((error, digest)) if refused.is_due(digest) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the certificate has changed and cannot be used: the one of before stays in use"
                ),
                Err(_) => {}
            }
        }
    }

    /// Takes what is in the files, if it is another; until when it is good.
    async fn look(&self) -> Result<Option<Option<DateTime<Utc>>>, (CertificateError, [u8; 32])> {
        let texts = read(&self.files).await.map_err(|error| {
            let digest = Sha256::digest(error.to_string()).into();
            (error, digest)
        })?;
        let digest = texts.digest();
        if digest == self.held.get().digest {
            return Ok(None);
        }
        let whole = Whole::of(&self.files, &texts).map_err(|error| (error, digest))?;
        let ends = whole.ends;
        whole.tell();
        self.held.set(whole);
        Ok(Some(ends))
    }
}

/// What could not be used, and whether that was said.
#[derive(Debug, Default)]
struct Refused {
    last: Option<[u8; 32]>,
    told: bool,
}

impl Refused {
    /// Whether it is to be said now: at the second look at the same thing.
    fn is_due(&mut self, digest: [u8; 32]) -> bool {
        let same = self.last.replace(digest) == Some(digest);
        let due = same && !self.told;
        self.told = same;
        due
    }
}

/// What is in the files.
struct Texts {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Texts {
    fn digest(&self) -> [u8; 32] {
        // Each by itself first: where one ends and the other begins counts.
        let of = |text: &[u8]| Sha256::digest(text);
        Sha256::new()
            .chain_update(of(&self.certificate))
            .chain_update(of(&self.key))
            .finalize()
            .into()
    }
}

async fn read(files: &Files) -> Result<Texts, CertificateError> {
    Ok(Texts {
        certificate: read_file(&files.certificate).await?,
        key: read_file(&files.key).await?,
    })
}

async fn read_file(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let failed = |source| CertificateError::Read { path: path.to_owned(), source };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).await.map_err(failed)?;
    match bytes.len() as u64 > MOST_BYTES {
        true => Err(CertificateError::TooLarge(path.to_owned())),
        false => Ok(bytes),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl Whole {
    fn of(files: &Files, texts: &Texts) -> Result<Whole, CertificateError> {
        let missing = |path: &Path, what, source| CertificateError::Missing {
            path: path.to_owned(),
            what,
            source,
        };
        let certificates = |source| {
            missing(&files.certificate, "certificate in PEM: -----BEGIN CERTIFICATE-----", source)
        };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&texts.certificate)
            .collect::<Result<_, _>>()
            .map_err(|error| certificates(Some(error)))?;
        let first = chain.first().ok_or_else(|| certificates(None))?;
        let ends = end_of(first).map(DateTime::from);
        let key = PrivateKeyDer::from_pem_slice(&texts.key).map_err(|error| {
            let what = "private key in PEM that is not encrypted: -----BEGIN PRIVATE KEY-----";
            missing(
                &files.key,
                what,
                Some(error).filter(|e| !matches!(e, pem::Error::NoItemsFound)),
            )
        })?;
        let key =
            CertifiedKey::from_der(chain, key, &provider()).map_err(|source| match source {
                rustls::Error::InconsistentKeys(_) => CertificateError::Mismatch(files.clone()),
                source => CertificateError::Unusable { files: files.clone(), source },
            })?;
        Ok(Whole { key: Arc::new(key), ends, digest: texts.digest() })
    }

    /// Says until when it is good.
    fn tell(&self) {
        let Some(ends) = self.ends else { return };
        metrics::gauge!("eve_tls_certificate_expiry_seconds").set(ends.timestamp() as f64);
        if ends < Utc::now() {
            // Some clients do not mind, and without it there would be no server at all.
            tracing::error!(
                ended = ends.to_rfc3339(),
                "the certificate has expired: clients will refuse it"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::certificate::ensure;

    /// The certificate and key of a folder's own authority.
    fn made(folder: &Path) -> String {
        let made = ensure(folder, [127, 0, 0, 1].into()).expect("certificates");
        std::fs::read_to_string(made.files.key).expect("a file")
    }

    struct Place {
        folder: tempfile::TempDir,
        files: Files,
        /// Two pairs.
        pairs: [(String, String); 2],
    }

    impl Place {
        fn new() -> Place {
            let folder = tempfile::tempdir().expect("a folder");
            let pairs = ["a", "b"].map(|name| {
                let whole = made(&folder.path().join(name));
                let end = whole.find("-----BEGIN PRIVATE KEY").expect("a key");
                (whole[..end].to_owned(), whole[end..].to_owned())
            });
            let file = |name: &str| folder.path().join(name);
            let files = Files { certificate: file("tls.crt"), key: file("tls.key") };
            let place = Place { folder, files, pairs };
            place.put(&place.pairs[0].0, &place.pairs[0].1);
            place
        }

        fn put(&self, certificate: &str, key: &str) {
            std::fs::write(&self.files.certificate, certificate).expect("written");
            std::fs::write(&self.files.key, key).expect("written");
        }

        async fn load(&self) -> Result<Arc<Certificate>, CertificateError> {
            Certificate::load(self.files.clone()).await
        }

        async fn refused(&self) -> String {
            let error = self.load().await.expect_err("it cannot be used");
            crate::deployments::kubernetes::failure::in_words(&error)
        }
    }

    #[tokio::test]
    async fn what_is_wrong_with_files_is_said() {
        let place = Place::new();
        let [(certificate, key), (other, other_key)] = &place.pairs;
        assert!(
            place.load().await.expect("a certificate").ends().is_some_and(|ends| ends > Utc::now())
        );
        place.put(&format!("{certificate}{other}"), key);
        assert!(place.load().await.is_ok(), "a chain is of the key of its first certificate");
        let broken = certificate.replace("M", "!");
        let foreign = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        let sealed = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let long = "a".repeat(2 << 20);
        for (certificate, key, words) in [
            (other.as_str(), key.as_str(), "is not that of the first certificate in"),
            (certificate, other_key, "is not that of the first certificate in"),
            (&format!("{other}{certificate}"), key, "is not that of the first certificate in"),
            ("", key, "tls.crt holds no certificate"),
            (key, key, "tls.crt holds no certificate"),
            (&broken, key, "tls.crt holds no certificate"),
            (&certificate[..200], key, "tls.crt holds no certificate"),
            (foreign, key, "cannot be used"),
            (certificate, "", "tls.key holds no private key"),
            (certificate, certificate, "tls.key holds no private key"),
            (certificate, &sealed, "that is not encrypted"),
            (certificate, &long, "more than"),
        ] {
            place.put(certificate, key);
            let said = place.refused().await;
            assert!(said.contains(words), "{words}: {said}");
        }
        std::fs::remove_file(&place.files.key).expect("removed");
        assert!(place.refused().await.contains("cannot read"));
        let nowhere = Files { certificate: place.folder.path().into(), ..place.files.clone() };
        assert!(Certificate::load(nowhere).await.is_err(), "a folder is no certificate");
    }

    #[tokio::test]
    async fn the_files_are_followed_as_far_as_they_are_whole() {
        let place = Place::new();
        let [(certificate, key), (other, other_key)] = &place.pairs;
        let held = place.load().await.expect("a certificate");
        let shown = || held.held.get().key.cert[0].clone();
        let before = shown();
        assert!(matches!(held.look().await, Ok(None)));
        // Whoever renews it is between the two files.
        place.put(other, key);
        assert!(matches!(held.look().await, Err((CertificateError::Mismatch(_), _))));
        assert_eq!(shown(), before);
        std::fs::remove_file(&place.files.certificate).expect("removed");
        assert!(matches!(held.look().await, Err((CertificateError::Read { .. }, _))));
        assert_eq!(shown(), before);
        place.put(other, other_key);
        assert!(matches!(held.look().await, Ok(Some(_))));
        assert_ne!(shown(), before);
        assert!(matches!(held.look().await, Ok(None)));
        place.put(certificate, key);
        assert!(matches!(held.look().await, Ok(Some(_))));
        assert_eq!(shown(), before);
    }

    #[test]
    fn what_stays_wrong_is_said_once() {
        let mut refused = Refused::default();
        let said: Vec<_> =
            [1, 2, 2, 2, 3, 3, 3, 2, 2].map(|what| refused.is_due([what; 32])).into();
        assert_eq!(said, [false, false, true, false, false, true, false, false, true]);
    }
}
