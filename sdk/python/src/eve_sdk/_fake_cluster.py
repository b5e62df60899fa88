"""What the clusters of a pretended organisation say: lines that pods have written, and answers of the
Kubernetes API. They are what the test says, whatever becomes of a run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

from ._contract import dumps
from ._errors import Refused
from .deploy import LogLine

_MOST_PODS = 20
_LINE_BYTES = 16 << 10
_ANSWER_BYTES = 1 << 20

# Names in Kubernetes need no more; one way of writing a path is understood.
_SEGMENT = re.compile(r"(?!\.+\Z)[A-Za-z0-9._:-]+")
_SESSIONS = ("exec", "attach", "portforward")


def _read(plain: str) -> list[str] | None:
    """What a path names in the namespace: kind, name, part."""
    match plain.split("/"):
        case segments if not all(_SEGMENT.fullmatch(one) for one in segments):
            return None
        case ["api", "v1", *rest] | ["apis", _, _, *rest]:
            return rest
    return None


def _check_path(path: str) -> None:
    """Refuses what can be read nowhere."""
    plain, _, query = path.partition("?")
    rest = _read(plain)
    if rest is None:
        raise Refused(
            "invalid", f"path: `{path}` is neither api/v1/… nor apis/GROUP/VERSION/…, such as api/v1/pods"
        )
    if not rest or rest[0] == "namespaces":
        raise Refused("invalid", f"path: `{path}` names nothing in the namespace, as api/v1/pods does")
    kind, part = rest[0], rest[2] if len(rest) > 2 else None
    # The first of a name counts.
    said = dict(reversed(parse_qsl(query, keep_blank_values=True)))

    def wants(name: str) -> bool:
        return name in said and said[name].lower() not in ("false", "0")

    if kind == "watch" or part in _SESSIONS or wants("watch") or (part == "log" and wants("follow")):
        raise Refused(
            "invalid", f"path: `{path}` is answered for as long as somebody listens: only what ends can be read"
        )
    if kind == "secrets" or part == "proxy" or len(rest) > 3:
        raise Refused("denied", f"path: a viewer may not read `{path}`")


def _bounded(line: str) -> str:
    """As much of a line as is kept."""
    kept = line.encode()
    if len(kept) <= _LINE_BYTES:
        return line
    # A character that is cut in two is left out.
    return kept[:_LINE_BYTES].decode(errors="ignore") + "…"


class Clusters:
    """Everything that is asked of clusters."""

    def __init__(self, unreachable: Iterable[str]) -> None:
        self._unreachable = frozenset(unreachable)
        #: By deployment.
        self._lines: dict[str, list[LogLine]] = {}
        #: By environment and path.
        self._answers: dict[tuple[str, str], str] = {}

    def wrote(self, id: str, app: str, lines: Iterable[str | LogLine]) -> None:
        """What the pods of a deployment have written, the newest pod first."""
        self._lines[id] = [LogLine(f"{app}-0", one) if isinstance(one, str) else one for one in lines]

    def answers(self, env: str, path: str, answer: Any) -> None:
        """What the Kubernetes API answers."""
        _check_path(path)
        self._answers[env, path] = dumps(path, answer)

    def _reach(self, env: str) -> None:
        if env in self._unreachable:
            raise Refused("unavailable", f"the cluster of `{env}` does not answer")

    def logs(self, env: str, id: str, tail: int) -> list[SimpleNamespace]:
        """The last lines of each pod."""
        self._reach(env)
        pods: dict[str, list[str]] = {}
        for one in self._lines.get(id, ()):
            pods.setdefault(one.pod, []).append(_bounded(one.line))
        found, size = [], 0
        for pod, lines in list(pods.items())[:_MOST_PODS]:
            for line in lines[-tail:]:
                size += len(pod.encode()) + len(line.encode())
                if size > _ANSWER_BYTES:
                    return found
                found.append(SimpleNamespace(pod=pod, line=line))
        return found

    def kubernetes(self, env: str, path: str) -> str:
        """What the Kubernetes API answers, as JSON."""
        _check_path(path)
        self._reach(env)
        if (env, path) not in self._answers:
            how = f"the test says what is: Host(kubernetes={{({env!r}, {path!r}): …}})"
            raise Refused("not_found", f"there is no object `{path}` in `{env}`: {how}")
        answer = self._answers[env, path]
        size = len(answer.encode())
        if size > _ANSWER_BYTES:
            raise Refused(
                "invalid", f"path: the answer has {size} bytes, and may have {_ANSWER_BYTES}: ask for less"
            )
        return answer
