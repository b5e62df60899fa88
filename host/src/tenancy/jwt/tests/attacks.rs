//! What has been done to other verifiers of JWTs, tried on ours: each attack against a verifier with a
//! secret, one with a key set, and one with both. That they accept what is good is tried as well, or a
//! refusal would say nothing.

use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::crypto;

use super::*;

/// Made for these tests, and so known to everybody: RSA of 1,024 bits (PKCS #1), and ECDSA on P-256
/// (PKCS #8), with their public keys as operators find them in files.
const RSA: &str = "\
MIICXgIBAAKBgQDdoM/QEcLVgiy1dKcwmmnouP4wT16U3wYnwN298NeSVZZshCogy13Ws3rVwneKSXZBai/ZE8th/1xIALbY
g247Q5JAsXf6HJYhw8LFwh8yxfDF4ejp/TyOqtfk9fwDVDAz2XAR6xahZ63WfReBeSIL2QyAHZHm3WKyHROxU3a6XwIDAQAB
AoGBAMJXTWNq76pBp+rGDAV2ogBMl7jNIGby2nbpjIgONTpAitNFYZu4OOUYJVJkYGaG3IeoEaUM0n9waP9KgQuC1JjIrAL4
qTPPyaGuUhQ5dOy7u5IcxAlCU/LAP/pMKwx69fapH2rGPRtBr1LhboW4LpfK18zkpwjFP2w6V08wkZBhAkEA/ZdXoqIZ97nt
vdBX5q2KuSYUxjhEADKXAOSnN8IpCzVh2YtxcySkTrw/a39KbLkoMjHgEZ3PSfatV1jWRA6OdQJBAN+7vrfKbxSaaQ030j/U
M5EX9oKZy8DcL8YXZtB3XBEgFvGhAXKnVv9qfKPuvvmAtn42KRr+Iqz0hTyZlN+K8wMCQQCdlS9DA8JpO2OuAUquMQc0WKKu
LoarLMTDLFNxBbllmq2Mdudv6sQjnT03uqjv+PsufenEaLFIP/6lebHkJruFAkB3SWRwHZCIDaPBFmgU/BDaZUpba6CFHWCj
X0rEDz+ZKeDRx6Q7+xiZaa82wE42PPgP5tSXvbPDP0PigYgsf6r9AkEAg6Gtwt5xKhIzmNYIUnqtjbe4sWujmSi/ivL18o2w
Webiw8k/v4hYKg9fIHi50Q9GyK+ZewTLTGFQpwx7oC5hDw==";
const RSA_PUBLIC: &str = "\
-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDdoM/QEcLVgiy1dKcwmmnouP4w
T16U3wYnwN298NeSVZZshCogy13Ws3rVwneKSXZBai/ZE8th/1xIALbYg247Q5JA
sXf6HJYhw8LFwh8yxfDF4ejp/TyOqtfk9fwDVDAz2XAR6xahZ63WfReBeSIL2QyA
HZHm3WKyHROxU3a6XwIDAQAB
-----END PUBLIC KEY-----
";
const EC: &str = "\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg++8aNO5Up7PzZ92vC/C1VG5gDIgZEsQMB0nSk4pu3wGhRANC
AAQJScBDzVMqAExr6wd3LEbLP4M7YNwKm73eosp9YHhEDu7COgLjx729nBD33PtlA1q03mi+B8DuYZkc2VzrvzNp";
const EC_PUBLIC: &str = "\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAECUnAQ81TKgBMa+sHdyxGyz+DO2Dc
Cpu93qLKfWB4RA7uwjoC48e9vZwQ99z7ZQNatN5ovgfA7mGZHNlc678zaQ==
-----END PUBLIC KEY-----
";

/// The bytes of a key, from a file or as it stands above.
fn der(text: &str) -> Vec<u8> {
    let lines: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    STANDARD.decode(lines).unwrap()
}

