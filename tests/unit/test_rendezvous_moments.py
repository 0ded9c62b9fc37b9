"""Keep-alives of nodes whose clocks differ: each counts by the clock of whoever reads it.

A user would lose: a group that never forms on machines without a time service, and one that breaks up when a clock is set.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest

from nb_elastic.supervisor import rendezvous_moments
from nb_elastic.supervisor.rendezvous_moments import Moments

KEEP_S = 5.0
"""So long a node may be silent."""


class Machines:
    """Two machines' clocks, and the state that both read and write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ahead_s: float) -> None:
        self.now_s, self.ahead_s, self.on = 1_000.0, ahead_s, "a"
        self.patch = monkeypatch
        monkeypatch.setattr(rendezvous_moments.time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(rendezvous_moments, "_wall_s", self.wall_s)
        self.clocks = {}
        for name in ("a", "b"):
            self.on = name
            self.clocks[name] = Moments(3.0)
        self.store = SimpleNamespace(last_heartbeats={}, deadline=None)

    def wall_s(self) -> float:
        return 1.8e9 + self.now_s + (self.ahead_s if self.on == "b" else 0)

    def wall(self) -> datetime:
        return datetime.fromtimestamp(self.wall_s(), timezone.utc)

    def read(self, name: str) -> SimpleNamespace:
        """The state as a node sees it."""
        self.on = name
        found = SimpleNamespace(last_heartbeats=dict(self.store.last_heartbeats), deadline=self.store.deadline)
        self.clocks[name].localise(found)
        return found

    def beat(self, name: str, **changes: object) -> None:
        """A node's keep-alive, as torch writes it: over what it read."""
        found = self.read(name)
        found.last_heartbeats[name] = self.wall()
        vars(found).update(changes)
        self.clocks[name].restore(found)
        self.store = found

    def living(self, name: str) -> set[str]:
        """Who lives, as torch sees it on a node."""
        found = self.read(name)
        return {node for node, at in found.last_heartbeats.items() if at >= self.wall() - timedelta(seconds=KEEP_S)}


@pytest.fixture(params=[0.0, 3600.0, -3600.0, 2.0])
def machines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machines:
    """Clocks that agree, and others."""
    return Machines(monkeypatch, request.param)


def test_nodes_that_live_see_each_other_and_miss_one_that_is_silent(machines: Machines):
    for _ in range(20):
        for name in ("a", "b"):
            machines.beat(name)
            machines.now_s += 0.5
            assert machines.living("a") == machines.living("b") == set(machines.store.last_heartbeats)
    for _ in range(4):
        machines.beat("a")
        machines.now_s += 1
        assert machines.living("a") == {"a", "b"}
    for _ in range(3):
        machines.beat("a")
        machines.now_s += 1
    assert machines.living("a") == {"a"}


def test_each_moment_is_handed_on_as_it_was_written(machines: Machines):
    machines.beat("a")
    written = machines.store.last_heartbeats["a"]
    for _ in range(3):
        machines.now_s += 0.3
        machines.beat("b")
        assert machines.store.last_heartbeats["a"] == written


def test_the_last_call_lasts_as_long_for_all(machines: Machines):
    machines.beat("a")
    machines.on = "b"
    machines.beat("b", deadline=machines.wall() + timedelta(seconds=3))
    machines.now_s += 0.1
    for name in ("a", "b"):
        left_s = (machines.read(name).deadline - machines.wall()).total_seconds()
        assert 1.9 < left_s < 4.1
    machines.now_s += 4.2
    for name in ("a", "b"):
        assert machines.read(name).deadline < machines.wall()


def test_a_clock_that_is_set_makes_nobody_look_dead(machines: Machines):
    for _ in range(2):
        machines.beat("a")
        machines.beat("b")
    assert machines.living("b") == {"a", "b"}
    machines.ahead_s += 7200
    machines.now_s += 0.5
    assert machines.living("b") == {"a", "b"}
    machines.beat("a")
    machines.beat("b")
    machines.now_s += 6
    machines.beat("a")
    assert machines.living("b") == {"a"}
