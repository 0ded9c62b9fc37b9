"""Many ranks on one machine: 4, 16 and 64 of them meet in one gloo all-reduce.

Runs in: the benchmarks.

Seconds are the cell's, from its sending to its end, all warm, the sizes in turn. How many descriptors and threads the kernel
and each of our processes holds is counted in a launch of its own, while all ranks of a size have met and wait.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.benchmarks.launches import Notebook, cell_of
from tests.benchmarks.table import Row, ratio_at_most, take_turns
from tests.support import proc
from tests.support.until import until

SIZES = (4, 16, 64)
ROUNDS = 5
LIMIT = 20.0
MEET = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
x = torch.ones(1)
dist.all_reduce(x)
"""
ENDS = f"{MEET}\ndist.destroy_process_group()\nint(x.item())"
WAITS = f"""{MEET}
import time
from pathlib import Path
Path("met", str(dist.get_rank())).touch()
while not Path("go").exists():
    time.sleep(0.01)
dist.destroy_process_group()
"""


def seconds(notebook: Notebook, size: int) -> float:
    """Seconds of a cell of so many ranks."""
    took = notebook.launch(ENDS, size, timeout_s=300).seconds
    results = notebook.kernel.ok("print(list(nb_elastic.last_run().results.values()))").stdout.strip()
    assert results == str([size] * size), f"the all-reduce of {size} came to {results}"
    return took


def held(notebook: Notebook, size: int) -> str:
    """Descriptors and threads while all ranks wait: of the kernel, and of each of our processes, by its part."""
    met, go = notebook.folder / "met", notebook.folder / "go"
    met.mkdir(exist_ok=True)
    cell = notebook.kernel.start(cell_of(WAITS, size))
    try:
        until(lambda: len(list(met.iterdir())) == size, 180, f"all {size} ranks")
        kernel = notebook.kernel.pid
        parts = {"kernel": [kernel], **proc.by_role(kernel)}
        told = [
            f"{part} {max(map(proc.descriptors, pids))} fds {max(map(proc.threads, pids))} threads"
            for part, pids in parts.items()
            if part != "other"
        ]
    finally:
        go.touch()
        notebook.kernel.wait(cell, 300)
        go.unlink()
        for path in met.iterdir():
            path.unlink()
    assert cell.is_ok, cell.text
    return ", ".join(told)


def measure(tell: Callable[[str], None]) -> list[Row]:
    """Fill the rows."""
    what = "gloo all-reduce, to the cell's end"
    rows = {size: Row(what, f"nb_elastic, {size} ranks", is_reference=size == SIZES[0]) for size in SIZES}
    ratio_at_most(rows[SIZES[-1]], LIMIT, rows[SIZES[0]], f"{SIZES[-1]} / {SIZES[0]} ranks")
    with Notebook() as notebook:
        notebook.launch("1", SIZES[0])
        take_turns(ROUNDS, list(rows.values()), [lambda s=size: seconds(notebook, s) for size in SIZES], tell)
        for size, row in rows.items():
            row.note = held(notebook, size)
            tell(f"  {size} ranks: {row.note}")
    return list(rows.values())
