"""Following one run: what is new in its journal and logs, and whether its supervisor still lives.

Runs in: the kernel or the command line.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nb_elastic import events, reap, report_words, rundir, sight, snapshot, untrusted
from nb_elastic.dashboard import plainjson, saved
from nb_elastic.errors import DescriptorsError
from nb_elastic.events import Event
from nb_elastic.lifeline import HeldInterrupts
from nb_elastic.logreader import LogFollower
from nb_elastic.model import LogChunk
from nb_elastic.rundir import JournalReader, RunDir
from nb_elastic.sight import Loss
from nb_elastic.snapshot import RunSnapshot
from nb_elastic.wakes import Wakes

if TYPE_CHECKING:
    from nb_elastic.engines.seat import Channel

BATCH_S = 0.05
"""Time between two looks at logs that grow. What a rank writes first, or after a silence, is read at once."""
TICK_S = 0.05
"""Longest wait between two looks at the folder where nothing tells of its growth: the dashboard may lag 200 ms."""
LONG_TICK_S = 0.2
"""The same where growth ends the wait: a supervisor that dies without a word must be missed soon."""
SHORT_TICK_S = 0.005
"""The same for a moment after new bytes came: renderers hold lines for a few such ticks, to fold equal ones."""
MOMENT_S = 0.07
ALIVE_CHECK_S = 1.0
"""Time between two looks for the supervisor of a run that somebody else started."""
SURVIVORS_S = 3.0
"""So long the ranks of a supervisor that died may take to go before it is said that they did not."""
BLIND_S = 10.0
"""So long descriptors may be wanting before it is given up to follow a run that may be over."""
UNWRITTEN = b'"is_unwritten":true'


class _Blindness:
    """Since when what of a run can't be read, because this process has no descriptor left."""

    def __init__(self, folder: RunDir, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._clock = clock
        self.since_s: dict[str, float] = {}

    def is_short(self, what: str) -> bool:
        """True if it did not last long yet; notes when it began."""
        return self._clock() - self.since_s.setdefault(what, self._clock()) < BLIND_S

    def error(self) -> DescriptorsError:
        """What to tell of a run whose end is not seen."""
        text = DescriptorsError.of(f"Run {self._folder.run_id} could not be followed to its end")
        attach = f"{report_words.command()} attach {self._folder.run_id}"
        return DescriptorsError(f"{text} What became of it stands in {self._folder.path}: `{attach}` shows it.")

    def note(self) -> Event:
        """What to tell of a run that is over, and whose ranks' words are not all read."""
        text = DescriptorsError.of(f"The {' and '.join(self.since_s)} could not be read to their end")
        return events.make("note", level="warning", text=f"{text} They lie in {self._folder.path}.")


class Follower:
    """Reads a run's folder as it grows. Safe to use from several threads; an interrupt waits until what was opened is closed.

    A process without a descriptor left can't look. Then nothing is judged: it waits for some, as long as the supervisor lives.

    Args:
        channel: pipes to the supervisor, where this process started it; its lines wake the follower
            earlier, and carry what the journal could not be given.
        clock: seconds, by which logs are paced.
    """

    def __init__(
        self, folder: RunDir, *, channel: Channel | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._channel = channel
        self._clock = clock
        self._journal = JournalReader(folder.journal)
        self._logs = LogFollower(folder, watch=self._watch, clock=clock)
        self._outputs: list[plainjson.RowReader] = []
        self._snapshot = snapshot.EMPTY
        self._lock = threading.RLock()
        self._wakes: Wakes | None = None  # made at the first pause: many a run is only looked at
        self._is_closed = False
        self._is_channel_over = False
        self._is_channel_read = False
        self._unwritten: deque[Event] = deque()
        self._taken: set[tuple[str, int, int]] = set()
        self._gone_s: float | None = None
        self._heard_s = -math.inf
        self._next_s = -math.inf
        self._checked_alive_s = 0.0
        self._blind = _Blindness(folder, clock)
        self._thread: threading.Thread | None = None
        if channel is not None:
            self._thread = threading.Thread(
                target=self._drain_channel, name=f"nb-elastic-channel-{folder.run_id}", daemon=True
            )
            self._thread.start()

    def snapshot(self) -> RunSnapshot:
        """State of the run now, as its journal tells it; lost where the supervisor is gone, which only ``look`` writes down.

        Raises:
            DescriptorsError: if nothing is known of the run, for want of descriptors to look.
        """
        with HeldInterrupts(most=1), self._lock:
            try:
                self._read_journal()
            except DescriptorsError:
                if self._snapshot is snapshot.EMPTY:
                    raise
                return self._snapshot
            is_all_read = self._channel is None or self._is_channel_read
            if not is_all_read or self._gone() is None:
                return self._snapshot
            with contextlib.suppress(DescriptorsError):
                self._read_journal()  # its last word may have come meanwhile
                return snapshot.mark_lost(self._snapshot, self._folder, now_ns=time.time_ns())
            return self._snapshot

    def look(self) -> RunSnapshot:
        """State of the run now; one whose supervisor is gone without a last word is written down as lost.

        Raises:
            DescriptorsError: if descriptors were wanting for long, and the run may be over.
        """
        with HeldInterrupts(most=1), self._lock:
            try:
                self._read_journal()
                if not self._snapshot.state.is_final and self._is_time_to_look() and self._gone():
                    self._read_journal()  # its last word may have come meanwhile
                    if (found := self._gone()) and self._is_settled(found):
                        self._end_as_lost(found)
                self._blind.since_s.pop("journal", None)
            except DescriptorsError as e:
                is_live = self._channel is not None and self._channel.is_alive
                if not (self._snapshot.state.is_final or self._blind.is_short("journal") or is_live):
                    raise self._blind.error() from e
            return self._snapshot

    def logs(self) -> list[LogChunk]:
        """New bytes of all ranks' logs; none when it is too early for a look. Of a run that is over, empty when all are read."""
        with HeldInterrupts(most=1), self._lock:
            now_s = self._clock()
            is_due = now_s >= self._next_s or self._snapshot.state.is_final
            is_long = self._logs.took_s > BATCH_S  # of very many files
            if is_long and not is_due:
                return []
            try:
                chunks = self._logs.read(is_first=not is_due)
                self._blind.since_s.pop("logs", None)
            except DescriptorsError:
                self._blind.is_short("logs")
                return []
            if is_due and (chunks or is_long):
                # Far behind, or many files: half of the time is for reading, the other half is the kernel's.
                pause_s = min(BATCH_S, self._logs.took_s) if self._logs.has_more else max(BATCH_S, self._logs.took_s)
                self._next_s = self._clock() + pause_s
            if chunks:
                self._heard_s = now_s
        return chunks

    def outputs(self) -> list[dict[str, Any]]:
        """What rank 0 displayed since the last call, round after round."""
        found: list[dict[str, Any]] = []
        with HeldInterrupts(most=1), self._lock:
            try:
                for reader in self._outputs:
                    self._watch(reader.path)
                    for row in reader.rows():
                        if one := saved.output(row):
                            found.append(one)  # noqa: PERF401  what was read stays, though the next read fail
                self._blind.since_s.pop("outputs", None)
            except DescriptorsError:
                self._blind.is_short("outputs")
                return found
            del self._outputs[:-2]  # the last words of an earlier round may still come, those of its forerunners not
        return found

    def is_all_shown(self) -> bool:
        """False while logs or outputs of a run that is over can't be read for want of descriptors; not for ever."""
        with self._lock:
            if any(self._blind.is_short(what) for what in self._blind.since_s):
                return False
            if self._blind.since_s:
                self._snapshot = snapshot.fold(self._snapshot, self._blind.note())
            return True

    def pause(self) -> None:
        """Wait until something may be new, a tick at the longest."""
        if self._wakes is None:
            try:
                self._open_wakes()
            except OSError:  # no descriptor left: it is followed all the same
                time.sleep(TICK_S)
            return  # what is watched from now on must be looked at once more
        if self._snapshot.state.is_final:
            if self._blind.since_s:
                time.sleep(TICK_S)
            return
        now_s = self._clock()
        if now_s - self._heard_s < MOMENT_S or self._is_channel_over:
            tick_s = SHORT_TICK_S
        else:
            tick_s = LONG_TICK_S if self._channel is not None and self._wakes.is_sure else TICK_S
        self._wakes.wait(min(tick_s, self._next_s - now_s) if self._next_s > now_s else tick_s)

    def close(self) -> None:
        """End the channel, if there is one; the folder can still be read."""
        if self._channel is not None:
            self._channel.close()
        if self._thread is not None:
            self._thread.join(timeout=5)
        with self._lock:
            self._is_closed = True
            if self._wakes is not None:
                self._wakes.close()

    def _open_wakes(self) -> None:
        with self._lock:
            if self._wakes is None:
                self._wakes = Wakes()
                if self._is_closed:
                    self._wakes.close()

    def _watch(self, path: Path) -> None:
        if self._wakes is not None:
            self._wakes.watch(path)

    def _wake(self) -> None:
        if self._wakes is not None:
            self._wakes.wake()

    def _read_journal(self) -> None:
        self._watch(self._folder.journal)
        for event in self._journal.events():
            if (event.kind, event.time_ns, event.node) not in self._taken:
                self._take(event)
        while self._unwritten:
            event = self._unwritten.popleft()
            self._taken.add((event.kind, event.time_ns, event.node))  # the disk may have room again, later
            self._take(event)

    def _take(self, event: Event) -> None:
        if self._logs.took_s <= BATCH_S:
            self._next_s = -math.inf  # news of the ranks is told in order with what they wrote
        self._snapshot = snapshot.fold(self._snapshot, event)
        if event.kind == "worker_started":
            node = self._folder.level(event.node)
            rank, local_rank, number = (untrusted.integer(event.get(k), -1) for k in ("rank", "local_rank", "round"))
            if min(rank, local_rank, number) < 0:
                return
            self._logs.add(rank=rank, local_rank=local_rank, round_number=number, node=node)
            if rank == 0:
                self._outputs.append(plainjson.RowReader(self._folder.rank(number, local_rank, node=node).outputs))

    def _is_time_to_look(self) -> bool:
        if self._channel is None and self._clock() - self._checked_alive_s < ALIVE_CHECK_S:
            return False
        self._checked_alive_s = self._clock()
        return True

    def _gone(self) -> Loss | None:
        """Why the run is lost; None for one that is over, or whose supervisor lives or is out of sight."""
        if self._snapshot.state.is_final:
            return None
        if self._channel is None:
            return sight.loss(self._snapshot, self._folder, now_ns=time.time_ns())
        if self._channel.is_alive:
            return None
        found = sight.loss(self._snapshot, self._folder, now_ns=time.time_ns())
        return found or Loss(text="the supervisor ended without a last word")

    def _is_settled(self, found: Loss) -> bool:
        """False for a moment, while ranks still go with their supervisor, or its last lines are still read."""
        self._gone_s = self._clock() if self._gone_s is None else self._gone_s
        is_read = self._channel is None or self._is_channel_read
        return (is_read and not found.survivors) or self._clock() - self._gone_s > SURVIVORS_S

    def _end_as_lost(self, found: Loss) -> None:
        """Write down that the run is lost, unless that is only a guess: then somebody elsewhere may still write there."""
        text = found.text
        if self._channel is not None:  # we launched it: what nobody could sweep goes at once
            reap.end_left(self._folder)
        with contextlib.suppress(OSError, DescriptorsError):
            tail = rundir.read_tail(self._folder.supervisor_log, 2000).decode("utf-8", "replace").strip()
            text += f". The end of supervisor.log:\n{tail}" if tail else ""
        event = events.make("run_lost", text=text)
        if found.is_certain and self._folder.path.is_dir():
            with contextlib.suppress(OSError):
                journal = rundir.Journal(self._folder.journal)
                journal.append(event)
                journal.close()
                self._read_journal()
        if not self._snapshot.state.is_final:
            self._snapshot = snapshot.fold(self._snapshot, event)

    def _drain_channel(self) -> None:
        has_spoken = False
        if self._channel is not None:
            with contextlib.suppress(ValueError, OSError):  # the pipe was closed under the reader
                for line in self._channel.lines():
                    has_spoken = True
                    if UNWRITTEN in line and (event := events.decode(line)) is not None:
                        self._unwritten.append(event)
                    self._wake()
        self._is_channel_read = True
        self._is_channel_over = has_spoken  # a detached supervisor has no pipe and says nothing from the start
        self._wake()
