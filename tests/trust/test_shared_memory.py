"""Shared memory of ranks goes with them, whoever was killed: Python's tracker gets the time to free it.

A user would lose: a machine whose memory fills with each run that was lost, since nothing but a restart empties /dev/shm.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import nb_elastic
from nb_elastic.lifeline import ProcessId, children, descendants, stat_fields
from nb_elastic.run import Run
from nb_elastic.rundir import RunDir
from tests.support.kernel import Kernel
from tests.support.supervise import ROOT
from tests.support.until import until

PROGRAM = "tests/programs/keeps_shared_memory.py"
PARTS = ("supervisor", "forkserver", "both", "launcher", "kernel")


def blocks(run: Run) -> list[Path]:
    """The block of each of two ranks, once it has one."""

    def told() -> list[str]:
        try:
            return [run.logs(rank).strip() for rank in (0, 1)]
        except nb_elastic.ElasticError:  # no ranks yet
            return []

    names = until(lambda: all(found := told()) and found, 120, "two blocks")
    found = [Path("/dev/shm", name) for name in names]
    assert all(block.exists() for block in found)
    return found


def strike(part: str, kernel: int, supervisor: int) -> None:
    """Kill one of a run's helpers, or two."""
    server, *_ = children(supervisor)
    launcher = int(stat_fields(supervisor)[1])
    doomed = {"supervisor": [supervisor], "forkserver": [server], "both": [supervisor, server], "launcher": [launcher]}
    for pid in doomed.get(part, [kernel]):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("part", PARTS)
def test_no_block_outlives_a_run_of_a_kernel(part: str, elastic_home: Path):
    del elastic_home
    with Kernel(cwd=ROOT) as kernel:
        kernel.ok("%load_ext nb_elastic")
        cell = kernel.start(f"%elastic_launch --nproc 2 {PROGRAM} wait")
        run = until(lambda: next(iter(nb_elastic.runs()), None), 120, "the run")
        found = blocks(run)
        strike(part, kernel.pid, run.snapshot.supervisor_pid)
        if part == "launcher":  # a run lives on without it
            kernel.interrupt()
        until(lambda: [block.name for block in found if block.exists()] == [], 10, "no block")
        if part != "kernel":
            assert kernel.wait(cell).reply["status"] == "error"


@pytest.mark.parametrize("part", ["supervisor", "forkserver", "both"])
def test_no_block_outlives_a_run_of_the_command_line(part: str, elastic_home: Path):
    del elastic_home
    command = [sys.executable, "-m", "nb_elastic", "run", "-n", "2", PROGRAM, "wait"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        run = until(lambda: next(iter(nb_elastic.runs()), None), 120, "the run")
        found = blocks(run)
        strike(part, 0, run.snapshot.supervisor_pid)
        process.communicate(timeout=60)
    assert process.returncode == 1
    until(lambda: [block.name for block in found if block.exists()] == [], 10, "no block")


def test_reap_leaves_no_block_of_what_outlived_its_rank(elastic_home: Path):
    del elastic_home
    command = [sys.executable, "-m", "nb_elastic"]
    subprocess.run(
        [*command, "run", "-n", "2", "--detach", PROGRAM, "child"],
        cwd=ROOT,
        capture_output=True,
        timeout=120,
        check=True,
    )
    (run,) = nb_elastic.runs()
    found = blocks(run)
    supervisor = ProcessId.of(run.snapshot.supervisor_pid)
    server, *_ = children(supervisor.pid)
    ranks = [ProcessId.of(worker.pid) for worker in run.snapshot.workers]
    outlive = {pid for rank in ranks for pid in descendants(rank.pid)}  # two children, and the tracker of each
    roll = RunDir(run.dir).processes()
    until(lambda: all(str(pid) in roll.read_text() for pid in outlive), 60, "all of them on the roll")
    for pid in (supervisor.pid, server):  # both are to be dead before either can sweep
        os.kill(pid, signal.SIGSTOP)
    for pid in (supervisor.pid, server):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(one.is_alive for one in (supervisor, *ranks)), 10, "the end of all but the children")
    assert all(block.exists() for block in found)
    reaped = subprocess.run([*command, "reap"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "Ended 4 processes of 1 run(s)." in reaped.stdout
    until(lambda: [block.name for block in found if block.exists()] == [], 10, "no block")
