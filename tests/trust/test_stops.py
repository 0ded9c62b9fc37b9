"""A stop ends every kind of rank in time, tells which way each took, and leaves nothing.

A user would lose: the GPU that a rank keeps which nobody can end, and the model that a rank would have saved.
"""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from nb_elastic import lifeline, rundir, snapshot
from nb_elastic.report_failure import stopped_text
from tests.support import proc, supervise
from tests.support.kernel import Kernel
from tests.support.until import until

MARGIN_S = 20.0
"""So much later than the grace only a hang ends: the machine may be loaded."""

SAVED = "saved and left by itself"
TERM = "ended after SIGTERM"
KILLED = r"killed after \d+(\.\d)? s"


@dataclass(frozen=True)
class Case:
    """A program of ``hard_to_stop`` and how its two ranks come to their ends; ``tail`` is what they write when stopped."""

    name: str
    ways: tuple[str, str]
    grace_s: float = 1.0
    tail: bytes = b""


CASES = [
    Case("python_code", (SAVED, SAVED), grace_s=30),
    Case("c_call_with_sigint_blocked", (TERM, TERM)),
    Case("c_call_that_holds_the_gil", (KILLED, KILLED)),
    Case("peer_that_never_comes", (TERM, SAVED)),
    Case("collective_that_waits_for_a_peer", (TERM, TERM)),
    Case("collective_that_waits_for_a_stopped_peer", (SAVED, SAVED), grace_s=30),
    Case("stopped", (SAVED, SAVED), grace_s=30, tail=b"saved\n"),
    Case("saves_for_3_s", (SAVED, SAVED), grace_s=30, tail=b"saved\n"),
    Case("passes_over_everything", (TERM, TERM)),
    Case("ignores_all_signals", (KILLED, KILLED)),
    Case("grandchildren", (SAVED, SAVED), grace_s=30),
    Case("data_loader", (SAVED, SAVED), grace_s=30),
]
STATES = {"python_code": ("RS", "RS"), "stopped": ("T", "T"), "collective_that_waits_for_a_stopped_peer": ("S", "T")}
"""What the system says of a rank that is where it should be stopped; most are asleep."""
DEAF = [case for case in CASES if SAVED not in case.ways]


def started(case: Case) -> supervise.Supervised:
    """A run of the case, where its ranks are to be stopped."""
    one = supervise.start(supervise.entry(f"tests.programs.hard_to_stop:{case.name}"), nproc=2)
    one.until_event("worker_ready", 2)
    until(lambda: all(one.out(r).endswith(b"up\n") for r in range(2)), 120, "both ranks up")
    pids = [e["pid"] for e in sorted(one.of("worker_started"), key=lambda e: e["rank"])]
    wanted = STATES.get(case.name, ("S", "S"))
    until(lambda: all(lifeline.stat_fields(pid)[0] in state for pid, state in zip(pids, wanted, strict=True)), 60)
    return one


def ways(one: supervise.Supervised) -> list[str]:
    """How the ranks came to their ends, rank by rank."""
    return [e["how"] for e in sorted(one.of("worker_exited"), key=lambda e: e["rank"])]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_stop_ends_it_within_the_grace_and_tells_the_way(case: Case):
    with started(case) as one:
        one.stop(case.grace_s)
        one.wait(case.grace_s + MARGIN_S)
    assert (one.process.returncode, one.state) == (2, "stopped")
    told = ways(one)
    assert all(re.fullmatch(way, how) for way, how in zip(case.ways, told, strict=True)), told
    assert all(one.out(r).endswith(case.tail) for r in range(2))
    assert one.of("worker_failed") == []
    text = stopped_text(snapshot.load(one.run), folder=one.run)
    assert [f"  rank {r}: stopped: {how}" for r, how in enumerate(told)] == text.splitlines()[1:3]


@pytest.mark.parametrize("case", DEAF, ids=lambda case: case.name)
def test_a_second_stop_does_not_wait_for_the_grace(case: Case):
    with started(case) as one:
        one.stop(600)
        one.until_event("signal_sent", 2)
        one.stop(0)
        one.wait(MARGIN_S + 10)
    assert all(re.fullmatch(way, how) for way, how in zip(case.ways, ways(one), strict=True)), ways(one)


