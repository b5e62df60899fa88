//! Logins against a server that speaks the protocol of the clouds' token endpoints.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::*;

const TENANT: &str = "01990000-0000-7000-8000-000000000001";
const CLIENT: &str = "01990000-0000-7000-8000-000000000002";

/// What a cloud is asked: a path and a form.
type Asked = (String, BTreeMap<String, String>);

/// A cloud that gives the same answer to everybody.
#[derive(Clone)]
struct Cloud {
    asked: Arc<Mutex<Vec<Asked>>>,
    answer: Arc<dyn Fn() -> Response + Send + Sync>,
    host: String,
}

impl Cloud {
    async fn that(answer: impl Fn() -> Response + Send + Sync + 'static) -> Cloud {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = format!("http://{}", listener.local_addr().expect("an address"));
        let cloud = Cloud { asked: Arc::default(), answer: Arc::new(answer), host };
        let router = Router::new().fallback(Self::answer).with_state(cloud.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        cloud
    }

    async fn says(status: u16, body: Value) -> Cloud {
        let status = StatusCode::from_u16(status).expect("a status");
        Self::that(move || (status, axum::Json(body.clone())).into_response()).await
    }

    async fn answer(State(cloud): State<Cloud>, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        assert_eq!(parts.method, "POST");
        assert_eq!(parts.headers[header::CONTENT_TYPE], "application/x-www-form-urlencoded");
        let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
        let form = url::form_urlencoded::parse(&body).into_owned().collect();
        cloud.asked.lock().expect("asked").push((parts.uri.path().to_owned(), form));
        (cloud.answer)()
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("asked").clone()
    }

    fn azure(&self) -> LoginTokens {
        let login = AzureLogin {
            tenant_id: TENANT.parse().expect("an id"),
            client_id: CLIENT.parse().expect("an id"),
            client_secret: "hush~1".to_owned().into(),
        };
        LoginTokens::at(Login::Azure(login), &self.host)
    }
}

fn token(seconds: u64) -> Value {
    json!({ "access_token": "ey.token", "token_type": "Bearer", "expires_in": seconds })
}

#[tokio::test]
async fn azure_is_asked_once_as_it_wants_to_be_asked() {
    let cloud = Cloud::says(200, token(3_599)).await;
    let tokens = cloud.azure();
    let all = futures::future::join_all((0..20).map(|_| tokens.token())).await;
    for token in all {
        assert_eq!(token.expect("a token").expose_secret(), "ey.token");
    }
    let asked = cloud.asked();
    assert_eq!(asked.len(), 1);
    let (path, form) = &asked[0];
    assert_eq!(path, &format!("/{TENANT}/oauth2/v2.0/token"));
    let form: Vec<_> = form.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let expected = [
        ("client_id", CLIENT),
        ("client_secret", "hush~1"),
        ("grant_type", "client_credentials"),
        ("scope", "6dae42f8-4368-4678-94ff-3960e28e3630/.default"),
    ];
    assert_eq!(form, expected);
}

#[tokio::test]
async fn google_is_shown_what_the_account_has_signed() {
    let cloud = Cloud::says(200, token(3_599)).await;
    let tokens = LoginTokens::at(Login::Google(google::tests::login()), &cloud.host);
    assert_eq!(tokens.token().await.expect("a token").expose_secret(), "ey.token");
    let asked = cloud.asked();
    let (path, form) = &asked[0];
    assert_eq!(path, "/token");
    assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
    google::tests::verify(&form["assertion"]);
}

#[tokio::test]
async fn a_token_is_not_used_to_its_last_minute() {
    for seconds in [0, 60, 300] {
        let cloud = Cloud::says(200, token(seconds)).await;
        let tokens = cloud.azure();
        for _ in 0..2 {
            assert!(tokens.token().await.is_ok());
        }
        assert_eq!(cloud.asked().len(), 2, "{seconds}");
    }
}

#[tokio::test]
async fn a_refusal_is_told_in_words_and_not_asked_for_again_at_once() {
    let description =
        "AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 1\r\nTimestamp: 2";
    let said = json!({ "error": "invalid_client", "error_description": description });
    let cloud = Cloud::says(401, said).await;
    let tokens = cloud.azure();
    let error = tokens.token().await.expect_err("refused");
    let expected = "gives no token for this login (401): invalid_client: AADSTS7000215: Invalid client \
                    secret provided.";
    assert!(error.to_string().ends_with(expected), "{error}");
    assert_eq!(tokens.token().await.expect_err("refused"), error);
    assert_eq!(cloud.asked().len(), 1);
    let cloud = Cloud::that(|| (StatusCode::BAD_GATEWAY, "<html>").into_response()).await;
    let error = cloud.azure().token().await.expect_err("refused");
    assert!(matches!(error, LoginError::Refused { status: 502, .. }), "{error}");
}

#[tokio::test]
async fn nothing_else_passes_for_a_token() {
    let long = "a".repeat(MOST_ANSWER + 1);
    for (answer, word) in [
        ("<html>".to_owned(), "line 1"),
        ("[]".to_owned(), "line 1"),
        (json!({}).to_string(), "`access_token` is missing"),
        (json!({ "access_token": "" }).to_string(), "header"),
        (json!({ "access_token": "a\r\nX: y" }).to_string(), "header"),
        (json!({ "access_token": "hush", "token_type": "mac" }).to_string(), "Bearer"),
        (json!({ "access_token": ["hush"] }).to_string(), "line 1"),
        (json!({ "access_token": long }).to_string(), "more than"),
    ] {
        let shown: String = answer.chars().take(80).collect();
        let cloud = Cloud::that(move || answer.clone().into_response()).await;
        let error = cloud.azure().token().await.expect_err(&shown);
        assert!(matches!(error, LoginError::Foreign { .. }), "{shown}: {error}");
        let said = error.to_string();
        assert!(said.contains(word) && !said.contains("hush"), "{shown}: {said}");
    }
}

#[tokio::test]
async fn a_secret_goes_nowhere_else() {
    let other = Cloud::says(200, token(3_600)).await;
    let there = other.host.clone();
    let redirect = move || {
        let location = format!("{there}/token");
        (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response()
    };
    let cloud = Cloud::that(redirect).await;
    let error = cloud.azure().token().await.expect_err("pointed elsewhere");
    assert!(matches!(error, LoginError::Refused { status: 307, .. }), "{error}");
    assert!(other.asked().is_empty());
    let hosts = Hosts::default();
    assert_eq!(hosts.google, "https://oauth2.googleapis.com");
    assert_eq!(hosts.azure, "https://login.microsoftonline.com");
}

#[tokio::test]
async fn nobody_there_is_told_in_words() {
    // A port that was free a moment ago: bound and let go.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
    let host = format!("http://{}", port.expect("an address"));
    let login = Login::Google(google::tests::login());
    let error = LoginTokens::at(login, &host).token().await.expect_err("nobody");
    let said = error.to_string();
    assert!(said.contains("cannot be asked for a token") && said.contains("refused"), "{said}");
}
