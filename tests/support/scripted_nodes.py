"""Nodes that only say what a script tells them to, over links that are queues: for what real ones do too seldom.

Runs in: the tests, below a real conductor.
"""

from __future__ import annotations

import io
import queue
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nb_elastic import machine, wire
from nb_elastic.driver.conductor import Conductor
from nb_elastic.driver.desk import Desk
from nb_elastic.driver.fleet import Fleet, Node
from nb_elastic.driver.job import Job
from nb_elastic.driver.meeting import Meeting
from nb_elastic.driver.pace import Pace
from nb_elastic.driver.story import Story
from nb_elastic.engines.base import Settled, Wanted
from nb_elastic.events import Event
from nb_elastic.model import Entrypoint, LaunchSpec
from nb_elastic.model_options import LaunchOptions
from nb_elastic.rundir import JournalReader
from nb_elastic.rundir_paths import RunDir

VERSIONS = {"python": "3.11", "torch": "2.13.0", "nb_elastic": "0.1.0"}
QUICK = Pace(
    tick=0.02, ping=0.1, lost=0.6, lease=1.2, join=2.0, tell=0.2, settle=0.05, reach=0.5, host=2.0, fail=0.2, margin=0.5
)
Answer = Callable[["ScriptedNode", Mapping[str, Any]], None]


class ScriptedNode:
    """A node and its link.

    Args:
        answer: called with each frame's message, in the post's thread.
    """

    nodes = 1
    is_alive = True
    why = ""

    def __init__(self, number: int, answer: Answer, **hello: Any) -> None:
        self.token = f"{number:08x}"
        self.heard: list[Mapping[str, Any]] = []
        self._answer = answer
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        about = {
            **VERSIONS,
            "protocol": 1,
            "host": f"host{number}",
            "address": "127.0.0.1",
            "boot_id": machine.boot_id(),
        }
        self.say("hello", **{**about, **hello})

    def say(self, kind: str, **more: Any) -> None:
        """Say a word."""
        self._lines.put(wire.encode({"from": self.token, "type": kind, **more})[8:] + b"\n")

    def leave(self) -> None:
        """Hang up."""
        self._lines.put(None)

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        """Frames of a type that it was sent."""
        return [m for m in self.heard if m["type"] == kind]

    def send(self, frame: bytes) -> None:
        """See ``base.Link``."""
        found = wire.read(io.BytesIO(frame))
        assert found is not None
        message = found[0]
        if self.token in message.get("to", (self.token,)):
            self.heard.append(message)
            self._answer(self, message)

    def lines(self) -> Iterator[bytes]:
        """See ``base.Link``."""
        while (line := self._lines.get()) is not None:
            yield line

    def close(self, timeout_s: float = 10.0) -> None:
        """See ``base.Link``."""
        del timeout_s
        self.leave()


def obliging(node: ScriptedNode, message: Mapping[str, Any]) -> None:
    """Does at once what it is told, and well."""
    kind = message["type"]
    if kind == "ping":
        node.say("alive")
    elif kind == "reach":
        node.say("reached", nonce=message["nonce"], ok=True)
    elif kind == "run":
        node.say("done", run_id=message["run_id"], state="succeeded")
    elif kind == "stop":
        node.say("done", run_id=message["run_id"], state="stopped", text=f"stopped by {message['by']}")


class Scene:
    """A conductor with its fleet, worked by hand."""

    def __init__(self, folder: Path, *, pace: Pace = QUICK, **options: Any) -> None:
        self.run = RunDir(folder)
        self.desk = Desk()
        self.fleet = Fleet(self.desk, pace)
        self.fleet.listener = self
        self.meeting = Meeting(self.desk, on_change=lambda: None)
        spec = LaunchSpec(
            run_id=folder.name,
            rdzv_id=folder.name,
            run_dir=str(folder),
            entrypoint=Entrypoint(kind="script", target="x"),
            options=LaunchOptions(engine="scripted", nproc_per_node=1, **options),
            env={},
            cwd="/",
        )
        self.story = Story(self.run, stop=lambda by, grace_s: None, heed=lambda: None, is_detached=False)
        job = Job(
            spec=spec,
            engine="scripted",
            settled=Settled(label="a script"),
            wanted=Wanted(run_id=folder.name),
            versions=VERSIONS,
            started_at=time.monotonic(),
            received_ns=0,
        )
        self.conductor = Conductor(job, self.story, self.fleet, self.meeting, pace, now=self.desk.clock())

    def add(self, *nodes: ScriptedNode) -> None:
        """These nodes are there."""
        for node in nodes:
            self.fleet.take(node)

    def work(self) -> None:
        """One turn of the driver's loop."""
        self.desk.work(0.01)
        self.fleet.tick()
        self.conductor.tick(self.desk.clock())

    def until(self, condition: Callable[[], object], timeout_s: float = 30.0) -> None:
        """Work until something is so."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, [e for e in self.events() if e.kind != "mark"]
            self.work()

    def end(self) -> Event:
        """Work until the run is over; its last word."""
        self.until(lambda: self.conductor.is_over)
        return self.events()[-1]

    def events(self) -> list[Event]:
        """The journal."""
        return JournalReader(self.run.journal).read()

    def close(self) -> None:
        """End all threads."""
        if not self.conductor.is_over:
            self.conductor.fail("the test is over")
        self.fleet.close()
        self.meeting.close()

    # -- fleet.Listener ------------------------------------------------------------------------

    def on_hello(self, node: Node) -> None:
        """See ``fleet.Listener``."""
        self.conductor.on_hello(node)

    def on_line(self, node: Node, message: Mapping[str, Any]) -> None:
        """See ``fleet.Listener``."""
        if message.get("type") == "hosting":
            self.meeting.take(node, dict(message))
        else:
            self.conductor.on_line(node, message, self.desk.clock())

    def on_lost(self, node: Node, why: str) -> None:
        """See ``fleet.Listener``."""
        self.conductor.on_lost(node, why, self.desk.clock())

    def on_back(self, node: Node) -> None:
        """See ``fleet.Listener``."""
        self.conductor.on_back(node)

    def on_unsent(self, delivery: Any, error: OSError) -> None:
        """See ``fleet.Listener``."""
        self.conductor.on_unsent(delivery, error, self.desk.clock())
