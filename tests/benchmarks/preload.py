"""What a notebook's own imports cost its ranks: `import sklearn, pandas` in the notebook, both used in every rank.

Runs in: the benchmarks.

The second and later launches of two kernels take turns. Both fit a line to the same data; one with sklearn and a pandas
frame, which the notebook imported, the other with numpy alone, in a notebook that imported numpy alone, and then goes on
computing until its own work has taken as much CPU time as the first one's did in the turn before. A rank imports what the
cell names before the cell's own work begins, so imports are not part of that.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable

from tests.benchmarks.launches import Notebook
from tests.benchmarks.table import Row, ratio_at_most, take_turns

NPROC = 4
ROUNDS = 7
LIMIT = 1.2
DATA = "rng = numpy.random.default_rng(0)\nx = rng.random((2000, 8))\ny = x @ numpy.arange(8.0)"
WITH = "import sklearn, sklearn.linear_model, pandas, numpy"
WITHOUT = "import numpy"
USES = f"""
import time
began = time.process_time()
{DATA}
frame = pandas.DataFrame(x).assign(y=y)
model = sklearn.linear_model.LinearRegression().fit(frame[list(range(8))].to_numpy(), frame["y"].to_numpy())
(round(float(model.coef_[7]), 6), time.process_time() - began)
"""
PLAIN = f"""
import time
began = time.process_time()
{DATA}
table = numpy.column_stack([x, y])
found = numpy.linalg.lstsq(table[:, :8], table[:, 8])[0]
while time.process_time() - began < work_s:
    pass
(round(float(found[7]), 6), time.process_time() - began)
"""


def measure(tell: Callable[[str], None]) -> list[Row]:
    """Fill the rows; the first launches, in which the packages are met, have rows of their own."""
    later, first = f"a launch with sklearn and pandas, {NPROC} ranks", "the same, first launch after the imports"
    who = {"plain": "nb_elastic, numpy alone", "uses": "nb_elastic, imported by the notebook"}
    rows = {name: Row(later, text, is_reference=name == "plain") for name, text in who.items()}
    firsts = {name: Row(first, text, is_reference=name == "plain") for name, text in who.items()}
    ratio_at_most(rows["uses"], LIMIT, rows["plain"], "with / without")
    cells = {"plain": (WITHOUT, PLAIN), "uses": (WITH, USES)}
    own: dict[str, list[float]] = {name: [] for name in cells}
    with contextlib.ExitStack() as stack:
        notebooks = {name: stack.enter_context(Notebook()) for name in cells}
        for name, (imports, body) in cells.items():
            notebooks[name].kernel.ok(f"{imports}\nwork_s = 0.0")
            firsts[name].samples.append(notebooks[name].launch(body, NPROC).seconds)

        def launch(name: str) -> float:
            if name == "plain":
                notebooks[name].kernel.ok(f"work_s = {own['uses'][-1]}")
            took = notebooks[name].launch(cells[name][1], NPROC).seconds
            printed = notebooks[name].kernel.ok(
                "print({c for c, _ in nb_elastic.last_run().results.values()} == {7.0}, "
                "max(s for _, s in nb_elastic.last_run().results.values()))"
            )
            is_right, own_s = printed.stdout.split()
            assert is_right == "True", "the fit is wrong in some rank"
            own[name].append(float(own_s))
            return took

        launch("uses")
        take_turns(ROUNDS, list(rows.values()), [lambda: launch("plain"), lambda: launch("uses")], tell)
    for name, row in rows.items():
        row.note = f"own work {statistics.median(own[name]):.3f} s of CPU in the slowest rank"
    return [*rows.values(), *firsts.values()]
