//! Google's: the key of a service account signs that it is that account, and Google exchanges it for a token
//! (<https://developers.google.com/identity/protocols/oauth2/service-account#httprest>).

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{SignatureAlgorithm, SignatureScheme};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::{LoginError, MOST_TEXT, Token, exchange, fits};
use crate::requests::Invalid;

/// What a key file calls itself.
const KIND: &str = "service_account";
/// What the token is for; what it may do there is for IAM and the cluster to say.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// Who is told, and where.
const AUDIENCE: &str = "https://oauth2.googleapis.com/token";
const PATH: &str = "/token";
/// What key files of all times say of where that is. It is not read any further: we know where.
const KNOWN: [&str; 4] = [
    AUDIENCE,
    "https://accounts.google.com/o/oauth2/token",
    "https://www.googleapis.com/oauth2/v4/token",
    "https://www.googleapis.com/oauth2/v3/token",
];
/// How long what is signed is good, in seconds: an hour at most.
const SIGNED: u64 = 600;

/// The key of a service account, as Google hands it out. What else stands in such a file is not kept.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct GoogleLogin {
    /// `service_account`.
    pub r#type: String,
    /// The account, such as eve@project.iam.gserviceaccount.com.
    pub client_email: String,
    /// The id of its key.
    pub private_key_id: String,
    /// Its key, PEM.
    #[serde(serialize_with = "super::sealed")]
    #[schema(value_type = String, write_only)]
    pub private_key: SecretString,
    /// Where Google exchanges it: Google's own, whatever a file says.
    pub token_uri: String,
}

