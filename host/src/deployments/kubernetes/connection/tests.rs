//! A login at a cloud, on a real API server: `EVE_TEST_KUBECONFIG`, an administrator's. The cloud is a server
//! that speaks its protocol and hands out tokens that this API server knows: of an account that may do
//! one thing.

use axum::Router;
use axum::routing::post;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::deployments::clusters::logins::{AzureLogin, Login};

const DOOR: &str = "default";

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

/// Makes it, unless it is there.
async fn make<T>(api: &Api<T>, value: Value)
where
    T: kube::Resource + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    match api.create(&PostParams::default(), &object(value)).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        made => drop(made.expect("made")),
    }
}

/// A cloud that gives one token; its address.
async fn cloud(token: String) -> String {
    let answer = move || async move {
        axum::Json(json!({ "access_token": token, "token_type": "Bearer", "expires_in": 3600 }))
    };
    let router = Router::new().route("/{tenant}/oauth2/v2.0/token", post(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let host = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    host
}

async fn who(client: &Client) -> Result<String, Failure> {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let asked = SelfSubjectReview::default();
    let review = patiently(reviews.create(&PostParams::default(), &asked)).await?;
    Ok(review.status.and_then(|it| it.user_info).and_then(|it| it.username).unwrap_or_default())
}

#[tokio::test]
async fn a_login_is_a_door_to_the_platforms_own_account() {
    let Ok(file) = std::env::var("EVE_TEST_KUBECONFIG") else {
        eprintln!(
            "SKIPPED: logins need an API server: name an administrator's in EVE_TEST_KUBECONFIG"
        );
        return;
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let text = std::fs::read_to_string(file).expect("a kubeconfig");
    let read: Kubeconfig = serde_saphyr::from_str(&text).expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(read, &options).await.expect("a kubeconfig");
    let admin = Client::try_from(config.clone()).expect("a client");
    config.auth_info = Default::default();

    let named = |name: &str| json!({ "metadata": { "name": name } });
    make(&Api::<Namespace>::all(admin.clone()), named(PLATFORM)).await;
    make(&Api::<ServiceAccount>::namespaced(admin.clone(), PLATFORM), named(ACCOUNT)).await;
    let id = uuid::Uuid::new_v4().simple().to_string();
    let door = format!("door-{}", &id[..12]);
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), DOOR);
    make(&accounts, named(&door)).await;
    let request = object(json!({ "spec": { "expirationSeconds": 600, "audiences": [] } }));
    let given = accounts.create_token_request(&door, &PostParams::default(), &request).await;
    let host = cloud(given.expect("a token").status.expect("a status").token).await;
    let login = || {
        let login = AzureLogin {
            tenant_id: uuid::Uuid::nil(),
            client_id: uuid::Uuid::nil(),
            client_secret: "hush".to_owned().into(),
        };
        account_by(config.clone(), LoginTokens::at(Login::Azure(login), &host)).expect("a client")
    };

    // Whoever may not ask for tokens of it gets none, and hears what is missing.
    let said = who(&login()).await.expect_err("no door yet").to_string();
    assert!(said.contains("no token for eve-horizon/eve-control-plane"), "{said}");
    assert!(said.contains(&door) && said.contains("docs/deployments.md"), "{said}");

    let (roles, bindings): (Api<Role>, Api<RoleBinding>) =
        (Api::namespaced(admin.clone(), PLATFORM), Api::namespaced(admin.clone(), PLATFORM));
    make(
        &roles,
        json!({ "metadata": { "name": door }, "rules": [{
            "apiGroups": [""], "resources": ["serviceaccounts/token"],
            "resourceNames": [ACCOUNT], "verbs": ["create"],
        }] }),
    )
    .await;
    make(
        &bindings,
        json!({ "metadata": { "name": door },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": door },
            "subjects": [{ "kind": "ServiceAccount", "name": door, "namespace": DOOR }],
        }),
    )
    .await;
    // The authorizer hears of it a moment later.
    let entered = async {
        loop {
            match who(&login()).await {
                Ok(user) => break user,
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    let user = tokio::time::timeout(Duration::from_secs(60), entered).await;
    let delete = Default::default();
    let gone = tokio::join!(
        bindings.delete(&door, &delete),
        roles.delete(&door, &delete),
        accounts.delete(&door, &delete)
    );
    gone.0.expect("deleted");
    gone.1.expect("deleted");
    gone.2.expect("deleted");
    assert_eq!(user.expect("entered"), "system:serviceaccount:eve-horizon:eve-control-plane");
}

fn row(id: &str) -> Row {
    Row {
        id: id.into(),
        endpoint: Some("https://127.0.0.1:1".into()),
        credentials: None,
        config: serde_json::json!({}),
    }
}

#[tokio::test]
async fn connections_of_clusters_that_are_no_more_are_forgotten() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let connections = Connections::default();
    let known = || connections.0.lock().expect("a lock").len();
    for id in ["a", "b"] {
        connections.get(&row(id), None).expect("a connection");
    }
    assert_eq!(known(), 2);
    connections.forget("a");
    assert_eq!(known(), 1);
    // One that another control plane removed: nobody asks for it here any more.
    let last = Instant::now();
    assert!(!is_unused(last, last) && is_unused(last, last + UNUSED));
}