def test_a_stop_ends_the_wait_for_a_second_node():
    settings = {"nnodes": "2", "rdzv_backend": "c10d", "rdzv_endpoint": "127.0.0.1:0"}
    with supervise.start(supervise.entry("tests.programs.hard_to_stop:python_code"), nproc=1, **settings) as one:
        one.until_event("rendezvous_started")
        one.stop(grace_s=600)
        one.wait(MARGIN_S)
    assert (one.state, one.of("worker_started")) == ("stopped", [])


def test_a_stop_ends_the_wait_for_a_rank_that_has_left():
    program = supervise.entry("tests.programs.hard_to_stop:peer_that_has_left")
    with supervise.start(program, nproc=2) as one:
        one.until_event("worker_exited")
        until(lambda: one.out(0).endswith(b"up\n"), 120)
        (pid,) = (e["pid"] for e in one.of("worker_started") if e["rank"] == 0)
        until(lambda: lifeline.stat_fields(pid)[0] == "S", 60, "rank 0 to wait for the other")
        one.stop(1)
        one.wait(1 + MARGIN_S)
    assert (one.state, ways(one)) == ("stopped", [TERM, "left by itself"])


def test_what_finished_before_the_stop_keeps_its_result():
    with supervise.start(supervise.entry("tests.programs.one_rank_is_done:main"), nproc=2) as one:
        one.until_event("worker_exited")
        one.stop(30)
        one.wait(60)
    assert ways(one) == ["left by itself", SAVED]
    assert [e["has_result"] for e in sorted(one.of("worker_exited"), key=lambda e: e["rank"])] == [True, False]
    assert [w.state.value for w in snapshot.load(one.run).workers] == ["succeeded", "stopped"]


def test_an_interrupt_ends_a_run_whose_own_processes_were_stopped(tmp_path: Path):
    """SIGSTOP, by a careless Ctrl-Z or ``kill``: whoever should end the ranks could heed nothing."""
    with Kernel(cwd=tmp_path, env={"NB_ELASTIC_HOME": str(tmp_path / "home")}) as kernel:
        kernel.ok("%load_ext nb_elastic\nimport nb_elastic")
        for part in ("supervisor", "forkserver", "supervisor + forkserver"):
            cell = kernel.start(
                f"%%elastic_launch --nproc 2 --render none\nimport time\nopen({part!r}, 'w').close()\ntime.sleep(600)"
            )
            until((tmp_path / part).exists, 120)
            found = proc.by_role(kernel.pid)
            stopped = [pid for name in part.split(" + ") for pid in found[name]]
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            until(lambda stopped=stopped: all(lifeline.stat_fields(pid)[0] == "T" for pid in stopped), 30)
            kernel.interrupt()
            kernel.wait(cell, MARGIN_S + 5)
            assert cell.reply["ename"] == "RunStoppedError", (part, cell.text)


def test_an_interrupt_before_the_first_line_leaves_nothing_at_any_time(tmp_path: Path):
    """Times swept over a warm launch: from the cell's first moment to well after its ranks are up."""
    home = tmp_path / "home"
    with Kernel(cwd=tmp_path, env={"NB_ELASTIC_HOME": str(home)}) as kernel:
        kernel.ok("%load_ext nb_elastic\nimport nb_elastic")
        kernel.ok("%%elastic_launch --nproc 2 --render none\n1")
        for delay_ms in range(0, 301, 20):
            cell = kernel.start(
                "print('begun', flush=True)\n"
                "get_ipython().run_cell_magic('elastic_launch', '--nproc 2 --render none', 'import time\\ntime.sleep(600)')"
            )
            kernel.wait_for(cell, "begun")
            at = time.monotonic() + delay_ms / 1000
            until(lambda at=at: time.monotonic() >= at, 5)
            kernel.interrupt()
            kernel.wait(cell, MARGIN_S + 10)
            assert cell.reply["ename"] in {"RunStoppedError", "KeyboardInterrupt"}, (delay_ms, cell.text)
        for run in home.glob("*"):
            pids = [
                lifeline.ProcessId(e["pid"], e["start_ticks"])
                for e in rundir.JournalReader(run / "journal.jsonl").read()
                if e.kind == "worker_started"
            ]
            assert not any(pid.is_alive for pid in pids), run
            assert snapshot.load(rundir.RunDir(run)).state.is_final
        assert kernel.ok("%%elastic_launch --nproc 2 --out r\nimport os\nos.environ['RANK']").is_ok
