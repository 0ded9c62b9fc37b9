"""An engine opened over the echo program, and what was heard of it.

Runs in: the engines' tests; and, as ``python -m tests.engines.opened``, a driver that a test kills.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nb_elastic import wire
from nb_elastic.engines import base
from tests.support.until import until

ECHO = Path(__file__).with_name("echo_node.py")
HELLO_S = 90.0
"""Only a hang takes so long, on two slow cores that others use, too."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an engine is tried; its environment is that of the test.

    Attributes:
        name, settings: of ``--engine NAME=SETTINGS``.
        nodes: how many machines it has, at least 2.
        names: what NB_ELASTIC_NODE_PLACE may be there; empty where that can't be known.
        lease_s: the node program ends by itself after so long without a frame; 0 for never. For engines that can't
            end it when the driver is gone.
    """

    name: str
    settings: str = ""
    nodes: int = 2
    names: tuple[str, ...] = ()
    lease_s: float = 0.0


@dataclass(kw_only=True)
class Heard:
    """A link and the lines that came from it."""

    link: base.Link
    lines: list[dict[str, Any]] = field(default_factory=list)
    is_over: bool = False


class Opened:
    """One engine, settled and then opened in another instance, as kernel and driver do.

    Args:
        attend: called in a thread while the engine opens, with the order: for engines where nodes come by themselves.
    """

    def __init__(
        self,
        place: Place,
        folder: Path,
        *,
        nodes: int | None = None,
        env: Mapping[str, str] | None = None,
        wanted: Mapping[str, Any] | None = None,
        lease_s: float = 0.0,
        attend: Callable[[base.Order], None] | None = None,
    ) -> None:
        self.place, self.folder = place, folder
        self.mark = f"nbe-echo-{secrets.token_hex(6)}"
        self.told: list[str] = []
        self.heard: list[Heard] = []
        self._threads: list[threading.Thread] = []
        count = place.nodes if nodes is None else nodes
        asked = base.Wanted(
            **{
                "run_id": "r" + secrets.token_hex(4),
                "settings": place.settings,
                "min_nodes": count,
                "max_nodes": count,
                "prefers_gpus": False,
                **(wanted or {}),
            }
        )
        found = base.load(place.name).settle(asked, dict(os.environ))
        # What another process gets of it.
        self.settled = base.Settled(
            label=found.label, value=json.loads(json.dumps(dict(found.value))), notes=tuple(found.notes)
        )
        self.order = base.Order(
            settled=self.settled,
            wanted=asked,
            nodes=count,
            arguments=("-u", str(ECHO), self.mark, str(folder), *([str(lease_s)] if lease_s else [])),
            env=dict(env or {}),
            folder=folder,
            log=folder / "engine.log",
            on_link=self._take,
            tell=self._hear,
            is_over=threading.Event(),
        )
        self.engine = base.load(place.name)
        self._attend = attend

    def open(self) -> Opened:
        """Open the engine; whoever opens, closes."""
        if self._attend is not None:
            self._start(lambda: self._attend(self.order), "attend")
        self.engine.open(self.order)
        return self

    def grow(self, nodes: int = 1) -> None:
        """Ask for more nodes."""
        order = self.order
        self.engine.grow(
            base.Order(**{**{name: getattr(order, name) for name in base.Order.__slots__}, "nodes": nodes})
        )

    def close(self) -> None:
        """Close links, as a driver does, and the engine."""
        self.order.is_over.set()
        for heard in list(self.heard):
            heard.link.close()
        self.engine.close()
        for thread in self._threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in self._threads), "lines() went on after close"

    def said(self, kind: str, *, of: str = "") -> list[dict[str, Any]]:
        """Lines of a kind, of all nodes or of one, in the order in which they came."""
        return [
            line
            for heard in list(self.heard)
            for line in list(heard.lines)
            if line["type"] == kind and line["from"].startswith(of)
        ]

    def hellos(self, count: int | None = None) -> list[dict[str, Any]]:
        """Wait until so many nodes said hello."""
        count = self.order.nodes if count is None else count
        until(lambda: len(self.said("hello")) >= count, HELLO_S, f"{count} hellos; told: {self.told}; log: {self.log}")
        return self.said("hello")

    def tokens(self) -> list[str]:
        """Names of the nodes that said hello, in the order in which they came."""
        return [line["from"] for line in self.said("hello")]

    def send(self, kind: str, *, blob: bytes = b"", **more: Any) -> None:
        """Send a frame to all nodes, or to those in ``to``."""
        for heard in list(self.heard):
            heard.link.send(wire.encode({"type": kind, **more}, blob))

    def link_of(self, token: str) -> base.Link:
        """The link over which a node is heard."""
        return next(h.link for h in self.heard if any(line["from"] == token for line in h.lines))

    @property
    def log(self) -> str:
        """What the engine's own commands said."""
        with contextlib.suppress(OSError):
            return self.order.log.read_text(errors="replace")[-2000:]
        return ""

    def left(self) -> list[int]:
        """Pids of echo programs, wherever on this machine; namespaces below ours are seen, too."""
        return marked(self.mark)

    def _hear(self, text: str) -> None:
        self.told.append(text)
        with (self.folder / "told.txt").open("a", encoding="utf-8") as file:  # for who attends a driver elsewhere
            file.write(text + "\n")

    def _take(self, link: base.Link) -> None:
        heard = Heard(link=link)
        self.heard.append(heard)
        self._start(lambda: self._listen(heard), "listen")

    def _listen(self, heard: Heard) -> None:
        for line in heard.link.lines():
            assert not line.endswith(b"\n")
            heard.lines.append(json.loads(line))
        heard.is_over = True

    def _start(self, work: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=work, name=f"test-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()


def marked(mark: str) -> list[int]:
    """Pids of processes of Python with this in their command line, but those that only wrap one (a shell, srun)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if mark.encode() in words and "python" in os.fsdecode(words[0]):
                found.append(int(entry.name))
    return sorted(found)


@contextlib.contextmanager
def opened(place: Place, folder: Path, **more: Any) -> Iterator[Opened]:
    """An open engine, closed at the end; what is still left of it then fails the test."""
    it = Opened(place, folder, **more)
    try:
        it.open()
        yield it
    finally:
        it.close()
    until(lambda: not it.left(), 10, f"echo programs {it.left()} to be gone")


def main() -> None:
    """Open what stdin says, tell of it on stdout, and ping until killed."""
    asked = json.loads(sys.stdin.readline())
    it = Opened(Place(**asked["place"]), Path(asked["folder"]), lease_s=asked["place"]["lease_s"])
    sys.stdout.write(json.dumps({"mark": it.mark, "pid": os.getpid()}) + "\n")
    sys.stdout.flush()
    it.open()
    it.hellos()
    sys.stdout.write(json.dumps({"tokens": it.tokens()}) + "\n")
    sys.stdout.flush()
    while True:
        it.send("ping")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
