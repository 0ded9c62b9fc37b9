"""Writes what the ranks of a round use (usage.jsonl), which processes they are (processes.jsonl) and when their logs grew (growth.jsonl).

Runs in: the supervisor, in a thread that sleeps until a log grows or a second is over.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nb_elastic import seals
from nb_elastic.model import STREAMS
from nb_elastic.rundir import RankDir, RunDir
from nb_elastic.supervisor.appender import Appender
from nb_elastic.supervisor.families import Families
from nb_elastic.supervisor.gpus import GpuWatch
from nb_elastic.supervisor.growth import Growth
from nb_elastic.supervisor.hangs import HangWatch
from nb_elastic.supervisor.roll import Roll, adopters
from nb_elastic.wakes import Wakes

FIRST_S = 0.15
"""The first sample comes when the ranks have started: until then they need the CPU themselves."""

SAMPLE_S = 1.0
UNSURE_S = 0.25
"""How often logs are looked at where inotify can't tell of their growth."""

RARER_BYTES = 8 << 20
"""After each so many bytes of usage (about 4 h of 8 ranks) it is written half as often."""

MAX_RARE_S = 60.0
REWATCH_SAMPLES = 5
JOIN_S = 5.0
LAST_LOOK_S = 1.0
"""How long the end of a round waits for a look under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A rank to be watched; ``gpu`` is the UUID of the GPU that is meant for it, or ""."""

    rank: int
    local_rank: int
    pid: int
    folder: RankDir
    gpu: str = ""


class Pulse:
    """Watches the ranks of a node, round after round. Only the main thread may use it.

    Args:
        node: the level that runs of several nodes have, else None.
        hangs: watches the same ranks for as long.
    """

    def __init__(self, run: RunDir, *, node: int | None, hangs: HangWatch | None = None) -> None:
        self._hangs = hangs
        self._run = run
        self._node = node
        self._round: _Round | None = None
        self._over: list[_Round] = []

    @property
    def hang_text(self) -> str:
        """Why the run was to be ended as hanging, or ""."""
        return self._hangs.text if self._hangs is not None else ""

    def begin(self, number: int, subjects: Sequence[Subject], *, gpus: Sequence[str] = ()) -> None:
        """Watch the ranks of a round that were just started.

        Args:
            gpus: UUIDs of all GPUs that the ranks can see.
        """
        self.close()
        self._round = _Round(self._run, self._node, number, subjects, gpus=gpus)
        self._round.start()
        if self._hangs is not None:
            self._hangs.begin(number, subjects)

    def end(self) -> None:
        """The round is over: write the last sizes. Waits for no thread; the second time nothing is left to do.

        The watchdog, too, may call this, while the main thread is stuck in it.
        """
        over, self._round = self._round, None
        if self._hangs is not None:
            self._hangs.end()
        if over is not None:
            self._over.append(over)
            over.end()

    def close(self) -> None:
        """End, wait for every thread and let everything go; the run's last word need not wait for that."""
        self.end()
        while self._over:
            self._over.pop().close()
        if self._hangs is not None:
            self._hangs.close()


class _Round:
    """One round's thread and files."""

    def __init__(
        self, run: RunDir, node: int | None, number: int, subjects: Sequence[Subject], *, gpus: Sequence[str]
    ) -> None:
        self._number = number
        self._subjects = tuple(subjects)
        self._pids: dict[int, tuple[int, ...]] = {}
        self._samples = 0
        self._over = threading.Event()
        self._wakes = Wakes()
        self._usage = Appender(run.usage(node))
        self._usage_due = 0.0
        self._growth_lines = Appender(run.growth(node))
        self._roll = Roll(run.processes(node), key=seals.key_of(run.path))
        self._growth = Growth(self._logs(), watch=self._wakes.watch, out=self._growth_lines)
        self._looking = threading.Lock()
        self._gpus = GpuWatch({s.local_rank: s.gpu for s in subjects}, gpus, self._pids_by_rank)
        self._thread = threading.Thread(target=self._watch, name="nb_elastic-pulse", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def end(self) -> None:
        """Look once more, and have the thread end."""
        self._over.set()
        self._wakes.wake()
        if self._looking.acquire(timeout=LAST_LOOK_S):  # a file system that hangs must not take the run's last word
            try:
                self._growth.look()
            finally:
                self._looking.release()

    def close(self) -> None:
        """Wait for the threads, and let everything go; what does not come back is left to itself."""
        self._thread.join(JOIN_S)
        if not self._thread.is_alive():
            self._usage.close()
            self._growth_lines.close()
            self._roll.close()
        self._gpus.join()
        self._wakes.close()

    def _watch(self) -> None:
        pids = [s.pid for s in self._subjects]
        families = Families(pids, adopters=adopters(pids))
        self._pids = families.pids()
        sample_at = time.monotonic() + FIRST_S
        try:
            while not self._over.is_set():
                has_grown = self._look()
                if (now := time.monotonic()) >= sample_at:
                    if not self._samples:
                        self._gpus.start()
                    self._sample(families)
                    sample_at = max(sample_at + SAMPLE_S, now)
                self._sleep(sample_at, has_grown=has_grown)
            self._sample(families)  # of those that the agent could not end, say
        finally:
            self._gpus.end()

    def _look(self) -> bool:
        """True if a log grew a moment ago: another look is due then."""
        with self._looking:
            is_over = self._over.is_set()  # the last look was taken
            return not is_over and (self._growth.due > time.monotonic() or self._growth.look())

    def _logs(self) -> dict[str, Path]:
        return {
            f"{self._number}/{s.local_rank}/{stream}": s.folder.stream(stream)
            for s in self._subjects
            for stream in STREAMS
        }

    def _sleep(self, sample_at: float, *, has_grown: bool) -> None:
        """Until the next sample, or growth; after growth for as long as records stand apart."""
        now = time.monotonic()
        if has_grown:
            self._over.wait(max(0.0, min(self._growth.due, sample_at) - now))
        else:
            left = max(0.0, sample_at - now)
            self._wakes.wait(left if self._wakes.is_sure else min(left, UNSURE_S))

    def _sample(self, families: Families) -> None:
        usage = families.sample()
        self._pids = families.pids()
        self._roll.note(families.known())
        self._samples += 1
        if self._samples % REWATCH_SAMPLES == 0:
            with self._looking:
                self._growth.rewatch()
        on_gpus = self._gpus.last()
        ranks = []
        for one in self._subjects:
            if used := usage.get(one.pid):
                told = {"cpu_percent": used.cpu_percent, "memory_bytes": used.memory_bytes}
                more = on_gpus[one.local_rank].record() if one.local_rank in on_gpus else {}
                ranks.append({"rank": one.rank, "local_rank": one.local_rank, **told, **more})
        if ranks and (now := time.monotonic()) >= self._usage_due:
            self._usage_due = now + rarity_s(self._usage.written_bytes)
            record = {"time_ns": time.time_ns(), "round": self._number, "ranks": ranks}
            self._usage.append(json.dumps(record, separators=(",", ":")).encode() + b"\n")

    def _pids_by_rank(self) -> dict[int, tuple[int, ...]]:
        pids = self._pids
        return {s.local_rank: pids.get(s.pid, ()) for s in self._subjects}


def rarity_s(written_bytes: int) -> float:
    """Least seconds between two records of usage in a file of this size; 0 while each sample is written."""
    times = written_bytes // RARER_BYTES
    return min(MAX_RARE_S, SAMPLE_S * 2**times) - SAMPLE_S / 2 if times else 0.0
