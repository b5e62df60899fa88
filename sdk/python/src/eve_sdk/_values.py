"""Values of columns and parameters: Python's on one side, the contract's on the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

from ._contract import dumps
from ._errors import invalid

#: A value of the contract: its case and what it holds.
Variant = tuple[str, Any]

_ARRAYS = {
    "boolean": "booleans",
    "integer": "integers",
    "float": "floats",
    "numeric": "numerics",
    "text": "texts",
    "bytes": "bytes",
    "json": "jsons",
    "uuid": "uuids",
    "timestamp": "timestamps",
    "date": "dates",
}


@dataclass(frozen=True)
class Json:
    """A parameter that is jsonb, of any value: a list or a str too."""

    value: Any


@dataclass(frozen=True)
class Array:
    """A parameter that is an array of a type: what an empty one, or one of None, cannot say itself.

    `type` is `boolean`, `integer`, `float`, `numeric`, `text`, `bytes`, `json`, `uuid`, `timestamp` or
    `date`.
    """

    type: str
    values: Sequence[Any]


def to_contract(what: str, value: Any) -> Variant:
    """A parameter."""
    match value:
        case None:
            return ("null", None)
        case bool():
            return ("boolean", value)
        case int():
            fits = -(2**63) <= value < 2**63
            return ("integer", int(value)) if fits else ("numeric", str(int(value)))
        case float():
            return ("float", value)
        case Decimal():
            return ("numeric", _numeric(value))
        case str():
            return ("text", str(value))
        case bytes() | bytearray() | memoryview():
            return ("bytes", bytes(value))
        case UUID():
            return ("uuid", str(value))
        case datetime():
            # Without a time zone it is Postgres' `timestamp`, which text adapts to.
            if value.tzinfo is None:
                return ("text", value.isoformat(sep=" "))
            return ("timestamp", value.astimezone(timezone.utc).isoformat().replace("+00:00", "Z"))
        case date():
            return ("date", value.isoformat())
        case Json():
            return ("json", dumps(what, value.value))
        case dict():
            return ("json", dumps(what, value))
        case Array():
            if value.type not in _ARRAYS:
                raise invalid(f"{what}: {value.type!r} is none of {', '.join(_ARRAYS)}")
            return ("array", _array(what, value.values, value.type))
        case list() | tuple():
            return ("array", _array(what, value, None))
    raise invalid(f"{what}: a {type(value).__name__} is no value of a database")


def _numeric(value: Decimal) -> str:
    if value.is_nan():
        return "NaN"
    if value.is_infinite():
        return "Infinity" if value > 0 else "-Infinity"
    return format(value, "f")


def _array(what: str, values: Sequence[Any], kind: str | None) -> Variant:
    elements = [to_contract(f"{what}[{index}]", value) for index, value in enumerate(values)]
    kinds = {tag for tag, _ in elements if tag != "null"}
    if kind is None:
        if kinds == {"integer", "float"}:
            kind = "float"
        elif kinds == {"integer", "numeric"}:
            kind = "numeric"
        elif len(kinds) <= 1 and "array" not in kinds:
            kind = next(iter(kinds), "text")
        else:
            raise invalid(
                f"{what}: an array has elements of one type, none of them an array, "
                f"not {' and '.join(sorted(kinds))}; for JSON use Json(…)"
            )
    return (_ARRAYS[kind], [_element(what, kind, element) for element in elements])


def _element(what: str, kind: str, element: Variant) -> Any:
    tag, value = element
    if tag in ("null", kind):
        return value
    if kind == "float" and tag == "integer":
        return float(value)
    if kind == "numeric" and tag in ("integer", "float", "text"):
        return str(value)
    if kind in ("uuid", "timestamp", "date") and tag == "text":
        return value
    raise invalid(f"{what}: {value!r:.80} is no {kind}")


def from_contract(value: Variant) -> Any:
    """A value of a column."""
    tag, held = value
    match tag:
        case "null":
            return None
        case "array":
            kind, elements = held
            convert = _ELEMENTS.get(kind)
            return [one if one is None or convert is None else convert(one) for one in elements]
        case "other":
            return held.text
    convert = _COLUMNS.get(tag)
    return convert(held) if convert else held


def _moment(text: str) -> datetime | str:
    """`infinity`, and years that a datetime has no room for, stay text."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return text


def _day(text: str) -> date | str:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return text


_COLUMNS = {
    "numeric": Decimal,
    "json": json.loads,
    "uuid": UUID,
    "timestamp": _moment,
    "date": _day,
    "bytes": bytes,
}
_ELEMENTS = {
    "numerics": Decimal,
    "jsons": json.loads,
    "uuids": UUID,
    "timestamps": _moment,
    "dates": _day,
    "bytes": bytes,
}
