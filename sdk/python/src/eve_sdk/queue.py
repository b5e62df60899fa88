"""Requests of the same organisation: create more of them, look at them, cancel them; put questions to
its people, and be woken later.

What is asked for here is checked at once and committed together with the run's outcome: all of it or,
when the run fails or is lost, none of it. Needs the capability `queue`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from ._contract import Duration, integer, milliseconds, moment, read, text, write
from ._errors import call, invalid
from ._platform import platform

OnFailure = Literal["cancel", "run", "hold"]
Status = Literal[
    "scheduled", "blocked", "pending", "claimed", "processing", "waiting", "completed", "failed", "cancelled"
]

_POLICIES = ("cancel", "run", "hold")
_STATUSES = (
    "scheduled", "blocked", "pending", "claimed", "processing", "waiting", "completed", "failed", "cancelled",
)


@dataclass(frozen=True)
class Blocker:
    """A request that another one waits for, with a policy of its own."""

    id: str | int
    on_failure: OnFailure = "cancel"


@dataclass(frozen=True)
class NewRequest:
    """A request to create, for `create_many`. What the fields are, `create` says."""

    worker_type: str
    skill: str | None = None
    prompt: str = ""
    context: dict[str, Any] | None = None
    repo_url: str | None = None
    branch: str | None = None
    config: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    blocked_by: Iterable[str | int | Blocker] = ()
    on_failure: OnFailure = "cancel"
    reply_to_me: bool = False
    detached: bool = False
    delay: Duration | None = None
    priority: int | None = None
    max_attempts: int | None = None
    timeout: Duration | None = None
    idempotency_key: str | None = None

    def _fields(self, what: str) -> dict[str, Any]:
        if not self.worker_type:
            raise invalid(f"{what}: worker_type is missing: which workers run it, such as 'general'")
        if isinstance(self.blocked_by, str):
            raise invalid(f"{what}: blocked_by is a list of ids, not one")
        return {
            "worker_type": text(f"{what}: worker_type", self.worker_type),
            "skill": text(f"{what}: skill", self.skill),
            "prompt": text(f"{what}: prompt", self.prompt) or "",
            "context": write(f"{what}: context", self.context),
            "repo_url": text(f"{what}: repo_url", self.repo_url),
            "branch": text(f"{what}: branch", self.branch),
            "config": write(f"{what}: config", self.config),
            "metadata": write(f"{what}: metadata", self.metadata),
            "blocked_by": [self._blocker(what, one) for one in self.blocked_by],
            "reply_to_me": bool(self.reply_to_me),
            "detached": bool(self.detached),
            "delay": milliseconds(f"{what}: delay", self.delay),
            "priority": integer(f"{what}: priority", self.priority, -100, 100),
            "max_attempts": integer(f"{what}: max_attempts", self.max_attempts, 1, 25),
            "timeout": milliseconds(f"{what}: timeout", self.timeout),
            "idempotency_key": text(f"{what}: idempotency_key", self.idempotency_key),
        }

    def _blocker(self, what: str, one: str | int | Blocker) -> dict[str, Any]:
        blocker = one if isinstance(one, Blocker) else Blocker(one, self.on_failure)
        if blocker.on_failure not in _POLICIES:
            raise invalid(f"{what}: on_failure: {blocker.on_failure!r} is none of {', '.join(_POLICIES)}")
        entry = isinstance(blocker.id, int)
        id = f"#{blocker.id}" if entry else text(f"{what}: blocked_by", blocker.id)
        return {"id": id, "on_failure": blocker.on_failure}


@dataclass(frozen=True)
class Problem:
    """Why a request failed or was cancelled."""

    #: A word for programs: `failed`, `trapped`, `timed_out`, `blocker_failed`, `cancelled`, …
    code: str
    #: A sentence for people.
    message: str


@dataclass(frozen=True)
class Ended:
    """What a request ended with."""

    request_id: str
    status: Status
    summary: str
    #: The data that it completed with, parsed.
    output: Any
    tokens_used: int | None
    cost: float | None
    problem: Problem | None
    finished_at: datetime


@dataclass(frozen=True)
class Info:
    """A request as it stands."""

    id: str
    worker_type: str
    skill: str | None
    status: Status
    prompt: str
    context: dict[str, Any]
    metadata: dict[str, Any]
    attempt: int
    created_at: datetime


@dataclass(frozen=True)
class Child(Info):
    """A request that this one created."""

    #: What it ended with; None while it is open.
    ended: Ended | None

    @property
    def is_open(self) -> bool:
        """Whether it has not ended yet."""
        return self.ended is None

    @property
    def output(self) -> Any:
        """The data that it completed with, parsed; None without."""
        return None if self.ended is None else self.ended.output


@dataclass(frozen=True)
class Blocking:
    """A request that another one waits for, as it stands."""

    id: str
    status: Status
    on_failure: OnFailure
    is_open: bool


def create(
    worker_type: str,
    *,
    skill: str | None = None,
    prompt: str = "",
    context: dict[str, Any] | None = None,
    repo_url: str | None = None,
    branch: str | None = None,
    config: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    blocked_by: Iterable[str | int | Blocker] = (),
    on_failure: OnFailure = "cancel",
    reply_to_me: bool = False,
    detached: bool = False,
    delay: Duration | None = None,
    priority: int | None = None,
    max_attempts: int | None = None,
    timeout: Duration | None = None,
    idempotency_key: str | None = None,
) -> str:
    """Creates a request for the workers of a type, such as `general`, and returns its id.

    - `skill`: the worker type's default when absent.
    - `prompt`, `context`: what is wanted, in words and for programs; at most 256 KiB and 1 MiB.
    - `config`, `metadata`: settings and labels; at most 64 KiB each.
    - `blocked_by`: ids of requests that must end first; if one fails, this one is cancelled (`cancel`),
      runs anyway (`run`) or stays (`hold`), as `on_failure` or a `Blocker` says.
    - `reply_to_me`: wakes this run's orchestrator when the new request ends.
    - `detached`: it goes on when this run's orchestrator completes.
    - `delay`: earliest start, counted from the commit of this run.
    - `priority`: -100 to 100, lower first. `max_attempts`: 1 to 25; 3 when absent.
    - `timeout`: wall-clock limit of a run.
    - `idempotency_key`: the same key twice creates one request.
    """
    fields = NewRequest(
        worker_type, skill, prompt, context, repo_url, branch, config, metadata, blocked_by, on_failure,
        reply_to_me, detached, delay, priority, max_attempts, timeout, idempotency_key,
    )._fields("queue.create")
    return call(platform("queue").create, fields)


def create_many(requests: Iterable[NewRequest]) -> list[str]:
    """Creates all of the requests or none, and returns their ids in the same order.

    In `blocked_by` a number is the place of an earlier entry.
    """
    fields = [one._fields(f"queue.create_many: entry {index}") for index, one in enumerate(requests)]
    return list(call(platform("queue").create_many, fields))


def _info(info: Any) -> dict[str, Any]:
    return {
        "id": info.id,
        "worker_type": info.worker_type,
        "skill": info.skill,
        "status": info.status,
        "prompt": info.prompt,
        "context": read(info.context),
        "metadata": read(info.metadata),
        "attempt": info.attempt,
        "created_at": moment(info.created_at),
    }


def _ended(ended: Any) -> Ended | None:
    if ended is None:
        return None
    output, problem = ended.output, ended.problem
    return Ended(
        request_id=ended.request_id,
        status=ended.status,
        summary=output.summary if output else "",
        output=read(output.data) if output else None,
        tokens_used=output.tokens_used if output else None,
        cost=output.cost if output else None,
        problem=Problem(problem.code, problem.message) if problem else None,
        finished_at=moment(ended.finished_at),
    )


def get(id: str) -> Info:
    """A request of this organisation."""
    return Info(**_info(call(platform("queue").get, str(id))))


def result(id: str) -> Ended | None:
    """What a request ended with; None while it is open."""
    return _ended(call(platform("queue").result, str(id)))


def children(of: str | None = None) -> list[Child]:
    """The requests that this one, or the given one, created, oldest first; at most 10,000."""
    found = call(platform("queue").children, of or platform("request").id())
    return [Child(**_info(child.request), ended=_ended(child.ended)) for child in found]


def blockers(of: str | None = None) -> list[Blocking]:
    """What this request, or the given one, waits for or has waited for."""
    found = call(platform("queue").blockers, of or platform("request").id())
    return [Blocking(one.id, one.status, one.on_failure, one.open) for one in found]


def list_requests(
    *,
    context: dict[str, Any] | None = None,
    statuses: Iterable[Status] = (),
    worker_type: str | None = None,
    limit: int | None = None,
    before: str | None = None,
) -> list[Info]:
    """Requests of this organisation, newest first. Everything that is asked for must hold.

    `context` is what the context must contain; `limit` is 1 to 100, 20 when absent; `before` is the last
    id of the page before.
    """
    statuses = list(statuses)
    for status in statuses:
        if status not in _STATUSES:
            raise invalid(f"queue.list_requests: {status!r} is none of {', '.join(_STATUSES)}")
    fields = {
        "context": write("queue.list_requests: context", context),
        "statuses": statuses,
        "worker_type": text("queue.list_requests: worker_type", worker_type),
        "limit": integer("queue.list_requests: limit", limit, 1, 100),
        "before": text("queue.list_requests: before", before),
    }
    return [Info(**_info(info)) for info in call(platform("queue").list, fields)]


def cancel(id: str, reason: str | None = None) -> None:
    """Cancels an open request, and by the policies of their edges its dependents."""
    call(platform("queue").cancel, str(id), text("queue.cancel: reason", reason))


def ask(
    question: str,
    *,
    options: Iterable[str] = (),
    details: dict[str, Any] | None = None,
    expires_in: Duration | None = None,
) -> str:
    """Puts a question to the people of the organisation, and returns its id.

    The answer is a trigger `HitlResponse`. Without `options` a person may answer anything; it stays open
    for `expires_in`, a second to 30 days, 24 hours when absent.
    """
    fields = {
        "text": text("queue.ask", question) or "",
        "options": [text("queue.ask: options", option) or "" for option in options],
        "details": write("queue.ask: details", details),
        "expires_in": milliseconds("queue.ask: expires_in", expires_in),
    }
    return call(platform("queue").ask, fields)


def wake_after(delay: Duration, name: str) -> None:
    """Wakes this request with the trigger `Timer` of this name, once, so long after the run's commit.

    A second to 365 days. A timer of the same name that has not gone off yet is moved. Only a run that
    returns `waiting` keeps its timers.
    """
    call(platform("queue").wake_after, milliseconds("queue.wake_after", delay), text("queue.wake_after", name))
