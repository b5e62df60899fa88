//! Who somebody says they are: `tenancy/jwt.rs`, `tenancy/auth.rs`, `tenancy/tokens.rs`.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use chrono::Utc;
use futures::FutureExt as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Deserialize;
use serde_json::Value;
use sha2::Sha256;

use super::{Seen, is_presentable};
use crate::tenancy::auth::bearer;
use crate::tenancy::jwt::{JwtConfig, JwtError, JwtVerifier, Person};
use crate::tenancy::tokens::TokenSecret;

const SECRET: &str = "the secret of the fuzzing corpus, and of nothing else";
const AUDIENCE: &str = "authenticated";
const ISSUER: &str = "https://project.example/auth/v1";
/// What clocks may differ by, in seconds, and what a slow run takes.
const LEEWAY: i64 = 60;

static VERIFIER: LazyLock<JwtVerifier> = LazyLock::new(|| {
    JwtVerifier::new(&JwtConfig {
        audience: AUDIENCE.into(),
        issuer: ISSUER.into(),
        hs256_secret: Some(SECRET.into()),
        jwks_url: None,
    })
    .expect("a secret that is long enough")
});

/// Claims, as JSON, which are signed as they are; or a token from somebody who does not have the secret.
pub fn jwt(data: &[u8]) -> Seen {
    if data.starts_with(b"{") {
        let signed = format!("{}.{}", BASE64.encode(r#"{"alg":"HS256"}"#), BASE64.encode(data));
        let token = format!("{signed}.{}", signature(&signed));
        return match verify(&token) {
            Some(person) => {
                claims_hold(data, &person);
                Seen::Accepted
            }
            None => Seen::Refused,
        };
    }
    let Ok(token) = std::str::from_utf8(data) else { return Seen::Refused };
    let Some(person) = verify(token) else { return Seen::Refused };
    let (signed, given) = token.rsplit_once('.').expect("a signature");
    let (header, claims) = signed.split_once('.').expect("claims");
    let header: Value = serde_json::from_slice(&decoded(header)).expect("a header of JSON");
    assert_eq!(header["alg"], "HS256");
    // In this one spelling: a token that was looked at is not to be had under another name.
    assert_eq!(given, signature(signed), "{token} is forged");
    claims_hold(&decoded(claims), &person);
    Seen::Accepted
}

fn verify(token: &str) -> Option<Person> {
    // Without a key set there is nothing to wait for.
    match VERIFIER.verify(token).now_or_never().expect("an answer at once") {
        Ok(person) => Some(person),
        Err(JwtError::Refused(why)) => {
            is_presentable(why, 200);
            None
        }
        Err(JwtError::NoKeys) => panic!("there is a key"),
    }
}

fn signature(signed: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length does");
    mac.update(signed.as_bytes());
    BASE64.encode(mac.finalize().into_bytes())
}

fn decoded(part: &str) -> Vec<u8> {
    BASE64.decode(part).expect("base64 without padding")
}

/// What was accepted says so itself, to a reader that knows nothing of JWTs.
fn claims_hold(claims: &[u8], person: &Person) {
    // What else they say does not even have to be text.
    #[derive(Deserialize)]
    struct Claims {
        sub: String,
        iss: String,
        aud: Value,
        exp: f64,
        nbf: Option<f64>,
    }
    let claims: Claims = serde_json::from_slice(claims).expect("claims of JSON");
    let now = Utc::now().timestamp();
    assert_eq!(claims.sub.parse().ok(), Some(person.user));
    assert_eq!(claims.iss, ISSUER);
    let ours = |audience: &Value| audience == AUDIENCE;
    let audience = &claims.aud;
    assert!(ours(audience) || audience.as_array().is_some_and(|many| many.iter().any(ours)));
    assert!(claims.exp >= (now - LEEWAY) as f64);
    assert!(claims.nbf.is_none_or(|at| at <= (now + LEEWAY) as f64));
    assert_ne!(person.email.as_deref(), Some(""));
}

/// An `Authorization` header with an API token.
pub fn token(data: &[u8]) -> Seen {
    let Ok(header) = std::str::from_utf8(data) else { return Seen::Refused };
    let credential = match bearer(header) {
        Ok(credential) => credential,
        Err(error) => {
            is_presentable(&error.to_string(), 200);
            return Seen::Refused;
        }
    };
    assert!(header.ends_with(credential.trim_end()) || header.trim_end().ends_with(credential));
    match TokenSecret::parse(credential) {
        Ok(secret) => {
            assert_eq!(secret.expose(), credential, "a token has one spelling");
            assert!(credential.is_ascii() && credential.len() == 53, "{credential}");
            // Whatever is changed, the checksum notices: each place once, in the course of the corpus.
            let place = 4 + usize::from(secret.hash()[0]) % 49;
            let mut typo = credential.as_bytes().to_vec();
            typo[place] = if typo[place] == b'x' { b'y' } else { b'x' };
            let typo = String::from_utf8(typo).expect("ASCII");
            assert!(TokenSecret::parse(&typo).is_err(), "{typo} and {credential}");
            Seen::Accepted
        }
        Err(error) => {
            is_presentable(&error.to_string(), 200);
            Seen::Refused
        }
    }
}
