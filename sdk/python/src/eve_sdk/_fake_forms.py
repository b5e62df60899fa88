"""What the parts of a deployment look like, and what the platform says of one that does not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from ._errors import Refused
from ._fake import json_object

_MOST_VARIABLES = 500
_VARIABLES_BYTES = 512 << 10
_SETTINGS_BYTES = 64 << 10

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_APP = re.compile(r"(?=[a-z])[a-z0-9-]{0,49}[a-z0-9]")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,252}")
# [registry/]repository[:tag][@digest]; a registry has a dot or a port, or is localhost.
_HOST = "[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*"
_PART = r"[a-z0-9]+(?:(?:\.(?!\.)|[_-])+[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:(?:localhost|{_HOST}(?:\.{_HOST})+|{_HOST}(?=:))(?::[1-9][0-9]{{0,4}})?/)?{_PART}(?:/{_PART})*"
    r"(?::([A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(sha256:[0-9a-f]{64}))?"
)


def is_environment(name: str) -> bool:
    """Whether an environment can have this name."""
    return len(name) <= 40 and bool(_LABEL.fullmatch(name))


def version(image: str) -> str:
    """The image's tag, else its digest."""
    found = _IMAGE.fullmatch(image)
    return (found and (found[1] or found[2])) or "latest"


def check_image(image: str) -> None:
    """Refuses what is no image."""
    if len(image) > 512:
        raise Refused("invalid", "image: is longer than 512 characters")
    if not _IMAGE.fullmatch(image):
        raise Refused("invalid", f"image: `{image}` is not an image, as in acme/api:v1.2.3")


def check_app(app: str) -> None:
    """Refuses what is no app's name."""
    if not _APP.fullmatch(app):
        raise Refused(
            "invalid",
            f"app: `{app}` is not a DNS label of at most 50 characters that begins with a letter: "
            "lower-case letters, digits and `-`, no `-` at the end",
        )


def check_variables(pairs: list[tuple[str, str]]) -> None:
    """Refuses what are no environment variables."""
    if len(pairs) > _MOST_VARIABLES:
        raise Refused("invalid", f"env_vars: may be at most {_MOST_VARIABLES} variables")
    if sum(len(name.encode()) + len(value.encode()) for name, value in pairs) > _VARIABLES_BYTES:
        raise Refused("invalid", f"env_vars: may have at most {_VARIABLES_BYTES} bytes together")
    names = set()
    for name, value in pairs:
        if name in names:
            raise Refused("invalid", f"env_vars: {name}: is given twice")
        names.add(name)
        if not _VARIABLE.fullmatch(name):
            raise Refused(
                "invalid", f"env_vars: `{name}` is not a variable's name: letters, digits and `_`, no digit first"
            )
        if "\0" in value:
            raise Refused("invalid", f"env_vars: {name}: may not contain the character U+0000")


def _within(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= most


def _quantity(units: str) -> Callable[[Any], bool]:
    form = re.compile(rf"([0-9]+\.?[0-9]*|\.[0-9]+)(?:{units})")

    def fits(value: Any) -> bool:
        found = form.fullmatch(value) if isinstance(value, str) else None
        return bool(found and len(found[1]) <= 12 and float(found[1]) > 0)

    return fits


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"/[!-~]{0,1023}", value))


def _is_command(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 100
        and all(isinstance(word, str) and len(word.encode()) <= 4096 for word in value)
    )


def _is_autoscale(value: Any) -> bool:
    if not isinstance(value, dict) or not _within(1, 100)(value.get("min")):
        return False
    percent = value.get("cpu_percent", 80)
    return _within(value["min"], 100)(value.get("max")) and _within(1, 100)(percent)


# By name: what fits, and what is to be done about what does not.
_SETTINGS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "port": (_within(1, 65_535), "must be 1 to 65535"),
    "health_path": (_is_path, "must be a path that begins with `/`, such as /healthz"),
    "cpu": (_quantity("m?"), "must be a number of cores, such as 250m or 2"),
    "memory": (
        _quantity("Ki|Mi|Gi|k|M|G"), "must be a number of bytes with its unit, such as 256Mi or 1Gi",
    ),
    "command": (_is_command, "must be at most 100 words of at most 4096 bytes"),
    "autoscale": (_is_autoscale, "must be at least 1 and at most 100 replicas, `min` first"),
    "run_as_user": (_within(1, 2_147_483_647), "must be 1 to 2147483647: nothing runs as root"),
    "deadline_s": (_within(5, 3_600), "must be 5 to 3600 seconds"),
}


def check_settings(text: str | None) -> dict[str, Any]:
    """What was said, None being as if it were not.

    A name that is unknown here may be known to the platform.
    """
    said = json.loads(json_object("settings", text, _SETTINGS_BYTES))
    settings = {name: value for name, value in said.items() if value is not None}
    for name, value in settings.items():
        if name in _SETTINGS and not _SETTINGS[name][0](value):
            raise Refused("invalid", f"settings.{name}: {_SETTINGS[name][1]}")
    return settings


def merged(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What is said now over what was said before. No command is none said."""
    return {**before, **{name: value for name, value in now.items() if (name, value) != ("command", [])}}
