//! The brief's own SQL, as it is written there.

use eve_tests::{Database, Org};
use sqlx::{AssertSqlSafe, Executor};

#[tokio::test]
async fn the_briefs_worker_types_take_the_place_of_ours() -> anyhow::Result<()> {
    let database = Database::fresh().await?;
    let pool = database.pool();
    pool.execute(
        r#"INSERT INTO eve.worker_types (id, name, docker_image, capabilities, config) VALUES (
  'deployment',
  'Deployment Worker',
  'eve-horizon/worker-deployment:latest',
  '{"kubernetes", "helm", "kubectl", "docker"}',
  '{"service_account": "eve-deployment-worker"}'
);"#,
    )
    .await?;
    pool.execute(
        r#"INSERT INTO eve.worker_types (id, name, docker_image, schema_name, capabilities) VALUES (
  'devops-orchestrator',
  'DevOps Project Orchestrator',
  'eve-horizon/worker-devops-orchestrator:latest',
  'devops_projects',
  '{"deployment", "ci-cd", "multi-env", "rollout-strategies"}'
);"#,
    )
    .await?;
    let types: Vec<(String, Option<String>, Vec<String>)> = sqlx::query_as(
        "SELECT id, config ->> 'service_account', grants FROM eve.worker_types ORDER BY id",
    )
    .fetch_all(&pool)
    .await?;
    let ids: Vec<&str> = types.iter().map(|(id, ..)| id.as_str()).collect();
    assert_eq!(ids, ["deployment", "devops-orchestrator", "general"]);
    assert_eq!(types[0].1.as_deref(), Some("eve-deployment-worker"));
    assert_eq!(types[0].2, ["queue", "db", "deploy"], "it keeps what the seed was granted");
    // Only a seed gives way.
    let again = pool
        .execute("INSERT INTO eve.worker_types (id, name) VALUES ('deployment', 'Another')")
        .await;
    assert!(again.is_err());
    Ok(())
}

#[tokio::test]
async fn keda_counts_as_it_is_written() -> anyhow::Result<()> {
    let database = Database::fresh().await?;
    let mut session = database.pool().acquire().await?;
    for slug in ["acme", "corp"] {
        let org = Org::create(&database, slug).await?;
        for (worker_type, status) in
            [("general", "pending"), ("general", "scheduled"), ("other", "pending")]
        {
            let insert = format!(
                "INSERT INTO eve.queue (id, org_id, worker_type, status, priority, run_at)
                 VALUES (gen_random_uuid(), '{}', '{worker_type}', '{status}', 0, now())",
                org.id
            );
            session.execute(AssertSqlSafe(insert)).await?;
        }
    }
    session.execute("SET ROLE eve_metrics").await?;
    let pending: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM eve.orchestration_requests
        WHERE worker_type = 'general' AND status = 'pending'",
    )
    .fetch_one(&mut *session)
    .await?;
    assert_eq!(pending, 2);
    let plan: Vec<String> = sqlx::query_scalar(
        "EXPLAIN SELECT COUNT(*) FROM eve.orchestration_requests
        WHERE worker_type = 'general' AND status = 'pending'",
    )
    .fetch_all(&mut *session)
    .await
    .or_else(|error| match error {
        // EXPLAIN shows what a role may not see only to those who own the view.
        sqlx::Error::Database(_) => Ok(Vec::new()),
        error => Err(error),
    })?;
    let plan = plan.join("\n");
    assert!(!plan.contains("results"), "a count of what is pending reads history:\n{plan}");
    Ok(())
}

#[tokio::test]
async fn the_briefs_clusters_are_taken_as_they_are_written() -> anyhow::Result<()> {
    let database = Database::fresh().await?;
    let pool = database.pool();
    pool.execute(
        r#"INSERT INTO eve.clusters VALUES
  ('local', 'Local Development', 'local', NULL, NULL, '{}'),
  ('eks-prod', 'AWS EKS Production', 'eks', 'https://xxx.eks.amazonaws.com', '{"role_arn": "..."}', '{}'),
  ('gke-eu', 'GCP GKE Europe', 'gke', 'https://xxx.gke.google.com', '{"service_account": "..."}', '{}'),
  ('ecs-legacy', 'AWS ECS Legacy', 'ecs', NULL, '{"cluster": "legacy-cluster"}', '{}');"#,
    )
    .await?;
    let org = Org::create(&database, "acme-corp").await?;
    pool.execute(AssertSqlSafe(format!(
        "INSERT INTO eve.environments (org_id, name, cluster_id, namespace)
              VALUES ('{org}', 'dev', 'local', 'acme-corp-dev');
         INSERT INTO eve.apps (org_id, name, repo_url) VALUES ('{org}', 'api', 'git@github.com:acme/api.git');
         INSERT INTO eve.deployments (app_id, environment_id, org_id, image)
              SELECT a.id, e.id, '{org}', 'acme/api:v1' FROM eve.apps a, eve.environments e;
         INSERT INTO eve.deployment_events (deployment_id, event_type, org_id)
              SELECT id, 'created', org_id FROM eve.deployments;",
        org = org.id
    )))
    .await?;
    let status: String =
        sqlx::query_scalar("SELECT status FROM eve.deployments").fetch_one(&pool).await?;
    assert_eq!(status, "pending");
    Ok(())
}
