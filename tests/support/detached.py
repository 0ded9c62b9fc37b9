"""Detached runs of a test: launched from a kernel or a command line, and looked at from outside.

Runs in: the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from nb_elastic import rundir, snapshot
from nb_elastic.lifeline import ProcessId
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import RunSnapshot
from tests.support import leaks
from tests.support.until import until

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "nb_elastic")
WAITING = (
    "import os, time, nb_elastic\nfrom pathlib import Path\nrank = int(os.environ['RANK'])\n"
    "print('waits', flush=True)\nnb_elastic.report(step=1, total=2, loss=0.5)\n"
    "while not Path('{go}').exists():\n    time.sleep(0.02)\nprint('goes on', flush=True)\n{end}"
)
"""A cell whose ranks report a step, and wait until the file ``go`` is there."""


def waiting(go: str, end: str = "rank + 40") -> str:
    """The cell."""
    return WAITING.format(go=go, end=end)


def command(*words: str, cwd: Path | None = None, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run ``nb-elastic`` to its end."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, cwd=cwd, env=env, timeout=timeout_s, check=False
    )


def run_named(home: Path, name: str) -> RunDir:
    """The run of a name, as soon as it is there."""

    def look() -> list[RunDir]:
        folders = [RunDir(p) for p in home.glob("*") if p.is_dir()]
        return [f for f in folders if rundir.read_json(f.run_json).get("name") == name]

    return until(look, 60, f"a run {name}")[0]


def is_up(run: RunDir, ranks: int = 2) -> RunSnapshot:
    """Wait until all its ranks have said that they wait."""
    until(lambda: all(b"waits" in rundir.read_whole(run.rank(0, n).stdout) for n in range(ranks)), 60)
    return snapshot.load(run)


def supervisor_of(run: RunDir) -> ProcessId:
    """Its supervisor."""
    now = snapshot.load(run)
    return ProcessId(now.supervisor_pid, now.supervisor_start_ticks)


def started_by(home: Path) -> set[ProcessId]:
    """Living processes with this home in the environment they started with: a run's own and what they started."""
    needle = f"NB_ELASTIC_HOME={home}".encode()
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if needle in (entry / "environ").read_bytes().split(b"\0"):
                found.add(ProcessId.of(int(entry.name)))
        except OSError:
            continue
    return {p for p in found if p is not None and not leaks.stands_by(p.pid)}


def open_files(who: ProcessId) -> dict[int, str]:
    """What a process has open: descriptor -> file, pipe or socket."""
    found = {}
    for entry in Path(f"/proc/{who.pid}/fd").iterdir():
        try:
            found[int(entry.name)] = os.readlink(entry)
        except OSError:
            continue
    return found
