"""From "run cell" to the first line that a rank prints after its first all-reduce, four ranks on gloo.

Runs in: the benchmarks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from nb_elastic.lifeline import descendants
from tests.benchmarks.table import Row, take_turns
from tests.support.kernel import Kernel

NPROC = 4
ROUNDS = 7
TRAIN = """
def train():
    import torch, torch.distributed as dist
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    x = torch.ones(1) * dist.get_rank()
    dist.all_reduce(x)
    print("MARK", dist.get_rank(), x.item(), flush=True)
    dist.destroy_process_group()
"""


def by_torchrun(folder: Path) -> float:
    """Seconds until torchrun shows the line; it is then waited for."""
    script = folder / "train.py"
    script.write_text(TRAIN + "\ntrain()\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={NPROC}", str(script)]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        seconds = next((time.monotonic() - started for line in process.stdout if "MARK" in line), None)
        try:
            process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
    assert seconds is not None, "torchrun never showed the line"
    return seconds


def by_cell(kernel: Kernel, code: str, timeout_s: float = 180.0) -> float:
    """Seconds until the cell shows the line."""
    cell = kernel.ok(code, timeout_s)
    seconds = cell.first("MARK")
    assert seconds is not None, f"the cell never showed the line:\n{cell.text}"
    return seconds


class Forking:
    """The same under accelerate's notebook_launcher, which forks the kernel; after a hang in a new kernel."""

    def __init__(self) -> None:
        self.kernel = Kernel()
        self.first = by_first_cell(self.kernel)

    def measure(self) -> float:
        try:
            return by_cell(self.kernel, forking_cell(), timeout_s=60)
        except AssertionError:
            self.close()
            self.kernel = Kernel()
            by_first_cell(self.kernel)
            raise

    def close(self) -> None:
        for pid in descendants(self.kernel.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.kernel.close()


def forking_cell() -> str:
    """The peer's cell, on a port that is free now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    return f'notebook_launcher(train, (), num_processes={NPROC}, use_port="{port}")'


def by_first_cell(kernel: Kernel) -> float:
    """Seconds of the peer's import and first launch."""
    kernel.ok(TRAIN)
    cell = kernel.ok("import torch\nfrom accelerate import notebook_launcher")
    return cell.seconds + by_cell(kernel, forking_cell(), timeout_s=60)


def measure(tell: Callable[[str], None]) -> list[Row]:
    """Fill the rows; the first launch of a kernel is measured apart, since it may wait for the launcher."""
    what, first = f"cell to first all-reduced line, {NPROC} ranks", f"the same, first launch of a kernel, {NPROC} ranks"
    rows = [
        Row(what, "torchrun", is_reference=True),
        Row(what, "nb_elastic"),
        Row(what, "notebook_launcher (forks the kernel)"),
    ]
    cold = [Row(first, "nb_elastic"), Row(first, "notebook_launcher (imports torch first)")]
    os.environ["OMP_NUM_THREADS"] = "1"
    launch = f"%%elastic_launch --nproc {NPROC}\ntrain()"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nbe-")))
        ours, forking = stack.enter_context(Kernel()), Forking()
        stack.callback(forking.close)
        ours.ok("%load_ext nb_elastic")
        ours.ok(TRAIN)
        cold[0].samples.append(by_cell(ours, launch))
        cold[1].samples.append(forking.first)
        take_turns(ROUNDS, rows, [lambda: by_torchrun(folder), lambda: by_cell(ours, launch), forking.measure], tell)
    return rows + cold
