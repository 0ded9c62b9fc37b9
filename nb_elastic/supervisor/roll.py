"""The roll of a node's processes: each that was seen below the supervisor, with its start time, on disk (processes.jsonl).

Runs in: the supervisor, in the pulse's thread. ``reap`` reads it when everybody who could have swept is dead. Its lines are sealed
as those of the journal are: a rank, which can write to the same file, must not name whom to kill.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from nb_elastic import lifeline, machine
from nb_elastic.lifeline import ProcessId
from nb_elastic.seals import Sealer
from nb_elastic.supervisor.appender import Appender


class Roll:
    """Writes down each process once.

    Args:
        key: of the run, or b"".
    """

    def __init__(self, path: Path, *, key: bytes) -> None:
        self._lines = Appender(path)
        self._sealer = Sealer(key) if key else None
        self._machine = machine.here()
        self._written: set[ProcessId] = set()

    def note(self, living: Iterable[ProcessId]) -> None:
        """Write down those that are new; those that are gone are forgotten here, not on disk."""
        now = set(living)
        if new := sorted((one.pid, one.start_ticks) for one in now - self._written):
            record = {"machine": self._machine, "processes": new}
            line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
            self._lines.append(line if self._sealer is None else self._sealer.seal(line))
        self._written = now

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def adopters(pids: Iterable[int]) -> set[int]:
    """Who adopts what ranks leave behind: this supervisor, and the forkserver that is the parent of these ranks."""
    parents = (lifeline.stat_fields(pid)[1:2] for pid in pids)
    return {os.getpid(), *(int(one[0]) for one in parents if one)} - {1}
