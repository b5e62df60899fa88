//! Who calls too often is told to wait, and nobody else is.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::ConnectInfo;
use futures::FutureExt as _;
use futures::stream::FuturesUnordered;

use tokio::net::TcpListener;

use super::super::rates::Rate;
use super::coverage::operations;
use super::*;
use crate::tenancy::tokens::TokenSecret;

/// A time that passes when it is told to.
#[derive(Clone, Default)]
struct Time(Arc<AtomicU64>);

impl Time {
    fn pass(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }

    /// These limits, by this time.
    fn limits(&self, caller: &str, stranger: &str, proxies: usize, hesitation: Duration) -> Rates {
        let rate = |text: &str| text.parse::<Rate>().unwrap();
        let limits = RateLimits { caller: rate(caller), stranger: rate(stranger), proxies };
        let seconds = self.0.clone();
        let now = move || Duration::from_secs(1 + seconds.load(Ordering::SeqCst));
        Rates::with_clock(limits, hesitation, Arc::new(now))
    }
}

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(86_400);

/// A call from an address.
fn from(address: &str, credential: Option<&str>) -> Request<Body> {
    let peer = SocketAddr::new(address.parse().unwrap(), 4711);
    let mut call = request(Method::GET, "/v1/me").extension(ConnectInfo(peer));
    if let Some(credential) = credential {
        call = call.header(header::AUTHORIZATION, format!("Bearer {credential}"));
    }
    call.body(Body::empty()).unwrap()
}

fn guess() -> String {
    TokenSecret::generate().expose().to_owned()
}

async fn token(api: &Api, credential: &str, name: &str) -> String {
    let made = api.post("/v1/tokens", credential, json!({ "name": name })).await.json();
    made["token"].as_str().unwrap().to_owned()
}

fn retry_after(answer: &Answer) -> u64 {
    answer.headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn each_caller_has_a_rate_of_their_own() {
    let api = Api::start().await;
    let (acme, _, ada) = api.org("acme").await;
    let bob = api.database.member(acme, "member").await;
    let (one, other) = (token(&api, &ada, "one").await, token(&api, &ada, "other").await);
    let time = Time::default();
    let api = api.limited(time.limits("2/s", "off", 0, FOR_EVER));

    for left in (0..20).rev() {
        let answer = api.get("/v1/me", &one).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.headers["ratelimit-policy"], "\"caller\";q=20;w=10");
        let limit = answer.headers["ratelimit"].to_str().unwrap();
        assert!(limit.starts_with(&format!("\"caller\";r={left};t=")), "{limit}");
    }
    let refused = api.get("/v1/me", &one).await;
    refused.problem(429, "too-many-requests");
    assert_eq!(retry_after(&refused), 1);
    assert!(refused.headers["ratelimit"].to_str().unwrap().starts_with("\"caller\";r=0;"));
    // Nothing was done: what is refused changes nothing.
    let new = json!({ "name": "third" });
    api.post("/v1/tokens", &one, new).await.problem(429, "too-many-requests");

    // Another token of the same person, the person themselves, and somebody else are not concerned.
    for credential in [&other, &ada, &sign_in(bob)] {
        assert_eq!(api.get("/v1/me", credential).await.status, StatusCode::OK);
    }
    // Whoever comes back when they were told to is served, and so often as was saved up.
    time.pass(retry_after(&refused));
    for status in [200, 200, 429] {
        assert_eq!(api.get("/v1/me", &one).await.status, status);
    }
    // Health needs no credential, and has no limit.
    for _ in 0..50 {
        assert_eq!(api.get("/healthz", &one).await.status, StatusCode::OK);
    }
    assert!(!api.get("/healthz", &one).await.headers.contains_key("ratelimit"));
}

#[tokio::test]
async fn more_tokens_are_no_more_calls() {
    let api = Api::start().await;
    let (_, _, ada) = api.org("acme").await;
    let (_, _, eve) = api.org("corp").await;
    let mut tokens = Vec::new();
    for number in 0..6 {
        tokens.push(token(&api, &ada, &format!("token {number}")).await);
    }
    let api = api.limited(Time::default().limits("1/s", "off", 0, FOR_EVER));
    // Five may call as often as they may, and that is all that the organisation has.
    for token in &tokens[..5] {
        for _ in 0..10 {
            assert_eq!(api.get("/v1/requests", token).await.status, StatusCode::OK);
        }
        api.get("/v1/me", token).await.problem(429, "too-many-requests");
    }
    let refused = api.get("/v1/requests", &tokens[5]).await;
    let problem = refused.problem(429, "too-many-requests");
    assert!(problem["detail"].as_str().unwrap().contains("organisation"), "{problem}");
    assert_eq!(retry_after(&refused), 1);
    assert_eq!(api.get("/v1/requests", &eve).await.status, StatusCode::OK);
}

