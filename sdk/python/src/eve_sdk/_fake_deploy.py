"""The environments and deployments of a pretended organisation: what `deploy` answers in tests.

A run works on a copy of the host's estate. What it asks for is there at once, `pending` and without a
revision of its own; if the run ends well, the copy takes the place of the host's and its changes are
numbered (`commit`). They stay under way until the test says what became of them (`settle`): of what was
refused after all nothing stays.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, Literal

from ._contract import dumps
from ._errors import Refused
from ._fake import NOW
from ._fake_cluster import Clusters
from ._fake_forms import check_app, check_image, check_settings, check_variables, is_environment, merged, version
from .deploy import Environment, LogLine, State

_MOST_CHANGES = 100
_MOST_LISTED = 1_000
_MOST_PODS = 100

_STATES = ("pending", "deploying", "running", "failed", "stopped")
_UNDER_WAY = ("pending", "deploying")
#: Reasons for which what was asked for was never done.
_REFUSED = ("not_found", "forbidden", "conflict", "invalid", "rejected", "not_approved")

@dataclass(frozen=True)
class Deployed:
    """An app that is deployed already. Its environment and its app are then there as well."""

    env: str
    app: str
    image: str
    replicas: int = 1
    #: Images that ran before, oldest first.
    before: Sequence[str] = ()
    state: State = "running"
    env_vars: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    message: str | None = None
    #: An earlier run of the request asked for what is under way, and it is woken when that settles.
    asked_for: bool = False
    id: str | None = None
    #: What its pods have written, the newest pod first; a str is a line of the pod `APP-0`.
    logs: Sequence[str | LogLine] = ()


@dataclass(frozen=True)
class Change:
    """A change of a deployment that a run asked for, with what the skill said."""

    kind: Literal["create", "scale", "rollback", "delete"]
    id: str
    env: str
    app: str
    image: str | None = None
    replicas: int | None = None
    env_vars: dict[str, str] | None = None
    settings: dict[str, Any] | None = None
    register: bool = False
    #: What a rollback goes back to; the previous one without either.
    version: str | None = None
    revision: int | None = None


@dataclass
class _Revision:
    revision: int
    #: The revision whose pods it has: one that scales makes none anew.
    template: int
    kind: str
    image: str
    replicas: int
    settings: dict[str, Any]
    variables: list[str]
    outcome: str | None = None
    ran: bool = False
    reason: str | None = None
    message: str | None = None


@dataclass
class _Deployment:
    id: str
    env: str
    app: str
    state: State = "stopped"
    image: str = ""
    desired: int = 0
    ready: int = 0
    pods: list[SimpleNamespace] = field(default_factory=list)
    reason: str | None = None
    message: str | None = None
    stopping: bool = False
    revisions: list[_Revision] = field(default_factory=list)
    #: How many of the revisions are not a run's own.
    committed: int = 0
    #: Before what is under way was asked for, and whether the request was woken for it then.
    earlier: _Deployment | None = None
    awaited: bool = False

    @property
    def is_gone(self) -> bool:
        return self.stopping or self.state == "stopped"

    def fill(self) -> None:
        """As many pods as there shall be are ready."""
        self.ready = self.desired
        self.pods = [
            SimpleNamespace(
                name=f"{self.app}-{index}", status="Running", ready=True, restarts=0, version=version(self.image)
            )
            for index in range(min(self.desired, _MOST_PODS))
        ]

    def come(self, status: State, reason: str | None, message: str | None) -> None:
        """It comes to rest."""
        self.state, self.reason, self.message = status, reason, message
        self.stopping, self.earlier = False, None
        latest = self.revisions[-1]
        latest.outcome = latest.outcome or status
        if status == "running":
            self.fill()
            latest.ran = True
        elif status == "stopped":
            self.empty()
        else:
            latest.reason, latest.message = reason, message

    def supersede(self) -> None:
        """What somebody else has asked for is on its way."""
        ours = self.revisions[-1]
        ours.outcome = ours.outcome or "superseded"
        self.committed = number = len(self.revisions) + 1
        self.revisions.append(
            replace(ours, revision=number, template=number, kind="updated", outcome=None, ran=False)
        )
        self.state, self.stopping, self.reason, self.message = "deploying", False, None, None

    def empty(self) -> None:
        """No pods are there."""
        self.ready, self.pods = 0, []


class Estate:
    """Everything that the organisation has deployed, and where."""

    def __init__(
        self,
        next_id: Callable[[], str],
        worker_type: str,
        environments: Iterable[str | Environment] = (),
        apps: Iterable[str] = (),
        deployments: Iterable[Deployed] = (),
        kubernetes: Mapping[tuple[str, str], Any] | None = None,
        unreachable: Iterable[str] = (),
    ) -> None:
        self._next, self._worker_type = next_id, worker_type
        self._environments: dict[str, Environment] = {}
        self._apps = set(apps)
        unreachable = tuple(unreachable)
        self._clusters = Clusters(unreachable)
        self._deployments: dict[tuple[str, str], _Deployment] = {}
        #: Before the run.
        self._earlier: dict[tuple[str, str], _Deployment] = {}
        #: What was asked for since the last commit.
        self.changes: list[Change] = []
        #: Ids of deployments that the request is woken for.
        self.awaited: set[str] = set()
        for one in environments:
            self._add_environment(Environment(one) if isinstance(one, str) else one)
        for name in unreachable:
            self._imply(name)
        for given in deployments:
            self._add_deployment(given)
        for (env, path), answer in (kubernetes or {}).items():
            self.answers(env, path, answer)

    def _add_environment(self, one: Environment) -> None:
        if not is_environment(one.name):
            raise ValueError(f"{one.name!r} is not the name of an environment")
        self._environments[one.name] = one

    def _imply(self, name: str) -> None:
        """What the test speaks of is there."""
        if name not in self._environments:
            self._add_environment(Environment(name))

    def _add_deployment(self, given: Deployed) -> None:
        if given.state not in _STATES:
            raise ValueError(f"{given.state!r} is none of {', '.join(_STATES)}")
        for image in (*given.before, given.image):
            check_image(image)
        check_app(given.app)
        self._imply(given.env)
        self._apps.add(given.app)
        one = self._standing(given, given.id or self._next())
        self._deployments[given.env, given.app] = one
        if given.asked_for and given.state in _UNDER_WAY:
            self.awaited.add(one.id)
        self._clusters.wrote(one.id, one.app, given.logs)

    def _standing(self, given: Deployed, id: str) -> _Deployment:
        images = [*given.before, given.image]
        one = _Deployment(id, given.env, given.app, given.state, given.image, given.replicas)
        one.reason, one.message, one.committed = given.reason, given.message, len(images)
        settings = json.loads(dumps("settings", dict(given.settings)))
        one.revisions = [
            _Revision(
                number, number, "created" if number == 1 else "updated", image, given.replicas, settings,
                sorted(given.env_vars), outcome="running", ran=True,
            )
            for number, image in enumerate(images, 1)
        ]
        if given.state == "running":
            one.fill()
        elif given.state != "stopped":
            latest = one.revisions[-1]
            latest.outcome, latest.ran = "failed" if given.state == "failed" else None, False
            latest.reason, latest.message = given.reason, given.message
        if given.state in _UNDER_WAY and given.before:
            ran = replace(given, image=given.before[-1], before=given.before[:-1], state="running")
            one.earlier = self._standing(ran, id)
        return one

    def wrote(self, id: str, lines: Iterable[str | LogLine]) -> None:
        """What the pods of a deployment have written."""
        self._clusters.wrote(id, self._with_id(id).app, lines)

    def answers(self, env: str, path: str, answer: Any) -> None:
        """What the Kubernetes API answers."""
        self._imply(env)
        self._clusters.answers(env, path, answer)

    def copy(self) -> Estate:
        """For a run: what it changes there, nobody sees."""
        made = Estate(self._next, self._worker_type, self._environments.values(), self._apps)
        made._deployments = copy.deepcopy(self._deployments)
        made._earlier = self._deployments
        made.awaited = set(self.awaited)
        made._clusters = self._clusters
        return made

    def commit(self) -> None:
        """What a run asked for comes to be."""
        asked = {change.id for change in self.changes}
        for place, one in self._deployments.items():
            if one.id not in asked:
                continue
            one.earlier = self._earlier.get(place)
            if one.earlier:
                one.earlier.awaited = one.id in self.awaited
            for revision in one.revisions[:-1]:
                revision.outcome = revision.outcome or "superseded"
            one.committed = len(one.revisions)
            if one.stopping:
                latest = one.revisions[-1]
                latest.outcome = latest.outcome or "stopped"
                one.state = "deploying"
        self.awaited |= asked
        self.changes = []

    def _with_id(self, id: str) -> _Deployment:
        found = [one for one in self._deployments.values() if one.id == id]
        if not found:
            raise ValueError(f"there is no deployment {id}")
        return found[0]

    def state_of(self, id: str) -> State:
        """Where a deployment stands."""
        return self._with_id(id).state

    def settle(
        self, id: str, status: State, reason: str | None, message: str | None
    ) -> dict[str, Any] | None:
        """A deployment comes to rest: what the request is told that is woken for it, if it is."""
        one = self._with_id(id)
        refused = status == "failed" and reason in _REFUSED
        superseded = status == "failed" and reason == "superseded"
        deleted = one.stopping and not refused and not superseded
        ends = ("stopped",) if deleted else ("running", "failed", "stopped")
        if one.state not in _UNDER_WAY:
            raise ValueError(f"deployment {id} has settled already: it is {one.state}")
        if status not in ends:
            raise ValueError(f"deployment {id} settles as {', '.join(ends)}, not as {status}")
        told = {
            "env": one.env, "app": one.app, "revision": None if refused else one.committed, "message": message,
        }
        woken = id in self.awaited
        self.awaited.discard(id)
        if refused:
            self._undo(one)
        elif superseded:
            one.supersede()
        else:
            one.come(status, reason, message)
        return told if woken else None

    def _undo(self, one: _Deployment) -> None:
        """What was asked for is not to be."""
        if one.earlier is None:
            del self._deployments[one.env, one.app]
            return
        self._deployments[one.env, one.app] = one.earlier
        if one.earlier.awaited:
            self.awaited.add(one.id)

    def _allowed(self, env: str) -> Environment:
        """The environment, if it is one of those that are for this run's worker type."""
        self._known(env)
        found = self._environments[env]
        if not found.allowed:
            raise Refused("denied", f"skills of the worker type `{self._worker_type}` may not deploy to `{env}`")
        return found

    def _permitted(self, env: str) -> None:
        """Whether this run may deploy there."""
        if self._allowed(env).status == "deleting":
            raise Refused("conflict", f"the environment `{env}` is being deleted")

    def _known(self, env: str) -> None:
        if env not in self._environments:
            raise Refused("not_found", f"there is no environment `{env}`")

    def _any(self, env: str, app: str) -> _Deployment:
        self._known(env)
        if (env, app) not in self._deployments:
            raise Refused("not_found", f"there is no deployment `{app} in {env}`")
        return self._deployments[env, app]

    def _existing(self, env: str, app: str) -> _Deployment:
        """A deployment that can be changed."""
        self._room()
        self._permitted(env)
        one = self._any(env, app)
        if one.is_gone:
            raise Refused("not_found", f"there is no deployment `{app}`")
        return one

    def _room(self) -> None:
        if len(self.changes) >= _MOST_CHANGES:
            raise Refused("limit", f"a run asks for at most {_MOST_CHANGES} changes of deployments")

    def _revise(
        self, one: _Deployment, kind: str, image: str, replicas: int, settings: dict[str, Any],
        variables: list[str], template: int | None = None,
    ) -> None:
        number = len(one.revisions) + 1
        one.revisions.append(
            _Revision(number, template or number, kind, image, replicas, settings, variables)
        )
        one.state, one.stopping, one.image, one.desired = "pending", False, image, replicas
        one.reason = one.message = None

    def create(self, of: dict[str, Any]) -> str:
        """Deploys."""
        self._room()
        env, app, image, pairs = of["env"], of["app"], of["image"], of["env_vars"]
        check_app(app)
        check_image(image)
        if pairs is not None:
            check_variables(pairs)
        said = check_settings(of["settings"])
        self._permitted(env)
        if app not in self._apps and not of["register"]:
            raise Refused("not_found", f"there is no app `{app}`")
        self._apps.add(app)
        if (env, app) not in self._deployments:
            self._deployments[env, app] = _Deployment(self._next(), env, app)
        one = self._deployments[env, app]
        # What it was before it was deleted is no reason to be so again.
        before = None if one.is_gone else one.revisions[-1]
        settings = merged(before.settings if before else {}, said)
        replicas = of["replicas"]
        if replicas is not None:
            # Whoever says how many replicas there shall be does not want the load to say so.
            if not said.get("autoscale"):
                settings.pop("autoscale", None)
        elif before:
            replicas = before.replicas
        else:
            replicas = (settings.get("autoscale") or {}).get("min", 1)
        variables = before.variables if before else []
        if pairs is not None:
            variables = sorted(name for name, _ in pairs)
        self._revise(one, "updated" if before else "created", image, replicas, settings, variables)
        self.changes.append(
            Change(
                "create", one.id, env, app, image, of["replicas"], None if pairs is None else dict(pairs),
                None if of["settings"] is None else said, of["register"],
            )
        )
        return one.id

    def scale(self, env: str, app: str, replicas: int) -> str:
        """Gives a deployment another number of replicas."""
        one = self._existing(env, app)
        before = one.revisions[-1]
        autoscale = before.settings.get("autoscale")
        if autoscale:
            raise Refused(
                "conflict",
                f"`{app}` has {autoscale.get('min')} to {autoscale.get('max')} replicas, as its load wants: "
                "deploy it without autoscaling to say how many",
            )
        self._revise(
            one, "scaled", before.image, replicas, before.settings, before.variables, before.template
        )
        self.changes.append(Change("scale", one.id, env, app, replicas=replicas))
        return one.id

    def rollback(self, env: str, app: str, to: tuple[str, Any]) -> str:
        """Goes back to what once ran."""
        one = self._existing(env, app)
        tag, wanted = to
        now = one.revisions[-1]
        ran = [revision for revision in reversed(one.revisions) if revision.ran]
        match tag:
            case "version":
                found = [revision for revision in ran if version(revision.image) == wanted]
                what = f"version `{wanted}`"
            case "revision":
                found = [revision for revision in ran if revision.revision == wanted]
                what = f"revision {wanted}"
            case _:
                found = [revision for revision in ran if revision.template != now.template]
                what = "other version"
        if not found:
            others = [str(other.revision) if tag == "revision" else version(other.image) for other in ran]
            these = f"; these did: {', '.join(list(dict.fromkeys(others))[:20])}" if others else ""
            raise Refused("conflict", f"no {what} of `{app}` ever ran in `{env}`{these}")
        target = found[0]
        self._revise(one, "rolled_back", target.image, now.replicas, target.settings, target.variables)
        named = {} if tag == "previous" else {tag: wanted}
        self.changes.append(Change("rollback", one.id, env, app, **named))
        return one.id

    def delete(self, env: str, app: str) -> str:
        """Takes everything of a deployment out of its environment."""
        one = self._existing(env, app)
        one.state, one.stopping = "pending", True
        one.reason, one.message = "stopping", "it is being deleted"
        self.changes.append(Change("delete", one.id, env, app))
        return one.id

    def _shown(self, one: _Deployment, pods: list[SimpleNamespace]) -> SimpleNamespace:
        latest = one.revisions[-1]
        return SimpleNamespace(
            id=one.id, app=one.app, env=one.env, state=one.state, image=one.image,
            version=version(one.image), revision=one.committed, desired=one.desired, ready=one.ready, pods=pods,
            reason=one.reason, message=one.message, updated_at=NOW,
            config=json.dumps({**latest.settings, "variables": latest.variables}),
        )

    def status(self, env: str, app: str) -> SimpleNamespace:
        """How a deployment stands."""
        one = self._any(env, app)
        return self._shown(one, one.pods)

    def _list(self, env: str | None) -> list[SimpleNamespace]:
        if env is not None:
            self._known(env)
        found = [
            self._shown(one, [])
            for _, one in sorted(self._deployments.items())
            if one.state != "stopped" and env in (None, one.env)
        ]
        return found[:_MOST_LISTED]

    def history(self, env: str, app: str, limit: int) -> list[SimpleNamespace]:
        """A deployment's revisions, latest first."""
        one = self._any(env, app)
        return [
            SimpleNamespace(
                revision=past.revision, kind=past.kind, image=past.image, version=version(past.image),
                replicas=past.replicas, outcome=past.outcome, reason=past.reason, message=past.message,
                created_at=NOW, settled_at=NOW if past.outcome else None,
            )
            for past in reversed(one.revisions[: one.committed])
        ][:limit]

    def logs(self, env: str, app: str, tail: int) -> list[SimpleNamespace]:
        """The last lines of each of a deployment's pods."""
        self._allowed(env)
        one = self._any(env, app)
        if one.committed == 0:
            # What only this run knows of, no cluster does.
            raise Refused("not_found", f"there is no deployment `{app} in {env}`")
        return [] if one.state == "stopped" else self._clusters.logs(env, one.id, tail)

    def kubernetes(self, env: str, path: str) -> str:
        """What the Kubernetes API answers, as JSON."""
        self._allowed(env)
        return self._clusters.kubernetes(env, path)

    def platform(self) -> SimpleNamespace:
        """The contract's interface."""
        return SimpleNamespace(
            environments=lambda: [one for _, one in sorted(self._environments.items())],
            create=self.create, scale=self.scale, rollback=self.rollback, delete=self.delete,
            status=self.status, list=self._list, history=self.history, logs=self.logs,
            kubernetes=self.kubernetes,
        )
