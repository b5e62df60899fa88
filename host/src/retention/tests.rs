//! Retention on a real Postgres: exactly what is needed is left.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Executor};

use super::*;
use crate::db::{Scope, is_refusal};
use crate::ids::RequestId;
use crate::notify::Bell;
use crate::requests::{RequestError, Requests};
use crate::tenancy::Tenant;
use crate::testing::TestDatabase;
use crate::testing::past::{Old, Stands, id_of_day};

const OPEN: Stands = Stands::Open("pending");
const LONG_AGO: Stands = Stands::Ended("completed", 100);
const LATELY: Stands = Stands::Ended("completed", 1);

/// What ended more than two days ago goes; days 3 and older are dropped whole.
fn two_days() -> Keep {
    let keep_revisions = "10".parse().expect("a number");
    Keep { retention: "48h".parse().expect("a time"), keep_revisions }
}

async fn swept(database: &TestDatabase) -> sweep::Swept {
    let holder = Uuid::now_v7();
    let swept = sweep(&database.db, holder, two_days()).await.expect("a sweep");
    // The next one need not wait for the end of the term.
    scheduler::resign(&database.db, DUTY, holder).await.expect("resigning");
    swept
}

/// What there is of a table, by a column of ids.
async fn ids(database: &TestDatabase, table: &str, column: &str) -> BTreeSet<Uuid> {
    let statement = format!("SELECT {column} FROM eve.{table}");
    let ids: Vec<Uuid> = sqlx::query_scalar(AssertSqlSafe(statement))
        .fetch_all(database.db.pool())
        .await
        .expect("ids");
    ids.into_iter().collect()
}

fn set<'a>(requests: impl IntoIterator<Item = &'a Old>) -> BTreeSet<Uuid> {
    requests.into_iter().map(|request| request.id).collect()
}

async fn edge(database: &TestDatabase, tenant: Tenant, blocker: &Old, dependent: &Old) {
    database
        .execute(format!(
            "INSERT INTO eve.dependencies (org_id, blocker_id, dependent_id, state)
             VALUES ('{}', '{}', '{}', 'met')",
            tenant.org(),
            blocker.id,
            dependent.id
        ))
        .await;
}

async fn inbox(database: &TestDatabase, tenant: Tenant, orchestration: &Old) {
    database
        .execute(format!(
            "INSERT INTO eve.inbox (orchestration_id, org_id, source_kind, source_id)
             VALUES ('{}', '{}', 'child', gen_random_uuid())",
            orchestration.id,
            tenant.org()
        ))
        .await;
}

/// Checks that all four tables have rows of these requests and of no others.
async fn assert_left(database: &TestDatabase, left: &BTreeSet<Uuid>) {
    assert_eq!(&ids(database, "requests", "id").await, left);
    for table in ["attempts", "run_logs"] {
        assert_eq!(&ids(database, table, "request_id").await, left, "{table}");
    }
    let mut ended = ids(database, "orchestration_results", "request_id").await;
    ended.extend(ids(database, "queue", "id").await);
    assert_eq!(&ended, left);
}

