"""Where the milliseconds between Enter and the first line go: every moment of a warm launch that the run folder tells.

Runs in: the benchmarks.

Moments are the journal's events and its marks (by their names; of several the last), the ``..._ns`` of the ranks' worker.json
(the latest rank's), when the first rank printed, and when the line and the end of the cell came to the front end. All are
relative to the sending of the cell, by the same clock of the same machine. Rows are in order of time; a note tells the
milliseconds since the row before, by their medians. What a run does not tell is not there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from nb_elastic import rundir
from nb_elastic.rundir import JournalReader, RunDir
from tests.benchmarks.launches import TRAIN, Notebook, first_line
from tests.benchmarks.table import Row
from tests.support.kernel import Cell

NPROC = 4
ROUNDS = 15
NOT_STEPS = frozenset({"note"})
"""Events that say something to the reader and are no point on the way."""


def moments(cell: Cell, run: RunDir) -> dict[str, float]:
    """Milliseconds after the cell's sending, by the name of the moment."""
    told: dict[str, int] = {}
    for event in JournalReader(run.journal).read():
        name = f"mark {event.get('name')}" if event.kind == "mark" else event.kind
        if event.kind not in NOT_STEPS:
            told[name] = max(event.time_ns, told.get(name, 0))
    for *_, folder in run.ranks():
        for key, value in rundir.read_json(folder.worker_json).items():
            if key.endswith("_ns") and isinstance(value, int):
                name = f"rank {key.removesuffix('_ns')}"
                told[name] = max(value, told.get(name, 0))
    if printed := [int(ns) for ns in re.findall(r"MARK (\d+) ", cell.text)]:
        told["rank prints (the first)"] = min(printed)
    found = {name: (time_ns - cell.sent_ns) / 1e6 for name, time_ns in told.items()}
    found["FIRST LINE at the front end"] = first_line(cell) * 1e3
    found["END of the cell"] = cell.seconds * 1e3
    return found


def rows_of(runs: Sequence[Mapping[str, float]]) -> list[Row]:
    """One row for each moment, in the order of their medians."""
    what = f"ms since Enter, {NPROC} ranks, warm"
    names = {name for run in runs for name in run}
    rows = [Row(what, name, unit="ms", samples=[run[name] for run in runs if name in run]) for name in names]
    rows.sort(key=lambda row: (row.median, row.who))
    before = 0.0
    for row in rows:
        row.note = f"step {row.median - before:8.2f}"
        before = row.median
    return rows


def measure(tell: Callable[[str], None]) -> list[Row]:
    """Fill the rows."""
    runs: list[dict[str, float]] = []
    with Notebook() as notebook:
        notebook.kernel.ok(TRAIN)
        for _ in range(2):
            notebook.launch("train()", NPROC)
        for number in range(ROUNDS):
            cell = notebook.launch("train()", NPROC)
            runs.append(moments(cell, notebook.newest()))
            tell(f"  {number + 1}/{ROUNDS}  first line after {first_line(cell) * 1e3:.1f} ms")
    return rows_of(runs)