/// Every operation of the document counts, for callers and for strangers: one that is added tomorrow, too.
#[tokio::test]
async fn no_operation_is_outside_of_it() {
    let api = Api::start().await;
    let (_, _, ada) = api.org("acme").await;
    let api = api.limited(Time::default().limits("1/m", "1/m", 0, FOR_EVER));
    assert_eq!(api.get("/v1/me", &ada).await.status, StatusCode::OK);
    api.get("/v1/me", "eve_x").await.problem(401, "unauthenticated");
    let id = Uuid::now_v7().to_string();
    for operation in operations() {
        let path =
            ["{id}", "{user_id}"].iter().fold(operation.path, |path, name| path.replace(name, &id));
        let path = path.replace(['{', '}'], "");
        let caller = api.call(operation.method.clone(), &path, &ada, None).await;
        caller.problem(429, "too-many-requests");
        assert_eq!(retry_after(&caller), 60, "{path}");
        let stranger = request(operation.method, &path).body(Body::empty()).unwrap();
        api.send(stranger).await.problem(429, "too-many-requests");
    }
}

#[tokio::test]
async fn a_new_sign_in_is_no_new_bucket() {
    let api = Api::start().await;
    let (_, ada, _) = api.org("acme").await;
    let api = api.limited(Time::default().limits("1/s", "off", 0, FOR_EVER));
    for call in 0..10 {
        // Another text each time.
        let claims = json!({
            "sub": ada, "aud": "authenticated", "iss": ISSUER, "exp": get_current_timestamp() + 600,
            "call": call,
        });
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let jwt = encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
        assert_eq!(api.get("/v1/me", &jwt).await.status, StatusCode::OK);
    }
    api.get("/v1/me", &sign_in(ada)).await.problem(429, "too-many-requests");
}

