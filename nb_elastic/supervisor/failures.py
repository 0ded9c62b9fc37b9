"""How a rank failed: what it wrote about itself, else how it died.

Runs in: the supervisor.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from nb_elastic import rundir, steady, untrusted
from nb_elastic.model import Frame, WorkerFailure
from nb_elastic.rundir import RankDir
from nb_elastic.supervisor import failures_verdict, failures_words
from nb_elastic.supervisor.evidence import NOTHING, Evidence
from nb_elastic.supervisor.failures_words import signal_name

TAIL_LINES = 30
TAIL_BYTES = 64_000
MAX_TEXT = 64_000

_OURS = re.compile(
    r'^  File ".*[/\\]nb_elastic[/\\](worker|payload\w*|cell|entry|rankshell|supervisor[/\\]\w+)\.py", line'
)


def read_exception(folder: RankDir, *, rank: int, local_rank: int, round_number: int) -> WorkerFailure | None:
    """What a rank wrote about its own exception; None if nothing (or nothing sane) is there.

    The rank may have been out of its mind: each field is checked.
    """
    data = rundir.read_json(folder.failure_json)
    time_ns, steady_ns = data.get("time_ns"), data.get("steady_ns")
    if not isinstance(time_ns, int) or not data.get("error_type"):
        return None
    frames = data.get("frames")
    return WorkerFailure(
        rank=rank,
        local_rank=local_rank,
        round=round_number,
        time_ns=steady.as_wall(steady_ns) if isinstance(steady_ns, int) and steady_ns > 0 else time_ns,
        error_type=_text(data.get("error_type")),
        message=_text(data.get("message")),
        traceback=_text(data.get("traceback")),
        frames=tuple(_frame(f) for f in frames if isinstance(f, dict))[:200] if isinstance(frames, list) else (),
    )


def explain(
    folder: RankDir,
    *,
    rank: int,
    local_rank: int,
    round_number: int,
    pid: int,
    exit_code: int | None,
    time_ns: int,
    found: Evidence = NOTHING,
    is_ended: bool = False,
    node: int = 0,
) -> WorkerFailure:
    """Make a rank's failure from what it wrote, else from how it died.

    Args:
        time_ns: when its exit was seen; its own exception's time goes first.
        is_ended: its signal came from the agent, which tells nothing about its own failure.
        found: what the machine knows of its end.
    """
    told = read_exception(folder, rank=rank, local_rank=local_rank, round_number=round_number)
    if told is None:
        told = _torch_error(
            folder, WorkerFailure(rank=rank, local_rank=local_rank, round=round_number, time_ns=time_ns)
        )
    name = signal_name(exit_code)
    told = replace(told, node=node, pid=pid, exit_code=exit_code, signal=name)
    words = failures_words.death(exit_code, found, is_oom=bool(failures_verdict.oom_reason(told, found)))
    if not told.error_type and not told.message:
        tail = found.tail or tail_of(folder.stderr)
        told = replace(told, message=words, traceback=f"Last lines of stderr:\n{tail}" if tail else "")
    elif name and not is_ended:
        told = replace(told, message=f"{told.message} (then {words})".strip())
    return replace(told, hint=failures_words.hint_for(told) or disk_hint(folder))


def disk_hint(folder: RankDir) -> str:
    """What to do where the disk of a rank's folder is full, or "": that keeps a rank from telling anything itself."""
    try:
        is_full = os.statvfs(folder.path).f_bavail == 0
    except OSError:
        return ""
    return f"The disk of {folder.path} is full: free space, or choose another folder with --log-dir." if is_full else ""


def _torch_error(folder: RankDir, failure: WorkerFailure) -> WorkerFailure:
    """Add what a program under torch's ``@record`` left in its error file."""
    message = rundir.read_json(folder.path / "error.json").get("message")
    if not isinstance(message, dict):
        return replace(failure, message=_text(message)) if isinstance(message, str) else failure
    kind, _, text = _text(message.get("message")).partition(": ")
    extra = message.get("extraInfo")
    stack = _text(extra.get("py_callstack")) if isinstance(extra, dict) else ""
    is_typed = kind.isidentifier() and bool(text)
    return replace(failure, error_type=kind if is_typed else "", message=text if is_typed else kind, traceback=stack)


def tail_of(path: Path) -> str:
    """Last lines of a log, without what faulthandler tells of this package."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        size = os.fstat(fd).st_size
        data = os.pread(fd, TAIL_BYTES, max(0, size - TAIL_BYTES))
    except OSError:
        return ""
    finally:
        os.close(fd)
    lines = _without_ours(data.decode("utf-8", "replace").replace("\0", "").splitlines())[-TAIL_LINES:]
    return "\n".join(line[:2000] for line in lines)


def _without_ours(lines: list[str]) -> list[str]:
    """Leave out what faulthandler tells of this package: the frames below (older than) the user's code, and the modules."""
    found: list[str] = []
    is_fatal = is_ours = False
    for line in lines:
        is_fatal = is_fatal or line.startswith("Fatal Python error:")
        is_ours = is_fatal and line.startswith("  File ") and (is_ours or bool(_OURS.match(line)))
        if not is_ours and not (is_fatal and line.startswith("Extension modules: ")):
            found.append(line)
    while is_fatal and found and not found[-1].strip():
        found.pop()
    return found


def _frame(data: dict[str, Any]) -> Frame:
    line = data.get("line")
    return Frame(
        file=_text(data.get("file")),
        line=line if isinstance(line, int) else 0,
        name=_text(data.get("name")),
        text=_text(data.get("text")),
        values=untrusted.values(data.get("values")),
    )


def _text(value: Any) -> str:
    return value[:MAX_TEXT].encode("utf-8", "replace").decode() if isinstance(value, str) else ""