#[tokio::test]
async fn what_is_needed_stays_and_the_rest_goes() {
    let database = TestDatabase::fresh().await;
    database.days_ago(7, 2).await;
    let acme = database.org("acme").await;
    let corp = database.org("corp").await;
    let mut left = Vec::new();
    let mut gone = Vec::new();

    gone.push(database.alone(acme, 6, LONG_AGO).await);
    gone.push(database.alone(acme, 5, Stands::Ended("failed", 100)).await);
    gone.push(database.alone(corp, 5, Stands::Ended("cancelled", 49)).await);
    left.push(database.alone(acme, 6, OPEN).await);
    left.push(database.alone(corp, 5, LATELY).await);
    // Not past retention by its id, whatever it ended.
    left.push(database.alone(corp, 1, LONG_AGO).await);

    // Ancestors of an open one: its tree stays readable. Its ended sibling goes.
    let root = database.alone(acme, 6, LONG_AGO).await;
    let child = database.below(acme, &root, 5, LONG_AGO).await;
    left.push(database.below(acme, &child, 1, OPEN).await);
    gone.push(database.below(acme, &child, 5, LONG_AGO).await);
    left.extend([root, child]);

    // All that an open orchestration has started, and its wake-ups, over several days.
    let waiting = database.alone(acme, 6, Stands::Open("waiting")).await;
    let below = database.below(acme, &waiting, 5, LONG_AGO).await;
    left.push(database.below(acme, &below, 4, LONG_AGO).await);
    let wakeup = Old { wake_up: true, ..waiting.child(id_of_day(4), LONG_AGO) };
    database.old(acme, &wakeup).await;
    left.extend([waiting, below, wakeup]);
    // One that has ended takes all of it along.
    let over = database.alone(acme, 6, LONG_AGO).await;
    gone.push(database.below(acme, &over, 5, LONG_AGO).await);
    gone.push(over);

    // Edges with an open end.
    let blocker = database.alone(acme, 6, LONG_AGO).await;
    let dependent = database.alone(acme, 1, OPEN).await;
    edge(&database, acme, &blocker, &dependent).await;
    let cancelled = database.alone(acme, 5, Stands::Ended("cancelled", 90)).await;
    let slow = database.alone(acme, 6, OPEN).await;
    edge(&database, acme, &slow, &cancelled).await;
    left.extend([blocker, dependent, cancelled, slow]);
    // And without: both ends, or one, are gone afterwards.
    let first = database.alone(acme, 6, LONG_AGO).await;
    let second = database.alone(acme, 5, LONG_AGO).await;
    let third = database.alone(acme, 5, LATELY).await;
    edge(&database, acme, &first, &second).await;
    edge(&database, acme, &second, &third).await;
    gone.extend([first, second]);
    left.push(third);

    // Who is told of the end of an open one.
    let told = database.alone(acme, 5, LONG_AGO).await;
    let teller = database.alone(acme, 1, OPEN).await;
    database
        .execute(format!(
            "UPDATE eve.queue SET reply_to = '{}' WHERE id = '{}'",
            told.id, teller.id
        ))
        .await;
    left.extend([told, teller]);

    // Questions: an open one keeps its request; settled ones go by their age.
    let asked = database.alone(acme, 5, LONG_AGO).await;
    let question = async |days: u64, request: Option<Uuid>, settled: Option<u32>| {
        let id = id_of_day(days);
        let request = request.map_or("NULL".to_owned(), |request| format!("'{request}'"));
        let settled = settled.map_or("'open', NULL".to_owned(), |hours| {
            format!("'expired', now() - interval '{hours} hours'")
        });
        database
            .execute(format!(
                "INSERT INTO eve.hitl_requests (id, org_id, request_id, question, created_by, expires_at,
                                                status, ended_at)
                 VALUES ('{id}', '{}', {request}, '?', '{{}}', now(), {settled})",
                acme.org()
            ))
            .await;
        id
    };
    let questions = BTreeSet::from([
        question(5, Some(asked.id), None).await,
        question(5, None, Some(1)).await,
        question(5, Some(waiting.id), Some(100)).await,
    ]);
    question(5, None, Some(100)).await;
    question(5, Some(asked.id), Some(100)).await;
    left.push(asked);

    // The inbox goes with its orchestration.
    inbox(&database, acme, &waiting).await;
    inbox(&database, acme, &over).await;
    inbox(&database, acme, &over).await;

    // Keys stay as long as a request of theirs, or until they are old.
    for (key, hours, request) in
        [("gone", 100, gone[0].id), ("left", 100, left[0].id), ("fresh", 1, gone[0].id)]
    {
        database
            .execute(format!(
                "INSERT INTO eve.idempotency_keys (org_id, key, body_hash, request_ids, created_at)
                 VALUES ('{}', '{key}', sha256('body'), ARRAY[gen_random_uuid(), '{request}'],
                         now() - interval '{hours} hours')",
                acme.org()
            ))
            .await;
    }

    let result = swept(&database).await;
    let left_ids = set(&left);
    assert_eq!(ids(&database, "requests", "id").await.intersection(&set(&gone)).count(), 0);
    assert_left(&database, &left_ids).await;
    assert_eq!(result.days.len(), 5, "{result}");
    assert_eq!((result.edges, result.inbox, result.questions, result.keys), (2, 2, 2, 1));
    assert!(result.busy.is_empty() && result.crowded.is_empty() && !result.unfinished, "{result}");
    assert_eq!(ids(&database, "dependencies", "blocker_id").await, set([&blocker, &slow]),);
    assert_eq!(ids(&database, "inbox", "orchestration_id").await, set([&waiting]));
    assert_eq!(ids(&database, "hitl_requests", "id").await, questions);
    let keys: Vec<String> = sqlx::query_scalar("SELECT key FROM eve.idempotency_keys ORDER BY key")
        .fetch_all(database.db.pool())
        .await
        .unwrap();
    assert_eq!(keys, ["fresh", "left"]);

    // Again: nothing is left to do.
    assert_eq!(swept(&database).await, sweep::Swept::default());
    assert_left(&database, &left_ids).await;

    // Partitions are made as ever, though the default one is not empty.
    let made: i32 = sqlx::query_scalar("SELECT eve.ensure_partitions(4)")
        .fetch_one(database.db.pool())
        .await
        .unwrap();
    assert_eq!(made, 4);

    // Survivors are seen as before, by their own organisation.
    let requests = Requests::new(database.db.clone(), Bell::start(database.db.pool().clone()));
    let own: Vec<RequestId> = left.iter().map(|request| RequestId(request.id)).collect();
    let seen = requests.snapshot(acme, &own).await.unwrap().len();
    let theirs = requests.snapshot(corp, &own).await.unwrap().len();
    assert_eq!((seen + theirs, theirs), (left.len(), 2));
    let mut tx = database.db.begin(Scope::Guest(acme)).await.unwrap();
    let of_guest: i64 =
        sqlx::query_scalar("SELECT count(*) FROM eve.requests").fetch_one(&mut *tx).await.unwrap();
    assert_eq!(of_guest, seen as i64);
    let id = RequestId(gone[0].id);
    assert!(matches!(requests.get(acme, id).await, Err(RequestError::NotFound(_))));
    assert!(matches!(requests.result(acme, id).await, Err(RequestError::NotFound(_))));
    // An edge to what is no more is not shown, and does not break what is.
    assert!(requests.blockers(acme, RequestId(third.id)).await.unwrap().is_empty());
}

