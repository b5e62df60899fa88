"""A fake platform, so that unit tests run a skill's logic natively, without WebAssembly.

A `Host` stands for one request. It answers as the platform does, as far as one request can tell, and
knows only what the test tells it: nothing of time, of workers or of other organisations. A run that waits
is run again by the same host, with what the test has let happen meanwhile.

    host = Host(context={"text": "a b"})
    run = host.run(skill.run)
    assert run.data == {"words": 2}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

from ._contract import dumps, write
from ._errors import Refused, SqlError
from ._fake import NOW, json_object
from ._fake_deploy import Change, Deployed, Estate
from ._platform import using
from ._request import (
    ChildComplete,
    Cron,
    DeploymentSettled,
    HitlResponse,
    Initial,
    OtherTrigger,
    Timer,
    Trigger,
)
from ._skill import Skill, execute
from ._values import from_contract, to_contract
from .deploy import Environment, LogLine, State

__all__ = [
    "Change", "Created", "Deployed", "Environment", "Host", "Line", "LogLine", "Question", "Run",
    "StatementSeen",
]

_ENDED = ("completed", "failed", "cancelled")
_DAY = 86_400_000


@dataclass(frozen=True)
class Line:
    """A line of the log."""

    level: str
    message: str
    fields: dict[str, str]


@dataclass(frozen=True)
class Created:
    """A request that a run asked for. Lengths of time are in milliseconds."""

    id: str
    worker_type: str
    skill: str | None
    prompt: str
    context: dict[str, Any]
    repo_url: str | None
    branch: str | None
    config: dict[str, Any]
    metadata: dict[str, Any]
    blocked_by: list[tuple[str, str]]
    reply_to_me: bool
    detached: bool
    delay: int | None
    priority: int | None
    max_attempts: int | None
    timeout: int | None
    idempotency_key: str | None


@dataclass(frozen=True)
class Question:
    """A question that a run put to people."""

    id: str
    text: str
    options: list[str]
    details: dict[str, Any]
    expires_in: int | None


@dataclass(frozen=True)
class StatementSeen:
    """A statement that a run executed."""

    schema: str
    sql: str
    parameters: list[Any]


@dataclass
class Run:
    """What a run came to. What it asked for is empty if it failed: nothing of that happens."""

    #: `completed`, `waiting` or `failed`.
    status: str
    triggers: list[Trigger]
    #: The platform's word for how it failed: `failed` or `nothing_to_wait_for`.
    code: str | None = None
    #: `retryable` or `permanent`, and the message.
    failure: tuple[str, str] | None = None
    summary: str | None = None
    data: Any = None
    tokens_used: int | None = None
    cost: float | None = None
    lines: list[Line] = field(default_factory=list)
    statements: list[StatementSeen] = field(default_factory=list)
    created: list[Created] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    timers: dict[str, int] = field(default_factory=dict)
    #: Changes of deployments, in order.
    deployed: list[Change] = field(default_factory=list)

    @property
    def is_waiting(self) -> bool:
        """Whether it returned `waiting()`."""
        return self.status == "waiting"


@dataclass
class _Known:
    id: str
    status: str
    worker_type: str = "general"
    skill: str | None = None
    prompt: str = ""
    context: str = "{}"
    metadata: str = "{}"
    blocked_by: list[tuple[str, str]] = field(default_factory=list)
    reply_to_me: bool = True
    parent: str | None = None
    attempt: int = 0
    summary: str = ""
    data: str | None = None
    problem: tuple[str, str] | None = None

    @property
    def has_ended(self) -> bool:
        return self.status in _ENDED

    def info(self) -> SimpleNamespace:
        return SimpleNamespace(
            id=self.id, worker_type=self.worker_type, skill=self.skill, status=self.status,
            prompt=self.prompt, context=self.context, metadata=self.metadata, attempt=self.attempt,
            created_at=NOW,
        )

    def ended(self) -> SimpleNamespace | None:
        if not self.has_ended:
            return None
        output = SimpleNamespace(summary=self.summary, data=self.data, tokens_used=None, cost=None)
        problem = self.problem and SimpleNamespace(code=self.problem[0], message=self.problem[1])
        return SimpleNamespace(
            request_id=self.id, status=self.status, problem=problem, finished_at=NOW,
            output=output if self.status == "completed" else None,
        )


def _edge(status: str, policy: str) -> str:
    """What a blocker of some status does to its dependent."""
    if status == "completed":
        return "released"
    if status not in _ENDED:
        return "holds"
    return {"run": "released", "cancel": "cancels", "hold": "holds"}[policy]


def _standing(blockers: list[tuple[str, str]], known: dict[str, _Known]) -> str:
    edges = {_edge(known[id].status, policy) for id, policy in blockers}
    return "cancelled" if "cancels" in edges else "blocked" if "holds" in edges else "pending"


def _variant(trigger: Trigger) -> tuple[str, Any]:
    match trigger:
        case Initial():
            return ("initial", None)
        case ChildComplete(id, status):
            return ("child_complete", SimpleNamespace(request_id=id, status=status))
        case HitlResponse(id, response, by, expired):
            text = None if expired else dumps("response", response)
            return ("hitl_response", SimpleNamespace(question_id=id, response=text, answered_by=by))
        case DeploymentSettled(id, status, reason):
            return ("deployment_settled", SimpleNamespace(deployment_id=id, status=status, reason=reason))
        case Timer(name):
            return ("timer", name)
        case Cron(name):
            return ("cron", name)
        case OtherTrigger(name):
            return ("other", name)


def _event(trigger: Trigger, settled: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What a wake-up's context says of an event; `settled` knows more of a deployment than its trigger."""
    event: dict[str, Any] = {"trigger": _variant(trigger)[0]}
    match trigger:
        case ChildComplete(id):
            event["completed_request_id"] = event["completed_result_id"] = id
        case DeploymentSettled(id, status, reason):
            event |= {"deployment_id": id, "status": status, "reason": reason, **settled.get(id, {})}
    return event


