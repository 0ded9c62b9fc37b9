"""The reducer of runs of several nodes: what a reader is told of a machine that went, came, or came back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nb_elastic import events, snapshot
from nb_elastic.events import Event
from nb_elastic.model import RunState, WorkerFailure, WorkerState
from nb_elastic.snapshot import EMPTY, NodeSnapshot, RoundSnapshot, RunSnapshot, WorkerSnapshot
from tests.support import node_stories
from tests.support.node_stories import NodeStory

SECOND = 10**9


def fold_all(journal: list[Event], start: RunSnapshot = EMPTY) -> RunSnapshot:
    """Fold a whole list."""
    for event in journal:
        start = snapshot.fold(start, event)
    return start


def stamped(*steps: tuple[str, int, dict[str, Any]]) -> list[Event]:
    """(kind, node, data) of events a second apart from the first second on."""
    return [events.make(kind, time_ns=n * SECOND, node=node, **data) for n, (kind, node, data) in enumerate(steps, 1)]


def started(node: int, rank: int, number: int = 0) -> tuple[str, int, dict[str, Any]]:
    return "worker_started", node, {"round": number, "rank": rank, "local_rank": 0, "pid": 50 + rank}


B = {"host": "b", "address": "10.0.0.2", "place": "ray-b", "nproc": 1, "gpus": 0}
TWO = stamped(
    ("run_created", 0, {"run_id": "r1", "nproc": 1, "min_nodes": 1, "max_nodes": 2}),
    ("node_joined", 0, {"host": "a", "address": "10.0.0.1", "nproc": 1, "gpus": 2, "pid": 7, "is_back": False}),
    ("node_joined", 1, B),
    ("rendezvous_started", 1, {"round": 0}),
    ("rendezvous_finished", 0, {"round": 0, "world_size": 2}),
    started(1, 1),
    started(0, 0),
)
LOST = events.make("node_lost", node=1, time_ns=20 * SECOND, text="nothing was heard of it for 8 s")
NODE_1 = NodeSnapshot(
    node=1, host="b", address="10.0.0.2", place="ray-b", joined_ns=3 * SECOND, nproc=1, spans=((3 * SECOND, 0),)
)
GONE = replace(
    NODE_1,
    state="lost",
    lost_ns=20 * SECOND,
    text="nothing was heard of it for 8 s",
    spans=((3 * SECOND, 20 * SECOND),),
)
FAILURE = WorkerFailure(
    rank=1,
    local_rank=0,
    round=0,
    time_ns=20 * SECOND,
    node=1,
    pid=51,
    message="its node was lost",
    category="lost a node",
    reasons=("Node 1 (b) was lost: nothing was heard of it for 8 s.",),
)


def test_nodes_and_their_ranks_are_told_in_one_journal() -> None:
    assert fold_all(TWO) == RunSnapshot(
        run_id="r1",
        nproc=1,
        state=RunState.RUNNING,
        world_size=2,
        max_nodes=2,
        created_ns=SECOND,
        started_ns=6 * SECOND,
        last_ns=7 * SECOND,
        workers=(
            WorkerSnapshot(node=0, local_rank=0, rank=0, pid=50, started_ns=7 * SECOND),
            WorkerSnapshot(node=1, local_rank=0, rank=1, pid=51, started_ns=6 * SECOND),
        ),
        rounds=(RoundSnapshot(number=0, started_ns=4 * SECOND, formed_ns=5 * SECOND, world_size=2, nodes=(0, 1)),),
        nodes=(
            NodeSnapshot(
                node=0, host="a", address="10.0.0.1", joined_ns=2 * SECOND, nproc=1, gpus=2, spans=((2 * SECOND, 0),)
            ),
            NODE_1,
        ),
    )


def test_the_ranks_of_a_lost_node_failed_with_it() -> None:
    before = fold_all(TWO)
    lost = replace(before.workers[1], state=WorkerState.FAILED, ended_ns=20 * SECOND, how="its node was lost")
    assert fold_all([LOST], before) == replace(
        before,
        last_ns=20 * SECOND,
        nodes=(before.nodes[0], GONE),
        workers=(before.workers[0], lost),
        failures=(FAILURE,),
        root_rank=1,
        rounds=(replace(before.rounds[0], failures=(FAILURE,)),),
    )


def test_a_node_that_is_heard_again_takes_back_that_its_ranks_failed() -> None:
    back = events.make("node_joined", node=1, time_ns=25 * SECOND, **B, is_back=True)
    running = events.make("worker_ready", node=1, time_ns=8 * SECOND, round=0, rank=1, local_rank=0)
    before = fold_all([*TWO, running])
    spans = ((3 * SECOND, 20 * SECOND), (25 * SECOND, 0))
    returned = replace(NODE_1, is_back=True, text="nothing was heard of it for 8 s", spans=spans)
    assert fold_all([LOST, back], before) == replace(before, last_ns=25 * SECOND, nodes=(before.nodes[0], returned))


def test_a_node_that_leaves_takes_its_ranks_along_and_nobody_failed() -> None:
    left = fold_all([*TWO, events.make("node_left", node=1, time_ns=9 * SECOND, text="the engine took it")])
    assert (left.nodes[1].state, left.nodes[1].text) == ("left", "the engine took it")
    assert (left.workers[1].state, left.workers[1].how, left.failures) == (WorkerState.ENDED, "its node left", ())


def test_peers_that_failed_for_the_lost_node_only_followed_though_they_said_so_before() -> None:
    peer = {
        "rank": 0,
        "local_rank": 0,
        "round": 0,
        "time_ns": 12 * SECOND,
        "category": "lost a peer",
        "message": "closed",
    }
    failed = events.make("worker_failed", node=0, time_ns=12 * SECOND, round=0, rank=0, local_rank=0, failure=peer)
    end = {"state": "failed", "root_rank": 0, "text": "too few", "category": "lost a peer", "reasons": ["why"]}
    s = fold_all([*TWO, failed, LOST, events.make("run_finished", time_ns=30 * SECOND, **end)])
    assert [(f.rank, f.message) for f in s.failures] == [(1, "its node was lost"), (0, "closed")]
    assert (s.root_rank, s.state, s.category) == (1, RunState.FAILED, "lost a peer")


def test_whatever_is_still_told_of_a_lost_nodes_ranks_adds_but_when_they_were_last_heard() -> None:
    exited = {"round": 0, "rank": 1, "local_rank": 0, "exit_code": None, "state": "failed", "how": "lost"}
    failure = {
        "rank": 1,
        "local_rank": 0,
        "round": 0,
        "time_ns": 12 * SECOND,
        "category": "lost a peer",
        "message": "x",
    }
    once = fold_all([*TWO, LOST])
    s = fold_all(
        [
            events.make("worker_exited", node=1, time_ns=21 * SECOND, **exited),
            events.make("worker_failed", node=1, time_ns=21 * SECOND, round=0, rank=1, local_rank=0, failure=failure),
        ],
        once,
    )
    assert (s.workers, s.failures) == (once.workers, (replace(FAILURE, time_ns=12 * SECOND),))


def test_a_run_forms_anew_with_other_nodes(tmp_path: Path) -> None:
    """A rank is known by round and number: rank 2 was on node 1 first, then on node 2."""
    story = NodeStory(tmp_path)
    node_stories.changing(story)
    s = story.snapshot
    assert s == snapshot.load(story.folder)
    assert [(r.number, r.nodes, r.world_size, r.cause) for r in s.rounds] == [
        (0, (0, 1), 4, "membership"),
        (1, (0,), 2, "membership"),
        (2, (0, 2), 4, ""),
    ]
    assert [(w.rank, w.node, w.local_rank, w.round) for w in s.workers] == [
        (0, 0, 0, 2),
        (1, 0, 1, 2),
        (2, 2, 0, 2),
        (3, 2, 1, 2),
    ]
    assert [(n.node, n.host, n.state) for n in s.nodes] == [
        (0, "ada", "joined"),
        (1, "babbage", "lost"),
        (2, "curie", "joined"),
    ]
    assert ([f.rank for f in s.rounds[0].failures], s.failures, s.state) == ([2, 3], (), RunState.SUCCEEDED)


@pytest.mark.parametrize("kind", ["node_joined", "node_lost", "node_left"])
def test_nothing_that_is_told_of_nodes_after_the_end_changes_a_run(kind: str) -> None:
    over = fold_all([*TWO, events.make("run_finished", time_ns=30 * SECOND, state="succeeded")])
    late = events.make(kind, node=1 if kind != "node_joined" else 2, time_ns=31 * SECOND, host="x", text="y")
    assert replace(snapshot.fold(over, late), last_ns=over.last_ns) == over


@pytest.mark.parametrize("value", [None, -1, "x" * 10_000, 10**400, ["a"], {"a": 1}, 0.5, "\ud800", True])
def test_no_nonsense_about_nodes_breaks_the_reducer(value: Any) -> None:
    fields = dict.fromkeys(("host", "address", "place", "nproc", "gpus", "pid", "is_back", "text"), value)
    for node in (-1, 0, 1, 1 << 70):
        for kind in ("node_joined", "node_lost", "node_joined", "node_left"):
            s = snapshot.fold(fold_all(TWO), events.make(kind, node=node, time_ns=40 * SECOND, **fields))
            assert [n.node for n in s.nodes] == sorted({n.node for n in s.nodes})
            snapshot.to_json(s)


def test_a_run_of_this_machine_alone_has_no_nodes() -> None:
    s = fold_all([e for e in TWO if e.kind != "node_joined"])
    assert (s.nodes, s.rounds[0].nodes) == ((), ())
