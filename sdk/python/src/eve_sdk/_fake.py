"""What the parts of the fake platform share."""

from __future__ import annotations

import json

from ._errors import Refused

#: 2026-01-01: the fake platform's clock stands still.
NOW = 1_767_225_600_000


def json_object(what: str, text: str | None, most: float) -> str:
    """JSON text that must be an object; `{}` if there is none."""
    if text is None:
        return "{}"
    if not isinstance(json.loads(text), dict):
        raise Refused("invalid", f"{what}: is not a JSON object")
    if len(text.encode()) > most:
        raise Refused("invalid", f"{what}: exceeds {most} bytes")
    if "\\u0000" in text:
        raise Refused("invalid", f"{what}: holds the character U+0000")
    return text