def _contains(whole: Any, part: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            name in whole and _contains(whole[name], value) for name, value in part.items()
        )
    if isinstance(part, list):
        return isinstance(whole, list) and all(any(_contains(one, value) for one in whole) for value in part)
    return type(whole) is type(part) and whole == part


class Host:
    """A request, and everything that a run of it can see.

    `db` answers statements: it is called with schema, SQL and parameters, and returns rows as dicts, or
    how many rows were affected. `environments`, ready and allowed unless they say otherwise, `apps` and
    `deployments` are what the organisation has; where a person is asked, what a run wants counts as approved
    until it settles as something else. `kubernetes` is what the Kubernetes API answers, by
    environment and path: `{("prod", "api/v1/pods"): {"items": []}}`; the clusters of the environments in
    `unreachable` do not answer, and `deploy.logs` and `deploy.kubernetes` are `unavailable` there.
    """

    def __init__(
        self,
        *,
        prompt: str = "",
        context: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
        repo_url: str | None = None,
        branch: str | None = None,
        attempt: int = 1,
        trigger: Trigger = Initial(),
        additional_triggers: Sequence[Trigger] = (),
        parent_id: str | None = None,
        worker_type: str = "general",
        db: Callable[[str, str, list[Any]], Sequence[dict[str, Any]] | int | None] | None = None,
        environments: Iterable[str | Environment] = (),
        apps: Iterable[str] = (),
        deployments: Iterable[Deployed] = (),
        kubernetes: Mapping[tuple[str, str], Any] | None = None,
        unreachable: Iterable[str] = (),
    ) -> None:
        self._ids = 0
        self.id = self._next()
        self.prompt, self.repo_url, self.branch = prompt, repo_url, branch
        self.parent_id, self.worker_type = parent_id, worker_type
        self.context = json_object("context", write("context", context), 1 << 20)
        self.config = json_object("config", write("config", config), 64 << 10)
        self.metadata = json_object("metadata", write("metadata", metadata), 64 << 10)
        self.db = db
        self._attempt = attempt
        self._inbox: list[Trigger] = [trigger, *additional_triggers]
        self._again: list[Trigger] | None = None
        self._end: str | None = None
        self._known: dict[str, _Known] = {}
        self._keys: dict[str, str] = {}
        self._questions: set[str] = set()
        self._timers: set[str] = set()
        self._migrations: dict[str, dict[int, str]] = {}
        self._settled: dict[str, dict[str, Any]] = {}
        self._estate = Estate(
            self._next, worker_type, environments, apps, deployments, kubernetes, unreachable
        )

    def _next(self) -> str:
        self._ids += 1
        return f"019b7654-0000-7000-8000-{self._ids:012x}"

    def add(
        self,
        *,
        status: str | None = None,
        output: Any = None,
        problem: tuple[str, str] | None = None,
        child: bool = False,
        id: str | None = None,
        context: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
        **fields: Any,
    ) -> str:
        """Adds a request that is there already, and returns its id.

        With `child` an earlier run of this request created it. Its status follows from `output` and
        `problem` when absent. Other fields: `worker_type`, `skill`, `prompt`, `summary`, `reply_to_me`.
        """
        found = "failed" if problem else "pending" if output is None else "completed"
        id = id or self._next()
        self._known[id] = _Known(
            id, status or found, problem=problem, data=write("output", output),
            context=write("context", context) or "{}", metadata=write("metadata", metadata) or "{}",
            parent=self.id if child else None, **fields,
        )
        return id

    def status_of(self, id: str) -> str:
        """Where a request stands."""
        return self._known[id].status

    def complete(self, id: str, data: Any = None, summary: str = "") -> Host:
        """A request completes with this data."""
        if self._known[id].status == "blocked":
            raise ValueError(f"request {id} is blocked")
        return self._finish(id, status="completed", data=write("data", data), summary=summary)

    def fail(self, id: str, message: str = "failed", code: str = "failed") -> Host:
        """A request fails."""
        return self._finish(id, status="failed", problem=(code, message))

    def cancel(self, id: str, message: str = "cancelled", code: str = "cancelled") -> Host:
        """A request is cancelled."""
        return self._finish(id, status="cancelled", problem=(code, message))

    def _finish(self, id: str, **how: Any) -> Host:
        one = self._known[id]
        if one.has_ended:
            raise ValueError(f"request {id} has ended already")
        one.attempt = 1
        vars(one).update(how)
        if one.parent == self.id and one.reply_to_me and not self._end:
            self._inbox.append(ChildComplete(id, one.status))
        for dependent in list(self._known.values()):
            if dependent.status != "blocked" or id not in (blocker for blocker, _ in dependent.blocked_by):
                continue
            standing = _standing(dependent.blocked_by, self._known)
            if standing == "cancelled":
                self.cancel(dependent.id, f"{id} did not complete", "blocker_failed")
            else:
                dependent.status = standing
        return self

    def answer(self, question_id: str, response: Any, answered_by: str = "somebody") -> Host:
        """A person answers a question."""
        return self._close(question_id, HitlResponse(question_id, response, answered_by))

    def expire(self, question_id: str) -> Host:
        """Nobody answers a question in time."""
        return self._close(question_id, HitlResponse(question_id, expired=True))

    def _close(self, question_id: str, event: HitlResponse) -> Host:
        self._questions.remove(question_id)
        self._inbox.append(event)
        return self

    def fire(self, name: str) -> Host:
        """A timer goes off."""
        self._timers.remove(name)
        self._inbox.append(Timer(name))
        return self

    def state_of(self, deployment_id: str) -> State:
        """Where a deployment stands."""
        return self._estate.state_of(deployment_id)

    def settle(
        self,
        deployment_id: str,
        status: Literal["running", "failed", "stopped"],
        reason: str | None = None,
        message: str | None = None,
    ) -> Host:
        """A deployment that is under way comes to rest, and wakes the request if that has asked for it.

        `reason` is why it failed, in a word; `message` the same in a sentence. Of what was refused after all
        (`not_found`, `forbidden`, `conflict`, `invalid`, `rejected`, `not_approved`) nothing stays; after
        `superseded` what somebody else has asked for is on its way.
        """
        told = self._estate.settle(deployment_id, status, reason, message)
        if told and not self._end:
            self._settled[deployment_id] = told
            self._inbox.append(DeploymentSettled(deployment_id, status, reason))
        return self

    def logs(self, deployment_id: str, lines: Iterable[str | LogLine]) -> Host:
        """What the pods of a deployment have written by now, in place of what they had."""
        self._estate.wrote(deployment_id, lines)
        return self

    def kubernetes(self, env: str, path: str, answer: Any) -> Host:
        """What the Kubernetes API answers from now on; other paths are `not_found`."""
        self._estate.answers(env, path, answer)
        return self

    def run(self, skill: Skill | Callable[[Any], Any]) -> Run:
        """Runs the skill once, for everything that has happened since its last run."""
        if self._end:
            raise ValueError(f"the request has ended already: it {self._end}")
        triggers = self._again or self._inbox[:1000]
        if not triggers:
            raise ValueError("nothing has happened that would wake the request")
        if self._again is None:
            del self._inbox[:1000]
        fake = _Fake(self, triggers)
        with using(fake):
            ended = execute(skill if isinstance(skill, Skill) else Skill(skill))
        self._keys = fake.keys
        code = None if ended[0] == "ok" else "failed"
        if ended[1][0] == "waiting" and not self._has_something_outstanding(fake):
            code = "nothing_to_wait_for"
            message = "waiting, while nothing is outstanding that could wake it"
            ended = ("err", ("permanent", message))
        run = Run("failed", triggers, code, lines=fake.lines, statements=fake.statements)
        status, (tag, value) = ended
        if status == "err":
            # A retryable failure is tried again with the same triggers.
            self._again, self._attempt = triggers, self._attempt + 1
            self._end = "failed" if tag == "permanent" else None
            run.failure = (tag, value)
            return run
        self._again, self._attempt = None, 1
        changes = fake.estate.changes
        self._commit(fake)
        run.status = tag
        run.created, run.cancelled = fake.created, fake.cancelled
        run.questions, run.timers, run.deployed = fake.questions, fake.timers, changes
        if tag == "completed":
            self._end = "completed"
            run.summary, run.tokens_used, run.cost = value["summary"], value["tokens_used"], value["cost"]
            run.data = None if value["data"] is None else json.loads(value["data"])
        return run

    def _has_something_outstanding(self, fake: _Fake) -> bool:
        return bool(
            fake.questions
            or fake.timers
            or self._questions
            or self._timers
            or self._inbox
            or fake.estate.changes
            or fake.estate.awaited
            or any(one.reply_to_me for one in fake.created)
            or any(
                one.parent == self.id and one.reply_to_me and not one.has_ended
                for one in fake.known.values()
            )
        )

    def _commit(self, fake: _Fake) -> None:
        for one in fake.created:
            self._known[one.id] = fake.known[one.id]
        self._questions |= {question.id for question in fake.questions}
        self._timers |= set(fake.timers)
        for id in fake.cancelled:
            if not self._known[id].has_ended:
                self.cancel(id, "cancelled by the run")
        self._estate = fake.estate
        self._estate.commit()


