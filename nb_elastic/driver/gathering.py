"""Who takes part in a run: nodes that fit, are enough, and reach the place where they meet.

Runs in: the driver, in its main thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Mapping, Sequence
from typing import Any

from nb_elastic import untrusted
from nb_elastic.driver import hello as hellos
from nb_elastic.driver import log
from nb_elastic.driver.fleet import Fleet, Node
from nb_elastic.driver.job import Job
from nb_elastic.driver.meeting import Meeting
from nb_elastic.driver.pace import Pace


class Gathering:
    """Chooses the nodes of a run.

    Attributes:
        failure: why the run can't begin, or "".
        refused: how many nodes were sent away: others of their machines would be, too.
    """

    def __init__(self, job: Job, fleet: Fleet, meeting: Meeting, pace: Pace, *, now: float) -> None:
        self.failure = ""
        self.refused = 0
        self._job, self._fleet, self._meeting, self._pace = job, fleet, meeting, pace
        self._options = job.spec.options
        self._begun_at = now
        self._enough_at: float | None = None
        self._met_at: float | None = None
        self._has_told = self._has_asked_node = False
        self._asked: dict[Node, tuple[str, float]] = {}
        self._notes: list[str] = []
        self._join_s = pace.join
        with contextlib.suppress(ValueError):
            self._join_s = float(self._options.rdzv_conf.get("join_timeout", pace.join))
        for node in fleet.nodes:
            self.on_hello(node)

    @property
    def endpoint(self) -> str:
        """Where the nodes meet."""
        return self._meeting.endpoint

    @property
    def is_fixed(self) -> bool:
        """True if every node is needed."""
        return self._options.min_nodes == self._options.max_nodes

    def put_off(self, now: float) -> None:
        """The nodes wait in a queue, whose time doesn't count."""
        self._begun_at = now

    def take_notes(self) -> list[str]:
        """Sentences for the user since the last call."""
        notes, self._notes = self._notes, []
        return notes

    def fitting(self) -> list[Node]:
        """Nodes that could take part."""
        return self._fleet.nodes

    def on_hello(self, node: Node) -> None:
        """See whether a node fits."""
        if node.hello is None or not (text := hellos.misfit(node.hello, self._job.versions)):
            return
        self._refuse(node, text)
        if self.is_fixed:
            self.failure = self.failure or f"{text} No rank was started."
        else:
            self._notes.append(f"A node was refused: {text}")

    def on_reached(self, node: Node, message: Mapping[str, Any]) -> None:
        """A node tells whether it reaches the meeting place."""
        endpoint, _ = self._asked.get(node, ("", 0.0))
        if message.get("nonce") == endpoint:
            node.reached[endpoint] = message.get("ok") is True
            if message.get("ok") is not True:
                log.write(f"{node.where} does not reach {endpoint}: {untrusted.word(message.get('why'), limit=300)}")

    def choose(self, now: float, *, taken: Container[Node], room: int, is_first: bool) -> list[Node]:
        """The nodes that are to get their share now.

        Args:
            taken: nodes that have one, or had.
            room: for so many more.
            is_first: the run has not begun: all that are needed, or none.
        """
        candidates = [node for node in self.fitting() if node not in taken]
        if is_first:
            candidates = self._first(candidates, now)
        candidates = candidates[:room]
        if not candidates or self.failure or not self._has_place(candidates, now):
            return []
        known = {node: self._reaches(node, now) for node in candidates}
        far = [node for node, does in known.items() if does is False]
        if is_first and (far or None in known.values()):
            if far and None not in known.values():
                self._on_far(far, candidates)
            return []
        for node in far:
            text = f"it can't reach the place where the nodes meet ({self.endpoint})"
            self._refuse(node, text)
            self._notes.append(f"Node {node.where} was refused: {text}.")
        return [node for node, does in known.items() if does]

    def _first(self, candidates: Sequence[Node], now: float) -> list[Node]:
        """Those that begin, in a steady order; none while too few are there."""
        low, high = self._options.min_nodes, self._options.max_nodes
        if len(candidates) < low:
            self._enough_at = None
            self._wait(len(candidates), now)
            return []
        self._enough_at = now if self._enough_at is None else self._enough_at
        if candidates and not self._meeting.is_begun:
            self._meeting.begin(candidates[0])
        if len(candidates) < high and now - self._enough_at < self._pace.settle:
            return []
        return sorted(candidates[:high], key=lambda n: (n.hello.where, n.hello.pid) if n.hello else ("", 0))

    def _wait(self, there: int, now: float) -> None:
        waited_s = now - self._begun_at
        low, label = self._options.min_nodes, self._job.settled.label
        if not self._has_told and waited_s >= self._pace.tell:
            self._has_told = True
            are = "1 is" if there == 1 else f"{there} are"
            self._notes.append(f"Waiting for {low} node(s) of {label}: {are} there.")
        if waited_s >= self._join_s:
            self.failure = (
                f"{low} node(s) of {label} were wanted, and {there} came within {self._join_s:g} s. No rank was started. "
                "`--rdzv-conf join_timeout=SECONDS` waits longer."
            )

    def _has_place(self, candidates: Sequence[Node], now: float) -> bool:
        """True once there is a place to meet; has one made."""
        meeting = self._meeting
        if not meeting.is_begun:
            meeting.begin(candidates[0])
        self._met_at = now if self._met_at is None else self._met_at
        if not meeting.failure and not meeting.endpoint and now - self._met_at > self._pace.host:
            meeting.failure = f"no store was there after {self._pace.host:g} s"
        if meeting.failure:
            self._move(candidates, meeting.failure)
        return bool(meeting.endpoint)

    def _move(self, candidates: Sequence[Node], why: str) -> None:
        """Have a node keep the store, or give up."""
        if self._has_asked_node:
            self.failure = f"The nodes have no place to meet: {why}. No rank was started."
            return
        self._has_asked_node, self._met_at = True, None
        self._meeting.ask(candidates[0])

    def _on_far(self, far: Sequence[Node], candidates: Sequence[Node]) -> None:
        """Nodes that are needed do not reach the meeting place."""
        near = [node for node in candidates if node not in far]
        if self._meeting.host is None:
            self._move(candidates, "")
        elif self.is_fixed or len(near) < self._options.min_nodes:
            self.failure = (
                f"{far[0].where} can't reach {self.endpoint}, where the nodes of the run meet: a firewall, or an address that is "
                "no route between them? No rank was started."
            )
        else:
            for node in far:
                self._refuse(node, f"it can't reach {self.endpoint}, where the nodes of the run meet")

    def _refuse(self, node: Node, text: str) -> None:
        self.refused += 1
        self._fleet.refuse(node, text)

    def _reaches(self, node: Node, now: float) -> bool | None:
        """Whether a node reaches the meeting place; None while it was not heard."""
        endpoint = self.endpoint
        if endpoint in node.reached:
            return node.reached[endpoint]
        asked, at = self._asked.get(node, ("", 0.0))
        if asked != endpoint:
            self._asked[node] = (endpoint, now)
            node.urge({"type": "reach", "endpoint": endpoint, "nonce": endpoint})
        elif now - at > self._pace.reach:
            node.reached[endpoint] = False
        return node.reached.get(endpoint)
