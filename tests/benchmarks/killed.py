"""A rank is killed, as the OOM killer would: seconds until the reader has the error, and all other ranks are ended.

Runs in: the benchmarks.

Rank 2 of four gets SIGKILL by the pid in its worker.json, while all sleep; the others end at SIGTERM, as ranks do that ask
for nothing else. From just before the kill to the cell's error reply, and to the exit of a torchrun in the same state.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from nb_elastic import rundir
from tests.benchmarks.launches import Notebook, cell_of, torchrun
from tests.benchmarks.table import Row, at_most, take_turns
from tests.support.kernel import Cell
from tests.support.until import until

NPROC = 4
KILLED = 2
ROUNDS = 5
QUICK = 2
"""How often in a round the cell is measured."""

LIMIT_S = 0.3
SLEEP = "import os, time\nos.write(1, f'UP {os.getpid()} {os.environ[\"RANK\"]}\\n'.encode())\ntime.sleep(600)"
"""Written whole: torchrun's ranks share one pipe, and print in pieces."""


def by_cell(notebook: Notebook) -> float:
    """Seconds from the kill to the cell's error reply."""
    before = {run.run_id for run in notebook.runs()}
    cell = notebook.kernel.start(cell_of(SLEEP, NPROC))
    (run,) = until(lambda: [r for r in notebook.runs() if r.run_id not in before], 60, "the run's folder")
    until(lambda: all(_has_said_up(run, rank) for rank in range(NPROC)), 60, "all ranks asleep")
    _drain(notebook, cell)
    pid = rundir.read_json(run.rank(0, KILLED).worker_json)["pid"]
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    notebook.kernel.wait(cell)
    took = time.monotonic() - killed
    assert cell.reply.get("ename") == "WorkerFailedError", cell.text
    assert f"rank {KILLED} failed first" in cell.text, cell.text
    return took


def _has_said_up(run: rundir.RunDir, rank: int) -> bool:
    folder = run.rank(0, rank)
    return folder.stdout.exists() and folder.stdout.read_bytes().endswith(b"\n") and folder.worker_json.exists()


def _drain(notebook: Notebook, cell: Cell) -> None:
    """Take the lines that came, so that the reply does not wait behind them."""
    notebook.kernel.wait_for(cell, "UP", 60)


def by_torchrun(script: Path) -> float:
    """Seconds from the kill to torchrun's exit."""
    with subprocess.Popen(
        torchrun(script, NPROC), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        pids: dict[int, int] = {}
        for line in process.stdout:
            with contextlib.suppress(ValueError):
                _, pid, rank = line.split()
                pids[int(rank)] = int(pid)
            if len(pids) == NPROC:
                break
        assert len(pids) == NPROC, f"torchrun's ranks did not start: {pids}"
        killed = time.monotonic()
        os.kill(pids[KILLED], signal.SIGKILL)
        process.wait(timeout=120)
        return time.monotonic() - killed


def measure(tell: Callable[[str], None]) -> list[Row]:
    """Fill the rows."""
    what = f"a rank of {NPROC} is killed, to the error"
    theirs, ours = Row(what, "torchrun, to its exit", is_reference=True), Row(what, "nb_elastic, to the cell's error")
    at_most(ours, LIMIT_S)
    with Notebook() as notebook:
        script = Path(notebook.folder, "sleeps.py")
        script.write_text(SLEEP + "\n")
        measures = [lambda: by_torchrun(script), *[lambda: by_cell(notebook)] * QUICK]
        take_turns(ROUNDS, [theirs, *[ours] * QUICK], measures, tell)
    return [theirs, ours]
