"""The messages between kernel and page: how ours are made, and how those of a page, which nobody vouches for, are read.

Runs in: the kernel. The shapes are those of ``labextension/core/src/source.ts``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nb_elastic import rundir
from nb_elastic.dashboard import plainjson
from nb_elastic.errors import ElasticError
from nb_elastic.model import Frame, StackGroup, StackReport, WorkerFailure
from nb_elastic.model import to_json as model_json
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import NodeSnapshot, RunSnapshot, to_json
from nb_elastic.supervisor.hang_words import HANG_AFTER_S

CHARTS = "charts.js"
VERSION = 1
EVERYBODY = "*"
"""The view that stands for every page, while none was heard."""
GRACE_S = 5.0
"""Seconds between the SIGINT and the SIGTERM of a stop, unless the page says otherwise."""
READ_BYTES = 1 << 20
"""Most bytes that one ``read`` gets."""
CELL_CHARS = 100_000
TRACEBACK_CHARS = 40_000
WHOLE_FAILURES = 8
"""So many failures of a round keep traceback and frames in a state."""
ROUNDS = 50
GONE_NODES = 200
MAX_ID_CHARS = 200
MAX_FILES = 20_000
STACK_GROUPS, STACK_FRAMES = 64, 60
"""So many groups of a report are sent, and so many innermost frames of each."""
SAVED_GROUPS, SAVED_FRAMES = 16, 12
"""The same of what is saved with a notebook."""
STACK_RANKS = 4_096
SENTENCES, SENTENCE_CHARS = 10, 1_000
KINDS = frozenset({"open", "ack", "read", "stop", "saved", "close", "list", "asset", "stacks"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a page wants, checked.

    Attributes:
        view: id of the dashboard in the page.
        run: id of a run, or "" for the door's own.
        have: how far each file was received.
    """

    kind: str
    view: str
    run: str = ""
    have: Mapping[str, int] = field(default_factory=dict)
    seq: int = 0
    id: int = 0
    file: str = ""
    offset: int = 0
    size: int = 0
    grace_s: float = GRACE_S


def read(content: Any) -> Ask | None:
    """Check a page's message; None for anything that is none."""
    if not isinstance(content, Mapping):
        return None
    kind, view, run = (_id(content.get(name)) for name in ("type", "view", "run"))
    if kind not in KINDS or not view or view == EVERYBODY or bool(run) != bool(content.get("run")):
        return None
    ask = Ask(kind=kind, view=view, run=run, id=_integer(content.get("id")), seq=_integer(content.get("seq")))
    if kind == "open":
        return replace(ask, have=_have(content.get("have")))
    if kind == "read":
        size = min(_integer(content.get("size")), READ_BYTES)
        file, offset = _id(content.get("file")), _integer(content.get("offset"))
        return replace(ask, file=file, offset=offset, size=size) if file and size else None
    if kind == "stop":
        grace = content.get("grace_s", GRACE_S)
        is_number = isinstance(grace, (int, float)) and not isinstance(grace, bool)
        is_sane = is_number and math.isfinite(grace) and 0 <= grace <= 86_400
        return replace(ask, grace_s=float(grace)) if is_sane else None
    return ask


def hello(folder: RunDir, *, now_ns: int, can_stop: bool) -> dict[str, Any]:
    """What a view is told first."""
    return {"type": "hello", "version": VERSION, "about": about(folder, can_stop=can_stop), "time_ns": now_ns}


def about(folder: RunDir, *, can_stop: bool) -> dict[str, Any]:
    """What does not change while a run lasts, from its run.json."""
    from nb_elastic import export

    asked = rundir.read_json(folder.run_json)
    entry = asked.get("entry")
    target = entry.get("target") if isinstance(entry, Mapping) else ""
    cell = asked.get("cell")
    try:
        line = export.torchrun_line(asked, f"{folder.run_id}.py") if asked else ""
    except (ElasticError, TypeError, ValueError, AttributeError):
        line = ""  # a run.json of another version, or one that somebody wrote by hand
    value: dict[str, Any] = plainjson.clean(
        {
            "run_id": folder.run_id,
            "dir": os.fspath(folder.path),
            "torchrun": line,
            "label": target if isinstance(target, str) else "",
            "cell": cell[:CELL_CHARS] if isinstance(cell, str) else "",
            "grace_s": GRACE_S,
            "hang_after_s": hang_after_s(asked),
            "can_stop": can_stop,
        }
    )
    return value


def stacks(report: StackReport) -> dict[str, Any]:
    """What a page is told that asked where the ranks are."""
    value: dict[str, Any] = plainjson.clean(model_json(slim_report(report)))
    return {"ok": True, "text": value["headline"], "report": value}


