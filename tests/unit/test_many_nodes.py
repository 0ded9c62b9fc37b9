"""What keeps a thousand nodes possible: descriptors are shared out, logs come in fewer pieces, and whose line waits is not lost.

A user would lose: a large run, to its own logs.
"""

from __future__ import annotations

import resource
import threading
from pathlib import Path
from typing import Any

import pytest

from nb_elastic import events, snapshot
from nb_elastic.driver import descriptors
from nb_elastic.driver.desk import Desk
from nb_elastic.driver.fleet import Fleet, Node
from nb_elastic.driver.pace import PACE
from nb_elastic.node import shipping
from nb_elastic.node.shipping import Shipment
from nb_elastic.rundir_paths import RunDir
from nb_elastic.wakes import Wakes
from tests.support.scripted_nodes import ScriptedNode
from tests.support.until import until


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class SlowMirror:
    """A disk that takes nothing until it is told to."""

    run_id = "a-run"

    def __init__(self) -> None:
        self.is_asked, self.may_go = threading.Event(), threading.Event()

    def take(self, _message: Any) -> None:
        """Wait."""
        self.is_asked.set()
        assert self.may_go.wait(30)


@pytest.mark.parametrize(
    ("limit", "nodes", "each"), [(20_000, 2, 24), (20_000, 1000, 15), (4096, 1000, 2), (1024, 4, 24)]
)
def test_a_thousand_nodes_share_the_descriptors_there_are(monkeypatch, limit, nodes, each):
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (limit, limit))
    assert descriptors.of_each(nodes) == each


def test_a_node_whose_line_waits_for_a_slow_disk_is_not_lost_and_a_silent_one_is():
    clock = Clock()
    fleet = Fleet(Desk(clock), PACE)
    lost: list[str] = []

    class Listener:
        def on_hello(self, node: Node) -> None:
            """See ``fleet.Listener``."""

        def on_line(self, node: Node, message: Any) -> None:
            """See ``fleet.Listener``."""

        def on_lost(self, node: Node, why: str) -> None:
            lost.append(node.token)

        def on_back(self, node: Node) -> None:
            """See ``fleet.Listener``."""

        def on_unsent(self, delivery: Any, error: OSError) -> None:
            """See ``fleet.Listener``."""

    fleet.listener = Listener()
    nodes = [ScriptedNode(n, lambda _node, _message: None) for n in range(3)]
    for node in nodes:
        fleet.take(node)
    desk = fleet._desk
    until(lambda: desk.work(0.01) or len(fleet.nodes) == 3, 10)
    mirror: Any = SlowMirror()
    next(n for n in fleet.nodes if n.token == nodes[0].token).mirror = mirror
    nodes[0].say("piece", run_id="a-run", path="x", offset=0, data="")
    assert mirror.is_asked.wait(10)
    nodes[1].say("note")  # waits for its turn behind the disk; the third one is silent
    until(lambda: fleet._routes[1].is_busy, 10)
    for _ in range(20):
        clock.now += 0.9
        fleet.tick()
    assert lost == [nodes[2].token]
    mirror.may_go.set()
    until(lambda: not any(route.is_busy for route in fleet._routes), 10)
    for _ in range(20):
        clock.now += 0.9
        fleet.tick()
    assert set(lost) == {node.token for node in nodes}, "the disk is no excuse any more"
    for node in nodes:
        node.leave()
    until(lambda: desk.work(0.01) or not fleet._routes, 10)
    fleet.close()


def test_of_many_ranks_a_node_looks_less_often_and_no_later_than_it_must(tmp_path: Path):
    assert shipping.pause_s(16) == shipping.PAUSE_S
    assert shipping.pause_s(250) <= 0.05
    assert 8000 / shipping.pause_s(8000) <= 5000
    wakes = Wakes()
    folder = RunDir(tmp_path / "a-run")
    shipment = Shipment(folder, node=0, token="0badcafe", wakes=wakes)
    for kind, more in (("rendezvous_finished", {"world_size": 8000}), ("worker_started", {"local_rank": 0})):
        shipment.add_event(events.encode(events.make(kind, round=0, **more)))
    log = folder.rank(0, 0, node=0).stdout
    log.parent.mkdir(parents=True)
    while shipment.next_line() is not None:
        pass
    log.write_bytes(b"a line\n")
    assert shipment.next_line() is None, "it has just looked"
    assert shipment.wait_s <= shipping.pause_s(8000), "and will not forget what came since"
    until(lambda: (line := shipment.next_line()) is not None and b"stdout.log" in line, 10)
    wakes.close()


def test_a_rank_that_is_ready_is_found_without_a_look_at_all_others():
    nodes, ranks = 250, 8
    looks = 0

    class Counted(tuple):  # type: ignore[type-arg]
        def __iter__(self):
            nonlocal looks
            looks += 1
            return super().__iter__()

    now = snapshot.fold(snapshot.EMPTY, events.make("rendezvous_started", round=0, attempt=0))
    where = [
        {"node": n, "round": 0, "rank": n * ranks + i, "local_rank": i} for n in range(nodes) for i in range(ranks)
    ]
    for at in where:
        now = snapshot.fold(now, events.make("worker_started", **at, attempt=0, pid=5, start_ticks=1))
    now = snapshot.replace(now, workers=Counted(now.workers))
    now = snapshot.fold(now, events.make("worker_ready", **where[777], worker={"pid": 6}))
    assert looks == 0
    assert (now.workers[777].pid, now.workers[777].state.value) == (5, "running")
