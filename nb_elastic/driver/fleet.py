"""The nodes and the links that lead to them: who was heard when, and who is lost.

Runs in: the driver: a thread for each link reads its lines; the main thread decides.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from nb_elastic import untrusted
from nb_elastic.driver import hello as hellos
from nb_elastic.driver import log
from nb_elastic.driver.clock import NodeClock
from nb_elastic.driver.desk import Desk
from nb_elastic.driver.hello import Hello
from nb_elastic.driver.mirror import Mirror
from nb_elastic.driver.pace import Pace
from nb_elastic.driver.post import Delivery, Post
from nb_elastic.engines.base import Link

MAX_LINE_BYTES = 64 << 10
FILES = frozenset({"piece", "whole", "gone"})
GAP_S = 1.0
"""After a longer pause of the driver itself (its machine slept), silence is no news."""
_TOKEN = re.compile(r"[0-9a-f]{8}")


@dataclass(slots=True, eq=False)
class Node:
    """A node program.

    Attributes:
        heard_at: when its last line came.
        hello: its first words; None until they came.
        is_lost: it was not heard of for too long, or its link ended.
        is_over: it can't come back.
        mirror: writes its files, while it has a share of a run.
        bye: why it said that it leaves, or "".
        clock: its clock, beside ours.
        reached: whether it reaches the meeting place of this endpoint.
    """

    token: str
    route: Route
    heard_at: float
    hello: Hello | None = None
    is_lost: bool = False
    is_over: bool = False
    is_refused: bool = False
    mirror: Mirror | None = None
    bye: str = ""
    clock: NodeClock = field(default_factory=NodeClock)
    reached: dict[str, bool] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """The machine, as its user knows it."""
        return self.hello.where if self.hello else f"node {self.token}"

    def urge(self, message: Mapping[str, Any], blob: bytes = b"") -> None:
        """Send it a short message."""
        self.route.post.urge({**message, "to": [self.token]}, blob)


@dataclass(slots=True, eq=False)
class Route:
    """A link, what goes out over it, and who was heard there.

    Attributes:
        count: lines that were dealt with; ``count_before``: when that was last looked at.
        is_busy: a line came and is not dealt with.
    """

    link: Link
    post: Post
    nodes: dict[str, Node] = field(default_factory=dict)
    count: int = 0
    count_before: int = -1
    is_busy: bool = False
    is_over: bool = False

    def is_stuck(self) -> bool:
        """True if a line that came is not dealt with since the last call: its disk is slow, or others' turn lasts."""
        count, self.count_before = self.count_before, self.count
        return self.is_busy and self.count_before == count


class Listener(Protocol):
    """Who is told about nodes, in the main thread."""

    def on_hello(self, node: Node) -> None:
        """A node is there."""

    def on_line(self, node: Node, message: Mapping[str, Any]) -> None:
        """It said something."""

    def on_lost(self, node: Node, why: str) -> None:
        """It was not heard of for too long, or is gone."""

    def on_back(self, node: Node) -> None:
        """A lost one was heard again."""

    def on_unsent(self, delivery: Delivery, error: OSError) -> None:
        """What nodes need could not be read."""


