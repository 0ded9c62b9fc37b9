"""Launches on real GPUs: CUDA in the notebook does no harm, memory is given back whoever dies, and what fails there is told.

Runs in: the tests, on a machine with NVIDIA GPUs. A user would lose: GPU memory, and the reason why.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nb_elastic.model import FailureCategory
from nb_elastic.nvml_usage import NvmlGauge
from tests.support import corpus_run, supervise
from tests.support.hanging import all_said, hang_of, launched
from tests.support.kernel import Cell, Kernel
from tests.support.until import until

pytestmark = pytest.mark.gpu

GIB = 1 << 30
HOLDS = supervise.PROGRAMS / "holds_gpu_memory.py"
GONE_S = 10.0
"""The contract's five seconds for processes, and as long again for the driver."""

REDUCES = """%%elastic_launch --nproc gpu --out r
import os, torch, torch.distributed as dist
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
dist.init_process_group("nccl")
one = torch.ones(1, device="cuda")
dist.all_reduce(one)
dist.destroy_process_group()
one.item()
"""


@pytest.fixture
def kernel(tmp_path: Path, elastic_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """A kernel of this test's own, which may be killed."""
    monkeypatch.setenv("NBE_TEST_FOLDER", str(tmp_path))
    with Kernel(cwd=tmp_path) as started:
        started.ok("%load_ext nb_elastic\nimport nb_elastic, torch")
        yield started


def used_bytes() -> int:
    """Memory in use on all GPUs together, as the driver counts it."""
    gauge = NvmlGauge()
    gauge.open()
    try:
        return sum(gauge.look(device.uuid).used_bytes for device in gauge.devices())
    finally:
        gauge.close()


def holding(kernel: Kernel, before: int) -> Cell:
    """Start a rank that holds a gibibyte; returns its cell when the driver counts it."""
    cell = kernel.start(f"%elastic_launch --nproc 1 --render none {HOLDS}")
    until(lambda: used_bytes() - before > GIB, 120, "the rank's gibibyte")
    return cell


def test_nccl_works_also_after_the_notebook_has_used_cuda(kernel: Kernel) -> None:
    kernel.ok("x = torch.arange(3, device='cuda')")
    for _ in range(2):  # from the launcher, then from what stood by
        kernel.ok(REDUCES)
        assert kernel.ok(
            "n = torch.cuda.device_count(); print(r.results == dict.fromkeys(range(n), float(n)))"
        ).stdout == ("True\n")
    assert kernel.ok("print(int(x.sum()))").stdout == "3\n"


def test_nothing_that_waits_for_the_next_launch_holds_gpu_memory(kernel: Kernel) -> None:
    before = used_bytes()
    kernel.ok(REDUCES)
    until(lambda: used_bytes() - before < 64 << 20, GONE_S, "the GPUs as they were")


def test_a_killed_kernel_gives_the_gpus_memory_back(kernel: Kernel) -> None:
    before = used_bytes()
    holding(kernel, before)
    kernel.kill()
    until(lambda: used_bytes() - before < 64 << 20, GONE_S, "the GPUs as they were")


def test_an_interrupt_gives_the_gpus_memory_back(kernel: Kernel) -> None:
    before = used_bytes()
    cell = holding(kernel, before)
    kernel.interrupt()
    kernel.wait(cell)
    assert cell.reply["ename"] == "RunStoppedError", cell.text
    until(lambda: used_bytes() - before < 64 << 20, GONE_S, "the GPUs as they were")


@pytest.mark.parametrize(
    ("code", "category", "word"),
    [
        ("[torch.ones(4 << 30, device='cuda') for _ in range(100)]", FailureCategory.GPU_MEMORY, "out of memory"),
        ("torch.ones(3, device='cuda')[torch.tensor([7], device='cuda')].cpu()", FailureCategory.USER_ERROR, "device-side assert"),
    ],
    ids=["no memory left", "an assertion on the device"],
)  # fmt: skip
def test_what_fails_on_the_gpu_has_its_kind(tmp_path: Path, code: str, category: FailureCategory, word: str) -> None:
    program = tmp_path / "fails.py"
    program.write_text(f"import torch\n{code}\n")
    done = supervise.run(str(program), nproc=1)
    last = corpus_run.folded(done.run)
    assert (last.category, last.root_rank) == (category.value, 0), last.text
    assert word in last.text


def test_a_kernel_on_the_gpu_that_does_not_end_is_told_as_a_hang(kernel: Kernel, tmp_path: Path) -> None:
    program = tmp_path / "spins.py"
    program.write_text(
        "import torch\nx = torch.ones(1, device='cuda')\nprint('ready', flush=True)\n"
        "torch.cuda._sleep(1 << 45)\ntorch.cuda.synchronize()\n"
    )
    with launched(kernel, "--hang-after 2", str(program), nproc=1) as run:
        until(lambda: all_said(run, nproc=1), 120)
        found = hang_of(run)
    assert (found.kind, found.headline) == ("gpu", "Rank 0 waits for the GPU, spins.py, line 5.")
