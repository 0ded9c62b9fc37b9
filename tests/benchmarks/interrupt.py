"""An interrupt of the cell: seconds until the kernel answers the next cell, and all ranks are ended.

Runs in: the benchmarks.

Ranks that obey leave at KeyboardInterrupt; those that ignore SIGINT and SIGTERM are killed when the grace (5 s) is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from nb_elastic import lifeline, rundir
from nb_elastic.run import GRACE_S
from tests.benchmarks.launches import Notebook, cell_of
from tests.benchmarks.table import Row, at_most, take_turns
from tests.support.until import until

NPROC = 2
ROUNDS = 5
QUICK = 2
"""How often in a round those that obey are measured."""

LIMIT_S = 0.5
OBEYS = "import time\nprint('up', flush=True)\ntime.sleep(600)"
IGNORES = f"import signal\nfor n in (signal.SIGINT, signal.SIGTERM):\n    signal.signal(n, signal.SIG_IGN)\n{OBEYS}\nwhile True: time.sleep(9)"


def usable_after(notebook: Notebook, body: str) -> float:
    """Seconds from the interrupt to the end of the next cell."""
    before = {run.run_id for run in notebook.runs()}
    cell = notebook.kernel.start(cell_of(body, NPROC))
    (run,) = until(lambda: [r for r in notebook.runs() if r.run_id not in before], 60, "the run's folder")
    until(lambda: all(_is_up(run, rank) for rank in range(NPROC)), 60, "all ranks up")
    notebook.kernel.wait_for(cell, "up")
    interrupted = time.monotonic()
    notebook.kernel.interrupt()
    notebook.kernel.wait(cell)
    assert cell.reply.get("ename") == "RunStoppedError", cell.text
    notebook.kernel.ok("1")
    took = time.monotonic() - interrupted
    told = [e for e in rundir.JournalReader(run.journal).read() if e.kind == "worker_started"]
    assert not any(lifeline.ProcessId(e["pid"], e["start_ticks"]).is_alive for e in told), "ranks outlived the cell"
    return took


def _is_up(run: rundir.RunDir, rank: int) -> bool:
    return rundir.read_whole(run.rank(0, rank).stdout) == b"up\n"


def measure(tell: Callable[[str], None]) -> list[Row]:
    """Fill the rows."""
    what = f"an interrupt of {NPROC} ranks, to a usable kernel"
    obey, ignore = (
        Row(what, "nb_elastic, ranks obey"),
        Row(what, f"nb_elastic, ranks ignore signals (grace {GRACE_S:g} s)"),
    )
    at_most(obey, LIMIT_S)
    at_most(ignore, GRACE_S + LIMIT_S)
    with Notebook() as notebook:
        notebook.launch("1", NPROC)
        measures = [lambda: usable_after(notebook, OBEYS)] * QUICK + [lambda: usable_after(notebook, IGNORES)]
        take_turns(ROUNDS, [*[obey] * QUICK, ignore], measures, tell)
    return [obey, ignore]
