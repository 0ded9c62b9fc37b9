"""Where ranks on other nodes stand: asked through the run folder, and judged together with those of all other nodes.

A user would lose: the rank that the others wait for, where it is on another machine than they are.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from nb_elastic import rundir, stacks, stacks_nodes
from nb_elastic.model import Frame, to_json
from nb_elastic.stacks_flight import Flight, Pending
from nb_elastic.stacks_nouns import RankStack
from tests.support import node_stories
from tests.support.node_stories import NodeStory

HERE, THERE = Frame(file="Cell In[12]", line=1, name="train"), Frame(file="/lib/loader.py", line=7, name="next")
WAITS = {"state": "waiting", "doing": "waits in all_reduce", "kind": "collective", "is_for_others": True}


@pytest.fixture
def story(tmp_path: Path) -> NodeStory:
    """Ranks 0 and 1 are on node 0, 2 and 3 on node 1."""
    story = NodeStory(tmp_path)
    story.begin()
    (tmp_path / story.folder.run_id / "supervisor.log").touch()
    return story


def stack(rank: int, **more: Any) -> RankStack:
    """One rank, in the cell."""
    more = {"state": "waiting", "doing": "waits", "user": HERE, "frames": (HERE,), **more}
    return RankStack(rank=rank, pid=1, **more)


@contextmanager
def answering(story: NodeStory, answer: Callable[[int], Any]) -> Iterator[list[int]]:
    """A driver whose nodes answer each question so; gives the modes of the folders in which it was asked."""
    over, modes = threading.Event(), []

    def serve() -> None:
        while not over.wait(0.005):
            for question in story.folder.asks.glob("[0-9a-f]*"):
                modes.extend(stat.S_IMODE(p.stat().st_mode) for p in (question.parent, question) if p.exists())
                for node in (0, 1):
                    if (told := answer(node)) is not None:
                        text = told if isinstance(told, str) else json.dumps({"stacks": told})
                        with suppress(OSError):  # nobody waits for it any more
                            rundir.write_atomic(question / f"node_{node}.json", text.encode())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield modes
    finally:
        over.set()
        thread.join()


def test_the_rank_that_all_nodes_wait_for_is_named(story: NodeStory) -> None:
    """Neither node could tell: on each all ranks but one may do what they do."""
    at = {0: [stack(0, **WAITS), stack(1, **WAITS)], 1: [stack(2, **WAITS), stack(3, doing="is in next(loader)")]}
    with answering(story, lambda node: [to_json(s) for s in at[node]]):
        report = stacks.report(story.folder)
        only = stacks.report(story.folder, rank=1)
    assert report.headline == "Ranks 0-2 wait in all_reduce, Cell In[12], line 1; rank 3 is in next(loader), line 1."
    assert [(g.ranks, g.is_odd) for g in report.groups] == [((3,), True), ((0, 1, 2), False)]
    assert report.groups[0].frames[0].text == "train()"  # the node has no notebook
    assert [g.ranks for g in only.groups] == [(1,)]


def test_flight_recorders_of_all_nodes_are_compared(story: NodeStory) -> None:
    everyone = {"0": (0, 1, 2, 3)}
    inside = Pending(group="0", seq=7, op="all_reduce", shapes="[4]", types="float")
    waits = {"flight": Flight(ranks=everyone, counts={"0": 7}, pending=(inside,)), **WAITS}
    behind = {"flight": Flight(ranks=everyone, counts={"0": 6}, pending=())}
    at = {0: [stack(0, **waits), stack(1, **waits)], 1: [stack(2, **waits), stack(3, **behind)]}
    with answering(story, lambda node: [to_json(s) for s in at[node]]):
        first = stacks.report(story.folder).groups[0]
    assert first.ranks == (3,)
    said = "Rank 3 did not call collective #7 of the default group, all_reduce, in which ranks 0-2 wait"
    assert first.notes[0].startswith(said)


def test_nobody_else_can_read_the_question_and_nothing_of_it_stays(story: NodeStory) -> None:
    before = os.umask(0)
    try:
        with answering(story, lambda node: [to_json(stack(2 * node))]) as modes:
            stacks.report(story.folder)
    finally:
        os.umask(before)
    assert modes and set(modes) == {0o700}
    assert list(story.folder.asks.iterdir()) == []


def test_a_node_that_does_not_answer_is_told_as_that(story: NodeStory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks_nodes, "GIVE_UP_S", 0.5)
    with answering(story, lambda node: [to_json(stack(0)), to_json(stack(1))] if node == 0 else None):
        told = {g.ranks: g.doing for g in stacks.report(story.folder).groups}
    assert told == {
        (0, 1): "waits, Cell In[12], line 1",
        (2, 3): "is on node 1 (babbage), which does not answer",
    }


def test_a_node_can_say_nothing_of_other_nodes_ranks(story: NodeStory) -> None:
    forged = [to_json(stack(rank, doing="is to blame")) for rank in range(4)]
    with answering(story, lambda node: forged if node else [to_json(stack(0)), to_json(stack(1))]):
        told = {g.ranks: g.doing for g in stacks.report(story.folder).groups}
    assert told == {(0, 1): "waits, Cell In[12], line 1", (2, 3): "is to blame, Cell In[12], line 1"}


@pytest.mark.parametrize(
    "told",
    [
        "",
        "no json",
        "[" * 100_000,
        [None, 3, "x", []],
        [{"rank": 2}, {"rank": "2"}, {"rank": 3, "state": [], "doing": {}, "kind": 4, "frames": "x", "user": 1}],
        [{"rank": 2, "flight": {"ranks": {"0": "x", "1": [None]}, "counts": [], "pending": [{"seq": "x"}, 1]}}],
        [
            {
                "rank": 2,
                "state": "evil",
                "kind": "evil",
                "places": [1, ["a"], [1, 2], ["a", 1 << 80]],
                "notes": [1, None],
            }
        ],
        [{"rank": 2, "doing": "\x1b[2Jwaits\nfor you", "frames": [{"file": "/etc/shadow", "line": -1}, {}]}],
    ],
    ids=str,
)
def test_nonsense_of_a_node_spoils_its_own_words_only(
    story: NodeStory, monkeypatch: pytest.MonkeyPatch, told: Any
) -> None:
    monkeypatch.setattr(stacks_nodes, "GIVE_UP_S", 0.5)
    with answering(story, lambda node: told if node else [to_json(stack(0)), to_json(stack(1))]):
        report = stacks.report(story.folder)
    assert (0, 1) in {g.ranks for g in report.groups}
    assert sorted(r for g in report.groups for r in g.ranks) == [0, 1, 2, 3]
    assert "\x1b" not in report.headline and "\n" not in report.headline


def test_ranks_of_a_lost_node_are_not_waited_for(tmp_path: Path) -> None:
    story = NodeStory(tmp_path)
    node_stories.changing(story, until="lost")
    (tmp_path / story.folder.run_id / "supervisor.log").touch()
    with answering(story, lambda node: None if node else [to_json(stack(0)), to_json(stack(1))]):
        told = {g.ranks: g.state for g in stacks.report(story.folder).groups}
    assert told == {(0, 1): "waiting", (2, 3): "gone"}


def test_a_run_folder_on_a_full_or_foreign_disk_says_so(story: NodeStory) -> None:
    rundir.write_atomic(story.folder.asks, b"")  # a file in its place
    with pytest.raises(OSError, match="asks"):
        stacks.report(story.folder)
