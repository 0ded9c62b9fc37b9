"""Reads values that a confused rank may have written: each function is total and gives a sane value back.

Runs in: the kernel or command line, under the reducer of the journal; the supervisor, where it reads a failure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

from nb_elastic import sysfs
from nb_elastic.events import Event
from nb_elastic.model import Frame, StackGroup, StackReport, WorkerFailure

E = TypeVar("E", bound=Enum)

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")

MAX_GROUPS, MAX_TEXTS, MAX_FRAMES = 200, 20, 200
_FAILURE_TEXTS = ("message", "traceback", "followed", "hint")

MAX_VALUES, MAX_VALUE_CHARS = 20, 200
"""Most variables of a frame, and most characters of each."""


def compact_cpus(cpus: Any) -> str:
    """Write CPU numbers as ranges (``0-3,8``); text passes, nonsense becomes ""."""
    if isinstance(cpus, str):
        return text(cpus, limit=1000)
    if not isinstance(cpus, (list, tuple)):
        return ""
    numbers = {c for c in cpus if isinstance(c, int) and not isinstance(c, bool) and 0 <= c < 1 << 20}
    return sysfs.ranges_text(numbers)


def worker_fields(worker: Any) -> dict[str, Any]:
    """What a worker's own file adds; only keys that it has, so that nothing known is lost."""
    if not isinstance(worker, Mapping):
        return {}
    found: dict[str, Any] = {k: text(worker[k]) for k in ("binding",) if worker.get(k)}
    found |= {k: word(worker[k]) for k in ("device", "start_method") if worker.get(k)}
    found |= {k: integer(worker[k]) for k in ("pid", "start_ticks") if integer(worker.get(k))}
    if cpus := compact_cpus(worker.get("cpus")):
        found["cpus"] = cpus
    return found | result_fields(worker.get("result"))


def result_fields(result: Any) -> dict[str, Any]:
    """The summary of a return value: its short text, its size, and why it could not be kept."""
    if not isinstance(result, Mapping):
        return {}
    return {
        "result_text": text(result.get("text")),
        "result_size_bytes": integer(result.get("size_bytes")),
        "result_error": text(result.get("error")),
    }


def failure(e: Event) -> WorkerFailure | None:
    """Read a worker's failure field by field: the rank that wrote it may have been out of its mind."""
    data = e.get("failure")
    if not isinstance(data, Mapping):
        return None
    code = data.get("exit_code")
    return WorkerFailure(
        rank=integer(data.get("rank"), integer(e.get("rank"), -1)),
        local_rank=integer(data.get("local_rank"), integer(e.get("local_rank"), -1)),
        round=integer(data.get("round"), integer(e.get("round"))),
        time_ns=integer(data.get("time_ns"), e.time_ns),
        node=e.node,
        pid=integer(data.get("pid")),
        exit_code=None if code is None else integer(code),
        frames=tuple(map(frame, rows(data.get("frames"), most=MAX_FRAMES))),
        reasons=texts(data.get("reasons")),
        **{k: text(data.get(k)) for k in _FAILURE_TEXTS},
        **{k: word(data.get(k)) for k in ("signal", "error_type", "category")},
    )


def stack_report(data: Any) -> StackReport | None:
    """Read where the ranks stand; None for what is no report."""
    if not isinstance(data, Mapping):
        return None
    return StackReport(
        time_ns=integer(data.get("time_ns")),
        groups=tuple(map(_stack_group, rows(data.get("groups"), most=MAX_GROUPS))),
        **{k: text(data.get(k), limit=4_000) for k in ("cause", "headline", "advice", "kind")},
    )


def _stack_group(data: Mapping[str, Any]) -> StackGroup:
    return StackGroup(
        ranks=integers(data.get("ranks")),
        state=text(data.get("state"), limit=100),
        doing=text(data.get("doing"), limit=4_000),
        frames=tuple(map(frame, rows(data.get("frames"), most=MAX_FRAMES))),
        notes=texts(data.get("notes")),
        is_odd=data.get("is_odd") is True,
        is_still=data.get("is_still") is True,
    )


def rows(data: Any, *, most: int) -> list[Mapping[str, Any]]:
    """The first objects of a list; none of what is no list."""
    return [row for row in data[:most] if isinstance(row, Mapping)] if isinstance(data, (list, tuple)) else []


def texts(data: Any) -> tuple[str, ...]:
    """Read some sentences."""
    return tuple(text(t, limit=4_000) for t in data[:MAX_TEXTS]) if isinstance(data, (list, tuple)) else ()


def frame(data: Mapping[str, Any]) -> Frame:
    """Read one line of a traceback."""
    words = {k: word(data.get(k), limit=4_000) for k in ("file", "name")}
    return Frame(
        line=integer(data.get("line")), values=values(data.get("values")), text=text(data.get("text")), **words
    )


def values(data: Any) -> dict[str, str]:
    """Read the short texts of a frame's variables."""
    pairs = list(data.items())[:MAX_VALUES] if isinstance(data, Mapping) else []
    return {word(k, limit=MAX_VALUE_CHARS): text(v, limit=MAX_VALUE_CHARS) for k, v in pairs if isinstance(v, str)}


def integer(value: Any, default: int = 0) -> int:
    """An integer of at most 63 bits, else ``default``."""
    is_sane = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
    return value if is_sane else default


def integers(data: Any, *, most: int = 100_000) -> tuple[int, ...]:
    """Read a list of integers; -1 stands for what is none."""
    return tuple(integer(one, -1) for one in data[:most]) if isinstance(data, (list, tuple)) else ()


def text(value: Any, *, limit: int = 64_000) -> str:
    """Text that can be written to any UTF-8 stream; "" for what is no text."""
    return value[:limit].encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def word(value: Any, *, limit: int = 500) -> str:
    """Text of one line that stands in the midst of others: what can't be printed becomes a question mark."""
    found = text(value, limit=limit)
    return found if found.isprintable() else "".join(c if c.isprintable() else "?" for c in found)


def file_name(value: Any) -> str:
    """The id of a run, which is the name of its folder, too; "" for what is none."""
    return value if isinstance(value, str) and _NAME.fullmatch(value) else ""


def member(cls: type[E], value: Any) -> E | None:
    """The member of an enumeration with this value, or None."""
    try:
        return cls(value)
    except ValueError:
        return None
