"""Debuggers at the driver's door: each reaches the node it names, or is hung up on; none of them harms the run.

A user would lose: a prompt that never answers, or the run itself, because its driver had no descriptor for a debugger.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nb_elastic import debugwire
from nb_elastic.debugwire import Peer
from nb_elastic.driver import relaying
from nb_elastic.driver.relaying import Relaying
from nb_elastic.rundir_paths import RunDir
from tests.support.until import until


class Node:
    """What one node was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[dict[str, Any], bytes]] = []

    def urge(self, message: dict[str, Any], blob: bytes = b"") -> None:
        """See ``fleet.Node``."""
        self.sent.append((message, blob))

    def said(self) -> bytes:
        """All that debuggers said to it."""
        return b"".join(blob for _, blob in self.sent)


class Door:
    """A run of two nodes whose ranks are held."""

    def __init__(self, folder: Path) -> None:
        self.run = RunDir(folder)
        self.members: list[Any] = [SimpleNamespace(index=n, node=Node(), is_active=True) for n in range(2)]
        self.notes: list[str] = []
        roster: Any = SimpleNamespace(members=self.members)
        self.relaying = Relaying(self.run, roster, note=self.notes.append)

    def comes(self, **where: Any) -> Peer:
        """A debugger that says whom it wants."""
        peer = debugwire.connect(self.run.debug_socket)
        with contextlib.suppress(BrokenPipeError):  # it may be sent away before it says anything
            peer.send({"type": "to", "node": 1, "round": 0, "local_rank": 2, **where})
        return peer

    def talk(self, node: int = 1) -> str:
        """Name of the newest conversation with a node."""
        sent = self.members[node].node.sent
        until(lambda: [m for m, _ in sent if m.get("is_new")], 30)
        return str(next(m["talk"] for m, _ in reversed(sent) if m.get("is_new")))


@pytest.fixture
def door(elastic_home: Path) -> Iterator[Door]:
    """A door that is closed at the end."""
    made = Door(elastic_home)
    yield made
    made.relaying.close()


def is_hung_up(peer: Peer) -> bool:
    """Wait for the end of a line on which nothing is said."""
    with pytest.raises(OSError, match="hung up|reset"):
        peer.wait(30)
    peer.close()
    return True


def test_a_debugger_is_taken_to_its_node_and_hears_what_the_rank_says(door: Door):
    peer = door.comes()
    peer.send({"type": "eval", "text": "x"})
    talk, node = door.talk(), door.members[1].node
    first = node.sent[0][0]
    assert (first["round"], first["local_rank"], first["run_id"]) == (0, 2, door.run.run_id)
    until(lambda: node.said() == b'{"type": "eval", "text": "x"}\n', 30)
    answer = {"talk": talk, "data": base64.b64encode(b'{"type": "value", "text": "7"}\n').decode()}
    door.relaying.take(door.members[0], answer)  # another node's words are not this one's
    door.relaying.take(door.members[1], {**answer, "is_over": True})
    assert peer.wait(30) == {"type": "value", "text": "7"}
    assert is_hung_up(peer)
    assert door.members[0].node.sent == []


@pytest.mark.parametrize(
    "wrong", [{"node": 2}, {"node": None}, {"round": math.inf}, {"round": -1}, {"local_rank": "2"}]
)
def test_who_wants_nobody_is_hung_up_on(door: Door, wrong: dict[str, Any]):
    assert is_hung_up(door.comes(**wrong))
    assert not [m for member in door.members for m, _ in member.node.sent if m.get("is_new")]


def test_a_node_that_is_lost_takes_its_debuggers_with_it_and_gets_no_more(door: Door):
    peer = door.comes()
    door.talk()
    door.members[1].is_active = False
    door.relaying.hang_up(door.members[1])
    assert is_hung_up(peer)
    assert is_hung_up(door.comes())


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), RuntimeError("can't start new thread")]
)
def test_where_nothing_is_left_for_a_debugger_it_is_sent_away_and_the_next_is_served(
    door: Door, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    def none_left(*_: object) -> None:
        raise error

    pump: Callable[..., object] = relaying.Pump
    monkeypatch.setattr(relaying, "Pump", none_left)
    assert is_hung_up(door.comes())
    monkeypatch.setattr(relaying, "Pump", pump)
    peer = door.comes()
    assert door.talk()
    peer.close()


def test_the_end_of_the_run_hangs_up_on_all_and_leaves_no_socket(elastic_home: Path):
    door = Door(elastic_home)
    peer = door.comes()
    door.talk()
    door.relaying.close()
    assert is_hung_up(peer)
    assert not door.run.debug_socket.exists()


def test_a_folder_that_can_have_no_socket_is_told_of(elastic_home: Path):
    (elastic_home / "debug.sock").mkdir()
    door = Door(elastic_home)
    door.relaying.close()
    assert [note.partition(":")[0] for note in door.notes] == ["Held ranks can't be looked at"]
