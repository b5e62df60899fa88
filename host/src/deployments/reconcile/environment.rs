//! Looking after one environment: its namespace, and whatever is deployed in it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{BoxStream, SelectAll};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use sqlx::types::Json;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::deployment::{self, Ask, Done};
use super::next::Next;
use super::{Backoff, Context, Trouble};
use crate::db::Scope;
use crate::deployments::clusters::Row;
use crate::deployments::environments::{EnvironmentConfig, EnvironmentStatus};
use crate::deployments::kubernetes::connection::{Connection, Identity};
use crate::deployments::kubernetes::failure::{Failure, in_words, shown};
use crate::deployments::kubernetes::provision::{self, Wanted};
use crate::deployments::kubernetes::routes::HttpRoute;
use crate::deployments::kubernetes::{APP_LABEL, MANAGED_BY};
use crate::deployments::traffic::Place;
use crate::scheduler::report;

/// How often a namespace is looked at, to see whether it still is as it was made.
const INSPECTION: Duration = Duration::from_secs(60);
/// How often a namespace that is being deleted is looked at.
const DELETION: Duration = Duration::from_secs(1);
/// How often a deployment is applied again although nothing is known to have changed.
const RESYNC: Duration = Duration::from_secs(600);
/// How long after a change in the cluster a deployment is looked at: changes come in bursts.
const SETTLING: Duration = Duration::from_millis(100);
/// After how long without a fight over an app it is over.
const PEACE: Duration = Duration::from_secs(120);
/// How soon after Postgres failed something is tried again.
const AFTER_DATABASE: Duration = Duration::from_secs(2);
/// How soon a deployment that broke off is begun anew.
const AFTER_PANIC: Duration = Duration::from_secs(30);
/// Rows of an environment that is gone that are deleted in one transaction: nobody else who leads waits long.
const FORGOTTEN: i32 = 2_000;
/// Deployments of an environment that are reconciled at one time.
const AT_ONCE: usize = 4;

/// An environment, with what its cluster is reached by.
pub(super) struct Environment {
    pub id: Uuid,
    pub name: String,
    pub namespace: String,
    pub status: EnvironmentStatus,
    pub abandoned: bool,
    pub message: Option<String>,
    pub config: EnvironmentConfig,
    pub slug: String,
    pub cluster: Row,
}

impl Environment {
    /// What its hosts are made of.
    pub fn place(&self) -> Place {
        Place::new(&self.name, &self.slug, &self.cluster.id, self.cluster.config())
    }
}

/// Looks after an environment until it is gone, or `over`.
pub(super) async fn look_after(context: Context, id: Uuid, over: CancellationToken) {
    let mut backoff = Backoff::default();
    while !over.is_cancelled() {
        let environment = match load(&context, id).await {
            Ok(Some(environment)) => Arc::new(environment),
            Ok(None) => return,
            Err(error) => {
                report("reading an environment", &error);
                wait(AFTER_DATABASE, &over).await;
                continue;
            }
        };
        let attended = tokio::select! {
            () = over.cancelled() => return,
            attended = attend(&context, &environment, &mut backoff) => attended,
        };
        match attended {
            Ok(Attended::Gone) => return,
            Ok(Attended::Changed) => {}
            // Nothing is known of the cluster: what was found of it stays.
            Err(Trouble::Database(error)) => {
                report("looking after an environment", &error);
                wait(AFTER_DATABASE, &over).await;
            }
            Err(Trouble::Cluster(failure)) => {
                tracing::warn!(
                    environment = %id,
                    namespace = environment.namespace,
                    why = %failure,
                    "an environment cannot be looked after"
                );
                if let Err(error) = troubled(&context, &environment, &failure).await {
                    report("writing down why an environment is not ready", &error);
                }
                // A member who deletes it need not wait for the next try.
                let mut bell = context.bell.clone();
                bell.mark_unchanged();
                let patience = backoff.next();
                let pause = tokio::time::sleep(patience);
                tokio::pin!(pause);
                loop {
                    tokio::select! {
                        () = over.cancelled() => return,
                        () = &mut pause => break,
                        changed = bell.changed() => {
                            if changed.is_err() || is_deleting(&context, id).await { break }
                        }
                    }
                }
            }
        }
    }
}

