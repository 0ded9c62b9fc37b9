"""JSON lines that ranks wrote, read so that nothing in them can harm: whole, sampled, and made fit for any page.

Runs in: the kernel or command line.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nb_elastic import rundir

WHOLE_BYTES = 256 << 10
"""A file of at most this size is read whole where a sample is asked for."""
MAX_DEPTH = 40


def clean(value: Any, depth: int = 0) -> Any:
    """The value as every JSON reader takes it: no NaN, no infinity, no half characters, not too deep."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (dict, list, tuple)) and depth > MAX_DEPTH:
        return None
    if isinstance(value, dict):
        return {clean(str(k)): clean(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(v, depth + 1) for v in value]
    return value


def row(line: bytes) -> dict[str, Any] | None:
    """One line as a dict with a time, or None for what is none (a torn line, say)."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not _is_time(value.get("time_ns")):
        return None
    cleaned: dict[str, Any] = clean(value)
    return cleaned


def rows(path: Path, *, limit_bytes: int) -> list[dict[str, Any]]:
    """Every row of a file, at most so many bytes of it from its start."""
    data = bytearray()
    while len(data) < limit_bytes and (piece := rundir.read_at(path, len(data), min(1 << 20, limit_bytes - len(data)))):
        data += piece
    return [found for line in bytes(data).split(b"\n") if (found := row(line))]


def sample(path: Path, count: int) -> list[dict[str, Any]]:
    """At most ``count`` rows spread over the whole file, the last one among them; cheap however large it is."""
    size = size_of(path)
    if size <= WHOLE_BYTES:
        return thinned(rows(path, limit_bytes=WHOLE_BYTES), count)
    found = [line for n in range(max(0, count - 1)) if (line := _line_after(path, n * size // count, 4 << 10))]
    last = rundir.read_at(path, max(0, size - (64 << 10)), 64 << 10).rstrip(b"\n").rpartition(b"\n")[2]
    return [kept for line in dict.fromkeys([*found, last]) if (kept := row(line))]


def thinned(found: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """At most ``count`` of the rows, evenly spread, the last one among them."""
    if len(found) <= count or count < 1:
        return found[:count] if count > 0 else []
    last = len(found) - 1
    return [found[last - (count - 1 - n) * last // max(1, count - 1)] for n in range(count)]


def size_of(path: Path) -> int:
    """Size of a file; 0 where there is none."""
    try:
        return os.stat(path, follow_symlinks=False).st_size
    except OSError:
        return 0


def _line_after(path: Path, offset: int, size: int) -> bytes:
    """The first whole line after an offset (at it, where it is 0); empty where none ends within ``size``."""
    data = rundir.read_at(path, offset, size)
    if offset:
        data = data.partition(b"\n")[2]
    line, end, _ = data.partition(b"\n")
    return line if end else b""


def _is_time(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


class RowReader(rundir.LineReader):
    """Reads the new rows of a file that grows."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows that came since the last call."""
        return (found for line in self.read() if (found := row(line)))
