"""Apps of the organisation, in its own environments: deploy them, scale them, roll them back, look at them.

What is asked for is checked at once and committed together with the run's outcome: all of it or, when the
run fails or is lost, none of it. Then the platform makes it so. That takes a while, and can fail: return
`waiting()`, and the trigger `DeploymentSettled` says how it ended. The last change that a run asks for of a
deployment is the one that it is woken for; at most 100 changes in one run. Needs the capability `deploy`.

Between the call and the platform's doing it the world may change. What cannot be done any more settles as
`failed`, and its reason is `not_found`, `forbidden`, `conflict` or `invalid`; `rejected` or `not_approved`
where a person was asked; `superseded` where somebody else changed the deployment before this change was
there. Else the reason is what became of it: `image_pull`, `crash_loop`, `not_ready`, `quota`, `admission`, …
The id is the one that the run was told, even if somebody else deployed the app first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from ._contract import integer, moment, read, text, write
from ._errors import call, invalid
from ._platform import platform

__all__ = [
    "Deployment", "Environment", "LogLine", "Pod", "Replicas", "Revision", "State",
    "create", "delete", "environments", "history", "kubernetes", "list_deployments", "logs", "rollback",
    "scale", "status",
]

#: Where a deployment stands; the last three are where it comes to rest.
#:
#: - `pending`: it was asked for; the cluster has not taken it yet. What waits for an approval does not show
#:   until it is approved.
#: - `deploying`: the cluster has taken it; not all of it is there or, with the reason `stopping`, not all of
#:   it is gone yet.
#: - `running`: as many replicas as there shall be are ready, of the latest revision and no other.
#: - `failed`: it is not there, and its time is over, or there is no use in waiting.
#: - `stopped`: nothing of it is there.
State = Literal["pending", "deploying", "running", "failed", "stopped"]

_MOST_REPLICAS = 1_000
_MOST_LINES = 1_000
_SETTLED = ("running", "failed", "stopped")


@dataclass(frozen=True)
class Environment:
    """A place to deploy to."""

    name: str
    #: What is asked for before it is ready waits.
    status: Literal["provisioning", "ready", "failed", "deleting"] = "ready"
    #: Why it is not ready.
    message: str | None = None
    #: Whether skills of this run's worker type may deploy to it.
    allowed: bool = True
    #: Whether a person is asked before what a skill asks for is done.
    approval: bool = False


@dataclass(frozen=True)
class Pod:
    """One pod of a deployment."""

    name: str
    #: `Pending`, `Running`, `Succeeded`, `Failed`, or why a container waits: `CrashLoopBackOff`.
    status: str
    #: Whether it takes traffic.
    ready: bool
    #: How often its containers have been started again.
    restarts: int
    #: The version that it runs.
    version: str


@dataclass(frozen=True)
class Replicas:
    """How many replicas there are."""

    #: How many there shall be.
    desired: int
    #: How many of the latest revision are ready.
    ready: int


@dataclass(frozen=True)
class Deployment:
    """An app in an environment."""

    #: What the trigger `DeploymentSettled` names.
    id: str
    app: str
    env: str
    state: State
    image: str
    #: The image's tag.
    version: str
    #: The latest revision, from 1; 0 if the first is this run's own and not committed yet.
    revision: int
    replicas: Replicas
    #: At most 100, those that are not ready first; of `status` only.
    pods: list[Pod]
    #: Why it stands there, in a word: `image_pull`, `crash_loop`, `not_ready`, `quota`, `admission`, …
    reason: str | None
    #: The same in a sentence.
    message: str | None
    #: Its settings, and `variables`, the names of its environment variables.
    config: dict[str, Any]
    updated_at: datetime

    @property
    def is_settled(self) -> bool:
        """Whether it has come to rest: `running`, `failed` or `stopped`."""
        return self.state in _SETTLED


@dataclass(frozen=True)
class Revision:
    """A change that was asked for, and what became of it."""

    #: From 1.
    revision: int
    kind: Literal["created", "updated", "scaled", "rolled_back"]
    image: str
    version: str
    replicas: int
    #: None while it is under way.
    outcome: Literal["running", "failed", "superseded", "stopped"] | None
    #: Why it failed, in a word.
    reason: str | None
    #: The same in a sentence.
    message: str | None
    created_at: datetime
    settled_at: datetime | None


@dataclass(frozen=True)
class LogLine:
    """A line that a pod has written."""

    #: The pod's name.
    pod: str
    #: At most 16 KiB of it.
    line: str


def _named(what: str, value: Any, example: str) -> str:
    given = text(what, value)
    if not given:
        raise invalid(f"{what} is missing, such as {example!r}")
    return given


def _place(what: str, env: Any, app: Any) -> tuple[str, str]:
    return _named(f"{what}: env", env, "prod"), _named(f"{what}: app", app, "api-service")


def _variables(what: str, given: Mapping[str, str] | None) -> list[tuple[str, str]] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise invalid(f"{what}: is of type {type(given).__name__}, not a mapping of variables")
    for name, value in given.items():
        if not isinstance(name, str):
            raise invalid(f"{what}: the name {name!r:.80} is not a str")
        if not isinstance(value, str):
            # Values are not shown: they need not be for everybody's eyes.
            raise invalid(f"{what}: {name}: is of type {type(value).__name__}, not str")
    return list(given.items())


def environments() -> list[Environment]:
    """The organisation's environments, by name."""
    found = call(platform("deploy").environments)
    return [Environment(one.name, one.status, one.message, one.allowed, one.approval) for one in found]


