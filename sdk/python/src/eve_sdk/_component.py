"""The platform inside a component: the functions that componentize-py generates, in the neutral shape
of `_platform`. Only `build.py` imports this."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any

from componentize_py_types import Err  # type: ignore[import-not-found]

from ._errors import Refused
from ._platform import using
from ._skill import Skill, execute


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _read(value: Any) -> Any:
    """From the generated types: `Trigger_ChildComplete(x)` is `("child_complete", x)`."""
    if isinstance(value, Enum):
        return value.name.lower()
    if is_dataclass(value):
        name = type(value).__name__
        held = {field.name: _read(getattr(value, field.name)) for field in fields(value)}
        if "_" in name:
            return (_snake(name.split("_", 1)[1]), held.get("value"))
        return SimpleNamespace(**held)
    if isinstance(value, (list, tuple)):
        return [_read(one) for one in value]
    return value


def _variant(module: ModuleType, name: str, tag: str, *value: Any) -> Any:
    case = "".join(part.capitalize() for part in tag.split("_"))
    return getattr(module, f"{name}_{case}")(*value)


def _calls(module: ModuleType, **arguments: Callable[..., tuple[Any, ...]]) -> SimpleNamespace:
    """The functions of an interface; `arguments` make generated types of what some of them take."""

    def calling(act: Callable[..., Any], prepare: Callable[..., tuple[Any, ...]] | None) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            try:
                return _read(act(*(prepare(*given) if prepare else given)))
            except Err as error:
                tag, value = _read(error.value)
            raise Refused(tag, value)

        return call

    found = {
        name: calling(act, arguments.get(name))
        for name, act in vars(module).items()
        if callable(act) and not isinstance(act, type) and not name.startswith("_")
    }
    return SimpleNamespace(**found)


def _request(module: ModuleType, types: ModuleType) -> SimpleNamespace:
    return _calls(module)


def _log(module: ModuleType, types: ModuleType) -> SimpleNamespace:
    return _calls(module, log=lambda level, *rest: (module.Level[level.upper()], *rest))


def _queue(module: ModuleType, types: ModuleType) -> SimpleNamespace:
    def new(of: dict[str, Any]) -> Any:
        blocked_by = [
            module.Blocker(one["id"], types.OnFailure[one["on_failure"].upper()]) for one in of["blocked_by"]
        ]
        return module.NewRequest(**{**of, "blocked_by": blocked_by})

    def a_filter(of: dict[str, Any]) -> Any:
        return module.Filter(**{**of, "statuses": [types.Status[one.upper()] for one in of["statuses"]]})

    return _calls(
        module,
        create=lambda of: (new(of),),
        create_many=lambda all: ([new(of) for of in all],),
        list=lambda of: (a_filter(of),),
        ask=lambda of: (module.Question(**of),),
    )


def _db(module: ModuleType, types: ModuleType) -> SimpleNamespace:
    def value(variant: tuple[str, Any]) -> Any:
        tag, held = variant
        if tag == "null":
            return _variant(module, "Value", tag)
        if tag == "array":
            held = _variant(module, "Array", *held)
        return _variant(module, "Value", tag, held)

    def statement(of: dict[str, Any]) -> Any:
        return module.Statement(**{**of, "parameters": [value(one) for one in of["parameters"]]})

    def one(schema: str, of: dict[str, Any]) -> tuple[Any, ...]:
        return (schema, statement(of))

    return _calls(
        module,
        query=one,
        execute=one,
        transaction=lambda schema, all: (schema, [statement(of) for of in all]),
        migrate=lambda schema, all: (schema, [module.Migration(**of) for of in all]),
    )


def _deploy(module: ModuleType, types: ModuleType) -> SimpleNamespace:
    def target(variant: tuple[str, Any]) -> Any:
        tag, held = variant
        return _variant(module, "Target", tag, *([] if tag == "previous" else [held]))

    return _calls(
        module,
        create=lambda of: (module.NewDeployment(**of),),
        rollback=lambda env, app, to: (env, app, target(to)),
    )


_INTERFACES = {"request": _request, "log": _log, "queue": _queue, "db": _db, "deploy": _deploy}


class _NotGranted:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, _: str) -> Any:
        def refuse(*_: Any) -> None:
            raise Refused("denied", f"SKILL.md does not name the capability {self._name}")

        return refuse


def handler(author: ModuleType, types: ModuleType, granted: dict[str, ModuleType]) -> type:
    """The class that the component exports, for the skill in the author's module."""
    skills = [one for one in vars(author).values() if isinstance(one, Skill)]
    if len(skills) != 1:
        raise SystemExit(
            f"{author.__name__}.py has {len(skills)} skills: decorate one function with @skill"
        )
    made = {
        name: make(granted[name], types) if name in granted else _NotGranted(name)
        for name, make in _INTERFACES.items()
    }
    platform = SimpleNamespace(**made)

    class Handler:
        def run(self) -> Any:
            # The generator was seeded when the component was built.
            random.seed()
            with using(platform):
                status, (tag, value) = execute(skills[0])
            if status == "err":
                raise Err(_variant(types, "Failure", tag, value))
            record = types.Output(**value) if tag == "completed" else types.Wait(**value)
            return _variant(types, "Outcome", tag, record)

    return Handler