impl GoogleLogin {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        if self.r#type != KIND {
            return Err(Invalid::new(
                "google.type",
                format_args!("must be `{KIND}`: a key of a service account, made for this"),
            ));
        }
        if !KNOWN.contains(&self.token_uri.as_str()) {
            return Err(Invalid::new("google.token_uri", format_args!("must be {AUDIENCE}")));
        }
        let graphic = |byte: u8| byte.is_ascii_graphic();
        let account = self
            .client_email
            .split_once('@')
            .is_some_and(|(name, host)| !name.is_empty() && host.ends_with(".gserviceaccount.com"));
        if !account || !fits(&self.client_email, 320, graphic) {
            return Err(Invalid::new(
                "google.client_email",
                "must be a service account: …@….gserviceaccount.com",
            ));
        }
        if !fits(&self.private_key_id, 128, |byte| byte.is_ascii_alphanumeric()) {
            return Err(Invalid::new("google.private_key_id", "must be letters and digits"));
        }
        if self.private_key.expose_secret().len() > 4 * MOST_TEXT {
            return Err(Invalid::new("google.private_key", "is too long"));
        }
        self.signer().map_err(|why| Invalid::new("google.private_key", why)).map(drop)
    }

    pub(super) async fn token(&self, host: &str, now: SystemTime) -> Result<Token, LoginError> {
        let assertion = self.assertion(now)?;
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
            ("assertion", assertion.expose_secret()),
        ];
        exchange(host, PATH, &form).await
    }

    /// A JWT (RFC 7523), signed with RS256.
    fn assertion(&self, now: SystemTime) -> Result<SecretString, LoginError> {
        let unusable = |why: &str| LoginError::Unusable(why.to_owned());
        let now = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_err(|_| unusable("the clock is before 1970"))?
            .as_secs();
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = part(json!({ "alg": "RS256", "typ": "JWT", "kid": self.private_key_id }));
        let claims = part(json!({
            "iss": self.client_email, "scope": SCOPE, "aud": AUDIENCE, "iat": now, "exp": now + SIGNED,
        }));
        let said = format!("{header}.{claims}");
        let signature = self
            .signer()
            .map_err(unusable)?
            .sign(said.as_bytes())
            .map_err(|error| unusable(&error.to_string()))?;
        Ok(format!("{said}.{}", URL_SAFE_NO_PAD.encode(signature)).into())
    }

    /// ring's, as for TLS: it takes the same time whatever the key is.
    fn signer(&self) -> Result<Box<dyn rustls::sign::Signer>, &'static str> {
        let key = PrivateKeyDer::from_pem_slice(self.private_key.expose_secret().as_bytes())
            .map_err(|_| "must be a key in PEM: -----BEGIN PRIVATE KEY-----")?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key)
            .map_err(|_| "is no key that can be used: Google's are RSA with 2048 bits")?;
        if key.algorithm() != SignatureAlgorithm::RSA {
            return Err("must be an RSA key");
        }
        key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]).ok_or("must be an RSA key")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation};

    use super::*;

    /// Made for these tests, and so known to everybody: base64 of PKCS #8, and of its public half.
    const PRIVATE: &str = include_str!("testdata/rsa-2048.private.txt");
    const PUBLIC: &str = include_str!("testdata/rsa-2048.public.txt");

    fn pem(kind: &str, text: &str) -> String {
        format!("-----BEGIN {kind} KEY-----\n{text}-----END {kind} KEY-----\n")
    }

    pub fn login() -> GoogleLogin {
        GoogleLogin {
            r#type: KIND.into(),
            client_email: "eve@project.iam.gserviceaccount.com".into(),
            private_key_id: "0123456789abcdef".into(),
            private_key: pem("PRIVATE", PRIVATE).into(),
            token_uri: AUDIENCE.into(),
        }
    }

    /// Whether the account of [`login`] has signed it, for Google.
    pub fn verify(assertion: &str) -> serde_json::Value {
        let key = DecodingKey::from_rsa_pem(pem("PUBLIC", PUBLIC).as_bytes()).expect("a key");
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&["eve@project.iam.gserviceaccount.com"]);
        let token = jsonwebtoken::decode::<serde_json::Value>(assertion, &key, &validation);
        token.expect("a JWT that holds").claims
    }

    #[test]
    fn an_assertion_holds_and_says_what_google_wants_to_hear() {
        let now = SystemTime::now();
        let claims = verify(login().assertion(now).expect("an assertion").expose_secret());
        assert_eq!(claims["scope"], SCOPE);
        let (begins, ends) = (claims["iat"].as_u64(), claims["exp"].as_u64());
        assert_eq!(ends.zip(begins).map(|(ends, begins)| ends - begins), Some(SIGNED));
    }

    #[test]
    fn a_key_file_leads_nowhere_else() {
        assert!(login().check().is_ok());
        let elliptic = rcgen::KeyPair::generate().expect("a key").serialize_pem();
        for (login, field) in [
            (GoogleLogin { r#type: "external_account".into(), ..login() }, "google.type"),
            (GoogleLogin { r#type: "authorized_user".into(), ..login() }, "google.type"),
            (
                GoogleLogin { token_uri: "https://evil.example/token".into(), ..login() },
                "google.token_uri",
            ),
            (GoogleLogin { token_uri: format!("{AUDIENCE}?x"), ..login() }, "google.token_uri"),
            (
                GoogleLogin { token_uri: "http://oauth2.googleapis.com/token".into(), ..login() },
                "google.token_uri",
            ),
            (GoogleLogin { client_email: "me@gmail.com".into(), ..login() }, "google.client_email"),
            (GoogleLogin { private_key_id: "a b".into(), ..login() }, "google.private_key_id"),
            (
                GoogleLogin { private_key: "/etc/passwd".to_owned().into(), ..login() },
                "google.private_key",
            ),
            (GoogleLogin { private_key: elliptic.into(), ..login() }, "google.private_key"),
        ] {
            assert_eq!(login.check().expect_err(field).field, field);
        }
        let whole = json!({
            "type": KIND, "project_id": "p", "private_key_id": "a", "private_key": pem("PRIVATE", PRIVATE),
            "client_email": "eve@project.iam.gserviceaccount.com", "client_id": "1",
            "auth_uri": "https://accounts.google.com/o/oauth2/auth", "token_uri": AUDIENCE,
            "universe_domain": "googleapis.com",
        });
        let read: GoogleLogin = serde_json::from_value(whole).expect("a whole file is read");
        assert!(read.check().is_ok());
    }
}
