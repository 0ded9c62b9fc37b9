"""What a rank displays: one JSON line each in its outputs file, paced and capped so that no loop can fill the disk.

Runs in: a worker, once it displays something.

Displays are written at once. Updates, and what follows a ``clear``, are written at most ten times a second, rarer the
more was written already; what waits and is outdated before its turn is dropped. The last state is written at the end.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nb_elastic import opening
from nb_elastic.report import METRICS_FILE
from nb_elastic.rundir import RankDir

MAX_LINE_BYTES = 2 << 20
MAX_FILE_BYTES = 20 << 20
RESERVE_BYTES = 2 << 20
"""Room above the cap for what is displayed in the end, and for words in place of what had no room."""

MAX_WORDS = 2_000
"""Most characters of a text that stands for something too large."""

PAUSE_S = 0.1
RARER_BYTES = 2 << 20
"""After each so many bytes updates are written half as often."""

_SHOWS_NOTHING = frozenset({"application/vnd.jupyter.widget-view+json", "application/javascript", "application/pdf"})
"""Kinds that need a living kernel, or that nobody may run or draw here."""


def path() -> Path | None:
    """The outputs file of the rank that this process belongs to; None elsewhere."""
    metrics = os.environ.get(METRICS_FILE)
    return RankDir(Path(metrics).parent).outputs if metrics else None


class Outputs:
    """Writes one rank's outputs. Any thread may use it.

    Args:
        where: tells the file, or None to write nothing.
        clock: seconds, as ``time.monotonic``.
    """

    def __init__(self, where: Callable[[], Path | None] = path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._where = where
        self._clock = clock
        self._due = clock()
        self._lock = threading.RLock()
        self._waiting: list[dict[str, Any]] = []
        self._timer: threading.Timer | None = None

    def show(
        self,
        data: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        *,
        display_id: str = "",
        is_update: bool = False,
    ) -> None:
        """Show a MIME bundle, or update what was shown under its id."""
        record = _record("update" if is_update else "display", data, metadata or {}, display_id)
        with self._lock:
            if is_update and (old := self._waiting_of(display_id)):
                old.update(data=record["data"], metadata=record["metadata"], note=record["note"])
            else:
                self._waiting.append(record)
            is_paced = any(one["kind"] != "display" for one in self._waiting)
            self._turn() if is_paced else self._write()

    def clear(self, *, is_later: bool = False) -> None:
        """Take away all that is shown; with ``is_later`` when something new is there to take its place."""
        with self._lock:
            self._waiting = [_record("clear", {}, {}, "")]
            if not is_later:
                self._turn()

    def finish(self) -> None:
        """Write what still waits: the rank ends."""
        with self._lock:
            if [one["kind"] for one in self._waiting] != ["clear"] or self._timer is not None:
                self._write(is_last=True)

    def after_fork(self) -> None:
        """In a child: what waits is the parent's to write."""
        self._lock, self._waiting, self._timer = threading.RLock(), [], None

    def _waiting_of(self, display_id: str) -> dict[str, Any] | None:
        return next((one for one in self._waiting if display_id and one["display_id"] == display_id), None)

    def _turn(self) -> None:
        """Write now if it is time, else let a timer do it."""
        left = self._due - self._clock()
        if left <= 0:
            self._write()
        elif self._timer is None:
            self._timer = threading.Timer(left, self._write)
            self._timer.name, self._timer.daemon = "nb_elastic-outputs", True
            self._timer.start()

    def _write(self, *, is_last: bool = False) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            where = self._where()
            if where is None or not waiting:
                return
            with contextlib.suppress(OSError):  # a full disk: training goes on
                fd = opening.to_append(where)
                try:
                    for record in waiting:
                        _append(fd, record, is_last=is_last)
                    size = os.fstat(fd).st_size
                finally:
                    os.close(fd)
                if any(one["kind"] != "display" for one in waiting):
                    self._due = self._clock() + PAUSE_S * 2 ** (size // RARER_BYTES)


def _record(kind: str, data: Mapping[str, Any], metadata: Mapping[str, Any], display_id: str) -> dict[str, Any]:
    """One output as it stands in the file, cut to the size of a line."""
    record = {
        "time_ns": time.time_ns(),
        "rank": _rank(),
        "kind": kind,
        "display_id": display_id,
        "data": {str(kind): _plain(kind, value) for kind, value in data.items() if kind not in _SHOWS_NOTHING},
        "metadata": metadata,
        "note": "",
    }
    try:
        json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        record["metadata"] = {}
    _cut(record)
    return record


def _plain(kind: str, value: Any) -> Any:
    """A value as JSON has it: bytes as base64, JSON kinds as they are, everything else as text."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if kind == "application/json" or kind.endswith("+json"):
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            return repr(value)
        return value
    return str(value)


def _cut(record: dict[str, Any]) -> None:
    """Leave out the largest kinds, and then the middle of the text, until the line is small enough."""
    data: dict[str, Any] = record["data"]
    sizes = {kind: len(json.dumps(value)) for kind, value in data.items()}
    left_out = []
    while sum(sizes.values()) > MAX_LINE_BYTES - MAX_WORDS and sizes.keys() - {"text/plain"}:
        largest = max(sizes.keys() - {"text/plain"}, key=lambda kind: sizes[kind])
        left_out.append(f"{largest} of {sizes.pop(largest) / 1e6:.1f} MB")
        del data[largest]
    if left_out:
        record["metadata"] = {}
        record["note"] = f"{' and '.join(left_out)} left out: one output may have {MAX_LINE_BYTES >> 20} MB."
    if sum(sizes.values()) > MAX_LINE_BYTES - MAX_WORDS:
        record["note"] = f"{record['note']} The text was cut: it had {len(data['text/plain'])} characters.".strip()
        data["text/plain"] = f"{data['text/plain'][:MAX_WORDS]}..."
    if len(json.dumps(record["metadata"])) > MAX_WORDS:
        record["metadata"] = {}


def _append(fd: int, record: dict[str, Any], *, is_last: bool) -> None:
    size, line = os.fstat(fd).st_size, _line(record)
    limit = MAX_FILE_BYTES + (RESERVE_BYTES if is_last else 0)
    if size + len(line) > limit:
        text = str(record["data"].get("text/plain", ""))[:MAX_WORDS]
        note = f"No room for more: the outputs of a rank may have {MAX_FILE_BYTES >> 20} MB."
        line = _line({**record, "data": {"text/plain": text}, "metadata": {}, "note": note})
    if size + len(line) <= MAX_FILE_BYTES + RESERVE_BYTES:
        while line:
            line = line[os.write(fd, line) :]


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _rank() -> int:
    try:
        return int(os.environ.get("RANK", "0"))
    except ValueError:
        return 0


OWN = Outputs()
"""This process's; in a child that the user's code forks it begins anew."""

os.register_at_fork(after_in_child=OWN.after_fork)
