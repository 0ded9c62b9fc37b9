"""One journal of all nodes' journals: each word under its node's number, once where it is the group's, and no word that is not a node's.

A user would lose: a dashboard that tells what happened, and the true root cause among failures of several nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nb_elastic.driver.clock import NodeClock
from nb_elastic.driver.story import Story
from nb_elastic.rundir import JournalReader
from nb_elastic.rundir_paths import RunDir


@pytest.fixture
def folder(tmp_path: Path) -> RunDir:
    """An empty run folder."""
    return RunDir(tmp_path)


@pytest.fixture
def story(folder: RunDir) -> Iterator[Story]:
    """The run's story."""
    made = Story(folder, stop=lambda by, grace_s: None, heed=lambda: None, is_detached=False)
    yield made
    made.end("succeeded", root_rank=None, text="", category="", reasons=())


def kinds(folder: RunDir) -> list[tuple[str, int]]:
    """What the journal tells, and of which node."""
    return [(e.kind, e.node) for e in JournalReader(folder.journal).read()]


def failed(rank: int, time_ns: int, **failure: Any) -> dict[str, Any]:
    """A rank's failure, as its node tells it."""
    where = {"round": 0, "rank": rank, "local_rank": 0}
    return {
        "event": "worker_failed",
        "time_ns": 1,
        "node": 9,
        **where,
        "failure": {**where, "time_ns": time_ns, **failure},
    }


def test_words_get_their_nodes_number_and_the_groups_are_told_once(story: Story, folder: RunDir):
    for node in (0, 1):
        story.retell(node, {"event": "rendezvous_finished", "time_ns": 5, "node": 77, "round": 0})
        story.retell(
            node, {"event": "worker_started", "time_ns": 6, "node": 77, "round": 0, "rank": node, "local_rank": 0}
        )
        story.retell(node, {"event": "note", "time_ns": 7, "level": "info", "text": "the same"})
    assert kinds(folder) == [("rendezvous_finished", 0), ("worker_started", 0), ("note", 0), ("worker_started", 1)]


def test_a_nodes_own_folder_is_told_as_the_runs_which_has_all_of_it(folder: RunDir):
    there = f"/tmp/nb_elastic-0/node-deadbeef/{folder.run_id}"
    story = Story(folder, stop=lambda by, grace_s: None, heed=lambda: None, is_detached=False)
    story.retell(0, {"event": "round_ended", "time_ns": 1, "round": 0, "cause": "failure", "text": f"Logs: {there}"})
    story.end("failed", root_rank=None, text=f"Logs of all ranks: {there}\n", category="", reasons=())
    told = [e["text"] for e in JournalReader(folder.journal).read()]
    assert told == [f"Logs: {folder.path}", f"Logs of all ranks: {folder.path}\n"]


def test_times_of_a_node_whose_clock_is_wrong_are_put_right(story: Story, folder: RunDir):
    story.retell(0, failed(0, 1_000))
    story.retell(1, failed(1, 10_000), behind_ns=-9_500)
    assert story.root is not None
    assert story.root.node == 1
    (_, event) = JournalReader(folder.journal).read()
    assert (event.time_ns, event["failure"]["time_ns"]) == (0, 500)


def test_a_clock_is_told_by_the_quickest_sign_of_life():
    clock = NodeClock()
    assert (clock.behind_ns, clock.words("b")) == (0, "")
    for gap_ms in (900, 3, 700):  # a slow network is no wrong clock
        clock.hear(5_000_000_000, 5_000_000_000 + gap_ms * 1_000_000)
    assert (clock.behind_ns, clock.words("b")) == (0, "")
    clock.hear(42_250_000_000, 5_000_000_000)
    assert clock.words("b").startswith("The clock of b is 37 s ahead of the notebook's machine's.")
    for _ in range(50):
        clock.hear(5_000_000_000, 7_500_000_000)
    assert clock.words("b").startswith("The clock of b is 2.5 s behind the notebook's machine's.")
    clock.hear(0, 1)  # an older node program doesn't say
    assert clock.behind_ns == 2_500_000_000


def test_a_round_goes_on_when_one_node_leaves_it(story: Story, folder: RunDir):
    story.retell(1, {"event": "round_ended", "time_ns": 1, "round": 0, "cause": "stopped"})
    story.retell(0, {"event": "round_ended", "time_ns": 2, "round": 0, "cause": "membership"})
    assert [(e.node, e["cause"]) for e in JournalReader(folder.journal).read()] == [(0, "membership")]


@pytest.mark.parametrize(
    "record",
    [
        None, 7, "run_finished", {}, {"event": 3}, {"event": "run_finished", "state": "succeeded"},
        {"event": "supervisor_started", "pid": 1}, {"event": "run_created", "run_id": "x"}, {"event": "run_lost"},
        {"event": "stop_requested", "by": "x"}, {"event": "node_lost"}, {"event": "mark", "name": "waits"},
    ],
)  # fmt: skip
def test_what_only_the_driver_may_say_is_not_believed_of_a_node(story: Story, folder: RunDir, record: Any):
    story.retell(1, record)
    assert kinds(folder) == []


def test_the_earliest_failure_that_is_nobodys_consequence_is_the_root(story: Story):
    story.retell(0, failed(0, 10, category="lost a peer"))
    story.retell(1, failed(2, 20, category="user error"))
    story.retell(0, failed(1, 5, category="user error", followed="lost rank 2"))
    root = story.root
    assert root is not None
    assert (root.rank, root.node, root.category) == (2, 1, "user error")


def test_ranks_of_a_lost_node_have_failed_and_a_new_round_forgets_them(story: Story, folder: RunDir):
    story.retell(1, {"event": "worker_started", "time_ns": 1, "round": 0, "rank": 3, "local_rank": 0, "pid": 4})
    story.lose(1, "its link ended", time_ns=50)
    root = story.root
    assert root is not None
    assert (root.rank, root.time_ns, root.category) == (3, 50, "lost a node")
    assert kinds(folder) == [("worker_started", 1)]
    assert story.has_lost_ranks(1)
    story.retell(0, {"event": "rendezvous_started", "time_ns": 60, "round": 1})
    assert story.root is None
    assert not story.has_lost_ranks(1)
