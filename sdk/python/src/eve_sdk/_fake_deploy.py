"""The environments and deployments of a pretended organisation: what `deploy` answers in tests.

A run works on a copy of the host's estate. What it asks for is there at once, `pending` and without a
revision of its own; if the run ends well, the copy takes the place of the host's and its changes are
numbered (`commit`). They stay under way until the test says what became of them (`settle`).
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

from ._contract import dumps
from ._errors import Refused
from ._fake import NOW, json_object
from .deploy import Environment, State

_MOST_CHANGES = 100
_MOST_VARIABLES = 500
_VARIABLES_BYTES = 512 << 10
_SETTINGS_BYTES = 64 << 10
_MOST_LISTED = 1_000
_MOST_PODS = 100

_STATES = ("pending", "deploying", "running", "failed", "stopped")
_UNDER_WAY = ("pending", "deploying")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_APP = re.compile(r"(?=[a-z])[a-z0-9-]{0,49}[a-z0-9]")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,252}")
# [registry/]repository[:tag][@digest]; a registry has a dot or a port, or is localhost.
_HOST = "[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*"
_PART = r"[a-z0-9]+(?:(?:\.(?!\.)|[_-])+[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:(?:localhost|{_HOST}(?:\.{_HOST})+|{_HOST}(?=:))(?::[1-9][0-9]{{0,4}})?/)?{_PART}(?:/{_PART})*"
    r"(?::([A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(sha256:[0-9a-f]{64}))?"
)


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

    @property
    def is_gone(self) -> bool:
        return self.stopping or self.state == "stopped"

    def fill(self) -> None:
        """As many pods as there shall be are ready."""
        self.ready = self.desired
        self.pods = [
            SimpleNamespace(
                name=f"{self.app}-{index}", status="Running", ready=True, restarts=0, version=_version(self.image)
            )
            for index in range(min(self.desired, _MOST_PODS))
        ]

    def empty(self) -> None:
        """No pods are there."""
        self.ready, self.pods = 0, []


def _version(image: str) -> str:
    """The image's tag, else its digest."""
    found = _IMAGE.fullmatch(image)
    return (found and (found[1] or found[2])) or "latest"


def _check_image(image: str) -> None:
    if len(image) > 512:
        raise Refused("invalid", "image: is longer than 512 characters")
    if not _IMAGE.fullmatch(image):
        raise Refused("invalid", f"image: `{image}` is not an image, as in acme/api:v1.2.3")


def _check_app(app: str) -> None:
    if not _APP.fullmatch(app):
        raise Refused(
            "invalid",
            f"app: `{app}` is not a DNS label of at most 50 characters that begins with a letter: "
            "lower-case letters, digits and `-`, no `-` at the end",
        )


def _check_variables(pairs: list[tuple[str, str]]) -> None:
    if len(pairs) > _MOST_VARIABLES:
        raise Refused("invalid", f"env_vars: may be at most {_MOST_VARIABLES} variables")
    if sum(len(name.encode()) + len(value.encode()) for name, value in pairs) > _VARIABLES_BYTES:
        raise Refused("invalid", f"env_vars: may have at most {_VARIABLES_BYTES} bytes together")
    for name, value in pairs:
        if not _VARIABLE.fullmatch(name):
            raise Refused(
                "invalid", f"env_vars: `{name}` is not a variable's name: letters, digits and `_`, no digit first"
            )
        if "\0" in value:
            raise Refused("invalid", f"env_vars: {name}: may not contain the character U+0000")


def _within(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= most


def _quantity(units: str) -> Callable[[Any], bool]:
    form = re.compile(rf"([0-9]+\.?[0-9]*|\.[0-9]+)(?:{units})")

    def fits(value: Any) -> bool:
        found = form.fullmatch(value) if isinstance(value, str) else None
        return bool(found and len(found[1]) <= 12 and float(found[1]) > 0)

    return fits


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"/[!-~]{0,1023}", value))


def _is_command(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 100
        and all(isinstance(word, str) and len(word.encode()) <= 4096 for word in value)
    )


def _is_autoscale(value: Any) -> bool:
    if not isinstance(value, dict) or not _within(1, 100)(value.get("min")):
        return False
    percent = value.get("cpu_percent", 80)
    return _within(value["min"], 100)(value.get("max")) and _within(1, 100)(percent)


# By name: what fits, and what is to be done about what does not.
_SETTINGS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "port": (_within(1, 65_535), "must be 1 to 65535"),
    "health_path": (_is_path, "must be a path that begins with `/`, such as /healthz"),
    "cpu": (_quantity("m?"), "must be a number of cores, such as 250m or 2"),
    "memory": (
        _quantity("Ki|Mi|Gi|k|M|G"), "must be a number of bytes with its unit, such as 256Mi or 1Gi",
    ),
    "command": (_is_command, "must be at most 100 words of at most 4096 bytes"),
    "autoscale": (_is_autoscale, "must be at least 1 and at most 100 replicas, `min` first"),
    "run_as_user": (_within(1, 2_147_483_647), "must be 1 to 2147483647: nothing runs as root"),
    "deadline_s": (_within(5, 3_600), "must be 5 to 3600 seconds"),
}


def _check_settings(text: str | None) -> dict[str, Any]:
    """What was said, None being as if it were not.

    A name that is unknown here may be known to the platform.
    """
    said = json.loads(json_object("settings", text, _SETTINGS_BYTES))
    settings = {name: value for name, value in said.items() if value is not None}
    for name, value in settings.items():
        if name in _SETTINGS and not _SETTINGS[name][0](value):
            raise Refused("invalid", f"settings.{name}: {_SETTINGS[name][1]}")
    return settings


