"""From "run cell" to the first line after the first all-reduce, and to the cell's end: four ranks on gloo, all warm.

Runs in: the benchmarks.

torchrun on a script (from its start to its exit), nb_elastic, and accelerate's notebook_launcher, which forks a kernel that
has torch imported, take turns. Each is timed to the line, as the reader sees it, and to the end: ranks gone, results back,
the cell's number there. nb_elastic is measured twice: launched at once after the cell before, and after a pause of a second,
as a reader makes it. The first launches of the kernels are in first_launch.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from nb_elastic import rundir
from nb_elastic.lifeline import ProcessId, descendants
from tests.benchmarks.launches import TRAIN, Notebook, first_line, run_torchrun
from tests.benchmarks.table import Row, ratio_at_most, take_turns, times_faster
from tests.support.kernel import Cell, Kernel

NPROC = 4
ROUNDS = 5
QUICK = 3
"""How often in a round the quick ones are measured."""

PAUSE_S = 1.0
HANG_S = 30.0
"""After so long notebook_launcher hangs: it takes a fraction of a second, or for ever."""

OPENINGS = 3
"""How many fresh kernels it may spoil in a row."""


class ForkingKernel(Kernel):
    """A kernel whose cells fork it: at its end whatever hangs below it is killed."""

    def close(self) -> None:
        """End the children, then the kernel."""
        for pid in descendants(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        super().close()


class Forking:
    """The same under accelerate's notebook_launcher; after a hang in a new kernel."""

    def __init__(self) -> None:
        self.kernel = self._open()

    def measure(self) -> Cell:
        """One launch."""
        try:
            cell = self.kernel.ok(forking_cell(), timeout_s=HANG_S)
            first_line(cell)
        except AssertionError:
            self.kernel.close()
            self.kernel = self._open()
            raise
        return cell

    def _open(self) -> ForkingKernel:
        for _ in range(OPENINGS):
            kernel = ForkingKernel()
            kernel.ok(TRAIN)
            kernel.ok("import torch\nfrom accelerate import notebook_launcher")
            try:
                kernel.ok(forking_cell(), timeout_s=HANG_S)
            except AssertionError:
                kernel.close()
            else:
                return kernel
        raise AssertionError(f"notebook_launcher failed in {OPENINGS} fresh kernels")


def forking_cell() -> str:
    """The peer's cell, on a port that is free now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    return f'notebook_launcher(train, (), num_processes={NPROC}, use_port="{port}")'


def living_ranks(notebook: Notebook) -> int:
    """How many ranks of the newest run are still there."""
    told = [rundir.read_json(folder.worker_json) for *_, folder in notebook.newest().ranks()]
    return sum(ProcessId(worker["pid"], worker["start_ticks"]).is_alive for worker in told)


def rows_of(what: str) -> dict[str, Row]:
    """One row for each way, with what ours must reach against the peers."""
    rows = {
        "torchrun": Row(what, "torchrun", is_reference=True),
        "ours": Row(what, "nb_elastic, at once after the last"),
        "paused": Row(what, f"nb_elastic, {PAUSE_S:g} s after the last"),
        "forking": Row(what, "notebook_launcher (forks the kernel)"),
    }
    for name in ("ours", "paused"):
        ratio_at_most(rows[name], 1.0, rows["forking"], "ours / notebook_launcher (aim 0.50)")
        times_faster(rows[name], 30.0, rows["torchrun"], "torchrun / ours")
    return rows


def measure(tell: Callable[[str], None]) -> list[Row]:
    """Fill the rows."""
    line = rows_of(f"cell to first all-reduced line, {NPROC} ranks")
    end = rows_of(f"the same cell, to its end, {NPROC} ranks")
    with contextlib.ExitStack() as stack:
        notebook, forking = stack.enter_context(Notebook()), Forking()
        stack.callback(lambda: forking.kernel.close())  # whichever kernel it has then
        script = Path(notebook.folder, "train.py")
        script.write_text(TRAIN + "\ntrain()\n")
        notebook.kernel.ok(TRAIN)
        notebook.launch("train()", NPROC)
        left: list[int] = []

        def by_torchrun() -> float:
            took = run_torchrun(script, NPROC)
            end["torchrun"].samples.append(took.end_s)
            return took.line_s

        def by_cell(who: str, pause_s: float) -> float:
            time.sleep(pause_s)
            cell = notebook.launch("train()", NPROC)
            left.append(living_ranks(notebook))
            end[who].samples.append(cell.seconds)
            return first_line(cell)

        def by_forking() -> float:
            cell = forking.measure()
            end["forking"].samples.append(cell.seconds)
            return first_line(cell)

        def ours() -> float:
            """The second of two cells in a row: whatever ran before, the last thing was a launch."""
            notebook.launch("train()", NPROC)
            return by_cell("ours", 0.0)

        quick = {"ours": ours, "paused": lambda: by_cell("paused", PAUSE_S), "forking": by_forking}
        names = ["torchrun", *(list(quick) * QUICK)]
        take_turns(ROUNDS, [line[n] for n in names], [by_torchrun, *(quick[n] for n in names[1:])], tell)
        end["ours"].note = f"ranks alive at the cell's end: {max(left, default=0)}"
        results = notebook.kernel.ok("print(sorted(nb_elastic.last_run().results))").stdout.strip()
        assert results == str(list(range(NPROC))), f"results did not come back: {results}"
    return [*line.values(), *end.values()]
