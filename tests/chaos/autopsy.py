"""Where every process stands when a cell hangs: a hang that a seed does not bring back must be told of at once.

Runs in: the chaos test.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from nb_elastic import rundir
from nb_elastic.rundir import RunDir

TAIL_LINES = 15


def lines(home: Path) -> Iterator[str]:
    """Every process that can be seen with its threads and Python stacks, and the ends of the newest run's files."""
    for pid in sorted(int(p.name) for p in Path("/proc").glob("[0-9]*")):
        if pid != os.getpid():
            yield from _process(pid)
    runs = sorted((p for p in home.glob("*") if p.is_dir()), key=lambda p: p.stat().st_mtime_ns)
    for run in map(RunDir, runs[-1:]):
        for path in (run.journal, run.supervisor_log):
            yield f"{path}, its end:"
            yield from rundir.read_whole(path).decode(errors="replace").splitlines()[-TAIL_LINES:]


def _process(pid: int) -> Iterator[str]:
    at = Path("/proc") / str(pid)
    try:
        words = (at / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:150]
        threads = [
            f"{(t / 'comm').read_text().strip()} in {(t / 'wchan').read_text()}" for t in (at / "task").iterdir()
        ]
    except OSError:
        return
    yield f"{pid} {words}: {'; '.join(threads)}"
    spy = Path(sys.prefix) / "bin" / "py-spy"
    if spy.exists() and "python" in os.path.realpath(at / "exe"):
        done = subprocess.run([spy, "dump", "--pid", str(pid)], capture_output=True, text=True, check=False, timeout=60)
        yield from done.stdout.splitlines()
