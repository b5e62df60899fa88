//! JWTs that hold and JWTs that do not, against a real key set on a real endpoint where one is needed.

mod attacks;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;

const SECRET: &str = "a secret that only the tests know, long enough";
const ISSUER: &str = "https://project.example/auth/v1";

fn claims() -> Value {
    json!({
        "sub": Uuid::new_v4(), "aud": "authenticated", "iss": ISSUER,
        "exp": get_current_timestamp() + 600, "email": "ada@example.com",
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn hs256(claims: &Value) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET.as_bytes()))
        .unwrap()
}

fn raw(header: &Value, claims: &Value, signature: &[u8]) -> String {
    let part = |value: &Value| BASE64.encode(value.to_string());
    format!("{}.{}.{}", part(header), part(claims), BASE64.encode(signature))
}

fn config(hs256: Option<&str>, jwks: Option<Url>) -> JwtConfig {
    JwtConfig {
        audience: "authenticated".into(),
        issuer: ISSUER.into(),
        hs256_secret: hs256.map(Into::into),
        jwks_url: jwks,
    }
}

fn by_secret() -> JwtVerifier {
    JwtVerifier::new(&config(Some(SECRET), None)).unwrap()
}

async fn refused(verifier: &JwtVerifier, token: &str) -> &'static str {
    match verifier.verify(token).await {
        Err(JwtError::Refused(why)) => why,
        other => panic!("{token} should be refused, but was {other:?}"),
    }
}

/// A key set on a real endpoint.
struct Endpoint {
    url: Url,
    asked: Arc<AtomicUsize>,
    up: Arc<AtomicBool>,
    signing: SigningKey,
}

impl Endpoint {
    async fn start() -> Self {
        let signing = SigningKey::from_bytes(&rand::random());
        let public = BASE64.encode(signing.verifying_key().to_bytes());
        let modulus = BASE64.encode([0xab; 256]);
        let keys = json!({ "keys": [
            { "kty": "OKP", "crv": "Ed25519", "x": public, "kid": "ours", "use": "sig", "alg": "EdDSA" },
            { "kty": "RSA", "n": modulus, "e": "AQAB", "kid": "rsa", "use": "sig" },
            { "kty": "oct", "k": BASE64.encode("published"), "kid": "symmetric", "alg": "HS256" },
            { "kty": "OKP", "crv": "Ed25519", "x": public, "kid": "encryption", "use": "enc" },
            { "kty": "of another planet", "kid": 7 },
            "not even an object",
        ] });
        Self::serving(signing, keys).await
    }

