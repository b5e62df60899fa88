"""A skill: the author's function, and how the platform runs it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from ._errors import EveError, Failure
from ._outcome import Outcome
from ._platform import platform
from ._request import Request


class Skill:
    """What the component exports. Made by the decorator `skill`."""

    def __init__(self, run: Callable[[Request], Outcome]) -> None:
        self.run = run
        self.__doc__ = run.__doc__

    def __call__(self, request: Request) -> Outcome:
        return self.run(request)


def skill(run: Callable[[Request], Outcome]) -> Skill:
    """Makes a function the skill that the component exports."""
    return Skill(run)


def execute(author: Skill) -> tuple[str, Any]:
    """Runs a skill once: `("ok", outcome)` or `("err", (kind, message))`.

    An exception that is nobody's failure is logged with its traceback. It is worth another attempt, like
    any crash, unless it is an error of the platform that says otherwise.
    """
    try:
        outcome = author.run(Request())
    except Failure as failure:
        if failure.__cause__ is not None:
            _say(failure)
        return ("err", (failure.kind, str(failure)))
    except Exception as error:
        _say(error)
        again = error.retryable if isinstance(error, EveError) else True
        message = f"{type(error).__name__}: {error}"
        return ("err", ("retryable" if again else "permanent", message))
    if isinstance(outcome, Outcome):
        return ("ok", outcome.end)
    message = f"the skill returned {outcome!r:.80} instead of completed(…) or waiting()"
    return ("err", ("permanent", message))


def _say(error: BaseException) -> None:
    platform("log").log("error", "".join(traceback.format_exception(error)).rstrip(), [])