def create(
    env: str,
    app: str,
    *,
    image: str,
    replicas: int | None = None,
    env_vars: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    register: bool = False,
) -> str:
    """Deploys an app, or something else of it in place of what is there, and returns the deployment's id.

    - `app`: a DNS label of at most 50 characters that begins with a letter.
    - `image`: `[registry/]repository[:tag][@digest]`, at most 512 characters.
    - `replicas`: 0 to 1,000. As many as there are when absent; 1 at first.
    - `env_vars`: environment variables by name, each once, all of them: those of before are forgotten. As
      they are when absent. At most 500 of 512 KiB together. Secrets do not belong here.
    - `settings`: how it is to run, by the names that the HTTP API has, such as
      `{"port": 8080, "health_path": "/healthz", "cpu": "250m", "memory": "256Mi"}`; at most 64 KiB. What is
      not named stays as it is.
    - `register`: registers the app if the organisation has none of that name; else that is `not_found`.
    """
    what = "deploy.create"
    env, app = _place(what, env, app)
    if not isinstance(register, bool):
        raise invalid(f"{what}: register: {register!r:.80} is neither True nor False")
    fields = {
        "env": env,
        "app": app,
        "register": register,
        "image": _named(f"{what}: image", image, "acme/api:v1.2.3"),
        "replicas": integer(f"{what}: replicas", replicas, 0, _MOST_REPLICAS),
        "env_vars": _variables(f"{what}: env_vars", env_vars),
        "settings": write(f"{what}: settings", dict(settings) if isinstance(settings, Mapping) else settings),
    }
    return call(platform("deploy").create, fields)


def scale(env: str, app: str, replicas: int) -> str:
    """Gives a deployment another number of replicas, 0 to 1,000, and returns its id."""
    place = _place("deploy.scale", env, app)
    if replicas is None:
        raise invalid("deploy.scale: replicas is missing: how many replicas there shall be")
    return call(platform("deploy").scale, *place, integer("deploy.scale: replicas", replicas, 0, _MOST_REPLICAS))


