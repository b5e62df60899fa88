"""Lines for people, kept with the run and shown by `eve request logs`.

A run keeps at most 1,000 lines and 256 KiB; what goes beyond is dropped and counted. What a skill prints
arrives here too.
"""

from __future__ import annotations

from typing import Any

from ._platform import platform


def _write(level: str, message: Any, fields: dict[str, Any]) -> None:
    pairs = [(name, str(value)) for name, value in fields.items()]
    platform("log").log(level, str(message), pairs)


def trace(message: Any, /, **fields: Any) -> None:
    """Adds a line that follows the skill step by step."""
    _write("trace", message, fields)


def debug(message: Any, /, **fields: Any) -> None:
    """Adds a line for whoever looks for a mistake."""
    _write("debug", message, fields)


def info(message: Any, /, **fields: Any) -> None:
    """Adds a line for whoever wants to know what was done."""
    _write("info", message, fields)


def warn(message: Any, /, **fields: Any) -> None:
    """Adds a line about something that may be wrong."""
    _write("warn", message, fields)


def error(message: Any, /, **fields: Any) -> None:
    """Adds a line about something that is wrong."""
    _write("error", message, fields)