/// Whose signature a token has.
#[derive(Clone, Copy)]
enum By<'a> {
    Secret(&'a [u8]),
    Rsa,
    Ec,
    Ed(&'a SigningKey),
}

const OUR_SECRET: By<'static> = By::Secret(SECRET.as_bytes());

impl By<'_> {
    fn sign(self, algorithm: Algorithm, message: &str) -> String {
        let key = match self {
            By::Secret(secret) => EncodingKey::from_secret(secret),
            By::Rsa => EncodingKey::from_rsa_der(&der(RSA)),
            By::Ec => EncodingKey::from_ec_der(&der(EC)),
            By::Ed(key) => EncodingKey::from_ed_der(key.to_pkcs8_der().unwrap().as_bytes()),
        };
        crypto::sign(message.as_bytes(), &key, algorithm).unwrap()
    }
}

/// A token of any text at all, signed rightly.
fn token(header: &str, claims: &str, algorithm: Algorithm, by: By<'_>) -> String {
    let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
    format!("{message}.{}", by.sign(algorithm, &message))
}

/// What attacks are tried on, and what an attacker knows of it.
struct Ground {
    endpoint: Endpoint,
    /// With a secret; with a key set; with both.
    verifiers: [JwtVerifier; 3],
    /// By their ids.
    public: Vec<(&'static str, Value)>,
}

impl Ground {
    async fn new() -> Self {
        let signing = SigningKey::from_bytes(&rand::random());
        let (rsa, ec) = (der(RSA_PUBLIC), der(EC_PUBLIC));
        // What these structures end with: 128 bytes of modulus and the exponent; two coordinates.
        let modulus = BASE64.encode(&rsa[rsa.len() - 133..rsa.len() - 5]);
        let (x, y) = ec[ec.len() - 64..].split_at(32);
        let (x, y) = (BASE64.encode(x), BASE64.encode(y));
        let ed = BASE64.encode(signing.verifying_key().to_bytes());
        let public = vec![
            ("rsa", json!({ "kty": "RSA", "n": modulus, "e": "AQAB", "kid": "rsa" })),
            ("ec", json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": "ec" })),
            ("ed", json!({ "kty": "OKP", "crv": "Ed25519", "x": ed, "kid": "ed", "use": "sig" })),
        ];
        let keys = json!({ "keys": public.iter().map(|(_, key)| key).collect::<Vec<_>>() });
        let endpoint = Endpoint::serving(signing, keys).await;
        let url = Some(endpoint.url.clone());
        let verifiers = [
            by_secret(),
            JwtVerifier::new(&config(None, url.clone())).unwrap(),
            JwtVerifier::new(&config(Some(SECRET), url)).unwrap(),
        ];
        Self { endpoint, verifiers, public }
    }

    async fn refuses(&self, what: &str, token: &str) {
        for (number, verifier) in self.verifiers.iter().enumerate() {
            let outcome = verifier.verify(token).await;
            let refused = matches!(outcome, Err(JwtError::Refused(_)));
            assert!(refused, "{what}: verifier {number} says {outcome:?} to {token}");
        }
    }

    /// Every way to sign rightly, with the header that goes with it.
    fn signers(&self) -> [(&'static str, Algorithm, By<'_>); 4] {
        [
            (r#"{"alg":"HS256"}"#, Algorithm::HS256, OUR_SECRET),
            (r#"{"alg":"RS256","kid":"rsa"}"#, Algorithm::RS256, By::Rsa),
            (r#"{"alg":"ES256","kid":"ec"}"#, Algorithm::ES256, By::Ec),
            (r#"{"alg":"EdDSA","kid":"ed"}"#, Algorithm::EdDSA, By::Ed(&self.endpoint.signing)),
        ]
    }

    /// Refused although the signature is right, whichever it is.
    async fn refuses_signed(&self, what: &str, claims: &str) {
        for (header, algorithm, by) in self.signers() {
            self.refuses(what, &token(header, claims, algorithm, by)).await;
        }
    }
}

/// A verifier that refuses everything would pass all the others.
#[tokio::test]
async fn what_is_good_is_accepted() {
    let ground = Ground::new().await;
    let claims = claims().to_string();
    for (header, algorithm, by) in ground.signers() {
        let good = token(header, &claims, algorithm, by);
        let by_secret = matches!(by, By::Secret(_));
        for (verifier, accepts) in ground.verifiers.iter().zip([by_secret, !by_secret, true]) {
            assert_eq!(verifier.verify(&good).await.is_ok(), accepts, "{header}");
        }
    }
}

#[tokio::test]
async fn nobody_signs_with_nothing() {
    let ground = Ground::new().await;
    let claims = claims().to_string();
    for alg in
        [r#""none""#, r#""None""#, r#""NONE""#, r#""nOnE""#, r#""none ""#, r#""""#, "null", "0"]
    {
        for kid in ["", r#","kid":"rsa""#, r#","kid":"ed""#] {
            let header = format!(r#"{{"typ":"JWT","alg":{alg}{kid}}}"#);
            let message = format!("{}.{}", BASE64.encode(&header), BASE64.encode(&claims));
            let by_nothing = By::Secret(b"").sign(Algorithm::HS256, &message);
            for signature in ["", "x", &by_nothing, &BASE64.encode(SECRET)] {
                ground.refuses(&header, &format!("{message}.{signature}")).await;
            }
        }
    }
    // The algorithm said twice, whichever counts.
    for header in [
        r#"{"alg":"HS256","alg":"none"}"#,
        r#"{"alg":"none","alg":"HS256"}"#,
        r#"{"alg":"RS256","kid":"rsa","alg":"HS256"}"#,
    ] {
        for by in [By::Secret(b""), OUR_SECRET] {
            ground.refuses(header, &token(header, &claims, Algorithm::HS256, by)).await;
        }
    }
}

/// Whatever form an attacker may find a public key in.
fn forms(id: &str, key: &Value) -> Vec<Vec<u8>> {
    let text = key.to_string();
    let mut forms = vec![text.clone().into_bytes(), text.replace(':', ": ").into_bytes()];
    let pem = match id {
        "rsa" => Some(RSA_PUBLIC),
        "ec" => Some(EC_PUBLIC),
        _ => None,
    };
    if let Some(pem) = pem {
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let others = [pem.trim_end().to_owned(), pem.replace('\n', "\r\n"), body];
        forms.push(pem.into());
        forms.extend(others.map(String::into_bytes));
        forms.push(der(pem));
    }
    for member in ["n", "e", "x", "y"] {
        let Some(text) = key[member].as_str() else { continue };
        forms.extend([text.into(), BASE64.decode(text).unwrap()]);
    }
    if let (Some(x), Some(y)) = (key["x"].as_str(), key["y"].as_str()) {
        let point = [BASE64.decode(x).unwrap(), BASE64.decode(y).unwrap()].concat();
        forms.extend([[&[4], &point[..]].concat(), point]);
    }
    forms
}

#[tokio::test]
async fn a_public_key_is_no_secret() {
    let ground = Ground::new().await;
    let claims = claims().to_string();
    let algorithms =
        [("HS256", Algorithm::HS256), ("HS384", Algorithm::HS384), ("HS512", Algorithm::HS512)];
    for (id, key) in &ground.public {
        for secret in forms(id, key) {
            for (alg, algorithm) in algorithms {
                for kid in [format!(r#","kid":"{id}""#), r#","kid":"x""#.into(), String::new()] {
                    let header = format!(r#"{{"alg":"{alg}"{kid}}}"#);
                    let forged = token(&header, &claims, algorithm, By::Secret(&secret));
                    ground.refuses(&header, &forged).await;
                }
            }
        }
    }
    // The same confusion the other way: the secret's own tokens under the name of a public key.
    for kid in ["rsa", "ec", "ed"] {
        let header = format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#);
        let forged = token(&header, &claims, Algorithm::HS256, OUR_SECRET);
        for verifier in &ground.verifiers[1..] {
            refused(verifier, &forged).await;
        }
    }
}

#[tokio::test]
async fn a_key_is_for_one_algorithm() {
    let ground = Ground::new().await;
    let claims = claims().to_string();
    for (alg, algorithm, by, kid) in [
        ("HS384", Algorithm::HS384, OUR_SECRET, "x"),
        ("HS512", Algorithm::HS512, OUR_SECRET, "x"),
        ("RS384", Algorithm::RS384, By::Rsa, "rsa"),
        ("PS256", Algorithm::PS256, By::Rsa, "rsa"),
        // A right signature under the name of another key.
        ("RS256", Algorithm::RS256, By::Rsa, "ec"),
        ("ES256", Algorithm::ES256, By::Ec, "rsa"),
        ("EdDSA", Algorithm::EdDSA, By::Ed(&ground.endpoint.signing), "ec"),
    ] {
        // And a header that says another algorithm than the one that signed.
        for said in [alg, "HS256", "RS256", "ES256", "EdDSA"] {
            let header = format!(r#"{{"alg":"{said}","kid":"{kid}"}}"#);
            ground.refuses(&header, &token(&header, &claims, algorithm, by)).await;
        }
    }
}

#[tokio::test]
async fn claims_that_are_signed_must_hold_as_well() {
    let ground = Ground::new().await;
    let now = get_current_timestamp();
    let evil = "https://evil.example";
    let later = now + 600;
    let table = [
        ("exp", json!([now - 31, 0, -1, later.to_string(), [later], { "exp": later }, true, null])),
        ("nbf", json!([now + 60, u64::MAX, "0", [0]])),
        (
            "aud",
            json!([
                "anon",
                "authenticated ",
                "Authenticated",
                "authenticated,anon",
                "",
                [],
                ["anon"],
                [["authenticated"]],
                { "authenticated": true },
                7,
                null
            ]),
        ),
        (
            "iss",
            json!([
                evil,
                format!("{ISSUER}/"),
                ISSUER.to_uppercase(),
                format!("{ISSUER}.evil.example"),
                [ISSUER],
                [evil, ISSUER],
                { "iss": ISSUER },
                null
            ]),
        ),
        ("sub", json!(["root", "", 7, [Uuid::new_v4()], null])),
    ];
    for (name, values) in table {
        for value in values.as_array().unwrap() {
            let claims = with(name, value.clone()).to_string();
            ground.refuses_signed(&format!("{name} is {value}"), &claims).await;
        }
        if name != "nbf" {
            ground.refuses_signed(&format!("no {name}"), &without(name).to_string()).await;
        }
    }
    for nothing in ["", "null", "[]", "{}", "7", "\"sub\"", "{", "{}{}", "\u{0}"] {
        ground.refuses_signed(nothing, nothing).await;
    }
}

/// Two readers that take the same text differently are a way past one of them: a claim that is said twice
/// is refused, whichever of the two would hold.
#[tokio::test]
async fn a_claim_is_said_once() {
    let ground = Ground::new().await;
    let text = claims().to_string();
    for (name, bad) in [
        ("exp", json!(get_current_timestamp() - 3_600)),
        ("aud", json!("anon")),
        ("iss", json!("https://evil.example")),
        ("sub", json!(Uuid::new_v4())),
    ] {
        let again = format!("\"{name}\":{bad}");
        let first = format!("{{{again},{}", &text[1..]);
        let last = format!("{},{again}}}", &text[..text.len() - 1]);
        for twice in [first, last] {
            ground.refuses_signed(name, &twice).await;
        }
    }
}

/// Whatever a token says of keys but the id of one of ours leads nowhere, and has us call nobody.
#[tokio::test]
async fn a_token_does_not_bring_its_own_key() {
    let ground = Ground::new().await;
    // The attacker's keys, under an id of theirs and under one of ours, at an address of theirs.
    let attacker = SigningKey::from_bytes(&rand::random());
    let x = BASE64.encode(attacker.verifying_key().to_bytes());
    let jwk = |kid| json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "alg": "EdDSA" });
    let theirs = json!({ "keys": [jwk("evil"), jwk("ed")] });
    let bait = Endpoint::serving(attacker.clone(), theirs).await;
    let url = bait.url.as_str();
    let claims = claims().to_string();
    for kid in [json!("evil"), json!("ed"), json!(null), json!(url)] {
        for extra in [
            json!({ "jwk": jwk("ed") }),
            json!({ "jwk": jwk("evil") }),
            json!({ "jku": url }),
            json!({ "x5u": url }),
            json!({ "x5c": [STANDARD.encode(&x)] }),
            json!({ "jku": url, "jwk": jwk("evil"), "x5u": url, "x5t": x, "x5t#S256": x }),
            json!({ "iss": url, "jwks_uri": url, "url": url }),
        ] {
            let mut header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": kid });
            header.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let header = header.to_string();
            let forged = token(&header, &claims, Algorithm::EdDSA, By::Ed(&attacker));
            ground.refuses(&header, &forged).await;
        }
    }
    assert_eq!(bait.asked.load(Ordering::SeqCst), 0, "the attacker was called");
}

#[tokio::test]
async fn a_key_id_is_nothing_but_a_name() {
    let ground = Ground::new().await;
    let claims = claims().to_string();
    let long = "k".repeat(10_000);
    for kid in [
        json!("unknown"),
        json!(""),
        json!("RSA"),
        json!("rsa "),
        json!("rsa\0"),
        json!("../../../dev/null"),
        json!("/proc/self/environ"),
        json!("file:///dev/null"),
        json!("http://127.0.0.1:1/keys"),
        json!("x' UNION SELECT 'secret' --"),
        json!("$(id)"),
        json!("|id"),
        json!(long),
        json!(7),
        json!(["rsa"]),
        json!({ "kid": "rsa" }),
        json!(null),
    ] {
        let header = json!({ "alg": "RS256", "kid": kid }).to_string();
        ground.refuses(&header, &token(&header, &claims, Algorithm::RS256, By::Rsa)).await;
        // What a file that is named so might hold: nothing, or something well-known.
        let header = json!({ "alg": "HS256", "kid": kid }).to_string();
        for secret in [&b""[..], b"\0", b"secret", b"null"] {
            let forged = token(&header, &claims, Algorithm::HS256, By::Secret(secret));
            ground.refuses(&header, &forged).await;
        }
    }
    let twice = r#"{"alg":"RS256","kid":"x","kid":"rsa"}"#;
    ground.refuses(twice, &token(twice, &claims, Algorithm::RS256, By::Rsa)).await;
    // Each of the two that have a key set has asked for it once, for all of these.
    assert_eq!(ground.endpoint.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn extensions_that_must_be_understood_are_not() {
    let ground = Ground::new().await;
    let claims = claims().to_string();
    for extension in [
        r#""crit":["exp"]"#,
        r#""crit":["b64"],"b64":false"#,
        r#""crit":["http://example.com/UNDEFINED"],"http://example.com/UNDEFINED":true"#,
        r#""crit":[]"#,
        r#""crit":"exp""#,
        r#""crit":{"exp":true}"#,
    ] {
        for (header, algorithm, by) in ground.signers() {
            let header = format!("{},{extension}}}", &header[..header.len() - 1]);
            ground.refuses(&header, &token(&header, &claims, algorithm, by)).await;
        }
    }
}

/// Reads base64 as careless decoders do: whatever the bits are that it leaves over.
fn lenient(text: &str) -> Vec<u8> {
    use base64::engine::{GeneralPurpose, general_purpose::NO_PAD};
    let config = NO_PAD.with_decode_allow_trailing_bits(true);
    GeneralPurpose::new(&base64::alphabet::URL_SAFE, config).decode(text).unwrap()
}

/// The same bytes with a bit set that base64 leaves over.
fn respelled(part: &str) -> String {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (rest, last) = part.split_at(part.len() - 1);
    let place = ALPHABET.find(last).unwrap() + 1;
    let other = format!("{rest}{}", &ALPHABET[place..=place]);
    assert_eq!(lenient(part), lenient(&other), "{part} has no bits left over");
    other
}

/// One token has one spelling: a text that is not exactly as it was issued is another token.
#[tokio::test]
async fn a_token_has_one_spelling() {
    let ground = Ground::new().await;
    // Two bytes more than threes, so that base64 leaves bits over.
    let padded = |text: &str| {
        let missing = (2 + 3 - text.len() % 3) % 3;
        format!("{}{}}}", &text[..text.len() - 1], " ".repeat(missing))
    };
    let claims = padded(&claims().to_string());
    for (header, algorithm, by) in ground.signers() {
        let good = token(&padded(header), &claims, algorithm, by);
        let parts: Vec<&str> = good.split('.').collect();
        let [head, body, signature] = parts[..] else { panic!("{good}") };
        for spelling in [
            format!("{good}="),
            format!("{good}=="),
            format!("{good}."),
            format!("{good}.."),
            format!(".{good}"),
            format!("{good}.x"),
            format!("{good}\n"),
            format!("{good}\0"),
            format!("{good}%3D"),
            format!("{head}.{body}"),
            format!("{head}..{signature}"),
            format!("{head}.{body}."),
            format!("{head}=.{body}.{signature}"),
            format!("{head}.{body}=.{signature}"),
            format!("{head}.{body}.{signature}.{signature}.{signature}"),
            format!("{head} .{body}.{signature}"),
            format!("\"{good}\""),
            json!({ "protected": head, "payload": body, "signature": signature }).to_string(),
            good.replace('.', ","),
            good.to_uppercase(),
            good[..good.len() - 1].to_owned(),
            good[1..].to_owned(),
            // 32, 64 and 128 bytes: each leaves bits over.
            format!("{head}.{body}.{}", respelled(signature)),
        ] {
            ground.refuses("another spelling", &spelling).await;
        }
        // Even where the signature is over that very text.
        for message in
            [format!("{}.{body}", respelled(head)), format!("{head}.{}", respelled(body))]
        {
            let signed = format!("{message}.{}", by.sign(algorithm, &message));
            ground.refuses("bits left over", &signed).await;
        }
    }
}

#[tokio::test]
async fn signatures_of_no_key_are_none() {
    let ground = Ground::new().await;
    let claims = claims().to_string();
    // The order of P-256: the same as zero, in disguise.
    let order = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    let order = hex::decode(order).unwrap();
    for (header, ..) in ground.signers() {
        let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(&claims));
        for signature in [
            vec![],
            vec![0; 32],
            // It holds for any message and key in an ECDSA that does not look (CVE-2022-21449).
            vec![0; 64],
            [vec![0; 32], order.clone()].concat(),
            [order.clone(), order.clone()].concat(),
            vec![0x30, 6, 2, 1, 0, 2, 1, 0],
            // One to the power of anything is one.
            [vec![0; 127], vec![1]].concat(),
            vec![0; 128],
            vec![0xff; 128],
            vec![0; 4_096],
        ] {
            ground.refuses(header, &format!("{message}.{}", BASE64.encode(signature))).await;
        }
    }
}

#[tokio::test]
async fn what_is_too_large_is_not_read() {
    let ground = Ground::new().await;
    let filled = |length: usize| with("filler", json!("x".repeat(length))).to_string();
    for (header, algorithm, by) in ground.signers() {
        let large = token(header, &filled(MAX_TOKEN_LENGTH), algorithm, by);
        for verifier in &ground.verifiers {
            assert_eq!(refused(verifier, &large).await, "the token is too long");
        }
    }
    let small = token(r#"{"alg":"HS256"}"#, &filled(8_000), Algorithm::HS256, OUR_SECRET);
    ground.verifiers[0].verify(&small).await.unwrap();
    // Small enough, and as deep as that allows.
    let depth = MAX_TOKEN_LENGTH / 4;
    let deep = "[".repeat(depth) + &"]".repeat(depth);
    ground.refuses_signed("deep claims", &format!(r#"{{"sub":{deep}}}"#)).await;
    let header = format!(r#"{{"alg":"HS256","x":{deep}}}"#);
    ground.refuses("a deep header", &format!("{}.e30.x", BASE64.encode(&header))).await;
}