#[tokio::test]
async fn guesses_slow_down_an_address_and_good_credentials_get_through() {
    let api = Api::start().await;
    let (_, _, ada) = api.org("acme").await;
    let (known, fresh) = (token(&api, &ada, "known").await, token(&api, &ada, "fresh").await);
    let time = Time::default();
    let api = Arc::new(api.limited(time.limits("off", "1/s", 0, FOR_EVER)));
    let home = "192.0.2.1";
    assert_eq!(api.send(from(home, Some(&known))).await.status, StatusCode::OK);

    // Ten are told what is wrong; with and without a credential counts the same.
    for guesses in 0..10 {
        let guess = (guesses % 2 == 0).then(guess);
        api.send(from(home, guess.as_deref())).await.problem(401, "unauthenticated");
    }
    let refused = api.send(from(home, None)).await;
    refused.problem(429, "too-many-requests");
    assert_eq!(retry_after(&refused), 1);

    // Now a credential that nobody knows waits before it is looked at: for ever, as this test has it.
    let wait = |credential: String| {
        let api = api.clone();
        tokio::spawn(async move { api.send(from(home, Some(&credential))).await.status })
    };
    let (guess, newcomer) = (wait(guess()), wait(fresh.clone()));
    // One that held lately does not wait, nor does anybody from elsewhere.
    for _ in 0..20 {
        assert_eq!(api.send(from(home, Some(&known))).await.status, StatusCode::OK);
    }
    assert_eq!(api.send(from("192.0.2.2", Some(&fresh))).await.status, StatusCode::OK);
    api.send(from("192.0.2.2", Some("eve_x"))).await.problem(401, "unauthenticated");
    assert!(!guess.is_finished() && !newcomer.is_finished());
    guess.abort();
    newcomer.abort();

    // When it has not been tried for a while, all is as before.
    time.pass(3_600);
    api.send(from(home, None)).await.problem(401, "unauthenticated");
    let again = token(&api, &ada, "again").await;
    assert_eq!(api.send(from(home, Some(&again))).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_newcomer_waits_and_is_let_in() {
    let api = Api::start().await;
    let (_, _, ada) = api.org("acme").await;
    let fresh = token(&api, &ada, "fresh").await;
    let api = api.limited(Time::default().limits("off", "1/m", 0, Duration::from_millis(1)));
    let home = "192.0.2.1";
    api.send(from(home, Some(&guess()))).await.problem(401, "unauthenticated");
    api.send(from(home, Some(&guess()))).await.problem(429, "too-many-requests");
    assert_eq!(api.send(from(home, Some(&fresh))).await.status, StatusCode::OK);
    // Revoked, it is a stranger's like any other.
    let id = api.get("/v1/me", &fresh).await.json()["token_id"].as_str().unwrap().to_owned();
    api.call(Method::DELETE, &format!("/v1/tokens/{id}"), &ada, None).await;
    api.send(from(home, Some(&fresh))).await.problem(429, "too-many-requests");
}

#[tokio::test]
async fn so_many_wait_and_no_more() {
    let api = Api::start().await;
    let api = Arc::new(api.limited(Time::default().limits("off", "1/m", 0, FOR_EVER)));
    let home = "192.0.2.1";
    api.send(from(home, None)).await.problem(401, "unauthenticated");
    let mut calls: FuturesUnordered<_> = (0..1_000)
        .map(|_| {
            let api = api.clone();
            tokio::spawn(async move { api.send(from(home, Some(&guess()))).await.status })
        })
        .collect();
    // All others are answered, although nobody who waits goes on.
    for _ in 256..1_000 {
        assert_eq!(calls.next().await.unwrap().unwrap(), StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(calls.next().now_or_never().is_none());
    assert_eq!(calls.len(), 256);
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn the_header_of_a_proxy_counts_only_where_there_is_one() {
    let api = Api::start().await;
    let forwarded = |address: &str| {
        let mut call = from("10.0.0.1", None);
        call.headers_mut().insert("x-forwarded-for", address.parse().unwrap());
        call
    };
    let time = Time::default();
    // Without a proxy a made-up header is no way out.
    let api = api.limited(time.limits("off", "1/m", 0, FOR_EVER));
    api.send(forwarded("198.51.100.1")).await.problem(401, "unauthenticated");
    api.send(forwarded("198.51.100.2")).await.problem(429, "too-many-requests");
    // Behind one, its clients are told apart, whatever they add in front.
    let api = api.limited(time.limits("off", "1/m", 1, FOR_EVER));
    api.send(forwarded("198.51.100.1")).await.problem(401, "unauthenticated");
    api.send(forwarded("198.51.100.2")).await.problem(401, "unauthenticated");
    api.send(forwarded("203.0.113.7, 198.51.100.1")).await.problem(429, "too-many-requests");
}

#[tokio::test]
async fn an_outage_is_nobodys_bad_credential() {
    let api = Api::start().await;
    let api = api.limited(Time::default().limits("off", "1/m", 0, FOR_EVER));
    api.database.db.pool().close().await;
    for _ in 0..5 {
        api.send(from("192.0.2.1", Some(&guess()))).await.problem(503, "unavailable");
    }
    api.send(from("192.0.2.1", None)).await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn two_credentials_in_one_call_are_none() {
    let api = Api::start().await;
    let (_, _, ada) = api.org("acme").await;
    let call = request(Method::GET, "/v1/me")
        .header(header::AUTHORIZATION, format!("Bearer {ada}"))
        .header(header::AUTHORIZATION, "Bearer eve_other");
    api.send(call.body(Body::empty()).unwrap()).await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn a_server_knows_the_address_of_whoever_calls() {
    let api = Api::start().await;
    let api = api.limited(Time::default().limits("off", "1/m", 0, FOR_EVER));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/me", listener.local_addr().unwrap());
    let server = tokio::spawn(serve(listener, api.state.clone(), CancellationToken::new()));
    let _ = rustls::crypto::ring::default_provider().install_default();
    assert_eq!(reqwest::get(&url).await.unwrap().status(), 401);
    assert_eq!(reqwest::get(&url).await.unwrap().status(), 429);
    // The router without a connection counts for another address.
    assert_eq!(api.send(from("192.0.2.1", None)).await.status, 401);
    api.shutdown.cancel();
    server.await.unwrap().unwrap();
}