/// Days for which no partition was made in time, and survivors that have ended since.
#[tokio::test]
async fn the_default_partition_is_swept_in_batches() {
    let database = TestDatabase::fresh().await;
    let acme = database.org("acme").await;
    let ended = database.alone(acme, 5, LONG_AGO).await;
    let open = database.alone(acme, 5, OPEN).await;
    let child = database.below(acme, &open, 5, LONG_AGO).await;
    let late = database.alone(acme, 5, LATELY).await;
    let result = swept(&database).await;
    assert_eq!((result.requests, result.days.len()), (1, 0), "{result}");
    assert!(!ids(&database, "requests", "id").await.contains(&ended.id));
    assert_left(&database, &set([&open, &child, &late])).await;

    database
        .execute(format!(
            "DELETE FROM eve.queue WHERE id = '{id}';
             INSERT INTO eve.orchestration_results
                    (request_id, org_id, status, generation, attempt, finished_at)
             VALUES ('{id}', '{org}', 'completed', 1, 1, now() - interval '49 hours')",
            id = open.id,
            org = acme.org()
        ))
        .await;
    assert_eq!(swept(&database).await.requests, 2);
    assert_left(&database, &set([&late])).await;
}

/// The partitions of a day were not all made in time: what is left of it is found all the same.
#[tokio::test]
async fn halves_of_a_day_are_swept() {
    let database = TestDatabase::fresh().await;
    let acme = database.org("acme").await;
    let here = database.alone(acme, 5, LONG_AGO).await;
    let open = database.alone(acme, 5, OPEN).await;
    // Results of that day are in a partition of their own, everything else in the default ones.
    database.execute("DELETE FROM eve.orchestration_results".to_owned()).await;
    database.days_ago(6, 6).await;
    let gone = database.alone(acme, 6, LONG_AGO).await;
    database.execute("DELETE FROM eve.requests".to_owned()).await;
    database.old(acme, &Old::alone(id_of_day(6), LONG_AGO)).await;
    let result = swept(&database).await;
    assert_eq!(result.days.len(), 1, "{result}");
    assert!(result.remains > 0, "{result}");
    let remains = ids(&database, "attempts", "request_id").await;
    assert!(!remains.contains(&here.id) && !remains.contains(&gone.id));
    assert_eq!(ids(&database, "queue", "id").await, set([&open]));
}

