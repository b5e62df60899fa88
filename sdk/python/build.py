#!/usr/bin/env python3
"""Builds a Python skill as a WebAssembly component.

  python3 build.py --skill DIR --wit DIR --out FILE [--capabilities log,queue] [--tool PATH]

  --skill         the skill's folder: skill.py, and what it imports; also src/skill.py. Pure Python
                  dependencies are taken from its folder `vendor`
                  (pip install --target vendor -r requirements.txt)
  --wit           the contract: the .wit files of `eve:skill`
  --out           where the component goes
  --capabilities  what SKILL.md names: a Python component imports all of its world, so its world has
                  these and no others
  --tool          componentize-py (else EVE_COMPONENTIZE_PY, one beside this Python, on PATH, or in
                  ~/.cache/eve-horizon/python)

The last line of standard output is JSON: {"out", "bytes", "imports"}. Exit codes: 0 built, 1 the skill is
at fault, 2 the call is, 3 componentize-py is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SDK = Path(__file__).resolve().parent / "src"
# Every skill has these: the SDK logs exceptions, and `types` has no functions.
ALWAYS = ["types", "request", "log"]
WORLD = "generated"
VERSION = "0.25.1"
NOT_COPIED = shutil.ignore_patterns("__pycache__", ".*", "venv", "vendor", "node_modules", "test_*.py")


class Problem(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def find_tool(named: str | None) -> str:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    candidates = [
        named,
        os.environ.get("EVE_COMPONENTIZE_PY"),
        Path(sys.executable).with_name("componentize-py"),
        shutil.which("componentize-py"),
        cache / "eve-horizon" / "python" / "bin" / "componentize-py",
    ]
    for candidate in candidates:
        if candidate and os.access(candidate, os.X_OK):
            return str(candidate)
    raise Problem(
        3,
        "componentize-py is not installed; install it:\n"
        f"python3 -m venv ~/.cache/eve-horizon/python && "
        f"~/.cache/eve-horizon/python/bin/pip install componentize-py=={VERSION}",
    )


def generate_world(source: Path, target: Path, capabilities: list[str]) -> None:
    """The contract with a world of its own: the interfaces as they are, and beside them the world."""
    contract = ""
    for file in sorted(source.glob("*.wit")):
        text = file.read_text(encoding="utf-8")
        (target / file.name).write_text(text, encoding="utf-8")
        contract += text
    package = re.search(r"^package (eve:skill@[0-9.]+);", contract, re.MULTILINE)
    if not package:
        raise Problem(2, f"{source} is not the contract eve:skill")
    for name in capabilities:
        known = re.fullmatch(r"[a-z][a-z0-9-]*", name)
        if not known or not re.search(rf"^interface {name} \{{", contract, re.MULTILINE):
            raise Problem(1, f"capability {name!r}: the contract has no such interface")
    imports = "".join(f"    import {name};\n" for name in capabilities)
    (target / f"{WORLD}.wit").write_text(
        f"package {package[1]};\n\nworld {WORLD} {{\n{imports}    export handler;\n}}\n", encoding="utf-8"
    )


def entry(capabilities: list[str]) -> str:
    """The module that the component is made of."""
    granted = [name for name in capabilities if name != "types"]
    return (
        "import skill\n"
        "from eve_sdk._component import handler\n"
        f"from wit_world.imports import {', '.join(['types', *granted])}\n\n"
        f"Handler = handler(skill, types, {{{', '.join(f'{name!r}: {name}' for name in granted)}}})\n"
    )


def build(skill: Path, wit: Path, out: Path, capabilities: list[str], tool: str) -> dict[str, object]:
    sources = next((folder for folder in (skill, skill / "src") if (folder / "skill.py").is_file()), None)
    if sources is None:
        raise Problem(1, f"{skill} has no skill.py")
    capabilities = list(dict.fromkeys([*ALWAYS, *sorted(capabilities)]))
    with tempfile.TemporaryDirectory(prefix="eve-build-py-") as folder:
        work = Path(folder)
        (work / "wit").mkdir()
        generate_world(wit, work / "wit", capabilities)
        (work / "eve_component.py").write_text(entry(capabilities), encoding="utf-8")
        component = work / "skill.wasm"
        command = [tool, "-q", "-d", work / "wit", "-w", WORLD, "componentize", "-o", component, "-p", work]
        # Copies: importing them writes files beside them, which are nobody's business.
        for name, path in {"skill": sources, "sdk": SDK, "vendor": skill / "vendor"}.items():
            if path.is_dir():
                shutil.copytree(path, work / name, ignore=NOT_COPIED)
                command += ["-p", work / name]
        # An empty virtual environment: what else is installed here is no part of the skill.
        (work / "venv").mkdir()
        environment = {**os.environ, "VIRTUAL_ENV": str(work / "venv"), "PYTHONDONTWRITEBYTECODE": "1"}
        made = subprocess.run(
            [*map(str, command), "eve_component"], env=environment, capture_output=True, text=True
        )
        if made.returncode != 0:
            said = (made.stdout + made.stderr).strip()
            raise Problem(1, f"making the component failed:\n{said}")
        out.parent.mkdir(parents=True, exist_ok=True)
        # By rename: whoever reads the old file keeps what it opened.
        staged = out.with_name(f"{out.name}.{os.getpid()}.new")
        shutil.copyfile(component, staged)
        staged.replace(out)
    imports = [f"eve:skill/{name}" for name in capabilities if name != "types"]
    return {"out": str(out), "bytes": out.stat().st_size, "imports": imports}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--skill", type=Path, required=True)
    parser.add_argument("--wit", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--capabilities", default="")
    parser.add_argument("--tool")
    args = parser.parse_args()
    names = [name.strip() for name in args.capabilities.split(",") if name.strip()]
    try:
        built = build(
            args.skill.resolve(), args.wit.resolve(), args.out.resolve(), names, find_tool(args.tool)
        )
    except Problem as problem:
        print(f"build.py: {problem}", file=sys.stderr)
        return problem.code
    print(json.dumps(built))
    return 0


if __name__ == "__main__":
    sys.exit(main())
