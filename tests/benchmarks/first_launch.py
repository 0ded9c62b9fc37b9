"""The first launch of a fresh kernel, where nothing can be warm yet but what `%load_ext` began to warm.

Runs in: the benchmarks.

A launch of four ranks, sent at once after `%load_ext nb_elastic` or three seconds later, from its sending to the first line
after the first all-reduce and to the cell's end, against what nobody can do without: a fresh `python -c "import torch,
torch.distributed"`, in the same turn. That one's time includes half a second in which the interpreter takes torch down again,
which no launch waits for: it is told without, too, and the reach is judged by both. notebook_launcher has to import torch
(into the kernel) and itself, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.benchmarks.first_line import HANG_S, NPROC, ForkingKernel, forking_cell
from tests.benchmarks.launches import IMPORT_TORCH, TRAIN, Notebook, cell_of, first_line, in_python
from tests.benchmarks.table import Row, more_at_most, take_turns

ROUNDS = 5
PAUSE_S = 3.0
BEYOND_S = 0.5
"""What a first launch may take beyond torch's import."""


def by_peer() -> float:
    """Seconds from the peer's import to its first line, in a fresh kernel."""
    with ForkingKernel() as kernel:
        kernel.ok(TRAIN)
        imported = kernel.ok("import torch\nfrom accelerate import notebook_launcher")
        return imported.seconds + first_line(kernel.ok(forking_cell(), timeout_s=HANG_S))


def measure(tell: Callable[[str], None]) -> list[Row]:
    """Fill the rows."""
    what, at_end = f"a kernel's first launch, to its line, {NPROC} ranks", "the same, to the cell's end"
    torch_row = Row(what, f"python -c '{IMPORT_TORCH}'", is_reference=True)
    pauses = {0.0: "nb_elastic, at once after %load_ext", PAUSE_S: f"nb_elastic, {PAUSE_S:g} s after %load_ext"}
    line = {pause: Row(what, who) for pause, who in pauses.items()}
    end = {pause: Row(at_end, who) for pause, who in pauses.items()}
    bare_row = Row(what, "the same, left by os._exit: no teardown")
    for row in (*line.values(), *end.values()):
        more_at_most(row, BEYOND_S, torch_row, "s beyond that python -c")
        more_at_most(row, BEYOND_S, bare_row, "s beyond it without its teardown")

    def ours(pause_s: float) -> float:
        with Notebook(is_loaded=False) as notebook:
            notebook.kernel.ok("%load_ext nb_elastic")
            time.sleep(pause_s)
            cell = notebook.kernel.ok(cell_of(f"{TRAIN}\ntrain()", NPROC))
        end[pause_s].samples.append(cell.seconds)
        return first_line(cell)

    peer = Row(what, "notebook_launcher, torch's import included")
    rows = [torch_row, bare_row, line[0.0], line[PAUSE_S], peer]
    bare = f"{IMPORT_TORCH}, os; os._exit(0)"
    measures = [
        lambda: in_python(IMPORT_TORCH),
        lambda: in_python(bare),
        lambda: ours(0.0),
        lambda: ours(PAUSE_S),
        by_peer,
    ]
    take_turns(ROUNDS, rows, measures, tell)
    return [*rows, *end.values()]