#[tokio::test]
async fn two_at_once_do_it_once() {
    let database = TestDatabase::fresh().await;
    database.days_ago(9, 2).await;
    let acme = database.org("acme").await;
    let mut open = Vec::new();
    for days in 3..=9 {
        database.alone(acme, days, LONG_AGO).await;
        open.push(database.alone(acme, days, OPEN).await);
    }
    let (one, other) = tokio::join!(swept(&database), swept(&database));
    assert_eq!(one.days.len() + other.days.len(), 7, "{one} / {other}");
    assert_eq!(one.survivors + other.survivors, 7);
    assert_left(&database, &set(&open)).await;

    // And without any leadership between them.
    database.days_ago(10, 10).await;
    database.alone(acme, 10, LONG_AGO).await;
    open.push(database.alone(acme, 10, OPEN).await);
    let drop = async || {
        let mut tx = database.db.begin(Scope::Engine).await.unwrap();
        let outcome: String = sqlx::query_scalar(
            "SELECT outcome FROM eve.drop_day((now() AT TIME ZONE 'UTC')::date - 10, '48 hours')",
        )
        .fetch_one(&mut *tx)
        .await
        .unwrap();
        tx.commit().await.unwrap();
        outcome
    };
    let (one, other) = tokio::join!(drop(), drop());
    assert!(one == "dropped" || other == "dropped", "{one} {other}");
    assert_left(&database, &set(&open)).await;
}

/// Who has lost the leadership deletes nothing.
#[tokio::test]
async fn only_the_leader_sweeps() {
    let database = TestDatabase::fresh().await;
    let acme = database.org("acme").await;
    let old = database.alone(acme, 5, LONG_AGO).await;
    let (slept, other) = (Uuid::now_v7(), Uuid::now_v7());
    let term = scheduler::lead(&database.db, DUTY, slept).await.unwrap().unwrap();
    database.execute("UPDATE eve.leadership SET expires_at = '-infinity'".to_owned()).await;
    assert!(scheduler::lead(&database.db, DUTY, other).await.unwrap().is_some());
    assert!(term.begin(&database.db).await.unwrap().is_none(), "its term is over");
    let result = sweep(&database.db, slept, two_days()).await.unwrap();
    assert_eq!(result, sweep::Swept::default());
    assert_left(&database, &set([&old])).await;
    assert_eq!(sweep(&database.db, other, two_days()).await.unwrap().requests, 1);
}

/// Somebody creates, ends and reads all the while: nothing of theirs is lost, and nothing fails.
#[tokio::test]
async fn work_goes_on_meanwhile() {
    let database = TestDatabase::fresh().await;
    database.days_ago(12, 2).await;
    let acme = database.org("acme").await;
    let mut open = Vec::new();
    for days in 3..=12 {
        database.alone(acme, days, LONG_AGO).await;
        open.push(database.alone(acme, days, OPEN).await);
    }
    let done = CancellationToken::new();
    let creating = async {
        let mut made = BTreeSet::new();
        while !done.is_cancelled() || made.is_empty() {
            made.insert(database.alone(acme, 0, OPEN).await.id);
        }
        made
    };
    // Requests of the very days that are dropped end under it.
    let ending = async {
        for old in &open {
            database
                .execute(format!(
                    "WITH gone AS (DELETE FROM eve.queue WHERE id = '{id}' RETURNING id, org_id)
                     INSERT INTO eve.orchestration_results
                            (request_id, org_id, status, generation, attempt)
                     SELECT id, org_id, 'completed', 1, 1 FROM gone",
                    id = old.id
                ))
                .await;
        }
    };
    let reading = async {
        while !done.is_cancelled() {
            ids(&database, "orchestration_results", "request_id").await;
        }
    };
    let sweeping = async {
        let mut days = 0;
        // A day that was in use is tried again, as the duty does.
        while days < 10 {
            days += swept(&database).await.days.len();
        }
        done.cancel();
    };
    let (mut left, (), (), ()) = tokio::join!(creating, ending, reading, sweeping);
    left.extend(set(&open));
    assert_left(&database, &left).await;
}

