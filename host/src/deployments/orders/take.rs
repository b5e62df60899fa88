//! Taking orders: each becomes a revision, or is refused.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Change, Ordered, change};
use crate::db::{Scope, Tx, is_connection_loss, is_refusal};
use crate::deployments::{Authority, DeployError, Deployer, Deployments};
use crate::hitl::{self, NewQuestion};
use crate::ids::{OrgId, QuestionId, RequestId, UserId};
use crate::scheduler::report;
use crate::tenancy::{Actor, OrgRole, Tenant};

/// Orders that are looked for at one time.
const BATCH: i64 = 100;
/// What a person answers who wants it done.
const APPROVE: &str = "approve";
/// And who does not.
const REJECT: &str = "reject";

/// An order that is due: asked for, or asked about and answered.
struct Due {
    id: Uuid,
    org_id: Uuid,
    request_id: Uuid,
    user_id: Option<Uuid>,
    worker_type: String,
    environment: String,
    app: String,
    body: Value,
    told_id: Uuid,
    asked_about: bool,
    question_id: Option<Uuid>,
}

/// What came of the question whether an order may be done.
enum Answer {
    Approved,
    Refused { reason: &'static str, message: String },
}

/// Takes all orders that are due. Two who do this at once take each order once; one that dies leaves the
/// rest for whoever leads next.
pub(crate) async fn take_all(deployments: &Deployments) -> Result<(), DeployError> {
    let mut after = Uuid::nil();
    let mut taken = false;
    loop {
        let due = due(deployments, after).await?;
        for order in &due {
            match deployments.take(order).await {
                Ok(()) => taken = true,
                Err(DeployError::Database { source, doing }) if !is_connection_loss(&source) => {
                    // Somebody's lock, or a deadlock: it has its turn again, and holds up nobody else.
                    report(doing, &source);
                }
                Err(error) => return Err(error),
            }
        }
        match due.last() {
            Some(last) if due.len() == BATCH as usize => after = last.id,
            // What stood behind those that were taken.
            _ if taken => (after, taken) = (Uuid::nil(), false),
            _ => return Ok(()),
        }
    }
}

async fn due(deployments: &Deployments, after: Uuid) -> Result<Vec<Due>, DeployError> {
    let failed = DeployError::database("looking for orders");
    let mut tx = deployments.db.begin(Scope::Control).await.map_err(failed)?;
    sqlx::query_as!(
        Due,
        r#"
        SELECT o.id, o.org_id, o.request_id, o.user_id, o.worker_type, o.environment, o.app,
               o.body AS "body!", o.told_id, o.state = 'approval' AS "asked_about!", o.question_id
          FROM eve.deployment_orders o
         WHERE o.state IN ('asked', 'approval') AND o.id > $2
           -- One after the other: what a request wants of an app later does not overtake what it wanted first.
           AND NOT EXISTS (SELECT FROM eve.deployment_orders e
                            WHERE e.org_id = o.org_id AND e.environment = o.environment AND e.app = o.app
                              AND e.request_id = o.request_id AND e.id < o.id
                              AND e.state IN ('asked', 'approval'))
           AND (o.state = 'asked'
                OR NOT EXISTS (SELECT FROM eve.hitl_requests q
                                WHERE q.id = o.question_id AND q.status = 'open'))
         ORDER BY o.id
         LIMIT $1
        "#,
        BATCH,
        after
    )
    .fetch_all(&mut *tx)
    .await
    .map_err(failed)
}

impl Due {
    fn tenant(&self) -> Tenant {
        // The order's row was written under the lease of a run of this organisation.
        Tenant::proven(OrgId(self.org_id))
    }

    fn deployer(&self) -> Deployer {
        Deployer {
            tenant: self.tenant(),
            actor: Actor::Run {
                request: RequestId(self.request_id),
                user: self.user_id.map(UserId),
            },
            authority: Authority::WorkerType(self.worker_type.clone()),
            order: Some(Ordered { id: self.id, told: self.told_id }),
        }
    }
}

impl Deployments {
    /// Makes an order a revision, or refuses it. Fails only if the database does.
    async fn take(&self, order: &Due) -> Result<(), DeployError> {
        let refused = match self.try_take(order).await {
            Ok(()) => return Ok(()),
            // What Postgres does not take today it will not take tomorrow.
            Err(DeployError::Database { source, doing }) if is_refusal(&source) => {
                report(doing, &source);
                DeployError::Conflict("it cannot be stored as it was asked for".into())
            }
            Err(error @ DeployError::Database { .. }) => return Err(error),
            Err(error) => error,
        };
        tracing::info!(
            order = %order.id,
            error = &refused as &dyn std::error::Error,
            "what a skill wanted was refused"
        );
        self.refuse(order, word(&refused), &refused.to_string()).await
    }

    async fn try_take(&self, order: &Due) -> Result<(), DeployError> {
        let Ok(change) = change(order.body.clone()) else {
            return Err(DeployError::Conflict(
                "this version cannot read what was asked for".into(),
            ));
        };
        let deployer = order.deployer();
        let environment = self.environment(deployer.tenant, &order.environment).await?;
        environment.config.permits(&deployer.authority, &order.environment)?;
        if order.asked_about {
            match self.verdict(order, environment.config.deployers()).await? {
                Answer::Approved => {}
                Answer::Refused { reason, message } => {
                    return self.refuse(order, reason, &message).await;
                }
            }
        } else if environment.config.approval {
            return self.ask_about(order, &change, environment.config.deployers()).await;
        }
        let (env, app) = (&order.environment, &order.app);
        match change {
            Change::Create(new) => self.deploy(&deployer, env, &new).await?,
            Change::Scale(scale) => self.scale(&deployer, env, app, scale).await?,
            Change::Rollback(to) => self.rollback(&deployer, env, app, &to).await?,
            Change::Delete => self.undeploy(&deployer, env, app).await?,
        };
        Ok(())
    }

