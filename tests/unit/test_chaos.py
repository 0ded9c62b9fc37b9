"""The chaos test's oracle can fail: a user would lose every promise that it only seems to watch."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nb_elastic import events, rundir
from nb_elastic.lifeline import ProcessId
from nb_elastic.model import WorkerFailure, to_json
from nb_elastic.rundir import RunDir
from tests.chaos import episode, oracle, outcomes, programs
from tests.chaos.episode import Plan, Record
from tests.chaos.oracle import Verdict
from tests.chaos.programs import End, Program
from tests.chaos.scene import Deed, Fault, Scene
from tests.chaos.world import World
from tests.support import leaks

ENDLESS = Program(name="endless", body="", ends=())
TWO_LINES = Program(name="two lines", body="", lines=2)
KILL = Fault(kind="rank", rank=1, number=signal.SIGKILL)


@pytest.fixture
def world(tmp_path: Path, elastic_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world without a kernel."""
    monkeypatch.setattr(oracle, "GONE_S", 0.2)
    monkeypatch.setattr(oracle, "MARGIN_S", 0.0)
    found = World(folder=tmp_path, mark=os.environ[leaks.MARK])
    found.home, found.tmp = elastic_home, tmp_path / "tmp"
    found.tmp.mkdir()
    found.kernel = SimpleNamespace(pid=0)  # type: ignore[assignment]
    yield found


def written(
    *,
    root: int = 1,
    category: str = "killed from outside",
    state: str = "failed",
    exits: bool = True,
    torn: bool = False,
) -> RunDir:
    """A run of two ranks, as its folder tells it; nobody wrote what is left out."""
    folder = rundir.create()
    failure = WorkerFailure(
        rank=root, local_rank=root, round=0, time_ns=5, exit_code=-9, signal="SIGKILL", category=category
    )
    told: list[tuple[str, dict[str, Any]]] = [
        ("run_created", {"run_id": folder.run_id, "nproc": 2}),
        *(
            ("worker_started", {"round": 0, "rank": r, "local_rank": r, "pid": 10 + r, "start_ticks": 1})
            for r in (0, 1)
        ),
    ]
    if exits:
        how = {"exit_code": 0, "state": "succeeded"} if state == "succeeded" else {"exit_code": -9, "state": "failed"}
        told += [("worker_exited", {"round": 0, "rank": r, "local_rank": r, **how}) for r in (0, 1)]
    if state == "failed":
        where = {"round": 0, "rank": root, "local_rank": root}
        told.append(("worker_failed", {**where, "failure": to_json(failure)}))
    told.append(("run_finished", {"state": state, "root_rank": root if state == "failed" else None, "text": ""}))
    lines = [events.encode(events.make(kind, **data)) for kind, data in told]
    folder.journal.write_bytes(b"".join([*lines[:-1], *([b'{"event": "no\n'] if torn else []), lines[-1]]))
    for rank in (0, 1):
        folder.rank(0, rank).path.mkdir(parents=True)
        folder.rank(0, rank).stdout.write_bytes(b"line 0\nline 1\n")
    return folder


def record(world: World, *deeds: Deed, error: str = "WorkerFailedError") -> Record:
    """An episode that was played."""
    scene = Scene(world=world, before=set(), began=time.monotonic(), starter=ProcessId(0, 0), name="", deeds=[*deeds])
    return Record(scene=scene, error=error, text="rank 0 and rank 1 are named" if error else "")


def plan(program: Program, *faults: Fault) -> Plan:
    """An episode's plan."""
    return Plan(seed=0, number=0, program=program, nproc=2, faults=faults)


def deed(fault: Fault, *, is_done: bool = True) -> Deed:
    """A fault that was done."""
    return Deed(fault=fault, text="", at_s=0.0, is_done=is_done)


def test_a_process_that_was_left_is_told_and_ended(world: World):
    with subprocess.Popen(["sleep", "1000"], env={**os.environ, leaks.MARK: world.mark}) as left:
        told = list(oracle._left(world, record(world), Verdict(broken=[])))
        assert left.wait(30) == -signal.SIGKILL
    assert len(told) == 1 and told[0].startswith("processes left") and "sleep 1000" in told[0], told
    assert list(oracle._left(world, record(world), Verdict(broken=[]))) == []


def test_a_half_written_file_that_was_left_is_told(world: World):
    folder = rundir.create()
    (folder.path / ".result.pkl.17.ab").touch()
    (told,) = oracle._left(world, record(world), Verdict(broken=[]))
    assert told.startswith("half-written files left") and ".result.pkl.17.ab" in told


