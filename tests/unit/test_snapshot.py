"""The reducer of the journal: what a user is told about a run must follow from its events alone."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nb_elastic import events, snapshot
from nb_elastic.events import Event
from nb_elastic.lifeline import ProcessId
from nb_elastic.model import Frame, RunState, WorkerFailure, WorkerState
from nb_elastic.rundir import Journal, RunDir
from nb_elastic.snapshot import EMPTY, RoundSnapshot, RunSnapshot, WorkerSnapshot


def fold_all(journal: list[Event], start: RunSnapshot = EMPTY) -> RunSnapshot:
    """Fold a whole list."""
    for event in journal:
        start = snapshot.fold(start, event)
    return start


def stamped(*steps: tuple[str, dict[str, Any]]) -> list[Event]:
    """Events one second apart from the first second on."""
    return [events.make(kind, time_ns=n * 10**9, **data) for n, (kind, data) in enumerate(steps, 1)]


CREATED = (
    "run_created",
    {"run_id": "r1", "rdzv_id": "z", "name": "net", "nproc": 2, "max_restarts": 1, "entry": "Cell In[12]"},
)
FAILURE = {
    "rank": 1,
    "local_rank": 1,
    "round": 0,
    "time_ns": 7_500_000_000,
    "error_type": "ValueError",
    "message": "no",
}
ONE_RESTART = stamped(
    CREATED,
    ("supervisor_started", {"pid": 50, "start_ticks": 9, "host": "box", "torch": "2.13", "python": "3.11"}),
    ("rendezvous_started", {"round": 0, "attempt": 0}),
    ("rendezvous_finished", {"round": 0, "attempt": 0, "world_size": 2}),
    ("worker_started", {"round": 0, "rank": 0, "local_rank": 0, "pid": 51, "start_ticks": 1, "start_method": "warm"}),
    ("worker_started", {"round": 0, "rank": 1, "local_rank": 1, "pid": 52, "start_ticks": 2, "start_method": "warm"}),
    (
        "worker_ready",
        {
            "round": 0,
            "rank": 1,
            "local_rank": 1,
            "worker": {"cpus": [0, 1, 2, 8], "device": "cpu", "binding": "node 0"},
        },
    ),
    ("worker_failed", {"round": 0, "rank": 1, "local_rank": 1, "failure": FAILURE}),
    (
        "worker_exited",
        {"round": 0, "rank": 1, "local_rank": 1, "pid": 52, "exit_code": 1, "signal": "", "state": "failed"},
    ),
    (
        "worker_exited",
        {"round": 0, "rank": 0, "local_rank": 0, "pid": 51, "exit_code": -15, "signal": "SIGTERM", "state": "ended"},
    ),
    ("round_ended", {"round": 0, "attempt": 0, "cause": "failure", "text": "rank 1 failed"}),
    ("rendezvous_started", {"round": 1, "attempt": 1}),
    ("rendezvous_finished", {"round": 1, "attempt": 1, "world_size": 2}),
    ("worker_started", {"round": 1, "rank": 0, "local_rank": 0, "pid": 61}),
    ("worker_started", {"round": 1, "rank": 1, "local_rank": 1, "pid": 62}),
    (
        "worker_exited",
        {"round": 1, "rank": 0, "local_rank": 0, "exit_code": 0, "state": "succeeded", "has_result": True},
    ),
    (
        "worker_ready",
        {"round": 1, "rank": 0, "local_rank": 0, "worker": {"result": {"text": "0.98", "size_bytes": 24, "error": ""}}},
    ),
    ("worker_exited", {"round": 1, "rank": 1, "local_rank": 1, "exit_code": 0, "state": "succeeded"}),
    ("run_finished", {"state": "succeeded"}),
)


def test_of_several_nodes_the_first_tells_when_a_round_was_formed():
    s = fold_all(stamped(CREATED, *[("rendezvous_finished", {"round": 0, "world_size": 4})] * 2))
    assert [r.formed_ns for r in s.rounds] == [2 * 10**9]


def test_a_restarted_run_keeps_its_first_round_and_shows_the_second() -> None:
    failure = WorkerFailure(rank=1, local_rank=1, round=0, time_ns=7_500_000_000, error_type="ValueError", message="no")
    second = 10**9
    assert fold_all(ONE_RESTART) == RunSnapshot(
        run_id="r1",
        rdzv_id="z",
        name="net",
        state=RunState.SUCCEEDED,
        entry="Cell In[12]",
        nproc=2,
        world_size=2,
        attempt=1,
        max_restarts=1,
        round=1,
        created_ns=second,
        started_ns=5 * second,
        finished_ns=19 * second,
        last_ns=19 * second,
        supervisor_pid=50,
        supervisor_start_ticks=9,
        host="box",
        torch="2.13",
        python="3.11",
        workers=(
            WorkerSnapshot(
                node=0,
                local_rank=0,
                rank=0,
                round=1,
                state=WorkerState.SUCCEEDED,
                pid=61,
                started_ns=14 * second,
                ended_ns=16 * second,
                exit_code=0,
                has_result=True,
                result_text="0.98",
                result_size_bytes=24,
            ),
            WorkerSnapshot(
                node=0,
                local_rank=1,
                rank=1,
                round=1,
                state=WorkerState.SUCCEEDED,
                pid=62,
                started_ns=15 * second,
                ended_ns=18 * second,
                exit_code=0,
            ),
        ),
        rounds=(
            RoundSnapshot(
                number=0,
                cause="failure",
                text="rank 1 failed",
                started_ns=3 * second,
                formed_ns=4 * second,
                ended_ns=11 * second,
                world_size=2,
                failures=(failure,),
            ),
            RoundSnapshot(number=1, attempt=1, started_ns=12 * second, formed_ns=13 * second, world_size=2),
        ),
    )


def test_the_state_of_a_run_follows_its_events() -> None:
    states = [fold_all(ONE_RESTART[: n + 1]).state.value for n in range(len(ONE_RESTART))]
    assert states == (
        ["created", "starting", "starting", "starting"]
        + ["running"] * 6
        + ["restarting"] * 3
        + ["running"] * 5
        + ["succeeded"]
    )


def test_what_a_worker_really_got_is_shown() -> None:
    worker = fold_all(ONE_RESTART[:7]).worker(1)
    assert worker is not None
    assert (worker.cpus, worker.device, worker.binding, worker.state) == ("0-2,8", "cpu", "node 0", WorkerState.RUNNING)


def failed(rank: int, time_ns: int, **fields: Any) -> Event:
    """A worker_failed event."""
    data = {"rank": rank, "local_rank": rank, "round": 0, "time_ns": time_ns, **fields}
    return events.make("worker_failed", time_ns=99, round=0, rank=rank, local_rank=rank, failure=data)


def test_the_root_cause_is_the_earliest_failure_that_did_not_follow() -> None:
    after = fold_all(
        [failed(3, 40), failed(1, 10, followed="Connection closed by peer"), failed(2, 30), failed(0, 20, followed="x")]
    )
    assert [f.rank for f in after.failures] == [2, 3, 1, 0]
    assert after.root_rank == 2
    assert after.root is after.failures[0]


def test_the_supervisors_last_word_names_the_root_cause() -> None:
    after = fold_all([failed(3, 40), failed(2, 30), events.make("run_finished", state="failed", root_rank=3)])
    assert ([f.rank for f in after.failures], after.root_rank, after.rounds) == ([3, 2], 3, ())


def test_a_late_event_does_not_revive_a_worker_or_a_run() -> None:
    done = fold_all(ONE_RESTART)
    late = [
        events.make("worker_ready", time_ns=1, round=1, rank=0, local_rank=0, worker={}),
        events.make("worker_started", time_ns=1, round=0, rank=0, local_rank=0, pid=51),
        events.make("stop_requested", time_ns=1, by="me"),
        events.make("rendezvous_started", time_ns=1, round=1, attempt=1),
        events.make("run_lost", time_ns=1, text="gone"),
    ]
    after = fold_all(late, done)
    assert after == replace(done, stop_by="me")


def test_a_stopped_run_tells_by_whom_and_its_ranks_are_stopped() -> None:
    after = fold_all([*ONE_RESTART[:7], *stamped(("stop_requested", {"by": "Ctrl-C"}))])
    assert (after.state, after.stop_by) == (RunState.STOPPING, "Ctrl-C")
    after = fold_all(stamped(("run_finished", {"state": "stopped"})), after)
    assert [w.state for w in after.workers] == [WorkerState.STOPPED] * 2
    assert after.state is RunState.STOPPED


def test_the_times_that_a_rank_was_held_are_kept_and_end_with_it() -> None:
    at = {"round": 0, "rank": 0, "local_rank": 0}
    story = [
        events.make("worker_started", time_ns=1, attempt=0, pid=7, **at),
        events.make("worker_held", time_ns=10, why="breakpoint", text="line 3", **at),
        events.make("worker_released", time_ns=20, **at),
        events.make("worker_held", time_ns=30, why="failure", text="line 4", **at),
    ]
    held = fold_all(story)
    assert (held.held[0].held, held.held[0].held_text, held.workers[0].holds) == (
        "failure",
        "line 4",
        ((10, 20), (30, 0)),
    )
    gone = fold_all(
        [*story, events.make("worker_exited", time_ns=40, exit_code=1, state="failed", how="left by itself", **at)]
    )
    assert (gone.held, gone.workers[0].holds, gone.workers[0].how) == ((), ((10, 20), (30, 40)), "left by itself")
    late = fold_all(
        [
            *story,
            events.make("worker_exited", time_ns=40, exit_code=1, **at),
            events.make("worker_held", time_ns=50, **at),
        ]
    )
    assert late.workers[0].holds == ((10, 20), (30, 40))
    lost = fold_all([*story, events.make("run_lost", time_ns=60, text="gone")])
    assert (lost.held, lost.workers[0].holds) == ((), ((10, 20), (30, 60)))


def test_what_a_launch_waits_for_is_told_until_its_supervisor_speaks() -> None:
    waits = events.make("mark", name="waits", text="importing torch (first launch of this kernel)")
    early = [events.make("run_created", run_id="r"), events.make("mark", name="folder"), waits]
    assert fold_all(early).waits_for == "importing torch (first launch of this kernel)"
    begun = [*early, events.make("supervisor_started", pid=1, start_ticks=1)]
    assert (fold_all(begun).waits_for, fold_all([*begun, waits]).waits_for) == ("", "")


def test_a_note_is_told_once() -> None:
    note = events.make("note", level="warning", text="fell back to spawn")
    assert fold_all([note, note, events.make("note", level=[], text="b")]).notes == (
        ("warning", "fell back to spawn"),
        ("info", "b"),
    )


def test_two_nodes_are_told_apart() -> None:
    journal = [
        events.make("worker_started", time_ns=1, node=1, round=0, rank=1, local_rank=0),
        events.make("worker_started", time_ns=2, node=0, round=0, rank=0, local_rank=0),
    ]
    after = fold_all(journal)
    assert [(w.node, w.local_rank, w.rank) for w in after.workers] == [(0, 0, 0), (1, 0, 1)]
    assert after.world_size == 2


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """An empty run folder."""
    return RunDir(tmp_path)


def write(run: RunDir, *journal: Event) -> None:
    """Write a journal."""
    writer = Journal(run.journal)
    for event in journal:
        writer.append(event)
    writer.close()


def test_a_run_whose_supervisor_vanished_is_lost_not_running_for_ever(run: RunDir) -> None:
    dead = {"pid": os.getpid(), "start_ticks": 1, "host": socket.gethostname()}
    write(run, *ONE_RESTART[:1], events.make("supervisor_started", time_ns=2, **dead), *ONE_RESTART[2:6])
    found = snapshot.load(run)
    assert found.state is RunState.LOST
    assert found.text == f"the supervisor (pid {os.getpid()}) vanished without a last word"
    assert found.finished_ns == 6 * 10**9
    assert [w.state for w in found.workers] == [WorkerState.ENDED] * 2


def test_a_run_whose_supervisor_lives_is_running(run: RunDir) -> None:
    me = ProcessId.of(os.getpid())
    assert me is not None
    alive = {"pid": me.pid, "start_ticks": me.start_ticks, "host": socket.gethostname()}
    write(run, *ONE_RESTART[:1], events.make("supervisor_started", time_ns=2, **alive), *ONE_RESTART[2:6])
    assert snapshot.load(run).state is RunState.RUNNING


def test_a_supervisor_on_another_host_is_believed(run: RunDir) -> None:
    write(run, *ONE_RESTART[:6])
    assert snapshot.load(run).state is RunState.RUNNING


def test_a_run_that_never_got_a_supervisor_is_lost_after_a_while(run: RunDir) -> None:
    write(run, *ONE_RESTART[:1])
    assert snapshot.load(run, now_ns=10**9).state is RunState.CREATED
    assert snapshot.load(run, now_ns=1000 * 10**9).text.startswith("no supervisor ever reported")


def test_an_empty_folder_loads_under_its_own_name(run: RunDir) -> None:
    assert snapshot.load(run, now_ns=0) == replace(EMPTY, run_id=run.run_id)


def test_a_snapshot_is_json() -> None:
    text = json.dumps(snapshot.to_json(fold_all(ONE_RESTART[:9])))
    value = json.loads(text)
    assert (value["state"], value["workers"][1]["state"]) == ("running", "failed")
    assert value["failures"][0]["error_type"] == "ValueError"


def test_a_frame_of_nonsense_is_read_as_an_empty_one() -> None:
    after = fold_all(
        [failed(0, 1, frames=[{"file": 3, "line": "x"}, 7, {"file": "Cell In[1]", "line": 2}], exit_code="no")]
    )
    assert after.failures[0].frames == (Frame(file="", line=0, name=""), Frame(file="Cell In[1]", line=2, name=""))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["failed", "\ud800", 10**400, -1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
KINDS = [e.kind for e in ONE_RESTART] + [
    "note",
    "stop_requested",
    "signal_sent",
    "run_lost",
    "mark",
    "unheard of",
    "node_joined",
    "node_lost",
    "node_left",
]
KEYS = sorted(
    {k for e in ONE_RESTART for k in e.data} | set(FAILURE) | {"level", "text", "by", "root_rank", "result", "frames"}
)
GARBAGE = st.builds(
    Event,
    kind=st.sampled_from(KINDS),
    time_ns=st.integers(),
    node=st.integers(0, 2),
    data=st.dictionaries(
        st.sampled_from(KEYS), JSON | st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4), max_size=8
    ),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(GARBAGE | st.sampled_from(ONE_RESTART), max_size=25))
def test_no_journal_however_garbled_breaks_the_reader(journal: list[Event]) -> None:
    after = fold_all(journal)
    json.dumps(snapshot.to_json(after)).encode()
    keys = [(w.node, w.local_rank) for w in after.workers]
    assert keys == sorted(set(keys))
    assert after.elapsed_s(0) >= 0


@settings(max_examples=50, deadline=None)
@given(st.permutations(ONE_RESTART), st.integers(0, len(ONE_RESTART)))
def test_a_shuffled_or_cut_journal_still_ends_as_it_says(journal: list[Event], length: int) -> None:
    after = fold_all(journal[:length])
    assert after.state.is_final == any(e.kind == "run_finished" for e in journal[:length])


@pytest.mark.parametrize("last", [0, 1], ids=["the cause's node speaks last", "the follower's node speaks last"])
def test_a_node_that_only_lost_a_peer_does_not_take_the_blame_from_another(last: int) -> None:
    """No node sees another one's ranks: each names a root cause of its own, whose message may even come first."""

    def told(node: int, time_ns: int, category: str) -> list[Event]:
        failure = {"rank": node, "local_rank": 0, "round": 0, "time_ns": time_ns, "message": "m"}
        failure |= {"category": category, "reasons": [category]}
        at = {"round": 0, "rank": node, "local_rank": 0}
        end = {"state": "failed", "root_rank": node, "text": "", "category": category, "reasons": [category]}
        return [
            events.make("worker_failed", node=node, time_ns=time_ns, **at, failure=failure),
            events.make("run_finished", node=node, time_ns=time_ns + 1, **end),
        ]

    follower, cause = told(1, 10, "lost a peer"), told(0, 20, "killed from outside")
    s = fold_all([*cause, *follower] if last else [*follower, *cause])
    assert ([f.rank for f in s.failures], s.root_rank) == ([0, 1], 0)
    assert (s.category, s.reasons) == ("killed from outside", ("killed from outside",))
