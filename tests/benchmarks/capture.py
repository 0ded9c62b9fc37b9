"""A cell captures an array of 1 GiB: seconds until four ranks have read all of it, and the memory they take together.

Runs in: the benchmarks.

Memory is the sum of the ranks' PSS (a page shared by four counts a quarter for each), less the same ranks' without the array.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.table import Row, take_turns
from tests.support.kernel import Kernel

NPROC = 4
GIB = 1 << 30
ROUNDS = 5
BODY = """
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
    seconds, memory = f"1 GiB array to {NPROC} ranks, read through", f"its memory in {NPROC} ranks together"
    peer = "torchrun, np.load in each rank"
    rows = [
        Row(seconds, peer, is_reference=True), Row(seconds, "nb_elastic, captured by the cell"),
        Row(memory, peer, unit="GiB", is_reference=True), Row(memory, "nb_elastic, captured by the cell", unit="GiB"),
    ]  # fmt: skip
    os.environ["OMP_NUM_THREADS"] = "1"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nbe-")))
        kernel = stack.enter_context(Kernel(cwd=folder))
        kernel.ok("%load_ext nb_elastic\nimport nb_elastic, numpy")
        kernel.ok("small = numpy.ones(8)")
        kernel.ok(
            f"big = numpy.random.default_rng(0).random({GIB // 8})\nnumpy.save('big.npy', big)\nnumpy.save('small.npy', small)"
        )
        empty = {"ours": _cell(kernel, "small")[1], "theirs": _torchrun(folder, "small")[1]}

        def ours() -> float:
            took, pss = _cell(kernel, "big")
            rows[3].samples.append((pss - empty["ours"]) / GIB)
            return took

        def theirs() -> float:
            took, pss = _torchrun(folder, "big")
            rows[2].samples.append((pss - empty["theirs"]) / GIB)
            return took

        take_turns(ROUNDS, rows[:2], [theirs, ours], tell)
    return rows


def _cell(kernel: Kernel, name: str) -> tuple[float, int]:
    """Seconds of the cell, and the ranks' PSS in bytes."""
    cell = kernel.ok(f"%%elastic_launch --nproc {NPROC}\n{BODY.replace('big', name)}\npss", timeout_s=600)
    return cell.seconds, int(kernel.ok("print(sum(nb_elastic.last_run().results.values()))").stdout)


def _torchrun(folder: Path, name: str) -> tuple[float, int]:
    script = folder / f"{name}.py"
    body = BODY.replace("big", name)
    script.write_text(
        f"import numpy\n{name} = numpy.load({str(folder / f'{name}.npy')!r})\n{body}\nprint('PSS', pss, flush=True)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={NPROC}", str(script)]
    started = time.monotonic()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    took = time.monotonic() - started
    words = done.stdout.split()
    return took, sum(int(value) for word, value in zip(words, words[1:], strict=False) if word == "PSS")
