"""Shared memory that a rank made goes with the rank: what Python frees after any other process, it frees after a rank, too.

A user would lose: a machine whose memory fills with each stopped run, since nothing but a restart empties /dev/shm.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support import supervise
from tests.support.until import until


@pytest.mark.parametrize("how", ["return", "raise", "stop", "kill"])
def test_no_block_of_shared_memory_outlives_its_rank(how: str):
    words = "wait" if how in {"stop", "kill"} else how
    with supervise.start(supervise.entry("keeps_shared_memory.py", words)) as one:
        started = one.until_event("worker_started", 2)
        logs = [one.run.rank(0, rank).stdout for rank in (0, 1)]
        until(lambda: all(log.exists() and log.read_text().endswith("\n") for log in logs), 120, "both blocks")
        blocks = [Path("/dev/shm", log.read_text().strip()) for log in logs]
        if words == "wait":
            assert all(block.exists() for block in blocks)
        if how == "stop":
            one.stop()
        elif how == "kill":
            os.kill(started[0]["pid"], signal.SIGKILL)
        one.wait()
    assert [block.name for block in blocks if block.exists()] == []