@pytest.mark.parametrize(
    ("names", "spared", "is_told"),
    [
        (["sem.mp-oopnuotk"], 2, False),
        (["sem.mp-oopnuotk", "sem.NGv4sv"], 2, False),
        (["sem.mp-oopnuotk"], 0, True),
        (["sem.mp-oopnuotk", "sem.mp-oopnuotl", "sem.NGv4sv"], 2, True),
        (["sem.mp-oopnuotk", "psm_0123abcd"], 2, True),
    ],
)
def test_of_shared_memory_only_a_lock_that_python_was_making_is_spared(
    world: World, monkeypatch: pytest.MonkeyPatch, names: list[str], spared: int, is_told: bool
):
    for name in names:
        (world.tmp / name).touch()
    monkeypatch.setattr(world, "shared_memory", lambda: set(world.tmp.iterdir()))
    told = list(oracle._left(world, record(world), Verdict(broken=[]), semaphores=spared))
    assert bool(told) is is_told
    assert not list(world.tmp.iterdir())


def test_a_listener_that_was_left_is_told_though_locks_are_spared(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(world, "listeners", lambda: {"tcp 0100007F:1F90"})
    (told,) = oracle._left(world, record(world), Verdict(broken=[]), semaphores=2)
    assert told == "listening sockets left: tcp 0100007F:1F90"


@pytest.mark.parametrize(
    ("journal", "error", "says"),
    [
        ({}, "WorkerFailedError", []),
        (
            {"root": 0},
            "WorkerFailedError",
            ["it ended as failed (rank 0 SIGKILL, killed from outside), which is none of: failed rank 1 SIGKILL"],
        ),
        (
            {"category": "user error"},
            "WorkerFailedError",
            ["it ended as failed (rank 1 SIGKILL, user error), which is none"],
        ),
        ({"state": "succeeded"}, "", ["it ended as succeeded (), which is none of: failed rank 1 SIGKILL"]),
        ({"torn": True}, "WorkerFailedError", ["the journal has 1 torn lines"]),
        ({"exits": False}, "WorkerFailedError", ["the journal tells no end of (round, rank) [(0, 0), (0, 1)]"]),
        (
            {},
            "",
            ["rank 1 failed first, but nobody told", "whoever launched got no error, but the run is failed"],
        ),
        ({}, "RunLostError", ["whoever launched got RunLostError, but the run is failed"]),
    ],
    ids=["true", "wrong rank", "wrong verdict", "wrong state", "torn", "no exits", "no error", "wrong error"],
)
def test_a_journal_that_is_not_true_is_told(world: World, journal: dict[str, Any], error: str, says: list[str]):
    folder = written(**journal)
    played = record(world, deed(KILL), error=error)
    told = list(oracle._journal(folder, plan(ENDLESS, KILL), played, Verdict(broken=[])))
    assert len(told) == len(says) and all(map(str.startswith, told, says)), told


@pytest.mark.parametrize(
    ("log", "is_whole"), [(b"line 0\nline 1\n", True), (b"line 0\n", False), (b"line 1\nline 0\n", False)]
)
def test_a_log_that_lacks_lines_is_told(world: World, log: bytes, is_whole: bool):
    folder = written(state="succeeded")
    folder.rank(0, 1).stdout.write_bytes(log)
    told = list(oracle._ranks(world, folder, plan(TWO_LINES), record(world, error="")))
    assert (told == []) is is_whole, told


def test_only_what_was_done_widens_what_may_be():
    settings = {"restarts": 0, "is_detached": False, "is_command": False}
    assert outcomes.allowed(ENDLESS, [], **settings) == set()
    assert outcomes.allowed(ENDLESS, [deed(KILL)], **settings) == {End(state="failed", root=1, how="SIGKILL")}
    assert outcomes.allowed(TWO_LINES, [deed(KILL, is_done=False)], **settings) == {programs.SUCCESS}
    assert outcomes.allowed(TWO_LINES, [deed(Fault(kind="supervisor"))], **settings) == {
        programs.SUCCESS,
        outcomes.LOST,
    }


def test_a_seed_draws_the_same_episode_again():
    assert [str(episode.draw(7, k)) for k in range(40)] == [str(episode.draw(7, k)) for k in range(40)]
    assert len({str(episode.draw(7, k)) for k in range(40)}) == 40