/// A retry of what is about to go, in a transaction that has not committed yet: it is waited for, and
/// the request stays.
#[tokio::test]
async fn a_retry_that_was_first_wins() {
    let database = TestDatabase::fresh().await;
    database.days_ago(5, 5).await;
    let acme = database.org("acme").await;
    let old = database.alone(acme, 5, LONG_AGO).await;
    let mut retry = database.db.pool().begin().await.unwrap();
    retry
        .execute(AssertSqlSafe(format!(
            "WITH gone AS (DELETE FROM eve.orchestration_results WHERE request_id = '{}' RETURNING *)
             INSERT INTO eve.queue (id, org_id, worker_type, status, priority, generation)
             SELECT request_id, org_id, 'general', 'pending', 0, 2 FROM gone",
            old.id
        )))
        .await
        .unwrap();
    let waits = async {
        let waiting = "SELECT EXISTS (SELECT FROM pg_locks
                        WHERE NOT granted AND mode = 'ExclusiveLock'
                          AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";
        while !sqlx::query_scalar::<_, bool>(waiting).fetch_one(database.db.pool()).await.unwrap() {
            tokio::task::yield_now().await;
        }
        retry.commit().await.unwrap();
    };
    let (result, ()) = tokio::join!(swept(&database), waits);
    assert_eq!((result.days.len(), result.survivors), (1, 1), "{result}");
    assert_left(&database, &set([&old])).await;
    assert_eq!(ids(&database, "queue", "id").await, set([&old]));
}

#[tokio::test]
async fn a_day_in_use_is_left_for_later() {
    let database = TestDatabase::fresh().await;
    database.days_ago(5, 5).await;
    let acme = database.org("acme").await;
    let old = database.alone(acme, 5, LONG_AGO).await;
    let mut reader = database.db.pool().begin().await.unwrap();
    reader.execute("SELECT count(*) FROM eve.requests").await.unwrap();
    let result = swept(&database).await;
    assert_eq!((result.busy.len(), result.days.len()), (1, 0), "{result}");
    assert!(result.unfinished, "it is tried again soon");
    assert_left(&database, &set([&old])).await;
    reader.rollback().await.unwrap();
    assert_eq!(swept(&database).await.days.len(), 1);
    assert_left(&database, &BTreeSet::new()).await;
}

#[tokio::test]
async fn a_crowded_day_is_kept() {
    let database = TestDatabase::fresh().await;
    database.days_ago(5, 5).await;
    let acme = database.org("acme").await;
    let old = database.alone(acme, 5, LONG_AGO).await;
    // More than is moved while everybody waits: open ones of the same day.
    database
        .execute(format!(
            "INSERT INTO eve.queue (id, org_id, worker_type, status, priority)
             SELECT (left('{}', 19) || right(gen_random_uuid()::text, 17))::uuid, '{}', 'general',
                    'pending', 0
               FROM generate_series(1, 20001)",
            old.id,
            acme.org()
        ))
        .await;
    let result = swept(&database).await;
    assert_eq!((result.crowded.len(), result.days.len()), (1, 0), "{result}");
    assert!(
        result.to_string().contains("kept, because too much of it is still needed"),
        "{result}"
    );
    assert_eq!(ids(&database, "requests", "id").await, set([&old]));
}

