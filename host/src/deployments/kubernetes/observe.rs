//! What there is of a deployment in its cluster.

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod as KubePod};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use super::connection::patiently;
use super::failure::{Failure, shown};
use super::{APP_LABEL, MANAGED_BY, REVISION, TEMPLATE};
use crate::deployments::{Image, Pod};

/// Most pods that are looked at: the rest is counted by the Deployment itself.
const MOST_PODS: u32 = 200;
/// How long a container that was started again has to run before it is taken for one that stays.
pub const SHAKY_SECONDS: i64 = 12;

/// A deployment as it is found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// The generation of the Deployment.
    pub generation: i64,
    /// The generation that its controller has looked at.
    pub observed: i64,
    /// The revision that was applied.
    pub revision: i32,
    /// How many replicas it is to have at present.
    pub desired: i32,
    /// Pods that there are, those of older templates included.
    pub total: i32,
    /// Pods of the latest template.
    pub updated: i32,
    /// Pods of any template that are ready.
    pub available: i32,
    /// Why pods cannot be made, as its controller says.
    pub failure: Option<String>,
    /// Why the secrets that its pods wait for are not there, where somebody else puts them there.
    pub secrets: Option<String>,
    /// Its pods.
    pub pods: Vec<SeenPod>,
}

/// A pod as it is found.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenPod {
    /// As it is shown.
    pub pod: Pod,
    /// The revision that it was made for.
    pub template: i32,
    /// When its container was started again, if that was so recently that it may end once more.
    pub shaky_since: Option<DateTime<Utc>>,
    /// It is on its way out.
    pub ending: bool,
    /// What keeps it from being ready, if something does.
    pub trouble: Option<Trouble>,
    /// What its image's name meant.
    pub digest: Option<String>,
}

/// What keeps a pod from being ready.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trouble {
    /// What kind, the most telling last.
    pub kind: TroubleKind,
    /// In a sentence.
    pub message: String,
}

/// What kind of trouble, the most telling last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TroubleKind {
    /// It runs, and is not ready.
    NotReady,
    /// No node takes it.
    Unschedulable,
    /// Its container cannot be made.
    Config,
    /// Its image cannot be had.
    ImagePull,
    /// It ends again and again.
    CrashLoop,
    /// It wants to be root, or its image's name is none: no use in waiting.
    Hopeless,
}

impl TroubleKind {
    /// The word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            TroubleKind::NotReady => "not_ready",
            TroubleKind::Unschedulable => "unschedulable",
            TroubleKind::Config | TroubleKind::Hopeless => "container_config",
            TroubleKind::ImagePull => "image_pull",
            TroubleKind::CrashLoop => "crash_loop",
        }
    }
}

/// Looks; none if there is no Deployment.
pub async fn observe(client: &Client, namespace: &str, app: &str) -> Result<Option<Seen>, Failure> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let Some(deployment) = patiently(deployments.get_opt(app)).await? else { return Ok(None) };
    let pods: Api<KubePod> = Api::namespaced(client.clone(), namespace);
    let selector = format!("{APP_LABEL}={app},{}={}", MANAGED_BY.0, MANAGED_BY.1);
    let list = ListParams::default().labels(&selector).limit(MOST_PODS);
    let pods = patiently(pods.list(&list)).await?;
    Ok(Some(seen(&deployment, pods.items)))
}

fn seen(deployment: &Deployment, pods: Vec<KubePod>) -> Seen {
    let status = deployment.status.clone().unwrap_or_default();
    let failure = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")
        .and_then(|condition| condition.message.clone());
    let annotation = deployment.annotations().get(REVISION);
    Seen {
        generation: deployment.metadata.generation.unwrap_or_default(),
        observed: status.observed_generation.unwrap_or_default(),
        revision: annotation.and_then(|text| text.parse().ok()).unwrap_or_default(),
        desired: deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
        total: status.replicas.unwrap_or_default(),
        updated: status.updated_replicas.unwrap_or_default(),
        available: status.available_replicas.unwrap_or_default(),
        failure,
        secrets: None,
        pods: pods.iter().map(pod).collect(),
    }
}

