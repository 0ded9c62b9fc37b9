"""Printing the logs of a run: all of them or the last lines, and what is still to come.

Runs in: the command line, or the kernel (``%elastic logs``).
"""

from __future__ import annotations

import re
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from nb_elastic import rundir, snapshot, untrusted
from nb_elastic.errors import ElasticError
from nb_elastic.events import Event
from nb_elastic.model import STREAMS, Stream
from nb_elastic.render.lines import clean
from nb_elastic.rundir import JournalReader, RankDir, RunDir
from nb_elastic.snapshot import EMPTY
from nb_elastic.wakes import Wakes

TICK_S = 0.5
"""Longest wait between two looks where growth ends the wait: a supervisor that dies without a word is missed by looking."""
UNSURE_TICK_S = 0.1
"""The same where nothing tells of growth."""
LINE_CHARS = 1 << 20
"""Longest part of one line that is printed; the file has the rest."""
KEPT_BYTES = 4 * LINE_CHARS
"""Of a line without end so much is kept in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which lines to print.

    Attributes:
        rank: None for all.
        node: None for all.
        stream: None for both.
        count: only so many last lines of each file; None for all.
    """

    rank: int | None = None
    node: int | None = None
    stream: Stream | None = None
    pattern: re.Pattern[str] | None = None
    count: int | None = None


class _File:
    """One log file, read on from where the last look ended."""

    def __init__(self, *, rank: int, round_number: int, stream: Stream, folder: RankDir) -> None:
        self.rank = rank
        self.round = round_number
        self.prefix = f"[rank {rank}{' err' if stream == 'stderr' else ''}] "
        self.path = folder.stream(stream)
        self._offset = 0
        self._rest = b""

    def lines(self) -> Iterator[str]:
        """Yield the complete lines that came since the last call; bars by their last state."""
        while data := rundir.read_at(self.path, self._offset):
            self._offset += len(data)
            *whole, rest = (self._rest + data).split(b"\n")
            self._rest = rest[:KEPT_BYTES]
            yield from map(self._text, whole)
            if len(rest) > KEPT_BYTES:
                self._offset = max(self._offset, rundir.data_after(self.path, self._offset))

    def flush(self) -> Iterator[str]:
        """Yield an unfinished last line."""
        if self._rest:
            yield self._text(self._rest)
            self._rest = b""

    @staticmethod
    def _text(line: bytes) -> str:
        line = line.rstrip(b"\r")
        return clean(line.rpartition(b"\r")[2] or line, has_colour=sys.stdout.isatty(), limit=LINE_CHARS)


class LogPrinter:
    """Prints the logs of one run in the order of rounds, ranks and streams."""

    def __init__(self, run: RunDir, wanted: Wanted) -> None:
        self._run = run
        self._wanted = wanted
        self._journal = JournalReader(run.journal)
        self._snapshot = EMPTY
        self._files: list[_File] = []
        self._ranks: set[int] = set()
        self._nodes: set[int] = set()
        self._shown_round = -1

    def print_existing(self) -> None:
        """Print what is there.

        Raises:
            ElasticError: if the wanted rank or node never was.
        """
        self._look()
        rank = self._wanted.rank
        if rank is not None and rank not in self._ranks and self._snapshot.state.is_final:
            known = ", ".join(map(str, sorted(self._ranks))) or "none"
            raise ElasticError(f"Run {self._run.run_id} has no rank {rank}; its ranks are: {known}.")
        node = self._wanted.node
        if node is not None and node not in self._nodes and self._snapshot.state.is_final:
            known = ", ".join(map(str, sorted(self._nodes))) or "none"
            raise ElasticError(f"Run {self._run.run_id} had no rank on node {node}; nodes with ranks were: {known}.")
        for file in self._files:
            last: deque[str] = deque(maxlen=self._wanted.count)
            for line in file.lines():
                if self._wanted.count is None:
                    self._print(file, line)
                elif self._fits(line):
                    last.append(line)
            if self._snapshot.state.is_final:
                for line in file.flush():
                    last.append(line) if self._wanted.count is not None else self._print(file, line)
            for line in last:
                self._print(file, line)

    def follow(self) -> None:
        """Print new lines until the run is over."""
        wakes = Wakes()
        try:
            while not self._print_new(wakes):
                wakes.wait(TICK_S if wakes.is_sure else UNSURE_TICK_S)
        finally:
            wakes.close()

    def _print_new(self, wakes: Wakes) -> bool:
        """Watch, then print what is new; True when the run is over."""
        wakes.watch(self._run.journal)
        is_final = self._look()
        for file in self._files:
            if file.round == self._snapshot.round:
                wakes.watch(file.path)
            for line in file.lines():
                self._print(file, line)
            if is_final:
                for line in file.flush():
                    self._print(file, line)
        sys.stdout.flush()
        return is_final

    def _look(self) -> bool:
        """Learn of new workers; True when the run is over."""
        for event in self._journal.events():
            self._snapshot = snapshot.fold(self._snapshot, event)
            if event.kind == "worker_started":
                self._add(event)
        return snapshot.mark_lost(self._snapshot, self._run, now_ns=time.time_ns()).state.is_final

    def _add(self, event: Event) -> None:
        rank, local_rank, number = (untrusted.integer(event.get(k), -1) for k in ("rank", "local_rank", "round"))
        if min(rank, local_rank, number) < 0:
            return
        self._ranks.add(rank)
        self._nodes.add(event.node)
        if self._wanted.rank not in {None, rank} or self._wanted.node not in {None, event.node}:
            return
        folder = self._run.rank(number, local_rank, node=self._run.level(event.node))
        for stream in STREAMS:
            if self._wanted.stream in {None, stream}:
                self._files.append(_File(rank=rank, round_number=number, stream=stream, folder=folder))
        self._files.sort(key=lambda f: (f.round, f.rank))

    def _fits(self, line: str) -> bool:
        return self._wanted.pattern is None or self._wanted.pattern.search(line) is not None

    def _print(self, file: _File, line: str) -> None:
        if not self._fits(line):
            return
        if file.round != self._shown_round and len(self._snapshot.rounds) > 1:
            sys.stdout.write(f"--- round {file.round} ---\n")
            self._shown_round = file.round
        sys.stdout.write(f"{file.prefix}{line}\n")
