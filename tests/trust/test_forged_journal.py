"""A rank that writes into the journal fools nobody who launched the run: neither about the end nor about who failed.

A user would lose: the truth, and a run: a forged last word would make its watcher leave, which ends all ranks.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from nb_elastic import rundir, snapshot
from tests.support.supervise import PROGRAMS, ROOT


def launch(*words: str, program: str = "forges_the_journal.py", nproc: int = 2) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "nb_elastic",
        "run",
        "-n",
        str(nproc),
        "--render",
        "plain",
        str(PROGRAMS / program),
    ]
    return subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.parametrize("how", ["works", "fails"])
def test_who_launched_the_run_hears_the_supervisor_alone(how: str):
    done = launch(how)
    told = done.stdout + done.stderr
    logs = [folder.stdout.read_bytes() for *_, folder in rundir.find().ranks()]
    assert [b"went on" in log for log in logs] == [True, True], "the run was not left at its forged end"
    assert rundir.FORGED in told
    assert ("Forged" in told, "rank 0 did it" in told, "\x1b]52" in told, "round 5" in told) == (False,) * 4
    if how == "works":
        assert (done.returncode, "forged <script>" in told) == (0, False)
    else:
        assert done.returncode == 1
        assert "rank 1" in told and "ValueError: the truth" in told


def test_who_has_no_key_is_told_what_the_file_says_and_comes_to_no_harm():
    """Another process can't tell a rank's words from the supervisor's; SECURITY.md says so. It must not break."""
    launch("works")
    run = rundir.find()
    now = snapshot.load(run)
    assert now.state.value == "succeeded"
    for words in (["runs"], ["show"], ["logs"]):
        done = subprocess.run(
            [sys.executable, "-m", "nb_elastic", *words], cwd=ROOT, capture_output=True, timeout=100, check=False
        )
        assert (done.returncode, b"Traceback" in done.stderr, b"\x1b]52" in done.stdout) == (0, False, False), (
            done.stderr
        )


def test_no_rank_can_have_a_process_killed_that_is_not_the_runs():
    """It writes a decoy's pid wherever the run's processes are told of, then kills all who know better."""
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as decoy:
        try:
            done = launch(str(decoy.pid), program="names_a_decoy.py", nproc=1)
            assert "named" in done.stdout
            assert "RunLostError" in done.stderr
            assert decoy.poll() is None
        finally:
            decoy.kill()
