"""What this run was asked to do, and why it takes place."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from ._contract import moment, read
from ._platform import platform


@dataclass(frozen=True)
class Initial:
    """The request's first run, or another attempt at it."""


@dataclass(frozen=True)
class ChildComplete:
    """A child that replies to this orchestrator ended."""

    request_id: str
    #: `completed`, `failed` or `cancelled`.
    status: str


@dataclass(frozen=True)
class HitlResponse:
    """A person answered, or the question expired."""

    question_id: str
    response: Any = None
    answered_by: str | None = None
    expired: bool = False


@dataclass(frozen=True)
class DeploymentSettled:
    """A deployment that this orchestrator asked for came to rest.

    `Request.raw_context` has the same with `message`, a sentence, `env`, `app` and `revision`.
    """

    deployment_id: str
    #: `running`, `failed` or `stopped`.
    status: str
    #: Why, when it failed, in a word.
    reason: str | None = None


@dataclass(frozen=True)
class Timer:
    """A timer that this orchestrator had set went off."""

    name: str


@dataclass(frozen=True)
class Cron:
    """A schedule created this request."""

    name: str


@dataclass(frozen=True)
class OtherTrigger:
    """Something that this version does not know by a case of its own."""

    name: str


#: Why a run takes place.
Trigger = Initial | ChildComplete | HitlResponse | DeploymentSettled | Timer | Cron | OtherTrigger


def _trigger(variant: tuple[str, Any]) -> Trigger:
    tag, value = variant
    match tag:
        case "initial":
            return Initial()
        case "child_complete":
            return ChildComplete(value.request_id, value.status)
        case "hitl_response":
            expired = value.response is None
            return HitlResponse(value.question_id, read(value.response), value.answered_by, expired)
        case "deployment_settled":
            return DeploymentSettled(value.deployment_id, value.status, value.reason)
        case "timer":
            return Timer(value)
        case "cron":
            return Cron(value)
        case _:
            return OtherTrigger(str(value))


_WAKE_UP = {"trigger", "parent_request_id", "parent_context", "additional_completions"}


class Request:
    """What this run was asked to do. Every property asks the platform, and what is not asked for costs
    nothing."""

    @property
    def id(self) -> str:
        """The id of the request that runs."""
        return platform("request").id()

    @property
    def attempt(self) -> int:
        """Which attempt this is: 1 for the first."""
        return platform("request").attempt()

    @property
    def prompt(self) -> str:
        """What was asked for, in words; may be empty."""
        return platform("request").prompt()

    @cached_property
    def context(self) -> dict[str, Any]:
        """What was asked for, `{}` if nothing was given. The same in every run of the request."""
        delivered = self.raw_context
        trigger = self.trigger
        if isinstance(trigger, Initial):
            return delivered
        # A schedule creates a request, or wakes one that waits.
        if isinstance(trigger, Cron) and not _WAKE_UP <= delivered.keys():
            return delivered
        return delivered["parent_context"]

    @property
    def raw_context(self) -> dict[str, Any]:
        """The context as the platform delivers it: in a wake-up a dict that says what happened."""
        return read(platform("request").context())

    @property
    def repo_url(self) -> str | None:
        """The repository that the request is about."""
        return platform("request").repo_url()

    @property
    def branch(self) -> str | None:
        """The branch that the request is about."""
        return platform("request").branch()

    @property
    def config(self) -> dict[str, Any]:
        """The request's settings."""
        return read(platform("request").config())

    @property
    def metadata(self) -> dict[str, Any]:
        """The request's labels."""
        return read(platform("request").metadata())

    @property
    def trigger(self) -> Trigger:
        """Why this run takes place."""
        return _trigger(platform("request").trigger())

    @property
    def additional_triggers(self) -> list[Trigger]:
        """Other events that came in meanwhile, oldest first."""
        return [_trigger(event) for event in platform("request").additional_triggers()]

    @property
    def triggers(self) -> list[Trigger]:
        """`trigger`, then `additional_triggers`. Every event is delivered once."""
        return [self.trigger, *self.additional_triggers]

    @property
    def parent_id(self) -> str | None:
        """The request that created this one, if one did."""
        return platform("request").parent_id()

    @property
    def worker_type(self) -> str:
        """The worker type that runs this."""
        return platform("request").worker_type()

    @property
    def org_slug(self) -> str:
        """The organisation's short name. For display: it grants nothing."""
        return platform("request").org_slug()

    @property
    def user_id(self) -> str | None:
        """Who sent the request. For display: it grants nothing."""
        return platform("request").user_id()

    @property
    def deadline(self) -> datetime:
        """When the run is stopped if it has not ended by itself."""
        return moment(platform("request").deadline())
