"""A cell captures an array of 1 GiB: seconds until four ranks see it, and until they have read it; the memory they take.

Runs in: the benchmarks.

Seeing it (the cell returns its first and last element, to the cell's end) stands against the least it can cost: one copy of
the array into a file in /dev/shm, written by the notebook in the same turn, and a launch of an empty cell. Reading all of it
stands against torchrun, whose ranks each load a file. Memory is the sum of the ranks' PSS (a page shared by four counts a
quarter for each), less the same ranks' without the array.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.launches import Notebook, torchrun
from tests.benchmarks.table import Reach, Row, at_most, take_turns

NPROC = 4
GIB = 1 << 30
ROUNDS = 5
READ_ROUNDS = 3
COPY = """
import os, tempfile, time
with tempfile.TemporaryFile(dir="/dev/shm", buffering=0) as f:
    began, left = time.perf_counter(), memoryview(big).cast("B")
    while left:
        left = left[f.write(left):]
    print(time.perf_counter() - began)
"""
READ = """
import re
import torch.distributed as dist
dist.init_process_group("gloo")
total = float(big.sum())
dist.barrier()
pss = int(re.search(r"^Pss:\\s+(\\d+) kB", open("/proc/self/smaps_rollup").read(), re.M)[1]) * 1024
dist.barrier()
dist.destroy_process_group()
"""


def measure(tell: Callable[[str], None]) -> list[Row]:
    """Fill the rows."""
    with Notebook() as notebook:
        notebook.kernel.ok("import numpy\nsmall = numpy.ones(8)")
        notebook.kernel.ok(f"big = numpy.random.default_rng(0).random({GIB // 8})\nnumpy.save('big.npy', big)")
        notebook.kernel.ok("numpy.save('small.npy', small)")
        notebook.launch("1", NPROC)
        return [*_see(notebook, tell), *_read(notebook, tell)]


def _see(notebook: Notebook, tell: Callable[[str], None]) -> list[Row]:
    what = f"1 GiB array, seen in {NPROC} ranks"
    copied, empty = Row(what, "one copy into /dev/shm"), Row(what, "nb_elastic, an empty cell")
    seen = Row(what, "nb_elastic, captured by the cell")
    least = (copied, empty)
    seen.reaches.append(
        Reach(
            1.2,
            lambda: seen.median / sum(row.median for row in least),
            "captured / (copy + empty cell)",
            (seen, *least),
        )
    )

    def captured() -> float:
        cell = notebook.launch("(float(big[0]), float(big[-1]))", NPROC)
        check = "print(set(nb_elastic.last_run().results.values()) == {(float(big[0]), float(big[-1]))})"
        assert notebook.kernel.ok(check).stdout == "True\n", "the ranks saw another array"
        return cell.seconds

    measures = [
        lambda: float(notebook.kernel.ok(COPY).stdout),
        lambda: notebook.launch("1", NPROC).seconds,
        captured,
    ]
    rows = [copied, empty, seen]
    take_turns(ROUNDS, rows, measures, tell)
    return rows


def _read(notebook: Notebook, tell: Callable[[str], None]) -> list[Row]:
    seconds, memory = f"1 GiB array, read through in {NPROC} ranks", f"its memory in {NPROC} ranks together"
    peer, who = "torchrun, np.load in each rank", "nb_elastic, captured by the cell"
    rows = [
        Row(seconds, peer, is_reference=True), Row(seconds, who),
        Row(memory, peer, unit="GiB", is_reference=True), Row(memory, who, unit="GiB"),
    ]  # fmt: skip
    at_most(rows[3], 1.05)
    empty = {"ours": _cell(notebook, "small")[1], "theirs": _torchrun(notebook.folder, "small")[1]}

    def ours() -> float:
        took, pss = _cell(notebook, "big")
        rows[3].samples.append((pss - empty["ours"]) / GIB)
        return took

    def theirs() -> float:
        took, pss = _torchrun(notebook.folder, "big")
        rows[2].samples.append((pss - empty["theirs"]) / GIB)
        return took

    take_turns(READ_ROUNDS, rows[:2], [theirs, ours], tell)
    return rows


def _cell(notebook: Notebook, name: str) -> tuple[float, int]:
    """Seconds of the cell, and the ranks' PSS in bytes."""
    cell = notebook.launch(f"{READ.replace('big', name)}\npss", NPROC, timeout_s=600)
    return cell.seconds, int(notebook.kernel.ok("print(sum(nb_elastic.last_run().results.values()))").stdout)


def _torchrun(folder: Path, name: str) -> tuple[float, int]:
    script = folder / f"{name}.py"
    load = f"import numpy\n{name} = numpy.load({str(folder / f'{name}.npy')!r})"
    say = (
        "import os\nos.write(1, f'PSS {pss}\\n'.encode())"  # whole: torchrun's ranks share a pipe, and print in pieces
    )
    script.write_text(f"{load}\n{READ.replace('big', name)}\n{say}\n")
    started = time.monotonic()
    done = subprocess.run(
        torchrun(script, NPROC), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    took = time.monotonic() - started
    told = [int(value) for value in re.findall(r"^PSS (\d+)$", done.stdout, re.MULTILINE)]
    assert len(told) == NPROC, f"not every rank told its memory: {done.stdout}"
    return took, sum(told)
