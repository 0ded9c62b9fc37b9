"""Shared memory that a rank made goes with the rank: what Python frees after any other process, it frees after a rank, too.

A user would lose: a machine whose memory fills with each stopped run, since nothing but a restart empties /dev/shm.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker, util
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest

from nb_elastic import killing
from nb_elastic.lifeline import ProcessId
from tests.support import supervise
from tests.support.until import until


@pytest.mark.parametrize("how", ["return", "raise", "stop", "kill", "stray"])
def test_no_block_of_shared_memory_outlives_its_rank(how: str):
    words = "wait" if how in {"stop", "kill"} else how  # a child that left the session is ended before the tracker
    with supervise.start(supervise.entry("keeps_shared_memory.py", words)) as one:
        started = one.until_event("worker_started", 2)
        logs = [one.run.rank(0, rank).stdout for rank in (0, 1)]
        until(lambda: all(log.exists() and log.read_text().endswith("\n") for log in logs), 120, "both blocks")
        blocks = [Path("/dev/shm", log.read_text().strip()) for log in logs]
        if words in {"wait", "stray"}:
            assert all(block.exists() for block in blocks)
        if how == "stop":
            one.stop()
        elif how in {"kill", "stray"}:
            os.kill(started[0]["pid"], signal.SIGKILL)
        one.wait()
    assert [block.name for block in blocks if block.exists()] == []


def test_what_joblib_shares_with_its_processes_goes_with_a_killed_rank():
    """Its tracker is one of its own."""
    with supervise.start(supervise.entry("holds_joblib_files.py")) as one:
        started = one.until_event("worker_started", 2)
        logs = [one.run.rank(0, rank).stdout for rank in (0, 1)]
        until(lambda: all(log.exists() and log.read_text().endswith("\n") for log in logs), 120, "the files of both")
        files = [Path("/dev/shm", name) for log in logs for name in log.read_text().split()]
        assert sum("joblib_memmapping_folder" in path.name for path in files if path.exists()) >= 2
        os.kill(started[0]["pid"], signal.SIGKILL)
        one.wait()
    assert [path.name for path in files if path.exists()] == []


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """What this process starts waits for it, in the midst of an exec too."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("one_cpu")
@pytest.mark.parametrize("_time", range(10))
def test_a_tracker_that_is_just_starting_is_let_to_free_what_it_was_told_of(_time: int):
    """A rank makes its first block and dies while its tracker is in the midst of the exec: it has no command line yet."""
    block = _untracked_block()
    read_end, write_end = os.pipe()
    register = f"REGISTER:/{block.name}:shared_memory\n".encode()
    words = [sys.executable, "-c", f"from multiprocessing.resource_tracker import main;main({read_end})"]
    pid = util.spawnv_passfds(os.fsencode(sys.executable), list(map(os.fsencode, words)), [read_end])
    os.write(write_end, register)
    os.close(read_end)
    os.close(write_end)
    identity = ProcessId.of(pid)
    assert identity is not None
    killing.kill_all([identity])
    os.waitpid(pid, 0)
    is_left = block.exists()
    block.unlink(missing_ok=True)
    assert not is_left


def test_a_process_that_never_tells_what_it_runs_is_killed_all_the_same(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(killing, "EXEC_S", 0.05)
    monkeypatch.setattr(killing, "cleans_up", lambda _pid: None)
    with subprocess.Popen(["sleep", "600"]) as process:
        identity = ProcessId.of(process.pid)
        assert identity is not None
        assert killing.kill_all([identity]) == 1
        assert process.wait(60) == -signal.SIGKILL


def _untracked_block() -> Path:
    """A block of shared memory that this process's own tracker does not know of."""
    made = SharedMemory(create=True, size=4096)
    path = Path("/dev/shm", made.name)
    resource_tracker.unregister(f"/{made.name}", "shared_memory")
    made.close()
    return path
