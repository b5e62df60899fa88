"""What the author of a skill imports.

A skill is one function. It gets a `Request`, and returns `completed(…)` or `waiting()`, or raises;
between the two it may write `log` lines, look at and create other requests (`queue`), keep state in a
database (`db`), and deploy apps (`deploy`).

    from eve_sdk import completed, log, skill

    @skill
    def run(request):
        words = len(request.context["text"].split())
        log.info("counted", words=words)
        return completed(f"{words} words", data={"words": words})

The module is imported once, when the component is built: every run begins with what was in memory then.
So import at the top of the module, never inside a function, where nothing could be found any more.
"""

from . import db, deploy, log, queue
from ._errors import EveError, Failure, Permanent, Retryable, SqlError
from ._outcome import Outcome, completed, waiting
from ._request import (
    ChildComplete,
    Cron,
    DeploymentSettled,
    HitlResponse,
    Initial,
    OtherTrigger,
    Request,
    Timer,
    Trigger,
)
from ._skill import Skill, skill

__all__ = [
    "ChildComplete",
    "Cron",
    "DeploymentSettled",
    "EveError",
    "Failure",
    "HitlResponse",
    "Initial",
    "OtherTrigger",
    "Outcome",
    "Permanent",
    "Request",
    "Retryable",
    "Skill",
    "SqlError",
    "Timer",
    "Trigger",
    "completed",
    "db",
    "deploy",
    "log",
    "queue",
    "skill",
    "waiting",
]
