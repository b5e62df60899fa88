//! An authority of our own for certificates of our own: for `eve dev`, and for the API that autoscalers ask.
//!
//! It is told to those who need it (contexts and kubeconfigs, an APIService) and belongs in no system's store.
//! Its certificate and key are one text, so that whoever keeps it replaces both at once or neither.

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
use x509_cert::der::Decode as _;

/// A day.
pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// An authority, with its key.
pub struct Authority {
    name: &'static str,
    key: KeyPair,
    certificate: String,
    text: String,
}

/// A certificate and its key.
pub struct Signed {
    /// PEM.
    pub certificate: String,
    /// PEM.
    pub key: String,
}

impl Authority {
    /// Makes one that is good for `lasts`.
    pub fn new(name: &'static str, lasts: Duration, now: SystemTime) -> anyhow::Result<Authority> {
        let key = KeyPair::generate().context("making the key of an authority")?;
        let mut params = Self::params(name, &key);
        // Clocks differ.
        params.not_before = (now - DAY).into();
        params.not_after = (now + lasts).into();
        let certificate = params.self_signed(&key).context("making an authority")?.pem();
        let text = format!("{certificate}{}", key.serialize_pem());
        Ok(Authority { name, key, certificate, text })
    }

    /// Reads [`text`](Self::text); `name` is what it was made with.
    pub fn parse(name: &'static str, text: &str) -> anyhow::Result<Authority> {
        let end = "-----END CERTIFICATE-----";
        let at = text.find(end).context("there is no certificate")? + end.len();
        let (certificate, rest) = text.split_at(at);
        let key = KeyPair::from_pem(rest.trim_start()).context("there is no key")?;
        CertificateDer::from_pem_slice(certificate.as_bytes())?;
        let certificate = format!("{certificate}\n");
        Ok(Authority { name, key, certificate, text: text.to_owned() })
    }

    /// How it is called and what it may do: the same for the same key, so that a certificate names its issuer
    /// as that is called, and two authorities have two names.
    fn params(name: &str, key: &KeyPair) -> CertificateParams {
        let mut params = CertificateParams::default();
        let digest = hex::encode(&Sha256::digest(key.public_key_raw())[..4]);
        params.distinguished_name = named(&format!("{name} {digest}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    /// Its certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its certificate and key, PEM.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is good until then.
    pub fn lasts(&self, until: SystemTime) -> bool {
        CertificateDer::from_pem_slice(self.certificate.as_bytes())
            .ok()
            .and_then(|der| end_of(&der))
            .is_some_and(|end| end > until)
    }

    /// A server's certificate with these names, which are DNS names or addresses.
    pub fn sign(
        &self,
        names: &[String],
        lasts: Duration,
        now: SystemTime,
    ) -> anyhow::Result<Signed> {
        let mut params = CertificateParams::new(names).context("naming a server")?;
        params.distinguished_name = named(names.first().map_or("localhost", String::as_str));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (now - DAY).into();
        params.not_after = (now + lasts).into();
        let key = KeyPair::generate().context("making a key")?;
        let issuer = Issuer::new(Self::params(self.name, &self.key), &self.key);
        let signed = params.signed_by(&key, &issuer).context("making a certificate")?;
        Ok(Signed { certificate: signed.pem(), key: key.serialize_pem() })
    }

    /// Whether a text holds a key, and a certificate of this authority for all names at a time.
    pub fn vouches(&self, text: &[u8], names: &[String], at: SystemTime) -> bool {
        self.verifies(text, names, at).unwrap_or(false)
    }

    fn verifies(&self, text: &[u8], names: &[String], at: SystemTime) -> anyhow::Result<bool> {
        PrivateKeyDer::from_pem_slice(text)?;
        let certificate = CertificateDer::from_pem_slice(text)?;
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

/// Until when a certificate is good, if it says so in a way that we understand.
pub fn end_of(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let read = x509_cert::Certificate::from_der(certificate).ok()?;
    Some(read.tbs_certificate.validity.not_after.to_system_time())
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}
