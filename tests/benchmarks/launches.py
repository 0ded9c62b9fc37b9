"""Launches as the benchmarks make them: a notebook with the extension loaded, and torchrun on a script.

Runs in: the benchmarks.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nb_elastic.rundir import RunDir
from tests.support.kernel import Cell, Kernel

TRAIN = """
def train():
    import time, torch, torch.distributed as dist
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    x = torch.ones(1) * dist.get_rank()
    dist.all_reduce(x)
    print("MARK", time.time_ns(), dist.get_rank(), x.item(), flush=True)
    dist.destroy_process_group()
"""
"""A function whose ranks print a line after their first all-reduce, and when that was."""

IMPORT_TORCH = "import torch, torch.distributed"
"""What every launch needs imported somewhere: the least a first one can take."""


class Notebook:
    """A kernel with a folder and a home of runs of its own. Use it as a context manager."""

    def __init__(self, *, is_loaded: bool = True) -> None:
        """Start the kernel and load the extension, unless the loading is to be measured."""
        self.folder = Path(tempfile.mkdtemp(prefix="nbe-"))
        self.home, tmp = self.folder / "home", self.folder / "tmp"
        tmp.mkdir()
        self.kernel = Kernel(cwd=self.folder, env={"NB_ELASTIC_HOME": str(self.home), "TMPDIR": str(tmp)})
        if is_loaded:
            self.kernel.ok("%load_ext nb_elastic\nimport nb_elastic")

    def __enter__(self) -> Notebook:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.kernel.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def launch(self, body: str, nproc: int, *, timeout_s: float = 180.0) -> Cell:
        """Launch a body that must succeed, and wait for the cell's end."""
        return self.kernel.ok(cell_of(body, nproc), timeout_s)

    def runs(self) -> list[RunDir]:
        """Runs of this notebook, oldest first."""
        made = [p for p in self.home.glob("*") if (p / "run.json").exists()]
        return [RunDir(p) for p in sorted(made, key=lambda p: (p / "run.json").stat().st_mtime_ns)]

    def newest(self) -> RunDir:
        """The newest run."""
        return self.runs()[-1]


def cell_of(body: str, nproc: int) -> str:
    """The cell's text that launches a body."""
    return f"%%elastic_launch --nproc {nproc}\n{body}"


def first_line(cell: Cell) -> float:
    """Seconds until a cell showed the line of ``TRAIN``."""
    seconds = cell.first("MARK")
    assert seconds is not None, f"the cell never showed the line:\n{cell.text}"
    return seconds


def torchrun(script: Path, nproc: int, *options: str) -> list[str]:
    """Torchrun's command line."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={nproc}"]
    return [*launcher, *options, str(script)]


@dataclass(frozen=True)
class Torchrun:
    """How long a torchrun took to its first line with MARK, and to its end."""

    line_s: float
    end_s: float


def run_torchrun(
    script: Path, nproc: int, *, on_line: Callable[[subprocess.Popen[str]], None] | None = None
) -> Torchrun:
    """Run a script under torchrun to its end; ``on_line`` is called at its first line with MARK."""
    started = time.monotonic()
    line_s: float | None = None
    with subprocess.Popen(
        torchrun(script, nproc), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "MARK" in line and line_s is None:
                line_s = time.monotonic() - started
                if on_line is not None:
                    on_line(process)
        try:
            process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
    end_s = time.monotonic() - started
    assert line_s is not None, "torchrun never showed the line"
    return Torchrun(line_s, end_s)


def in_python(statement: str) -> float:
    """Seconds that a fresh interpreter takes for a statement, its own start included."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", statement], check=True, capture_output=True)
    return time.monotonic() - started
