"""How a run ends, when it does not fail."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ._contract import Duration, dumps, integer, milliseconds
from ._errors import invalid

_NOTHING: Any = object()


@dataclass(frozen=True)
class Outcome:
    """How a run ended. Made by `completed` and `waiting`."""

    end: tuple[str, dict[str, Any]]

    @property
    def is_waiting(self) -> bool:
        """Whether the request waits for what it has started."""
        return self.end[0] == "waiting"


def completed(
    summary: str,
    *,
    data: Any = _NOTHING,
    tokens_used: int | None = None,
    cost: float | None = None,
) -> Outcome:
    """The request is done.

    `summary` is a line or a short text for people, at most 64 KiB; `data` is for programs: what JSON can
    hold, at most 1 MiB. `cost` is in US dollars.
    """
    if not isinstance(summary, str):
        raise invalid("completed: the summary is not a str")
    if cost is not None and not (math.isfinite(cost) and cost >= 0):
        raise invalid(f"completed: a cost of {cost} dollars makes no sense")
    output = {
        "summary": summary,
        "data": None if data is _NOTHING else dumps("completed: data", data),
        "tokens_used": integer("completed: tokens_used", tokens_used, 0, 2**63 - 1),
        "cost": None if cost is None else float(cost),
    }
    return Outcome(("completed", output))


def waiting(*, deadline: Duration | None = None) -> Outcome:
    """The request waits for what it has started, and is run again when that happens.

    It fails if nothing wakes it for `deadline`; 7 days when absent. Waiting while nothing is outstanding
    fails at once.
    """
    return Outcome(("waiting", {"deadline": milliseconds("waiting: deadline", deadline)}))