    /// Puts the question whether it may be done to those who might do it themselves.
    async fn ask_about(
        &self,
        order: &Due,
        change: &Change,
        answerers: OrgRole,
    ) -> Result<(), DeployError> {
        let failed = DeployError::database("asking whether something may be deployed");
        let tenant = order.tenant();
        let actor = order.deployer().actor;
        let question = NewQuestion {
            question: change.in_words(&order.environment, &order.app),
            options: vec![APPROVE.to_owned(), REJECT.to_owned()],
            details: json!({
                "env": order.environment, "app": order.app, "kind": change.kind(),
                "asked": change.shown(), "request_id": order.request_id,
            }),
            expires_in_ms: None,
        };
        let id = QuestionId::generate();
        let mut tx = self.db.begin(Scope::Tenant(tenant)).await.map_err(failed)?;
        hitl::insert(&mut tx, tenant, &actor, None, answerers, &[(id, question)])
            .await
            .map_err(failed)?;
        let asked = sqlx::query!(
            "UPDATE eve.deployment_orders SET state = 'approval', question_id = $3
              WHERE id = $1 AND org_id = $2 AND state = 'asked'",
            order.id,
            order.org_id,
            id.0,
        )
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        // Another has asked already: the question goes with this transaction.
        if asked.rows_affected() == 1 {
            tx.commit().await.map_err(failed)?;
        }
        Ok(())
    }

    async fn verdict(&self, order: &Due, deployers: OrgRole) -> Result<Answer, DeployError> {
        let failed = DeployError::database("reading whether something may be deployed");
        let mut tx = self.db.begin(Scope::Tenant(order.tenant())).await.map_err(failed)?;
        let answer = sqlx::query!(
            r#"SELECT status, response, least_role AS "least_role: OrgRole", responded_by AS "responded_by: sqlx::types::Json<Actor>"
                 FROM eve.hitl_requests WHERE id = $1 AND org_id = $2"#,
            order.question_id,
            order.org_id
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?;
        let refused = |reason, message| Ok(Answer::Refused { reason, message });
        match answer {
            // Whoever answered might not have been asked today.
            Some(answer) if answer.least_role < deployers => refused(
                "not_approved",
                format!("deploying there takes the role {deployers} by now; ask for it again"),
            ),
            Some(answer) if answer.response.as_ref().and_then(Value::as_str) == Some(APPROVE) => {
                Ok(Answer::Approved)
            }
            Some(answer) if answer.response.is_some() => {
                let by = answer.responded_by.map(|by| format!(" by {}", hitl::who(&by)));
                refused("rejected", format!("it was rejected{}", by.unwrap_or_default()))
            }
            Some(answer) if answer.status == "expired" => {
                refused("not_approved", "nobody approved it within 24 hours".to_owned())
            }
            _ => {
                refused("cancelled", "the question whether it may be done was withdrawn".to_owned())
            }
        }
    }

    async fn refuse(&self, order: &Due, reason: &str, message: &str) -> Result<(), DeployError> {
        let failed = DeployError::database("refusing an order");
        let mut tx = self.db.begin(Scope::Control).await.map_err(failed)?;
        sqlx::query!(
            "UPDATE eve.deployment_orders
                SET state = 'settled', body = NULL, outcome = 'failed', reason = $2, message = $3,
                    settled_at = clock_timestamp(),
                    told_at = CASE WHEN orchestration_id IS NULL THEN clock_timestamp() END
              WHERE id = $1 AND state IN ('asked', 'approval')",
            order.id,
            reason,
            message,
        )
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        tx.commit().await.map_err(failed)
    }
}

/// Why, in a word for programs.
fn word(error: &DeployError) -> &'static str {
    match error {
        DeployError::NotFound { .. } => "not_found",
        DeployError::Invalid { .. } => "invalid",
        DeployError::Conflict(_) | DeployError::TooMany(_) => "conflict",
        DeployError::Forbidden(_) => "forbidden",
        DeployError::Unconfigured(_) | DeployError::Sealed { .. } => "unconfigured",
        DeployError::Cluster { .. } => "cluster",
        DeployError::Database { .. } => "unavailable",
    }
}

/// Marks the order that a change is, in the change's transaction, if it is one. An order that somebody else
/// has taken, or that was withdrawn, is no reason to change anything.
pub(crate) async fn taken(
    tx: &mut Tx,
    deployer: &Deployer,
    deployment: Uuid,
    revision: i32,
) -> Result<(), DeployError> {
    let Some(order) = deployer.order else { return Ok(()) };
    let taken = sqlx::query!(
        "UPDATE eve.deployment_orders
            SET state = 'taken', body = NULL, deployment_id = $3, revision = $4
          WHERE id = $1 AND org_id = $2 AND state IN ('asked', 'approval')",
        order.id,
        deployer.tenant.org().0,
        deployment,
        revision,
    )
    .execute(&mut **tx)
    .await
    .map_err(DeployError::database("taking an order"))?;
    match taken.rows_affected() {
        1 => Ok(()),
        _ => Err(DeployError::Conflict("the order was taken or withdrawn meanwhile".into())),
    }
}
