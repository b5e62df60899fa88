//! The certificate of `eve dev`: clients of Kubernetes send no token over plain HTTP.
//!
//! An authority is made once for a data directory, and certificates of this machine's own names with it. The
//! authority outlives them, because kubeconfigs and contexts carry it. Nobody but those is told to trust
//! it: it belongs in no system's store.
//!
//! Each key is in one file with its certificate, which is replaced by rename: whoever dies on the way leaves
//! the old ones or the new ones.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use x509_cert::der::Decode as _;

use crate::http::listener::Files;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long an authority is good for.
const AUTHORITY: Duration = DAY.saturating_mul(3650);
/// How long a certificate is: some systems take none that is longer than 398 days.
const CERTIFICATE: Duration = DAY.saturating_mul(365);
/// How long before its end each is made anew. The authority's is longer than a certificate lasts.
const AUTHORITY_LEFT: Duration = DAY.saturating_mul(400);
const CERTIFICATE_LEFT: Duration = DAY.saturating_mul(30);
/// How often it is looked whether one is due, in a process that runs for months.
const LOOK: Duration = DAY;

/// What there is in a data directory.
#[derive(Clone, Debug)]
pub struct Made {
    /// The authority's certificate, PEM.
    pub authority: String,
    /// A file with it.
    pub authority_file: PathBuf,
    /// The server's certificate and key.
    pub files: Files,
}

/// The certificates of a data directory, for this machine and an address of it; made when there are none,
/// or when they run out.
pub fn ensure(data_dir: &Path, address: IpAddr) -> anyhow::Result<Made> {
    ensure_at(data_dir, address, SystemTime::now())
}

fn ensure_at(data_dir: &Path, address: IpAddr, now: SystemTime) -> anyhow::Result<Made> {
    let folder = data_dir.join("tls");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let (authority_pem, server_pem) = (folder.join("authority.pem"), folder.join("server.pem"));
    let authority = match Authority::read(&authority_pem)? {
        Some(known) if known.lasts(now + AUTHORITY_LEFT) => known,
        _ => {
            let new = Authority::new(now)?;
            write(&authority_pem, &new.text)?;
            new
        }
    };
    let authority_file = folder.join("ca.crt");
    if std::fs::read_to_string(&authority_file).ok().as_ref() != Some(&authority.certificate) {
        write(&authority_file, &authority.certificate)?;
    }
    let names = names(address);
    if !authority.vouches(&server_pem, &names, now + CERTIFICATE_LEFT) {
        write(&server_pem, &authority.sign(&names, now)?)?;
    }
    let files = Files { certificate: server_pem.clone(), key: server_pem };
    Ok(Made { authority: authority.certificate, authority_file, files })
}

/// Makes certificates anew before they run out, until `stop`. Whoever shows them reads the files.
pub async fn renew(data_dir: PathBuf, address: IpAddr, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        if let Err(error) = ensure(&data_dir, address) {
            tracing::error!(error = format!("{error:#}"), "the certificate cannot be made anew");
        }
    }
}

/// What the server may be called.
fn names(address: IpAddr) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let address = address.to_string();
    if !names.contains(&address) {
        names.push(address);
    }
    names
}

struct Authority {
    key: KeyPair,
    certificate: String,
    /// Both, PEM.
    text: String,
}

impl Authority {
    fn new(now: SystemTime) -> anyhow::Result<Authority> {
        let key = KeyPair::generate().context("making the key of an authority")?;
        let certificate =
            Self::params(&key, now).self_signed(&key).context("making an authority")?.pem();
        let text = format!("{certificate}{}", key.serialize_pem());
        Ok(Authority { key, certificate, text })
    }