def rollback(env: str, app: str, *, version: str | None = None, revision: int | None = None) -> str:
    """Goes back to what once ran, its image and its configuration, and returns the deployment's id.

    To the latest revision that ran with this version, an image's tag; or to this revision; or else to the
    last one that ran before the present one.
    """
    what = "deploy.rollback"
    place = _place(what, env, app)
    if version is not None and revision is not None:
        raise invalid(f"{what}: give a version or a revision, not both")
    target: tuple[str, Any] = ("previous", None)
    if version is not None:
        target = ("version", _named(f"{what}: version", version, "v1.2.2"))
    if revision is not None:
        target = ("revision", integer(f"{what}: revision", revision, 1, 2**32 - 1))
    return call(platform("deploy").rollback, *place, target)


def delete(env: str, app: str) -> str:
    """Takes everything of a deployment out of its environment, and returns its id. Its history stays."""
    return call(platform("deploy").delete, *_place("deploy.delete", env, app))


def _deployment(one: Any) -> Deployment:
    return Deployment(
        id=one.id,
        app=one.app,
        env=one.env,
        state=one.state,
        image=one.image,
        version=one.version,
        revision=one.revision,
        replicas=Replicas(one.desired, one.ready),
        pods=[Pod(pod.name, pod.status, pod.ready, pod.restarts, pod.version) for pod in one.pods],
        reason=one.reason,
        message=one.message,
        config=read(one.config),
        updated_at=moment(one.updated_at),
    )


def status(env: str, app: str) -> Deployment:
    """How a deployment stands. What this run has asked for shows as `pending`."""
    return _deployment(call(platform("deploy").status, *_place("deploy.status", env, app)))


def list_deployments(env: str | None = None) -> list[Deployment]:
    """The organisation's deployments, or those of one environment, by environment and app.

    At most 1,000, without those that are stopped.
    """
    of = None if env is None else _named("deploy.list_deployments: env", env, "prod")
    return [_deployment(one) for one in call(platform("deploy").list, of)]


def history(env: str, app: str, *, limit: int = 20) -> list[Revision]:
    """A deployment's revisions, latest first; 1 to 100 of them.

    Not those that this run has asked for: they have no numbers yet.
    """
    what = "deploy.history"
    place = _place(what, env, app)
    if limit is None:
        raise invalid(f"{what}: limit: None is not an int from 1 to 100")
    found = call(platform("deploy").history, *place, integer(f"{what}: limit", limit, 1, 100))
    return [
        Revision(
            revision=one.revision,
            kind=one.kind,
            image=one.image,
            version=one.version,
            replicas=one.replicas,
            outcome=one.outcome,
            reason=one.reason,
            message=one.message,
            created_at=moment(one.created_at),
            settled_at=None if one.settled_at is None else moment(one.settled_at),
        )
        for one in found
    ]


def logs(env: str, app: str, *, tail: int = 100) -> list[LogLine]:
    """The last lines of each of a deployment's pods, 1 to 1,000 of them.

    The newest pods first, at most 20 pods and 1 MiB. The cluster is asked, which takes a moment:
    `unavailable` if it does not answer within 30 seconds.
    """
    what = "deploy.logs"
    place = _place(what, env, app)
    if tail is None:
        raise invalid(f"{what}: tail: None is not an int from 1 to {_MOST_LINES}")
    found = call(platform("deploy").logs, *place, integer(f"{what}: tail", tail, 1, _MOST_LINES))
    return [LogLine(one.pod, one.line) for one in found]


def kubernetes(env: str, path: str) -> Any:
    """Reads the Kubernetes API for what there is no function for, in the environment's own namespace.

    With the rights of a viewer: no Secrets, nothing of others. `path` is as the API has it without the
    namespace: `api/v1/pods`, `apis/apps/v1/replicasets?labelSelector=…`, `api/v1/configmaps/NAME`. The
    answer is the API's, parsed, at most 1 MiB of JSON; asked like `logs`.
    """
    what = "deploy.kubernetes"
    of = _named(f"{what}: env", env, "prod"), _named(f"{what}: path", path, "api/v1/pods")
    return read(call(platform("deploy").kubernetes, *of))
