"""A process that has no file descriptor left: what it can't look at is not judged, and its user hears why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nb_elastic import events, rundir
from nb_elastic.lifeline import ProcessId
from nb_elastic.rundir import Journal

LOWERED = "import resource, sys\nlimit = resource.getrlimit(resource.RLIMIT_NOFILE)\n"


def launched(folder: Path, *more: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.programs.launches_without_descriptors", str(folder), *more],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_launch_waits_for_descriptors_to_see_how_its_run_ended(tmp_path: Path):
    told = launched(tmp_path, "again")
    assert told[-2:] == ["launch: succeeded {0: 'done'}", "attach: succeeded"]
    assert any("the last line" in line for line in told)


def test_a_launch_that_finds_no_descriptor_says_so_and_how_to_see_the_end(tmp_path: Path):
    launch, attach = launched(tmp_path)[-2:]
    assert launch.startswith("launch: DescriptorsError True: Run ")
    assert "ulimit -n" in launch
    assert " attach " in launch
    assert attach == "attach: succeeded"


@pytest.mark.parametrize("is_known", [True, False])
def test_a_run_that_can_not_be_looked_at_is_not_lost(is_known: bool):
    run, me = rundir.create(), ProcessId.of(1)
    assert me is not None
    rundir.write_json(run.run_json, {})
    journal = Journal(run.journal)
    journal.append(events.make("run_created", time_ns=1, run_id=run.run_id, nproc=1))
    journal.append(events.make("supervisor_started", pid=1, start_ticks=me.start_ticks))
    journal.close()
    code = LOWERED + (
        "from nb_elastic import follower, snapshot\nfrom nb_elastic.errors import DescriptorsError\n"
        "from nb_elastic.run import attach\nfollower.BLIND_S = 0.1\nrun = attach(sys.argv[1])\n"
        "if sys.argv[2] == 'True':\n    run.wait(0)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, limit[1]))\n"
        "def told(act):\n    try:\n        return act()\n    except DescriptorsError:\n        return 'unknown'\n"
        "found = [told(lambda: run.state.value), told(lambda: run.wait(5)), told(lambda: snapshot.load(run._folder)),\n"
        "    told(lambda: attach(sys.argv[1]))]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, limit)\nprint(*found, run.state.value)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, run.run_id, str(is_known)], capture_output=True, text=True, check=False
    )
    seen = "starting" if is_known else "unknown"
    assert (done.stdout, done.stderr) == (f"{seen} unknown unknown unknown starting\n", "")
    assert b"run_lost" not in run.journal.read_bytes()
