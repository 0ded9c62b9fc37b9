"""A notebook without Jupyter: cells run in a ``__main__`` of their own, launches run in real fresh processes.

Runs in: the tests.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nb_elastic import cell, payload

ROOT = Path(__file__).parents[2]
LOADER = Path(__file__).with_name("load_payload.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a launch in a child process left."""

    returncode: int
    stdout: str
    stderr: str
    result: Path
    payload: payload.Payload

    @property
    def value(self) -> Any:
        """The rank's return value, loaded as the notebook loads it."""
        assert self.returncode == 0, self.stderr
        return payload.load_result(self.result)


class Notebook:
    """Runs cells as IPython does: one namespace, one file name a cell."""

    def __init__(self, folder: Path, module: types.ModuleType) -> None:
        self.folder = folder
        self.names = vars(module)
        self.sources: dict[str, str] = {}
        self.labels: dict[str, str] = {}

    def cell(self, source: str) -> None:
        """Run one cell."""
        number = len(self.sources) + 1
        file = f"/tmp/ipykernel_1/{number}.py"
        self.sources[file], self.labels[file] = source, f"Cell In[{number}]"
        exec(compile(source, file, "exec"), self.names)

    def dump(self, body: str, *, transform: Callable[[str], str] | None = None, flags: int = 0) -> payload.Payload:
        """Pickle what ``%%elastic_launch`` would ship for a body."""
        label = f"Cell In[{len(self.sources) + 1}]"
        code = cell.analyze(body, label=label, line_offset=1, transform=transform, flags=flags)
        return payload.dump_cell(code, self.names, sources=self.sources, labels=self.labels)

    def launch(self, body: str, **kwargs: Any) -> Outcome:
        """Run a body in a fresh process."""
        return self.run(self.dump(body, **kwargs))

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Outcome:
        """Call a function in a fresh process."""
        return self.run(payload.dump_function(function, args, kwargs, sources=self.sources, labels=self.labels))

    def run(self, shipped: payload.Payload) -> Outcome:
        """Load and run a payload in a fresh process."""
        path, result = self.folder / "payload.pkl", self.folder / "result.pkl"
        result.unlink(missing_ok=True)
        fd = payload.write(shipped, path)
        try:
            done = subprocess.run(
                [sys.executable, str(LOADER), str(path), str(fd), str(result)],
                pass_fds=[fd] if fd >= 0 else [],
                capture_output=True,
                text=True,
                check=False,
                cwd=ROOT,
                timeout=240,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
            )
        finally:
            if fd >= 0:
                os.close(fd)
        return Outcome(
            returncode=done.returncode, stdout=done.stdout, stderr=done.stderr, result=result, payload=shipped
        )


@contextlib.contextmanager
def open_notebook(folder: Path) -> Iterator[Notebook]:
    """Put a fresh ``__main__`` in place, as a kernel has one."""
    before = sys.modules["__main__"]
    sys.modules["__main__"] = module = types.ModuleType("__main__")
    try:
        yield Notebook(folder, module)
    finally:
        sys.modules["__main__"] = before


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    """A notebook whose launches are real processes."""
    with open_notebook(tmp_path) as opened:
        yield opened