    /// What was written; none if there is nothing. What is no key is somebody's doing, and an error.
    fn read(file: &Path) -> anyhow::Result<Option<Authority>> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
        };
        let advice = || format!("{}: remove it, and another authority is made", file.display());
        let end = "-----END CERTIFICATE-----";
        let (certificate, _) = text.split_once(end).with_context(advice)?;
        let (certificate, _) = text.split_at(certificate.len() + end.len() + 1);
        let key = KeyPair::from_pem(&text[certificate.len()..]).with_context(advice)?;
        let certificate = certificate.to_owned();
        Ok(Some(Authority { key, certificate, text }))
    }

    /// How it is called and what it may do: the same for the same key, so that a certificate names its issuer
    /// as that is called. Two data directories have two names.
    fn params(key: &KeyPair, now: SystemTime) -> CertificateParams {
        let mut params = CertificateParams::default();
        let digest = hex::encode(&Sha256::digest(key.public_key_raw())[..4]);
        params.distinguished_name = named(&format!("Eve Horizon dev {digest}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - DAY).into();
        params.not_after = (now + AUTHORITY).into();
        params
    }

    fn lasts(&self, until: SystemTime) -> bool {
        CertificateDer::from_pem_slice(self.certificate.as_bytes())
            .ok()
            .and_then(|der| x509_cert::Certificate::from_der(&der).ok())
            .is_some_and(|read| read.tbs_certificate.validity.not_after.to_system_time() > until)
    }

    /// A certificate of these names and its key, PEM.
    fn sign(&self, names: &[String], now: SystemTime) -> anyhow::Result<String> {
        let mut params = CertificateParams::new(names).context("naming this machine")?;
        params.distinguished_name = named("localhost");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (now - DAY).into();
        params.not_after = (now + CERTIFICATE).into();
        let key = KeyPair::generate().context("making a key")?;
        let issuer = Issuer::new(Self::params(&self.key, now), &self.key);
        let signed = params.signed_by(&key, &issuer).context("making a certificate")?;
        Ok(format!("{}{}", signed.pem(), key.serialize_pem()))
    }

    /// Whether what is in a file is good for all names at a time.
    fn vouches(&self, file: &Path, names: &[String], at: SystemTime) -> bool {
        self.verifies(file, names, at).unwrap_or(false)
    }

    fn verifies(&self, file: &Path, names: &[String], at: SystemTime) -> anyhow::Result<bool> {
        let text = std::fs::read(file)?;
        PrivateKeyDer::from_pem_slice(&text)?;
        let certificate = CertificateDer::from_pem_slice(&text)?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.certificate.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        let at = UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH)?);
        for name in names {
            let name = ServerName::try_from(name.as_str())?;
            verifier.verify_server_cert(&certificate, &[], &name, &[], at)?;
        }
        Ok(true)
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

/// Replaces a file by rename, readable by its owner only.
fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let written = || -> std::io::Result<()> {
        let folder = file.parent().unwrap_or(Path::new("."));
        // Made with mode 0600: at no moment could anybody else read a key.
        let mut draft = tempfile::NamedTempFile::new_in(folder)?;
        draft.write_all(text.as_bytes())?;
        draft.as_file().sync_all()?;
        draft.persist(file)?;
        Ok(())
    };
    written().with_context(|| format!("writing {}", file.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn text(path: &Path) -> String {
        std::fs::read_to_string(path).expect("a file")
    }

    #[test]
    fn certificates_are_made_once_and_again_before_they_run_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = SystemTime::now();
        let at = |days: u32| ensure_at(folder.path(), LOOPBACK, now + DAY * days).expect("made");
        let first = at(0);
        let server = text(&first.files.certificate);
        assert_eq!(text(&first.authority_file), first.authority);
        assert!(!first.authority.contains("PRIVATE"));
        for file in [&first.files.key, &folder.path().join("tls/authority.pem")] {
            let mode = std::fs::metadata(file).expect("metadata").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.display());
        }
        let later = at(300);
        assert_eq!(
            (later.authority, text(&later.files.certificate)),
            (first.authority.clone(), server.clone())
        );
        let renewed = at(340);
        assert_eq!(renewed.authority, first.authority, "what was written down stays good");
        assert_ne!(text(&renewed.files.certificate), server);
        let anew = at(3650 - 399);
        assert_ne!(anew.authority, first.authority);
        assert_eq!(text(&anew.authority_file), anew.authority);
    }

    #[test]
    fn another_address_is_another_certificate() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = ensure(folder.path(), LOOPBACK).expect("made");
        let server = text(&first.files.certificate);
        let elsewhere = ensure(folder.path(), "192.0.2.7".parse().expect("an address"));
        let elsewhere = elsewhere.expect("made");
        assert_eq!(elsewhere.authority, first.authority);
        assert_ne!(text(&elsewhere.files.certificate), server);
    }

    #[test]
    fn what_is_broken_is_made_anew_or_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = ensure(folder.path(), LOOPBACK).expect("made");
        std::fs::write(&first.files.certificate, "half").expect("written");
        ensure(folder.path(), LOOPBACK).expect("made");
        assert!(text(&first.files.certificate).contains("PRIVATE KEY"));
        let authority = folder.path().join("tls/authority.pem");
        std::fs::write(&authority, "nothing").expect("written");
        let error = ensure(folder.path(), LOOPBACK).expect_err("broken");
        assert!(error.to_string().contains("remove it"), "{error:#}");
    }
}
