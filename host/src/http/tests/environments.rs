//! Environments, as far as they can be tried without a cluster.

use tokio::net::TcpListener;

use super::*;

/// The environment `dev` of an organisation, in a cluster at this address.
async fn environment(api: &Api, tenant: Tenant, endpoint: &str) {
    let org = tenant.org();
    api.database
        .execute(format!(
            "INSERT INTO eve.clusters (id, name, provider, endpoint)
             VALUES ('far', 'Far', 'local', '{endpoint}')"
        ))
        .await;
    api.database
        .execute(format!(
            "INSERT INTO eve.environments (org_id, name, cluster_id, namespace, status, provisioned_at)
             VALUES ('{org}', 'dev', 'far', 'acme-dev', 'ready', now())"
        ))
        .await;
}

async fn abandon(api: &Api, credential: &str) -> Answer {
    api.call(Method::DELETE, "/v1/envs/dev?abandon=true", credential, None).await
}

#[tokio::test]
async fn an_environment_is_abandoned_only_when_its_cluster_is_away() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let api = Api::start().await;
    let (acme, owner, ada) = api.org("acme").await;
    let (_, _, eve) = api.org("corp").await;
    let bob = sign_in(api.database.member(acme, "member").await);
    // Whatever it says: that it does not know us is an answer.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let cluster = Router::new().fallback(async || StatusCode::UNAUTHORIZED);
    tokio::spawn(async move { axum::serve(listener, cluster).await });
    environment(&api, acme, &format!("http://{address}")).await;

    abandon(&api, &eve).await.problem(404, "not-found");
    abandon(&api, &bob).await.problem(403, "forbidden");
    let refused = abandon(&api, &ada).await.problem(409, "conflict");
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("`far` answers") && detail.contains("--force"), "{detail}");
    assert_eq!(api.audited(acme).await, Vec::<String>::new());
    let env = api.get("/v1/envs/dev", &ada).await.json();
    assert_eq!(env["status"], "ready", "{env}");

    // The cluster is the platform's: whoever administers that may.
    let root = api.database.member(acme, "admin").await;
    api.platform_admin(root).await;
    let left = abandon(&api, &sign_in(root)).await;
    assert_eq!(left.status, StatusCode::ACCEPTED, "{}", left.json());
    assert_eq!(left.json()["status"], "deleting");
    assert_eq!(api.audited(acme).await, ["environment.abandon"]);

    // And so may an admin of the organisation when nobody is there any more.
    api.database
        .execute(
            "UPDATE eve.environments SET status = 'ready', abandoned = false, message = NULL;
             UPDATE eve.clusters SET endpoint = 'https://127.0.0.1:1'"
                .to_owned(),
        )
        .await;
    let left = abandon(&api, &ada).await.json();
    assert_eq!(left["status"], "deleting", "{left}");
    let message = left["message"].as_str().unwrap();
    for word in ["left behind in the cluster `far`", "acme-dev", "acme-dev-edit", "eve-deployers"] {
        assert!(message.contains(word), "{message}");
    }
    let details: Value = sqlx::query_scalar(
        "SELECT details FROM eve.audit_log WHERE action = 'environment.abandon' AND org_id = $1
          ORDER BY id DESC LIMIT 1",
    )
    .bind(acme.org().0)
    .fetch_one(api.database.db.pool())
    .await
    .unwrap();
    assert_eq!(details["left_behind"], message, "{details}");
    let who: Value = sqlx::query_scalar("SELECT actor FROM eve.audit_log ORDER BY id DESC LIMIT 1")
        .fetch_one(api.database.db.pool())
        .await
        .unwrap();
    assert!(who.to_string().contains(&owner.to_string()), "{who}");
    // Deleting it once more does not bring it back to its cluster.
    api.call(Method::DELETE, "/v1/envs/dev?force=true", &ada, None).await;
    let abandoned: bool = sqlx::query_scalar("SELECT abandoned FROM eve.environments")
        .fetch_one(api.database.db.pool())
        .await
        .unwrap();
    assert!(abandoned);
}