class _Fake:
    """The contract's interfaces, answered for one run."""

    def __init__(self, host: Host, triggers: list[Trigger]) -> None:
        self.host, self.triggers = host, triggers
        self.known = {id: _Known(**vars(one)) for id, one in host._known.items()}
        self.keys = dict(host._keys)
        self.lines: list[Line] = []
        self.created: list[Created] = []
        self.cancelled: list[str] = []
        self.questions: list[Question] = []
        self.timers: dict[str, int] = {}
        self.statements: list[StatementSeen] = []
        self.estate = host._estate.copy()
        self.request = self._request()
        self.log = SimpleNamespace(log=self._line)
        self.queue = SimpleNamespace(
            create=lambda of: self._create(of, []), create_many=self._create_many,
            get=lambda id: self._find(id).info(), result=lambda id: self._find(id).ended(),
            list=self._list, children=self._children, blockers=self._blockers, cancel=self._cancel,
            ask=self._ask, wake_after=self._wake_after,
        )
        self.db = SimpleNamespace(
            query=self._answer, execute=lambda *of: self._answer(*of).affected,
            transaction=lambda schema, all: [self._answer(schema, one) for one in all],
            migrate=self._migrate,
        )
        self.deploy = self.estate.platform()

    def _request(self) -> SimpleNamespace:
        host, (first, *more) = self.host, self.triggers
        context = host.context
        if not isinstance(first, (Initial, Cron)):
            context = json.dumps({
                **_event(first, host._settled), "parent_request_id": host.id, "parent_context": json.loads(context),
                "additional_completions": [_event(one, host._settled) for one in more],
            })
        attempt = host._attempt
        return SimpleNamespace(
            id=lambda: host.id, attempt=lambda: attempt, prompt=lambda: host.prompt,
            context=lambda: context, repo_url=lambda: host.repo_url, branch=lambda: host.branch,
            config=lambda: host.config, metadata=lambda: host.metadata,
            trigger=lambda: _variant(first), additional_triggers=lambda: [_variant(one) for one in more],
            parent_id=lambda: host.parent_id, worker_type=lambda: host.worker_type,
            org_slug=lambda: "test", user_id=lambda: None, deadline=lambda: NOW + 300_000,
        )

    def _line(self, level: str, message: str, pairs: list[tuple[str, str]]) -> None:
        if len(self.lines) < 1000:
            self.lines.append(Line(level, message, dict(pairs)))

    def _find(self, id: str) -> _Known:
        if id == self.host.id:
            return _Known(
                id, "processing", self.host.worker_type, prompt=self.host.prompt,
                context=self.host.context, metadata=self.host.metadata, attempt=self.host._attempt,
            )
        if id not in self.known:
            raise Refused("not_found", f"there is no request {id}")
        return self.known[id]

    def _create(self, of: dict[str, Any], batch: list[str]) -> str:
        if len(self.created) >= 10_000:
            raise Refused("limit", "a run creates at most 10000 requests")
        context = json_object("context", of["context"], 1 << 20)
        metadata = json_object("metadata", of["metadata"], 64 << 10)
        config = json_object("config", of["config"], 64 << 10)
        key = of["idempotency_key"]
        if key in self.keys:
            return self.keys[key]
        blocked_by = [(self._blocker(one["id"], batch), one["on_failure"]) for one in of["blocked_by"]]
        id = self.host._next()
        status = _standing(blocked_by, self.known)
        if status == "pending" and of["delay"] is not None:
            status = "scheduled"
        problem = ("blocker_failed", "a blocker did not complete") if status == "cancelled" else None
        self.known[id] = _Known(
            id, status, of["worker_type"], of["skill"], of["prompt"], context, metadata, blocked_by,
            of["reply_to_me"], self.host.id, problem=problem,
        )
        if key is not None:
            self.keys[key] = id
        parsed = {"context": json.loads(context), "metadata": json.loads(metadata), "config": json.loads(config)}
        self.created.append(Created(**{**of, **parsed, "id": id, "blocked_by": blocked_by}))
        return id

    def _blocker(self, id: str, batch: list[str]) -> str:
        if not id.startswith("#"):
            return self._find(id).id
        place = int(id[1:])
        if not 0 <= place < len(batch):
            raise Refused("invalid", f"blocked_by: {id} is no earlier entry")
        return batch[place]

    def _create_many(self, requests: list[dict[str, Any]]) -> list[str]:
        before = (len(self.created), dict(self.known), dict(self.keys))
        ids: list[str] = []
        try:
            for one in requests:
                ids.append(self._create(one, ids))
        except Refused:
            del self.created[before[0] :]
            self.known, self.keys = before[1], before[2]
            raise
        return ids

    def _list(self, of: dict[str, Any]) -> list[SimpleNamespace]:
        part = None if of["context"] is None else json.loads(of["context"])
        found = [
            one.info()
            for one in reversed(self.known.values())
            if (not of["statuses"] or one.status in of["statuses"])
            and of["worker_type"] in (None, one.worker_type)
            and (part is None or _contains(json.loads(one.context), part))
            and (of["before"] is None or one.id < of["before"])
        ]
        return found[: of["limit"] or 20]

    def _children(self, of: str) -> list[SimpleNamespace]:
        self._find(of)
        mine = [one for one in self.known.values() if one.parent == of]
        return [SimpleNamespace(request=one.info(), ended=one.ended()) for one in mine]

    def _blockers(self, of: str) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(
                id=id, status=self._find(id).status, on_failure=policy,
                open=_edge(self._find(id).status, policy) == "holds",
            )
            for id, policy in self._find(of).blocked_by
        ]

    def _cancel(self, id: str, reason: str | None) -> None:
        one = self._find(id)
        if one.has_ended:
            raise Refused("conflict", f"the request is {one.status}")
        one.status, one.problem = "cancelled", ("cancelled", reason or "cancelled")
        self.cancelled.append(id)

    def _ask(self, of: dict[str, Any]) -> str:
        if len(self.questions) >= 100:
            raise Refused("limit", "a run asks at most 100 questions")
        if not of["text"]:
            raise Refused("invalid", "text: is empty")
        if len(set(of["options"])) < len(of["options"]):
            raise Refused("invalid", "options: one is given twice")
        if of["expires_in"] is not None and not 1000 <= of["expires_in"] <= 30 * _DAY:
            raise Refused("invalid", "expires_in: is not between a second and 30 days")
        details = json.loads(json_object("details", of["details"], 64 << 10))
        self.questions.append(Question(**{**of, "id": self.host._next(), "details": details}))
        return self.questions[-1].id

    def _wake_after(self, delay: int, name: str) -> None:
        if not 1000 <= delay <= 365 * _DAY:
            raise Refused("invalid", "delay: is not between a second and 365 days")
        if not 1 <= len(name) <= 255:
            raise Refused("invalid", "name: has 1 to 255 characters")
        self.timers[name] = delay

    def _answer(self, schema: str, of: dict[str, Any]) -> SimpleNamespace:
        parameters = [from_contract(one) for one in of["parameters"]]
        self.statements.append(StatementSeen(schema, of["sql"], parameters))
        if self.host.db is None:
            raise RuntimeError("the test has no database: Host(db=lambda schema, sql, parameters: rows)")
        try:
            said = self.host.db(schema, of["sql"], parameters)
        except SqlError as error:
            about = {**vars(error), "code": error.sql_state, "message": str(error.args[0])}
            about["message"] = about["message"].removesuffix(f" (SQLSTATE {error.sql_state})")
            raise Refused("sql", SimpleNamespace(**about)) from error
        rows = [] if said is None or isinstance(said, int) else list(said)
        affected = said if isinstance(said, int) else len(rows)
        if of["expected_rows"] not in (None, affected):
            raise Refused("row_count", f"{affected} rows instead of {of['expected_rows']}")
        names = list(rows[0]) if rows else []
        return SimpleNamespace(
            columns=[SimpleNamespace(name=name, type_name="text") for name in names],
            rows=[[to_contract("a column", row[name]) for name in names] for row in rows],
            affected=affected,
        )

    def _migrate(self, schema: str, migrations: list[dict[str, Any]]) -> list[int]:
        applied = self.host._migrations.setdefault(schema, {})
        for one in migrations:
            if applied.get(one["number"], one["sql"]) != one["sql"]:
                raise Refused("migration", f"{one['number']} ran, and is not what it was")
        now = [one for one in migrations if one["number"] not in applied]
        applied.update({one["number"]: one["sql"] for one in now})
        return [one["number"] for one in now]
