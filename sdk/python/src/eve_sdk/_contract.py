"""Between the values that authors write and those of the contract: JSON, lengths of time."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

from ._errors import invalid

#: A length of time: seconds, or a `timedelta`.
Duration = float | int | timedelta


def write(what: str, value: Any) -> str | None:
    """JSON text of a value; None stays None."""
    return None if value is None else dumps(what, value)


def dumps(what: str, value: Any) -> str:
    """JSON text of a value."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise invalid(f"{what}: cannot be written as JSON: {error}") from error


def read(text: str | None) -> Any:
    """The value of JSON text that the platform handed out; None stays None."""
    return None if text is None else json.loads(text)


def milliseconds(what: str, value: Duration | None) -> int | None:
    """Milliseconds as the contract has them."""
    if value is None:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**43:
        raise invalid(f"{what}: {value!r} is no length of time: seconds or a timedelta")
    return round(value * 1000)


def moment(timestamp: int) -> datetime:
    """A point in time, from milliseconds since 1970."""
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=timestamp)


def text(what: str, value: Any) -> str | None:
    """Text; None stays None."""
    if value is not None and not isinstance(value, str):
        raise invalid(f"{what}: {value!r:.80} is not a str")
    return value


def integer(what: str, value: Any, least: int, most: int) -> int | None:
    """An integer that the contract has room for; None stays None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise invalid(f"{what}: {value!r:.80} is not an int from {least} to {most}")
    return value
