"""Why something did not do what was asked: errors of the SDK, of the platform, and the skill's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class EveError(Exception):
    """Why a call to the platform did not do what was asked.

    `code` is a word for programs: `invalid`, `not_found`, `conflict`, `limit`, `denied`, `unavailable`,
    `other`; of `db` also `sql`, `row_count`, `migration`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed in another attempt."""
        return self.code in ("unavailable", "other")


class SqlError(EveError):
    """What Postgres said of a statement."""

    def __init__(
        self,
        sql_state: str,
        message: str,
        *,
        detail: str | None = None,
        hint: str | None = None,
        constraint: str | None = None,
        position: int | None = None,
        statement: int = 0,
    ) -> None:
        super().__init__("sql", f"{message} (SQLSTATE {sql_state})")
        #: Such as `23505`: see Postgres' appendix A.
        self.sql_state = sql_state
        self.detail = detail
        self.hint = hint
        self.constraint = constraint
        self.position = position
        #: Which statement of a transaction or migration, from 0.
        self.statement = statement

    @property
    def retryable(self) -> bool:
        """Serialization failures and deadlocks: the same statement may succeed the next time."""
        return self.sql_state in ("40001", "40P01")


class Failure(Exception):
    """How a run failed, in the skill's own judgement: raise `Retryable` or `Permanent`."""

    kind = "permanent"


class Retryable(Failure):
    """Worth another attempt, if the request has any left. Nothing that this run asked for happens."""

    kind = "retryable"


class Permanent(Failure):
    """Will not get better by trying again. Nothing that this run asked for happens."""


class Refused(Exception):
    """An error of the contract, as a platform raises it."""

    def __init__(self, tag: str, value: Any) -> None:
        super().__init__(f"{tag}: {value}")
        self.tag = tag
        self.value = value


def invalid(message: str) -> EveError:
    return EveError("invalid", message)


def call(act: Callable[..., T], *args: Any) -> T:
    """Calls the platform; what it refuses becomes an `EveError`."""
    try:
        return act(*args)
    except Refused as refused:
        tag, value = refused.tag, refused.value
    if tag == "sql":
        raise SqlError(
            value.code,
            value.message,
            detail=value.detail,
            hint=value.hint,
            constraint=value.constraint,
            position=value.position,
            statement=value.statement,
        )
    raise EveError(tag, value)