def slim_report(report: StackReport, *, groups: int = STACK_GROUPS, frames: int = STACK_FRAMES) -> StackReport:
    """A report without what would make it huge where hundreds of ranks stand at different places, deep in recursion."""
    return replace(report, groups=tuple(_slim_group(g, frames) for g in report.groups[:groups]))


def _slim_group(group: StackGroup, frames: int) -> StackGroup:
    kept = tuple(map(_slim_frame, group.frames[-frames:] if frames else ()))
    doing, notes = group.doing[:SENTENCE_CHARS], sentences(group.notes)
    return replace(group, ranks=group.ranks[:STACK_RANKS], doing=doing, frames=kept, notes=notes)


def _slim_frame(frame: Frame) -> Frame:
    return replace(frame, file=frame.file[-300:], name=frame.name[:200], text=frame.text[:300], values={})


def snapshot_json(snapshot: RunSnapshot) -> dict[str, Any]:
    """A snapshot as JSON, without what would make it huge where hundreds of ranks fail in many rounds."""
    rounds = tuple(replace(r, failures=slimmed(r.failures, whole=1)) for r in snapshot.rounds[-ROUNDS:])
    hang = None if snapshot.hang is None else slim_report(snapshot.hang)
    nodes = slim_nodes(snapshot.nodes)
    failures = slimmed(snapshot.failures, whole=WHOLE_FAILURES)
    reasons = sentences(snapshot.reasons)
    return to_json(replace(snapshot, rounds=rounds, failures=failures, reasons=reasons, hang=hang, nodes=nodes))


def slim_nodes(nodes: tuple[NodeSnapshot, ...]) -> tuple[NodeSnapshot, ...]:
    """The nodes that are here, and of those that went the last ones: machines may come and go for weeks."""
    gone = sorted((n for n in nodes if not n.is_here), key=lambda n: n.lost_ns)
    older = {n.node for n in gone[:-GONE_NODES]}
    return tuple(replace(n, text=n.text[:SENTENCE_CHARS], spans=n.spans[-20:]) for n in nodes if n.node not in older)


def slimmed(failures: tuple[WorkerFailure, ...], *, whole: int) -> tuple[WorkerFailure, ...]:
    """The first failures whole, the others in a few words."""
    return (*map(cut, failures[:whole]), *map(brief, failures[whole:]))


def brief(failure: WorkerFailure) -> WorkerFailure:
    """A failure in a few words."""
    message, hint = failure.message[:300], failure.hint[:300]
    return replace(failure, message=message, hint=hint, traceback="", frames=(), reasons=())


def cut(failure: WorkerFailure) -> WorkerFailure:
    """A failure whose traceback lacks its middle if it is very long."""
    text, half = failure.traceback, TRACEBACK_CHARS // 2
    short = text if len(text) <= TRACEBACK_CHARS else f"{text[:half]}\n[... cut ...]\n{text[-half:]}"
    reasons = sentences(failure.reasons)
    return replace(
        failure, traceback=short, message=failure.message[:3_000], frames=failure.frames[-20:], reasons=reasons
    )


def sentences(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Some sentences, none of them endless."""
    return tuple(text[:SENTENCE_CHARS] for text in texts[:SENTENCES])


def run_row(snapshot: RunSnapshot, folder: RunDir, *, is_own: bool, is_here: bool) -> dict[str, Any]:
    """A run in the list of the lab panel."""
    return {
        "run_id": folder.run_id,
        "name": snapshot.name,
        "state": snapshot.state.value,
        "entry": snapshot.entry,
        "world_size": snapshot.world_size or len(snapshot.workers),
        "nodes": len({w.node for w in snapshot.workers} | {n.node for n in snapshot.nodes if n.is_here})
        if snapshot.nodes
        else 0,
        "created_ns": snapshot.created_ns,
        "finished_ns": snapshot.finished_ns,
        "dir": os.fspath(folder.path),
        "host": snapshot.host,
        "is_own": is_own,
        "is_detached": snapshot.is_detached,
        "can_stop": is_here and not snapshot.state.is_final,
    }


def hang_after_s(asked: Mapping[str, Any]) -> float:
    """What the run was told of ``--hang-after``."""
    options = asked.get("options")
    given = options.get("hang_after") if isinstance(options, Mapping) else None
    if isinstance(given, (int, float)) and not isinstance(given, bool) and 0 < given < 1e9:
        return float(given)
    return HANG_AFTER_S


def _id(value: Any) -> str:
    """A text that may name something, else ""."""
    return value if isinstance(value, str) and len(value) <= MAX_ID_CHARS and value.isprintable() else ""


def _integer(value: Any) -> int:
    """A whole number from 0 to 2**53, as JavaScript has them; else 0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_sane = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1 << 53
    return value if is_sane else 0


def _have(value: Any) -> dict[str, int]:
    if not isinstance(value, Mapping) or len(value) > MAX_FILES:
        return {}
    return {file: offset for file, n in value.items() if _id(file) and (offset := _integer(n))}