#[tokio::test]
async fn nothing_goes_before_its_time() {
    for (text, said) in [
        ("25h", "must be at least 26h: longer than the longest run may take"),
        ("4000d", "must be at most 3650d"),
    ] {
        assert_eq!(text.parse::<Retention>(), Err(said.to_owned()));
    }
    assert!("30".parse::<Retention>().is_err());
    for text in ["26h", "30d", "93601s"] {
        assert_eq!(text.parse::<Retention>().unwrap().to_string(), text);
    }
    assert_eq!(Retention::default().to_string(), "30d");

    let database = TestDatabase::fresh().await;
    database.days_ago(2, 2).await;
    for call in [
        "eve.expired_days('25 hours 59 minutes')",
        "eve.drop_day(current_date - 9, '25 hours')",
        "eve.drop_day(current_date - 9, NULL)",
        "eve.drop_day(current_date - 1, '26 hours')",
        "eve.sweep_requests('1 hour', NULL, 1)",
        "eve.sweep_remains('1 hour', 1)",
        "eve.sweep_edges('1 hour', NULL, NULL, 1)",
        "eve.sweep_inbox('1 hour', NULL, 1)",
        "eve.sweep_questions('1 hour', NULL, 1)",
        "eve.sweep_keys('1 hour', 1)",
        "eve.sweep_ticks('1 hour', 1)",
        "eve.sweep_deployment_events('1 hour', 1)",
        "eve.sweep_deployment_orders('1 hour', 1)",
    ] {
        let mut tx = database.db.begin(Scope::Engine).await.unwrap();
        let statement = format!("SELECT * FROM {call}");
        let error = tx.execute(AssertSqlSafe(statement)).await.expect_err(call);
        assert!(is_refusal(&error), "{call}: {error}");
    }
    // Nobody but the engine may have it done, and nobody else may do it.
    let acme = database.org("acme").await;
    for scope in [Scope::Tenant(acme), Scope::Guest(acme), Scope::Control, Scope::Metrics] {
        let mut tx = database.db.begin(scope).await.unwrap();
        let call = "SELECT * FROM eve.drop_day(current_date - 9, '48 hours')";
        assert!(tx.execute(call).await.is_err(), "{scope:?}");
    }
    let mut tx = database.db.begin(Scope::Engine).await.unwrap();
    assert!(tx.execute("DELETE FROM eve.requests").await.is_err());
}

/// An app in an environment of an organisation, at a revision: its id.
async fn deployment(database: &TestDatabase, tenant: Tenant, app: &str, revision: i32) -> Uuid {
    let org = tenant.org();
    database
        .execute(format!(
            "INSERT INTO eve.clusters (id, name, provider) VALUES ('c', 'c', 'local')
                 ON CONFLICT DO NOTHING;
             INSERT INTO eve.environments (org_id, name, cluster_id, namespace)
             VALUES ('{org}', 'dev', 'c', 'ns-{app}');
             INSERT INTO eve.apps (org_id, name) VALUES ('{org}', '{app}');
             INSERT INTO eve.deployments (org_id, app_id, environment_id, image, revision)
             SELECT '{org}', a.id, e.id, 'acme/{app}:v1', {revision}
               FROM eve.apps a, eve.environments e
              WHERE a.name = '{app}' AND e.namespace = 'ns-{app}'"
        ))
        .await;
    sqlx::query_scalar("SELECT id FROM eve.deployments WHERE image = $1")
        .bind(format!("acme/{app}:v1"))
        .fetch_one(database.db.pool())
        .await
        .expect("a deployment")
}

/// Revisions `first` to `last`, asked for so many hours ago; every other one ran.
async fn revisions(
    database: &TestDatabase,
    tenant: Tenant,
    deployment: Uuid,
    (first, last): (i32, i32),
    hours: i32,
) {
    let org = tenant.org();
    database
        .execute(format!(
            "INSERT INTO eve.deployment_revisions
                    (org_id, deployment_id, revision, kind, template, image, replicas, config, created_by,
                     created_at, ran_at)
             SELECT '{org}', '{deployment}', n, 'updated', n, 'acme/api:v1', 1, '{{}}', '{{}}',
                    now() - interval '{hours} hours', CASE WHEN n % 2 = 0 THEN now() END
               FROM generate_series({first}, {last}) n"
        ))
        .await;
}