def _merged(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What is said now over what was said before. No command is none said."""
    return {**before, **{name: value for name, value in now.items() if (name, value) != ("command", [])}}


class Estate:
    """Everything that the organisation has deployed, and where."""

    def __init__(
        self,
        next_id: Callable[[], str],
        worker_type: str,
        environments: Iterable[str | Environment] = (),
        apps: Iterable[str] = (),
        deployments: Iterable[Deployed] = (),
    ) -> None:
        self._next, self._worker_type = next_id, worker_type
        self._environments: dict[str, Environment] = {}
        self._apps = set(apps)
        self._deployments: dict[tuple[str, str], _Deployment] = {}
        #: What was asked for since the last commit.
        self.changes: list[Change] = []
        #: Ids of deployments that the request is woken for.
        self.awaited: set[str] = set()
        for one in environments:
            self._add_environment(Environment(one) if isinstance(one, str) else one)
        for given in deployments:
            self._add_deployment(given)

    def _add_environment(self, one: Environment) -> None:
        if not _LABEL.fullmatch(one.name) or len(one.name) > 40:
            raise ValueError(f"{one.name!r} is not the name of an environment")
        self._environments[one.name] = one

    def _add_deployment(self, given: Deployed) -> None:
        if given.state not in _STATES:
            raise ValueError(f"{given.state!r} is none of {', '.join(_STATES)}")
        images = [*given.before, given.image]
        for image in images:
            _check_image(image)
        _check_app(given.app)
        if given.env not in self._environments:
            self._add_environment(Environment(given.env))
        self._apps.add(given.app)
        one = _Deployment(given.id or self._next(), given.env, given.app, given.state, given.image, given.replicas)
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
        self._deployments[given.env, given.app] = one
        if given.asked_for and given.state in _UNDER_WAY:
            self.awaited.add(one.id)

    def copy(self) -> Estate:
        """For a run: what it changes there, nobody sees."""
        made = Estate(self._next, self._worker_type, self._environments.values(), self._apps)
        made._deployments = copy.deepcopy(self._deployments)
        made.awaited = set(self.awaited)
        return made

    def commit(self) -> None:
        """What a run asked for comes to be."""
        asked = {change.id for change in self.changes}
        for one in self._deployments.values():
            if one.id not in asked:
                continue
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

    def settle(self, id: str, status: State, reason: str | None, message: str | None) -> bool:
        """A deployment comes to rest; whether the request is woken for it."""
        one = self._with_id(id)
        ends = ("stopped",) if one.stopping else ("running", "failed", "stopped")
        if one.state not in _UNDER_WAY:
            raise ValueError(f"deployment {id} has settled already: it is {one.state}")
        if status not in ends:
            raise ValueError(f"deployment {id} settles as {', '.join(ends)}, not as {status}")
        one.state, one.reason, one.message, one.stopping = status, reason, message, False
        latest = one.revisions[-1]
        latest.outcome = latest.outcome or status
        if status == "running":
            one.fill()
            latest.ran = True
        elif status == "stopped":
            one.empty()
        else:
            latest.reason, latest.message = reason, message
        woken = id in self.awaited
        self.awaited.discard(id)
        return woken

    def _permitted(self, env: str) -> None:
        """Whether this run may deploy there."""
        self._known(env)
        found = self._environments[env]
        if not found.allowed:
            raise Refused("denied", f"skills of the worker type `{self._worker_type}` may not deploy to `{env}`")
        if found.status == "deleting":
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
        _check_app(app)
        _check_image(image)
        if pairs is not None:
            _check_variables(pairs)
        said = _check_settings(of["settings"])
        self._permitted(env)
        if app not in self._apps and not of["register"]:
            raise Refused("not_found", f"there is no app `{app}`")
        self._apps.add(app)
        if (env, app) not in self._deployments:
            self._deployments[env, app] = _Deployment(self._next(), env, app)
        one = self._deployments[env, app]
        # What it was before it was deleted is no reason to be so again.
        before = None if one.is_gone else one.revisions[-1]
        settings = _merged(before.settings if before else {}, said)
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
                found = [revision for revision in ran if _version(revision.image) == wanted]
                what = f"version `{wanted}`"
            case "revision":
                found = [revision for revision in ran if revision.revision == wanted]
                what = f"revision {wanted}"
            case _:
                found = [revision for revision in ran if revision.template != now.template]
                what = "other version"
        if not found:
            others = [str(other.revision) if tag == "revision" else _version(other.image) for other in ran]
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
            version=_version(one.image), revision=one.committed, desired=one.desired, ready=one.ready, pods=pods,
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
                revision=past.revision, kind=past.kind, image=past.image, version=_version(past.image),
                replicas=past.replicas, outcome=past.outcome, reason=past.reason, message=past.message,
                created_at=NOW, settled_at=NOW if past.outcome else None,
            )
            for past in reversed(one.revisions[: one.committed])
        ][:limit]

    def platform(self) -> SimpleNamespace:
        """The contract's interface."""
        return SimpleNamespace(
            environments=lambda: [one for _, one in sorted(self._environments.items())],
            create=self.create, scale=self.scale, rollback=self.rollback, delete=self.delete,
            status=self.status, list=self._list, history=self.history,
        )