class Fleet:
    """All nodes that the engine has started."""

    def __init__(self, desk: Desk, pace: Pace) -> None:
        self.listener: Listener | None = None
        self._desk = desk
        self._pace = pace
        self._routes: list[Route] = []
        self._ticked_at = self._pinged_at = desk.clock()
        self._count = 0
        self._turn = threading.Lock()

    @property
    def nodes(self) -> list[Node]:
        """Those that are there and said hello, in the order in which they came."""
        return [
            node
            for route in self._routes
            for node in list(route.nodes.values())
            if node.hello and not (node.is_lost or node.is_over or node.is_refused)
        ]

    @property
    def coming(self) -> int:
        """How many node programs were started and did not say hello yet."""
        heard = [(route, sum(n.hello is not None for n in list(route.nodes.values()))) for route in self._routes]
        return sum(max(0, route.link.nodes - count) for route, count in heard)

    def take(self, link: Link) -> None:
        """Read a link and write to it from now on. Any thread may call."""
        self._count += 1
        route = Route(link, Post(link.send, str(self._count), self._on_unsent))
        self._desk.call(self._routes.append, route)
        threading.Thread(target=self._read, args=(route,), name=f"nb_elastic-link-{self._count}", daemon=True).start()

    def tick(self) -> None:
        """Ping, and look for silence."""
        now, pace = self._desk.clock(), self._pace
        gap = now - self._ticked_at
        self._ticked_at = now
        if gap > GAP_S:
            log.write(f"the driver itself stood still for {gap:.1f} s")
        if is_ping := now - self._pinged_at >= pace.ping:
            self._pinged_at = now
        for route in list(self._routes):
            if is_ping and not route.is_over:
                route.post.ping()
            is_ours = route.is_stuck() or gap > GAP_S
            for node in list(route.nodes.values()):
                if is_ours:
                    node.heard_at += gap
                silent_s = now - node.heard_at
                if not node.is_lost and silent_s > pace.lost:
                    self._lose(node, f"nothing was heard of it for {silent_s:.0f} s")
                if node.is_lost and not node.is_over and silent_s > pace.lease:
                    self.drop(node)

    def refuse(self, node: Node, text: str) -> None:
        """Send a node away."""
        log.write(f"refuses {node.where}: {text}")
        node.is_refused = True
        node.urge({"type": "refuse", "text": text})

    def drop(self, node: Node) -> None:
        """Have nothing more to do with a node, which may still run."""
        node.is_over = node.is_lost = True
        node.urge({"type": "end"})
        if len(node.route.nodes) <= 1 and node.route.link.nodes <= 1:
            self._close(node.route)

    def end(self) -> None:
        """Tell all nodes to leave."""
        for route in self._routes:
            route.post.urge({"type": "end"})

    def close(self) -> None:
        """End all threads that write."""
        for route in self._routes:
            route.post.close()

    def _close(self, route: Route) -> None:
        def close() -> None:
            route.post.close()
            with contextlib.suppress(Exception):  # border: an engine's link may fail in any way
                route.link.close(self._pace.close)

        threading.Thread(target=close, name="nb_elastic-link-end", daemon=True).start()

    def _read(self, route: Route) -> None:
        """Runs in a link's own thread."""
        why = ""
        try:
            for line in route.link.lines():
                route.is_busy = True
                # One at a time: where hundreds of threads want the interpreter, pings and decisions don't get it in time.
                with self._turn:
                    self._hear(route, line)
                route.count += 1
                route.is_busy = False
        except Exception as e:  # noqa: BLE001  border: an engine's link may fail in any way
            why = f"{type(e).__name__}: {e}"
            log.write(f"a link failed: {why}")
        self._desk.call(self._on_over, route, why)

    def _hear(self, route: Route, line: bytes) -> None:
        message = _read(line)
        if message is None:
            if line.strip():
                log.write(f"not a node's words: {line[:300].decode('utf-8', 'replace')}")
            return
        token = str(message["from"])
        node = route.nodes.get(token)
        if node is None:
            if len(route.nodes) >= 2 * max(1, route.link.nodes):
                return
            node = route.nodes[token] = Node(token, route, self._desk.clock())
        node.heard_at = self._desk.clock()
        kind = message.get("type")
        if kind in {"hello", "alive"}:
            node.clock.hear(untrusted.integer(message.get("time_ns")), time.time_ns())
        if node.is_lost:
            self._desk.call(self._on_back, node)
        if kind in FILES:
            mirror = node.mirror
            if mirror is not None and message.get("run_id") == mirror.run_id:
                mirror.take(message)
        elif kind != "alive":
            self._desk.call(self._on_told, node, message)

    def _on_told(self, node: Node, message: Mapping[str, Any]) -> None:
        if self.listener is None or node.is_over or node.is_refused:
            return
        if message.get("type") == "bye":
            node.bye = untrusted.word(message.get("why"), limit=300)
            log.write(f"{node.where} leaves: {node.bye}")
        elif message.get("type") != "hello":
            self.listener.on_line(node, message)
        elif node.hello is None:
            node.hello = hellos.read(message)
            log.write(f"hello from {node.where} ({node.hello.address}, pid {node.hello.pid})")
            self.listener.on_hello(node)

    def _on_back(self, node: Node) -> None:
        if node.is_lost and not node.is_over:
            node.is_lost = False
            log.write(f"{node.where} is heard again")
            if self.listener is not None:
                self.listener.on_back(node)

    def _on_over(self, route: Route, why: str) -> None:
        route.is_over = True
        route.post.close()
        self._routes.remove(route)
        for node in route.nodes.values():
            node.is_over = True
            if not node.is_lost:
                self._lose(node, route.link.why or why or "its link ended")

    def _lose(self, node: Node, why: str) -> None:
        why = f"it left ({node.bye})" if node.bye else why
        log.write(f"{node.where} is lost: {why}")
        node.is_lost = True
        if self.listener is not None and node.hello is not None and not node.is_refused:
            self.listener.on_lost(node, why)

    def _on_unsent(self, delivery: Delivery, error: OSError) -> None:
        if self.listener is not None:
            self._desk.call(self.listener.on_unsent, delivery, error)


def _read(line: bytes) -> dict[str, Any] | None:
    """A node's message; None for what is none."""
    if len(line) > MAX_LINE_BYTES or not line.startswith(b"{"):
        return None
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_ours = isinstance(message, dict) and isinstance(message.get("from"), str) and _TOKEN.fullmatch(message["from"])
    return message if is_ours else None