async fn left_of(database: &TestDatabase, deployment: Uuid) -> Vec<i32> {
    sqlx::query_scalar(
        "SELECT revision FROM eve.deployment_revisions WHERE deployment_id = $1 ORDER BY revision",
    )
    .bind(deployment)
    .fetch_all(database.db.pool())
    .await
    .expect("revisions")
}

#[tokio::test]
async fn of_deployments_what_can_be_rolled_back_to_stays() {
    let database = TestDatabase::fresh().await;
    let (acme, corp) = (database.org("acme").await, database.org("corp").await);
    // Old ones up to 61, the latest of which never ran; and one whose history is young.
    let old = deployment(&database, acme, "old", 61).await;
    revisions(&database, acme, old, (1, 61), 100).await;
    let mixed = deployment(&database, corp, "mixed", 40).await;
    revisions(&database, corp, mixed, (1, 30), 100).await;
    revisions(&database, corp, mixed, (31, 40), 1).await;
    for (of, hours) in [(old, 100), (old, 1), (mixed, 100)] {
        let id = Uuid::new_v7(uuid::Timestamp::from_unix(
            uuid::NoContext,
            (chrono::Utc::now() - chrono::TimeDelta::hours(hours)).timestamp().cast_unsigned(),
            0,
        ));
        database
            .execute(format!(
                "INSERT INTO eve.deployment_events (id, org_id, deployment_id, event_type, created_at)
                 SELECT '{id}', org_id, id, 'drifted', now() - interval '{hours} hours'
                   FROM eve.deployments WHERE id = '{of}'"
            ))
            .await;
    }
    let done = swept(&database).await;
    // The last ten that ran, whatever is between them, and the latest.
    let kept: Vec<i32> = (42..=60).filter(|n| n % 2 == 0).chain([61]).collect();
    assert_eq!(left_of(&database, old).await, kept);
    // Of the last ten that ran five are young, and so is what never ran.
    let kept: Vec<i32> = (22..=30).filter(|n| n % 2 == 0).chain(31..=40).collect();
    assert_eq!(left_of(&database, mixed).await, kept);
    assert_eq!(done.revisions, (61 - 11) + (30 - 5));
    assert_eq!(done.events, 2);
    assert_eq!(ids(&database, "deployment_events", "deployment_id").await, [old].into());
    assert_eq!(swept(&database).await, sweep::Swept::default(), "and then there is no more to do");
}

#[tokio::test]
async fn orders_of_skills_go_once_they_are_settled_and_told() {
    let database = TestDatabase::fresh().await;
    let (acme, corp) = (database.org("acme").await, database.org("corp").await);
    let hours = |hours: i32| format!("now() - interval '{hours} hours'");
    // Of each: how it stands, when it was settled, when its orchestration was told.
    let orders = [
        (acme, "old", "settled", Some(100), Some(99)),
        (corp, "old-too", "settled", Some(60), Some(60)),
        (acme, "young", "settled", Some(1), Some(1)),
        (acme, "told-late", "settled", Some(100), Some(1)),
        (acme, "untold", "settled", Some(100), None),
        (acme, "open", "asked", None, None),
        (corp, "underway", "taken", None, None),
    ];
    for (tenant, app, state, settled, told) in orders {
        let time = |at: Option<i32>| at.map_or("NULL".to_owned(), hours);
        let (body, deployment, outcome) = match state {
            "asked" => ("'{}'", "NULL, NULL", "NULL"),
            "taken" => ("NULL", "gen_random_uuid(), 1", "NULL"),
            _ => ("NULL", "gen_random_uuid(), 1", "'running'"),
        };
        database
            .execute(format!(
                "INSERT INTO eve.deployment_orders
                        (id, org_id, request_id, worker_type, environment, app, kind, told_id, state, body,
                         deployment_id, revision, outcome, created_at, settled_at, told_at)
                 VALUES (gen_random_uuid(), '{}', gen_random_uuid(), 'deployment', 'dev', '{app}', 'create',
                         gen_random_uuid(), '{state}', {body}, {deployment}, {outcome},
                         now() - interval '101 hours', {}, {})",
                tenant.org(),
                time(settled),
                time(told),
            ))
            .await;
    }
    // Never more at a time than was said.
    let step: i32 = sqlx::query_scalar("SELECT eve.sweep_deployment_orders('48h', 1)")
        .fetch_one(database.db.pool())
        .await
        .expect("a step");
    assert_eq!(step, 1);
    let done = swept(&database).await;
    assert_eq!(done.orders, 1);
    assert!(done.to_string().contains("1 orders of skills"), "{done}");
    let left: Vec<String> =
        sqlx::query_scalar("SELECT app FROM eve.deployment_orders ORDER BY app")
            .fetch_all(database.db.pool())
            .await
            .expect("orders");
    assert_eq!(left, ["open", "told-late", "underway", "untold", "young"]);
    assert_eq!(swept(&database).await, sweep::Swept::default(), "and then there is no more to do");
}