/// Why somebody stopped attending to an environment.
enum Attended {
    /// It is no more.
    Gone,
    /// Its row is another.
    Changed,
}

async fn attend(
    context: &Context,
    environment: &Arc<Environment>,
    backoff: &mut Backoff,
) -> Result<Attended, Trouble> {
    if environment.abandoned {
        forget(context, environment).await?;
        return Ok(Attended::Gone);
    }
    let connection = context
        .deployments
        .connect(&environment.cluster)
        .map_err(|error| Failure::Away(in_words(&error)))?;
    let wanted = wanted(environment);
    if environment.status == EnvironmentStatus::Deleting {
        if provision::deprovision(&connection, &wanted).await? {
            forget(context, environment).await?;
            return Ok(Attended::Gone);
        }
        // It takes as long as its pods take to end; meanwhile it may be abandoned.
        tokio::time::sleep(DELETION).await;
        return Ok(Attended::Changed);
    }
    provision::provision(&connection, &wanted).await?;
    ready(context, environment).await?;
    backoff.reset();
    Watch::new(context, environment, &connection)?.serve(&wanted).await
}

/// Watching what is in a namespace, and reconciling what is not as it should be.
struct Watch<'a> {
    context: &'a Context,
    environment: &'a Arc<Environment>,
    connection: &'a Connection,
    client: Client,
    /// Apps to look at, and whether they are to be applied whatever is known of them.
    dirty: BTreeMap<String, bool>,
    /// Apps to look at later, likewise.
    due: BTreeMap<String, (Instant, bool)>,
    busy: BTreeSet<String>,
    /// Apps that somebody fights with us for: how often in a row, and when last.
    fought: HashMap<String, (Backoff, Instant)>,
    /// Apps that could not be reconciled: how often in a row.
    failed: HashMap<String, Backoff>,
    /// Nothing is begun before.
    paused: Option<Instant>,
    backoff: Backoff,
}