    /// The same with another set.
    async fn serving(signing: SigningKey, keys: Value) -> Self {
        let (asked, up) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
        let router = axum::Router::new()
            .route(
                "/keys",
                get(
                    |State((keys, asked, up)): State<(
                        Value,
                        Arc<AtomicUsize>,
                        Arc<AtomicBool>,
                    )>| async move {
                        asked.fetch_add(1, Ordering::SeqCst);
                        let status = if up.load(Ordering::SeqCst) {
                            StatusCode::OK
                        } else {
                            StatusCode::BAD_GATEWAY
                        };
                        (status, axum::Json(keys))
                    },
                ),
            )
            .with_state((keys, asked.clone(), up.clone()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, asked, up, signing }
    }

    fn sign(&self, kid: Option<&str>, claims: &Value) -> String {
        let der = self.signing.to_pkcs8_der().unwrap();
        let header = Header { kid: kid.map(Into::into), ..Header::new(Algorithm::EdDSA) };
        encode(&header, claims, &EncodingKey::from_ed_der(der.as_bytes())).unwrap()
    }

    fn verifier(&self) -> JwtVerifier {
        JwtVerifier::new(&config(None, Some(self.url.clone()))).unwrap()
    }
}

#[tokio::test]
async fn a_token_that_holds_names_its_person() {
    let claims = claims();
    let person = by_secret().verify(&hs256(&claims)).await.unwrap();
    assert_eq!(claims["sub"], person.user.to_string());
    assert_eq!(person.email.as_deref(), Some("ada@example.com"));
}

#[tokio::test]
async fn claims_that_do_not_hold_are_refused_with_the_reason() {
    let verifier = by_secret();
    let now = get_current_timestamp();
    for (claims, why) in [
        (with("exp", json!(now - 31)), "the token has expired"),
        (with("nbf", json!(now + 40)), "the token is not valid yet"),
        (with("aud", json!("anon")), "the token is for another audience"),
        (with("aud", json!([])), "the token is for another audience"),
        (with("iss", json!("https://evil.example")), "the token is from another issuer"),
        (with("iss", json!([ISSUER, "https://evil.example"])), "the token is from another issuer"),
        (with("sub", json!("root")), "the token's subject is not a user id (a UUID)"),
        (with("exp", json!("tomorrow")), "the token lacks one of exp, aud, iss and sub"),
        (without("exp"), "the token lacks one of exp, aud, iss and sub"),
        (without("aud"), "the token lacks one of exp, aud, iss and sub"),
        (without("iss"), "the token lacks one of exp, aud, iss and sub"),
    ] {
        assert_eq!(refused(&verifier, &hs256(&claims)).await, why, "{claims}");
    }
    refused(&verifier, &hs256(&without("sub"))).await;
    // Within the leeway.
    verifier.verify(&hs256(&with("exp", json!(now - 10)))).await.unwrap();
    verifier.verify(&hs256(&with("nbf", json!(now + 10)))).await.unwrap();
    verifier.verify(&hs256(&with("aud", json!(["other", "authenticated"])))).await.unwrap();
}

#[tokio::test]
async fn unsigned_and_tampered_tokens_are_refused() {
    let verifier = by_secret();
    for alg in ["none", "None", "nOnE", ""] {
        refused(&verifier, &raw(&json!({ "alg": alg, "typ": "JWT" }), &claims(), b"")).await;
    }
    refused(&verifier, &raw(&json!({ "alg": "HS256" }), &claims(), b"")).await;
    refused(&verifier, &raw(&json!({ "typ": "JWT" }), &claims(), b"x")).await;
    let token = hs256(&claims());
    let (head, signature) = token.rsplit_once('.').unwrap();
    let (header, _) = head.split_once('.').unwrap();
    let other = BASE64.encode(claims().to_string());
    assert_eq!(
        refused(&verifier, &format!("{header}.{other}.{signature}")).await,
        "the token's signature is wrong"
    );
    for garbage in [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "💥.💥.💥",
        &format!("{token}.x"),
        &token[..token.len() / 2],
    ] {
        refused(&verifier, garbage).await;
    }
    refused(&verifier, &"x".repeat(MAX_TOKEN_LENGTH + 1)).await;
    let critical = raw(&json!({ "alg": "HS256", "crit": ["exp"] }), &claims(), b"x");
    refused(&verifier, &critical).await;
}

#[tokio::test]
async fn the_algorithm_is_our_keys_and_not_the_headers() {
    let endpoint = Endpoint::start().await;
    let verifier = endpoint.verifier();
    // What an attacker knows of us is public: each of it is tried as an HMAC secret.
    let public = endpoint.signing.verifying_key().to_bytes();
    let secrets: [&[u8]; 4] =
        [&public, BASE64.encode(public).as_bytes().to_owned().leak(), &[0xab; 256], b"published"];
    for kid in ["ours", "rsa", "symmetric", "encryption"] {
        for secret in secrets {
            let header = Header { kid: Some(kid.into()), ..Header::new(Algorithm::HS256) };
            let token = encode(&header, &claims(), &EncodingKey::from_secret(secret)).unwrap();
            refused(&verifier, &token).await;
        }
    }
    // A signature by the right key under a key id that is for something else.
    refused(&verifier, &endpoint.sign(Some("encryption"), &claims())).await;
    refused(&verifier, &endpoint.sign(Some("rsa"), &claims())).await;
    // Keys that the token brings along are not looked at.
    let attacker = SigningKey::from_bytes(&rand::random());
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": BASE64.encode(attacker.verifying_key().to_bytes()) });
    let header = json!({ "alg": "EdDSA", "jwk": jwk, "jku": "http://127.0.0.1:1/", "kid": "ours" });
    let message =
        format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims().to_string()));
    let signature = ed25519_dalek::Signer::sign(&attacker, message.as_bytes()).to_bytes();
    refused(&verifier, &format!("{message}.{}", BASE64.encode(signature))).await;
    // And an HS256-only verifier takes nothing else.
    assert_eq!(
        refused(&by_secret(), &endpoint.sign(Some("ours"), &claims())).await,
        "the token is signed with another algorithm than its key's"
    );
}

#[tokio::test]
async fn unknown_key_ids_do_not_flood_the_endpoint() {
    let endpoint = Endpoint::start().await;
    let verifier = endpoint.verifier();
    verifier.verify(&endpoint.sign(Some("ours"), &claims())).await.unwrap();
    let long = "k".repeat(2_000);
    for kid in ["unknown", "", "../../etc/passwd", "ours\0", "'; DROP TABLE keys; --", &long] {
        refused(&verifier, &endpoint.sign(Some(kid), &claims())).await;
    }
    // Several keys: without an id it is not clear which is meant.
    refused(&verifier, &endpoint.sign(None, &claims())).await;
    assert_eq!(endpoint.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn keys_outlive_an_outage_of_their_endpoint() {
    let endpoint = Endpoint::start().await;
    let verifier = endpoint.verifier();
    verifier.verify(&endpoint.sign(Some("ours"), &claims())).await.unwrap();
    endpoint.up.store(false, Ordering::SeqCst);
    verifier.verify(&endpoint.sign(Some("ours"), &claims())).await.unwrap();

    let late = endpoint.verifier();
    let outcome = late.verify(&endpoint.sign(Some("ours"), &claims())).await;
    assert!(matches!(outcome, Err(JwtError::NoKeys)), "{outcome:?}");
}

#[tokio::test]
async fn a_secret_and_a_key_set_go_together() {
    let endpoint = Endpoint::start().await;
    let verifier = JwtVerifier::new(&config(Some(SECRET), Some(endpoint.url.clone()))).unwrap();
    verifier.verify(&hs256(&claims())).await.unwrap();
    verifier.verify(&endpoint.sign(Some("ours"), &claims())).await.unwrap();
    let header = Header { kid: Some("ours".into()), ..Header::new(Algorithm::HS256) };
    let confused =
        encode(&header, &claims(), &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
    refused(&verifier, &confused).await;
}

#[test]
fn a_configuration_that_proves_nothing_is_refused() {
    let url = |text: &str| Some(text.parse().unwrap());
    let refused = |config| JwtVerifier::new(&config).err().unwrap();
    assert!(matches!(refused(config(None, None)), JwtConfigError::NoKeys));
    assert!(matches!(refused(config(Some("short"), None)), JwtConfigError::ShortSecret));
    assert!(matches!(
        refused(config(None, url("http://keys.example/"))),
        JwtConfigError::InsecureUrl
    ));
    assert!(matches!(refused(config(None, url("file:///etc/keys"))), JwtConfigError::InsecureUrl));
}
