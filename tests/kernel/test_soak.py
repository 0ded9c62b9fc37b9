"""Twelve launches in one kernel leave nothing behind that a day of launches would pile up."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.footprint import look, settled
from tests.support.kernel import Kernel
from tests.support.until import until

WARM_UP = 4
LAUNCHES = 8
REST_S = 3.0
"""Long enough that ranks made ready after a run, on a busy machine too, are there to be counted."""

CELL = "%%elastic_launch --nproc 2\nimport os\nprint('rank', os.environ['RANK'])\nlen(data)"


@pytest.mark.slow
def test_launch_after_launch_the_kernel_keeps_no_process_descriptor_or_thread(tmp_path: Path):
    """A user would lose a long day's kernel: "too many open files", or a machine full of waiting ranks."""
    (tmp_path / "tmp").mkdir()
    env = {"NB_ELASTIC_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp")}
    with Kernel(cwd=tmp_path, env=env) as kernel:
        kernel.ok("%load_ext nb_elastic\nimport nb_elastic\ndata = list(range(100))")
        for _ in range(WARM_UP):
            kernel.ok(CELL)
        before = settled(kernel.pid, tmp_path, rest_s=REST_S)
        for _ in range(LAUNCHES):
            kernel.ok(CELL)
        assert kernel.ok("print(nb_elastic.last_run().results)").stdout == "{0: 100, 1: 100}\n"

        def has_not_grown() -> bool:
            now = look(kernel.pid, tmp_path)
            assert now, "a process ended just now"
            assert not now.beyond(before), now.beyond(before)
            return True

        until(has_not_grown, 60, "the kernel to hold no more than after its first launches")