#[tokio::test]
async fn revisions_go_in_batches() {
    let database = TestDatabase::fresh().await;
    let acme = database.org("acme").await;
    let many = deployment(&database, acme, "many", 25).await;
    revisions(&database, acme, many, (1, 25), 100).await;
    let mut after = Some(Uuid::nil());
    let mut steps = Vec::new();
    while let Some(from) = after {
        let (next, gone): (Option<Uuid>, i32) =
            sqlx::query_as("SELECT next, gone FROM eve.sweep_revisions('48h', 10, $1, 1, 4)")
                .bind(from)
                .fetch_one(database.db.pool())
                .await
                .expect("a step");
        steps.push(gone);
        after = next;
    }
    // Twelve that never ran and are not the latest, and the two oldest that ran.
    assert_eq!(steps.iter().sum::<i32>(), 14, "{steps:?}");
    assert!(steps.iter().all(|gone| *gone <= 4), "{steps:?}");
    let refused = sqlx::query("SELECT eve.sweep_revisions('48h', 9, $1, 1, 4)")
        .bind(Uuid::nil())
        .execute(database.db.pool())
        .await;
    assert!(refused.is_err(), "the least is checked where it is deleted");
}

#[tokio::test]
async fn an_environment_is_forgotten_in_batches() {
    let database = TestDatabase::fresh().await;
    let (acme, corp) = (database.org("acme").await, database.org("corp").await);
    for (tenant, app) in [(acme, "gone"), (corp, "stays")] {
        let id = deployment(&database, tenant, app, 12).await;
        revisions(&database, tenant, id, (1, 12), 1).await;
        database
            .execute(format!(
                "INSERT INTO eve.deployment_events (org_id, deployment_id, event_type)
                 SELECT '{}', '{id}', 'drifted' FROM generate_series(1, 12)",
                tenant.org()
            ))
            .await;
    }
    let step = async || -> bool {
        sqlx::query_scalar(
            "SELECT eve.forget_environment((SELECT id FROM eve.environments WHERE namespace = 'ns-gone'), 5)",
        )
        .fetch_one(database.db.pool())
        .await
        .expect("a step")
    };
    assert!(!step().await, "one that nobody wants gone stays");
    database
        .execute(
            "UPDATE eve.environments SET status = 'deleting' WHERE namespace = 'ns-gone'".into(),
        )
        .await;
    let mut steps = 0;
    while step().await {
        steps += 1;
        assert!(steps < 20, "it never ends");
    }
    assert_eq!(steps, 3 + 3 + 1, "events, revisions, the deployment");
    for (table, left) in [
        ("environments", 1),
        ("deployments", 1),
        ("deployment_revisions", 12),
        ("deployment_events", 12),
    ] {
        let statement =
            format!("SELECT count(*) FROM eve.{table} WHERE org_id <> '{}'", acme.org());
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(statement))
            .fetch_one(database.db.pool())
            .await
            .expect("a count");
        assert_eq!(count, left, "{table}");
        let statement = format!("SELECT count(*) FROM eve.{table} WHERE org_id = '{}'", acme.org());
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(statement))
            .fetch_one(database.db.pool())
            .await
            .expect("a count");
        assert_eq!(count, 0, "{table}");
    }
}
