"""Nodes of the tests: each a ``lone_agent`` process whose words are read as they come.

Runs in: the tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nb_elastic.lifeline import ProcessId, descendants
from tests.support import nursery
from tests.support.netns import Host
from tests.support.until import until

ROOT = Path(__file__).parents[2]


class Node:
    """A running ``lone_agent``.

    Args:
        machine: the pretended one that it is on, where it is not this one.
        asked: what ``lone_agent`` is told; see there.
    """

    def __init__(self, folder: Path, number: int, *, machine: Host | None = None, **asked: Any) -> None:
        self._kept: dict[Path, str] = {}
        self._out = folder / f"node{number}.out"
        self._err = folder / f"node{number}.err"
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        words, pid, prefix = json.dumps(asked), machine.pid if machine else 0, machine.prefix if machine else ()
        with self._out.open("wb") as out, self._err.open("wb") as err:
            found = nursery.fork_agent(environ, words, out=out.fileno(), err=err.fileno(), machine_pid=pid)
            self.process: Any = found or subprocess.Popen(
                [*prefix, sys.executable, "-m", "tests.support.lone_agent", words],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=ROOT, env=environ, start_new_session=True,
            )  # fmt: skip

    @property
    def told(self) -> list[dict[str, Any]]:
        """All that it has told until now."""
        lines = self._read(self._out).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    @property
    def stderr(self) -> str:
        """Its stderr, its ranks' included."""
        return self._read(self._err)

    def all(self, key: str) -> list[Any]:
        """Every value of ``key`` that it told, in order."""
        return [facts[key] for facts in self.told if key in facts]

    def wait_for(self, key: str, *, count: int = 1, timeout_s: float = 60) -> Any:
        """Wait until ``key`` was told ``count`` times; the last value."""

        def found() -> bool:
            has_ended = self.process.poll() is not None
            if len(self.all(key)) < count and has_ended:
                raise RuntimeError(f"the node ended without telling {key}: {self.told}\n{self.stderr[-4000:]}")
            return len(self.all(key)) >= count

        self._until(found, timeout_s, f"{key} from the node")
        return self.all(key)[count - 1]

    def end(self, *, timeout_s: float = 120) -> dict[str, Any]:
        """Wait until it has ended; the last thing it told."""
        self._until(lambda: self.process.poll() is not None, timeout_s, "the end of a node")
        assert self.told, self.stderr[-4000:]
        return self.told[-1]

    def _until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait; who waited in vain is shown what the node told until then."""
        try:
            until(condition, timeout_s, what)
        except AssertionError as e:
            raise AssertionError(f"{e}\nIt told {self.told}\nIts stderr: {self.stderr[-4000:]}") from e

    def _read(self, path: Path) -> str:
        return self._kept[path] if path in self._kept else path.read_text(errors="replace")

    def pids(self) -> list[int]:
        """Its pid and those of its ranks."""
        return [self.process.pid, *descendants(self.process.pid)]

    def kill(self) -> None:
        """End it and its ranks at once, as a machine that loses its power; what it told is kept."""
        for pid in self.pids():
            if found := ProcessId.of(pid):
                found.signal(9)
        self.process.wait(30)
        self._kept = {path: path.read_text(errors="replace") for path in (self._out, self._err)}


@contextlib.contextmanager
def nodes() -> Iterator[Any]:
    """Give a function that starts nodes; what still runs at the end is killed."""
    started: list[Node] = []
    with tempfile.TemporaryDirectory(prefix="nbe-nodes-") as folder:

        def start(**asked: Any) -> Node:
            node = Node(Path(folder), len(started), **asked)
            started.append(node)
            return node

        try:
            yield start
        finally:
            for node in started:
                node.kill()