fn pod(pod: &KubePod) -> SeenPod {
    let status = pod.status.clone().unwrap_or_default();
    let containers = status.container_statuses.clone().unwrap_or_default();
    let app = containers.iter().find(|container| container.name == "app").or(containers.first());
    let phase = status.phase.clone().unwrap_or_else(|| "Pending".into());
    let condition =
        |kind: &str| status.conditions.iter().flatten().find(|condition| condition.type_ == kind);
    let ready = condition("Ready").is_some_and(|condition| condition.status == "True");
    let ending = pod.metadata.deletion_timestamp.is_some();
    let waiting = app.and_then(|container| container.state.as_ref()?.waiting.clone());
    let stage = match &waiting {
        _ if ending => "Terminating".to_owned(),
        Some(waiting) if waiting.reason.is_some() => waiting.reason.clone().unwrap_or_default(),
        _ => phase.clone(),
    };
    let unschedulable = condition("PodScheduled")
        .filter(|condition| condition.status == "False")
        .and_then(|condition| condition.message.clone());
    let image = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.containers.first())
        .and_then(|container| container.image.clone())
        .unwrap_or_default();
    SeenPod {
        trouble: (!ready && !ending)
            .then(|| {
                trouble(app, unschedulable, condition("Ready").and_then(|c| c.message.clone()))
            })
            .flatten(),
        shaky_since: app.and_then(shaky_since).filter(|_| !ending),
        digest: app.and_then(|container| digest(&container.image_id)),
        template: pod
            .annotations()
            .get(TEMPLATE)
            .and_then(|text| text.parse().ok())
            .unwrap_or_default(),
        ending,
        pod: Pod {
            name: shown(&pod.name_any(), 253),
            status: shown(&stage, 100),
            ready: ready && !ending,
            restarts: app.map_or(0, |container| container.restart_count),
            version: image
                .parse::<Image>()
                .map(|image| image.version().to_owned())
                .unwrap_or_default(),
            started_at: status
                .start_time
                .as_ref()
                .and_then(|time| DateTime::from_timestamp(time.0.as_second(), 0)),
        },
    }
}

/// When a container was started again, within the last [`SHAKY_SECONDS`]. Where the cluster's clock is ahead
/// of ours nobody can tell.
fn shaky_since(container: &ContainerStatus) -> Option<DateTime<Utc>> {
    let running = container.state.as_ref()?.running.as_ref()?;
    let since = DateTime::from_timestamp(running.started_at.as_ref()?.0.as_second(), 0)?;
    let age = Utc::now() - since;
    let shaky = TimeDelta::seconds(-5)..TimeDelta::seconds(SHAKY_SECONDS);
    (container.restart_count > 0 && shaky.contains(&age)).then_some(since)
}

/// The digest in an image's id: `docker.io/acme/api@sha256:…`.
fn digest(image_id: &str) -> Option<String> {
    let digest = image_id.rsplit('@').next()?;
    crate::deployments::image::is_digest(digest).then(|| digest.to_owned())
}

/// What keeps a pod that is not ready from being so.
fn trouble(
    container: Option<&ContainerStatus>,
    unschedulable: Option<String>,
    unready: Option<String>,
) -> Option<Trouble> {
    if let Some(message) = unschedulable {
        return Some(Trouble { kind: TroubleKind::Unschedulable, message });
    }
    let state = container.and_then(|container| container.state.as_ref());
    if let Some(waiting) = state.and_then(|state| state.waiting.as_ref()) {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let said = waiting.message.clone().unwrap_or_default();
        let message = match said.is_empty() {
            true => reason.to_owned(),
            false => format!("{reason}: {said}"),
        };
        let kind = match reason {
            "ImagePullBackOff" | "ErrImagePull" | "ErrImageNeverPull" | "RegistryUnavailable" => {
                TroubleKind::ImagePull
            }
            "InvalidImageName" => TroubleKind::Hopeless,
            "CrashLoopBackOff" => {
                let message = ended(container).unwrap_or(message);
                return Some(Trouble { kind: TroubleKind::CrashLoop, message });
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                match said.contains("runAsNonRoot") || said.contains("run as root") {
                    true => TroubleKind::Hopeless,
                    false => TroubleKind::Config,
                }
            }
            // ContainerCreating, PodInitializing: on its way.
            _ => return None,
        };
        return Some(Trouble { kind, message });
    }
    if state.is_some_and(|state| state.terminated.is_some()) {
        let message = ended(container)?;
        return Some(Trouble { kind: TroubleKind::CrashLoop, message });
    }
    state.and_then(|state| state.running.as_ref())?;
    Some(Trouble {
        kind: TroubleKind::NotReady,
        message: unready.unwrap_or_else(|| "it runs, and is not ready".into()),
    })
}

/// How a container ended last.
fn ended(container: Option<&ContainerStatus>) -> Option<String> {
    let container = container?;
    let last = |state: &Option<ContainerState>| state.as_ref().and_then(|s| s.terminated.clone());
    let ended = last(&container.state).or_else(|| last(&container.last_state))?;
    let mut text = match (ended.reason.as_deref(), ended.signal) {
        (Some("OOMKilled"), _) => "it uses more memory than it may (OOMKilled)".to_owned(),
        (_, Some(signal)) if signal > 0 => format!("it ends by signal {signal}"),
        _ => format!("it ends with exit code {}", ended.exit_code),
    };
    if container.restart_count > 0 {
        text.push_str(&format!(", restarted {} times", container.restart_count));
    }
    if let Some(said) = ended.message.filter(|said| !said.is_empty()) {
        text.push_str(&format!(": {}", said.trim()));
    }
    Some(shown(&text, 500))
}
