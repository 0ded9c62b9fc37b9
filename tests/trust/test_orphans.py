"""Whoever dies, at whatever stage of a run: five seconds later nothing that the run started is left.

A user would lose: GPU memory, held by processes that nobody knows of. ``python -m tests.trust.orphans 200`` makes more tries.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nb_elastic.lifeline import ProcessId, children
from tests.support import leaks
from tests.support.supervise import ROOT
from tests.support.until import until
from tests.trust import orphans

TRIES = {"kernel SIGKILL": 5, "supervisor SIGKILL": 4, "forkserver SIGKILL": 4, "supervisor + forkserver SIGKILL": 4}
"""Of others two: the second one strikes when the ranks are up."""


@pytest.mark.parametrize("kind", orphans.KINDS)
def test_nothing_is_left_five_seconds_after_a_death(kind: str):
    tries = orphans.sweep(kind, TRIES.get(kind, 2))
    assert [one for one in tries if one.left] == []
    assert any(one.started and one.was_there for one in tries), "no try met a run with ranks"


def test_what_a_command_lines_dead_supervisor_and_forkserver_leave_goes_too(tmp_path: Path, monkeypatch):
    """It has no launcher that adopts: the command line does."""
    pids = tmp_path / "pids"
    monkeypatch.setenv("WILL_NOT_DIE", str(pids))
    command = [sys.executable, "-m", "nb_elastic", "run", "-n", "1", "tests.programs.will_not_die:main"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        until(lambda: "up" in process.stdout.readline(), 120)
        (supervisor,) = children(process.pid)
        server, *_ = children(supervisor)
        for pid in (supervisor, server):
            os.kill(pid, signal.SIGKILL)
        told = process.communicate(timeout=60)[1]
    assert "RunLostError" in told
    noted = {ProcessId(*map(int, line.split())) for line in pids.read_text().splitlines()}
    until(lambda: not [leaks.describe(one) for one in noted if one.is_alive], 5)
