"""A run while it happens: what is to be done to it, what was done, and where those are whom it hits.

Runs in: the chaos test.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nb_elastic import rundir
from nb_elastic.events import Event
from nb_elastic.lifeline import ProcessId
from nb_elastic.rundir import JournalReader, RunDir
from tests.chaos.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something to be done.

    Attributes:
        stage: what to wait for; ``before`` is the moment before the launch.
        after_s: seconds after that.
        rank: whom it hits, of those that have ranks.
        number: signal.
        again_s: seconds until it is taken back or done again; negative for never.
        amount: how much, in the fault's own measure.
    """

    kind: str
    stage: str = "sent"
    after_s: float = 0.0
    rank: int = 0
    number: int = 0
    again_s: float = -1.0
    amount: float = 0.0

    def __str__(self) -> str:
        more = [f"rank {self.rank}"] if self.kind.startswith("rank") else []
        more += [signal.Signals(self.number).name] if self.number else []
        more += [f"again after {self.again_s:.2f} s"] if self.again_s >= 0 else []
        more += [f"{self.amount:g}"] if self.amount else []
        return f"{self.kind} ({', '.join([*more, f'{self.after_s:.3f} s after {self.stage}'])})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """Something that was done.

    Attributes:
        is_done: False where there was nobody to do it to.
        was_over: the run had ended before.
        pid: of the process that was hit, or 0.
    """

    fault: Fault
    text: str
    at_s: float
    is_done: bool
    was_over: bool = False
    pid: int = 0


@dataclass(kw_only=True)
class Scene:
    """A run while it happens: how faults find whom they hit.

    Attributes:
        starter: the process that launched: the kernel, or the command line.
        took_back: what gives the machine back what a fault took, called at the end.
        trouble: what went wrong with commands beside the run, in words.
        name: of the run, which tells it from another one launched beside it.
    """

    world: World
    before: set[RunDir]
    began: float
    starter: ProcessId
    name: str
    deeds: list[Deed] = field(default_factory=list)
    took_back: list[Callable[[], object]] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    _found: RunDir | None = None
    _supervisor: ProcessId | None = None

    @property
    def folder(self) -> RunDir | None:
        """The run's folder, once there is one."""
        if self._found is None:
            made = self.world.runs() - self.before
            self._found = next((r for r in made if rundir.read_json(r.run_json).get("name") == self.name), None)
        return self._found

    def events(self) -> list[Event]:
        """The journal so far."""
        return JournalReader(self.folder.journal).read() if self.folder else []

    def is_over(self) -> bool:
        """True when the journal has the run's last word."""
        return any(e.kind in {"run_finished", "run_lost"} for e in self.events())

    def rank(self, number: int) -> tuple[ProcessId, int] | None:
        """The process of a rank in the newest round, and that round."""
        for event in reversed(self.events()):
            if event.kind == "worker_started" and event["rank"] == number:
                return ProcessId(event["pid"], event["start_ticks"]), event["round"]
        return None

    def supervisor(self) -> ProcessId | None:
        """The supervisor, once it has told of itself; also when the journal is gone: one that was stopped is to be woken."""
        for event in self.events() if self._supervisor is None else ():
            if event.kind == "supervisor_started":
                self._supervisor = ProcessId(event["pid"], event["start_ticks"])
        return self._supervisor

    def has_come(self, stage: str) -> bool:
        """True when a stage was reached."""
        if stage in {"sent", "before"}:
            return True
        if stage == "line":
            return bool(self.folder and any(_has_line(p) for p in self.folder.path.glob("round_*/*/stdout.log")))
        return any(e.kind == stage for e in self.events())


def _has_line(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.stat().st_size > 0
    return False
