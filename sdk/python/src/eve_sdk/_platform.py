"""The platform that the SDK calls: a fake that a test installs or, in a component, `_component`.

A platform has an attribute for each interface of the contract. Functions take and return the contract's
types in a neutral shape: a record to pass is a dict, one that comes back has attributes, a variant is a
pair of its case and its value, an enum is its word; words are in snake case. What a call refuses is
raised as `Refused`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_installed: Any = None


@contextmanager
def using(platform: Any) -> Iterator[None]:
    """Has the SDK call this platform."""
    global _installed
    outer, _installed = _installed, platform
    try:
        yield
    finally:
        _installed = outer


def platform(name: str) -> Any:
    """An interface of the contract."""
    if _installed is None:
        raise RuntimeError("outside a run the platform answers nothing: use eve_sdk.testing.Host")
    return getattr(_installed, name)