impl<'a> Watch<'a> {
    fn new(
        context: &'a Context,
        environment: &'a Arc<Environment>,
        connection: &'a Connection,
    ) -> Result<Watch<'a>, Trouble> {
        let client = connection.identity(&environment.namespace, Identity::Deployer)?;
        Ok(Watch {
            context,
            environment,
            connection,
            client,
            dirty: BTreeMap::new(),
            due: BTreeMap::new(),
            busy: BTreeSet::new(),
            fought: HashMap::new(),
            failed: HashMap::new(),
            paused: None,
            backoff: Backoff::default(),
        })
    }

    /// Until the environment's row is another.
    async fn serve(mut self, wanted: &Wanted) -> Result<Attended, Trouble> {
        let mut changes = self.changes();
        let mut bell = self.context.bell.clone();
        bell.mark_unchanged();
        let mut inspections = tokio::time::interval_at(Instant::now() + INSPECTION, INSPECTION);
        let mut resyncs = tokio::time::interval_at(Instant::now() + RESYNC, RESYNC);
        // On their own: one that holds a lock or a connection goes on whatever is waited for here.
        let mut jobs: JoinSet<Result<Done, Trouble>> = JoinSet::new();
        let mut running: HashMap<tokio::task::Id, (String, bool)> = HashMap::new();
        let (context, environment, client) = (self.context, self.environment, self.client.clone());
        // What was changed before this began to listen.
        if is_another(context, environment).await {
            return Ok(Attended::Changed);
        }
        for app in deployment::names(context, environment.id, false).await? {
            self.dirty.insert(app, false);
        }
        loop {
            let now = Instant::now();
            let free = self.paused.is_none_or(|until| until <= now);
            if free {
                self.paused = None;
                while jobs.len() < AT_ONCE {
                    let next = self.dirty.keys().find(|app| !self.busy.contains(*app)).cloned();
                    let Some(app) = next else { break };
                    let again = self.dirty.remove(&app).unwrap_or_default();
                    let again = again | self.due.remove(&app).is_some_and(|(_, again)| again);
                    self.busy.insert(app.clone());
                    let (context, environment) = (context.clone(), Arc::clone(environment));
                    let (client, name) = (client.clone(), app.clone());
                    let failures = self.failed.get(&app).map_or(0, Backoff::count);
                    let ask = Ask { again, failures };
                    let task = jobs.spawn(async move {
                        deployment::reconcile(&context, &environment, &client, &name, ask).await
                    });
                    running.insert(task.id(), (app, again));
                }
            }
            let earliest = self.due.values().map(|(at, _)| *at).chain(self.paused).min();
            tokio::select! {
                changed = bell.changed() => {
                    if changed.is_err() { return Ok(Attended::Changed) }
                    if is_another(context, environment).await { return Ok(Attended::Changed) }
                    match deployment::names(context, environment.id, true).await {
                        Ok(apps) => for app in apps { self.dirty.entry(app).or_default(); },
                        Err(error) => report("reading what is to be deployed", &error),
                    }
                }
                Some(change) = changes.next() => self.noticed(change),
                Some(ended) = jobs.join_next_with_id() => {
                    let (id, outcome) = match ended {
                        Ok((id, outcome)) => (id, Ok(outcome)),
                        Err(error) => (error.id(), Err(error)),
                    };
                    if let Some((app, again)) = running.remove(&id) {
                        self.done(app, again, outcome);
                    }
                }
                () = sleep_until(earliest) => {
                    let now = Instant::now();
                    let ripe: Vec<(String, bool)> = self
                        .due
                        .iter()
                        .filter(|(_, (at, _))| *at <= now)
                        .map(|(app, (_, again))| (app.clone(), *again))
                        .collect();
                    for (app, again) in ripe {
                        self.due.remove(&app);
                        *self.dirty.entry(app).or_default() |= again;
                    }
                }
                _ = inspections.tick() => {
                    self.fought.retain(|_, (_, last)| last.elapsed() < PEACE);
                    provision::provision(self.connection, wanted).await?;
                    if let Err(error) = ready(context, environment).await {
                        report("writing down that an environment is ready", &error);
                    }
                    // What a bell that was lost would have said.
                    match deployment::names(context, environment.id, true).await {
                        Ok(apps) => for app in apps { self.dirty.entry(app).or_default(); },
                        Err(error) => report("reading what is to be deployed", &error),
                    }
                    if is_another(context, environment).await { return Ok(Attended::Changed) }
                }
                _ = resyncs.tick() => {
                    match deployment::names(context, environment.id, false).await {
                        Ok(apps) => for app in apps { self.dirty.insert(app, true); },
                        Err(error) => report("reading what is deployed", &error),
                    }
                }
            }
        }
    }

    /// What changes in the namespace: the apps whose objects do, and whether one of them was deleted.
    fn changes(&self) -> SelectAll<BoxStream<'static, Change>> {
        let namespace = &self.environment.namespace;
        let config = watcher::Config::default()
            .labels(&format!("{},{}={}", APP_LABEL, MANAGED_BY.0, MANAGED_BY.1));
        let client = || self.client.clone();
        let deployments: Api<PartialObjectMeta<Deployment>> = Api::namespaced(client(), namespace);
        let pods: Api<PartialObjectMeta<Pod>> = Api::namespaced(client(), namespace);
        let services: Api<PartialObjectMeta<Service>> = Api::namespaced(client(), namespace);
        let mut all = SelectAll::new();
        all.push(watcher(deployments, config.clone()).default_backoff().map(change).boxed());
        all.push(watcher(pods, config.clone()).default_backoff().map(change).boxed());
        // A Service tells nothing by changing; but it has to be there. So has what leads to it, of which the
        // cluster may lack the kind.
        all.push(watcher(services, config.clone()).default_backoff().map(change).boxed());
        let doors = self.environment.cluster.config();
        if doors.gateway.is_some() {
            let routes: Api<PartialObjectMeta<HttpRoute>> = Api::namespaced(client(), namespace);
            all.push(watcher(routes, config).default_backoff().map(change).boxed());
        } else if doors.ingress_class.is_some() {
            let ingresses: Api<PartialObjectMeta<Ingress>> = Api::namespaced(client(), namespace);
            all.push(watcher(ingresses, config).default_backoff().map(change).boxed());
        }
        all
    }

    fn noticed(&mut self, change: Change) {
        match change {
            // Whoever changes it again and again is not answered at once each time.
            Change::Touched(app) => {
                let now = Instant::now();
                let at = match self.fought.get(&app) {
                    Some((_, last)) => (*last).max(now + SETTLING),
                    None => now + SETTLING,
                };
                self.look_by(app, at, false);
            }
            Change::Removed(app) => {
                self.dirty.insert(app, true);
            }
            Change::Nothing => {}
        }
    }

    /// Looks at an app at that time at the latest, and applies it again if it is `again`.
    fn look_by(&mut self, app: String, at: Instant, again: bool) {
        let due = self.due.entry(app).or_insert((at, again));
        *due = (at.min(due.0), again || due.1);
    }

    fn done(
        &mut self,
        app: String,
        again: bool,
        outcome: Result<Result<Done, Trouble>, JoinError>,
    ) {
        self.busy.remove(&app);
        let now = Instant::now();
        match outcome {
            Ok(Ok(done)) => {
                self.backoff.reset();
                self.failed.remove(&app);
                for other in done.also {
                    self.dirty.entry(other).or_default();
                }
                match done.next {
                    Next::Idle => {}
                    Next::Again => {
                        let (fought, last) =
                            self.fought.entry(app.clone()).or_insert((Backoff::default(), now));
                        let pause = fought.soon();
                        *last = now + pause;
                        self.look_by(app, now + pause, true);
                    }
                    Next::In(time) => self.look_by(app, now + time, false),
                }
            }
            // The cluster has nothing to do with it, and neither have the others in it.
            Ok(Err(Trouble::Database(error))) => {
                report("reconciling a deployment", &error);
                self.look_by(app, now + AFTER_DATABASE, again);
            }
            Ok(Err(Trouble::Cluster(failure))) => {
                // A cluster that cannot be asked, or does not know us, is that for all in it.
                let of_all = matches!(failure, Failure::Away(_) | Failure::Denied(_));
                let pause = match of_all {
                    true => self.backoff.next(),
                    false => self.failed.entry(app.clone()).or_default().next(),
                };
                tracing::warn!(
                    namespace = self.environment.namespace,
                    app,
                    failure = failure.to_string(),
                    again_in = ?pause,
                    "a deployment could not be reconciled"
                );
                if of_all {
                    self.paused = Some(now + pause);
                }
                self.look_by(app, now + pause, again);
            }
            Err(error) => {
                tracing::error!(
                    namespace = self.environment.namespace,
                    app,
                    error = &error as &dyn std::error::Error,
                    "reconciling broke off"
                );
                self.look_by(app, now + AFTER_PANIC, again);
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What a watch says.
enum Change {
    Touched(String),
    Removed(String),
    Nothing,
}

fn change<K: kube::Resource>(
    event: Result<watcher::Event<PartialObjectMeta<K>>, watcher::Error>,
) -> Change {
    let app = |object: &PartialObjectMeta<K>| object.labels().get(APP_LABEL).cloned();
    match event {
        Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
            app(&object).map_or(Change::Nothing, Change::Touched)
        }
        Ok(watcher::Event::Delete(object)) => {
            // Pods come and go.
            match std::any::type_name::<K>() == std::any::type_name::<Pod>() {
                true => app(&object).map_or(Change::Nothing, Change::Touched),
                false => app(&object).map_or(Change::Nothing, Change::Removed),
            }
        }
        Ok(watcher::Event::Init | watcher::Event::InitDone) => Change::Nothing,
        Err(error) => {
            tracing::debug!(%error, "a watch was interrupted; it begins again");
            Change::Nothing
        }
    }
}

fn wanted(environment: &Environment) -> Wanted {
    let cluster = environment.cluster.config();
    Wanted {
        environment: environment.id,
        namespace: environment.namespace.clone(),
        host_suffix: cluster.host_suffix(&environment.name, &environment.slug),
        gateway: cluster.gateway,
        secret_prefix: environment.config.secret_store.as_ref().map(|store| store.prefix.clone()),
        quota: environment.config.quota(),
    }
}

async fn wait(time: Duration, over: &CancellationToken) {
    tokio::select! {
        () = over.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
}

async fn load(context: &Context, id: Uuid) -> Result<Option<Environment>, sqlx::Error> {
    let mut tx = context.deployments.db.begin(Scope::Control).await?;
    let row = sqlx::query!(
        r#"SELECT e.id, e.name, e.namespace, e.status AS "status: EnvironmentStatus", e.message,
                  e.abandoned, e.config AS "config: Json<EnvironmentConfig>", o.slug, c.id AS cluster,
                  c.endpoint, c.credentials, c.config AS cluster_config
             FROM eve.environments e
             JOIN eve.organizations o ON o.id = e.org_id
             JOIN eve.clusters c ON c.id = e.cluster_id
            WHERE e.id = $1"#,
        id
    )
    .fetch_optional(&mut *tx)
    .await?;
    Ok(row.map(|row| Environment {
        id: row.id,
        name: row.name,
        namespace: row.namespace,
        status: row.status,
        abandoned: row.abandoned,
        message: row.message,
        config: row.config.0,
        slug: row.slug,
        cluster: Row {
            id: row.cluster,
            endpoint: row.endpoint,
            credentials: row.credentials,
            config: row.cluster_config,
        },
    }))
}

/// Whether somebody wants it deleted, it is gone, or it or its cluster is to be another than before.
async fn is_another(context: &Context, environment: &Environment) -> bool {
    match load(context, environment.id).await {
        Ok(Some(now)) => {
            now.status == EnvironmentStatus::Deleting
                || now.config != environment.config
                || now.cluster != environment.cluster
        }
        Ok(None) => true,
        Err(error) => {
            report("reading an environment", &error);
            false
        }
    }
}

/// Whether somebody wants it deleted, or it is gone.
async fn is_deleting(context: &Context, id: Uuid) -> bool {
    let asked = async {
        let mut tx = context.deployments.db.begin(Scope::Control).await?;
        sqlx::query_scalar!("SELECT status FROM eve.environments WHERE id = $1", id)
            .fetch_optional(&mut *tx)
            .await
    };
    match asked.await {
        Ok(status) => status.is_none_or(|status| status == EnvironmentStatus::Deleting.as_str()),
        Err(error) => {
            report("reading an environment", &error);
            false
        }
    }
}

/// Its namespace is as it should be.
async fn ready(context: &Context, environment: &Environment) -> Result<(), sqlx::Error> {
    let Some(mut tx) = context.term.begin_as(&context.deployments.db, Scope::Control).await? else {
        return Ok(());
    };
    sqlx::query!(
        "UPDATE eve.environments SET status = 'ready', message = NULL, provisioned_at = now()
          WHERE id = $1 AND status <> 'deleting'",
        environment.id
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}

/// Why it is not.
async fn troubled(
    context: &Context,
    environment: &Environment,
    failure: &Failure,
) -> Result<(), sqlx::Error> {
    let message = shown(&failure.to_string(), 500);
    if environment.message.as_deref() == Some(&message) {
        return Ok(());
    }
    // A cluster that is away says nothing of a namespace that was there.
    let status = match (failure, environment.status) {
        (_, EnvironmentStatus::Deleting) => EnvironmentStatus::Deleting,
        (Failure::Away(_), status) => status,
        _ => EnvironmentStatus::Failed,
    };
    let Some(mut tx) = context.term.begin_as(&context.deployments.db, Scope::Control).await? else {
        return Ok(());
    };
    sqlx::query!(
        "UPDATE eve.environments
            SET status = CASE WHEN status = 'deleting' THEN status ELSE $2 END, message = $3
          WHERE id = $1",
        environment.id,
        status.as_str(),
        message
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}

/// It is gone, and so is everything that was deployed in it: in batches, because a history can be long.
/// Whoever is stopped in between has left an environment that is being deleted, and whoever follows goes on.
async fn forget(context: &Context, environment: &Environment) -> Result<(), sqlx::Error> {
    loop {
        let begun = context.term.begin_as(&context.deployments.db, Scope::Control).await?;
        let Some(mut tx) = begun else { return Ok(()) };
        let more = sqlx::query_scalar!(
            r#"SELECT eve.forget_environment($1, $2) AS "more!""#,
            environment.id,
            FORGOTTEN
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        if !more {
            break;
        }
    }
    let abandoned = environment.abandoned;
    tracing::info!(namespace = environment.namespace, abandoned, "an environment is gone");
    Ok(())
}
