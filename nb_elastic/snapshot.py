"""The one reducer of the journal: events in, the state of a run at a moment out.

Runs in: the kernel or command line, and tests; no other place decides what state a run is in.

``fold`` is pure and total: it makes a new snapshot, and an event that it does not know, that came
late, twice or with nonsense in its fields, never raises and never undoes what is final.
"""

from __future__ import annotations

import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from enum import Enum
from typing import Any

from nb_elastic import sight, untrusted
from nb_elastic.events import Event
from nb_elastic.model import FailureCategory, RunState, WorkerState
from nb_elastic.rundir import JournalReader, RunDir
from nb_elastic.snapshot_nodes import (
    NODE_LOST,
    change_round,
    is_follower,
    node_joined,
    node_left,
    node_lost,
    with_failure,
    with_member,
)
from nb_elastic.snapshot_nouns import EMPTY, NodeSnapshot, RoundSnapshot, RunSnapshot, WorkerSnapshot

__all__ = [
    "EMPTY",
    "NodeSnapshot",
    "RoundSnapshot",
    "RunSnapshot",
    "WorkerSnapshot",
    "catch_up",
    "fold",
    "load",
    "mark_lost",
    "to_json",
]

MAX_NOTES = 200
MAX_HOLDS = 100
UNTOLD = frozenset({"boot_id", "pid_namespace"})
"""What no page needs, and what has no place in a notebook that others read."""
MAX_WORKERS = 65_536
MAX_ROUNDS = 20_000
"""Of more rounds the oldest are forgotten."""

Holds = tuple[tuple[int, int], ...]
"""When a worker was held: begin and end of each time, 0 for no end yet."""


def fold(snapshot: RunSnapshot, event: Event) -> RunSnapshot:
    """Return the snapshot after ``event``; the same one where the event says nothing new."""
    reducer = _REDUCERS.get(event.kind)
    if reducer is None or not isinstance(event.data, Mapping) or not 0 <= event.time_ns < 1 << 63:
        return snapshot
    return replace(reducer(snapshot, event), last_ns=max(snapshot.last_ns, event.time_ns))


def load(run: RunDir, *, now_ns: int | None = None) -> RunSnapshot:
    """Fold the whole journal of a run; a run whose supervisor is gone without a last word is LOST (see ``sight``)."""
    snapshot = catch_up(EMPTY, JournalReader(run.journal), run, now_ns=time.time_ns() if now_ns is None else now_ns)
    return snapshot if snapshot.run_id else replace(snapshot, run_id=run.run_id)


def catch_up(
    snapshot: RunSnapshot, journal: JournalReader, run: RunDir, *, now_ns: int, limit_bytes: int = sys.maxsize
) -> RunSnapshot:
    """Fold what is new in the journal; where the supervisor is gone look once more, for its last word came before that.

    Args:
        limit_bytes: most bytes that one look reads; a run is not lost before all is read.
    """
    for event in journal.events(limit_bytes):
        snapshot = fold(snapshot, event)
    if sight.loss(snapshot, run, now_ns=now_ns) is None:
        return snapshot
    was = snapshot
    for event in journal.events(limit_bytes):
        snapshot = fold(snapshot, event)
    is_all = snapshot is was or limit_bytes == sys.maxsize
    return mark_lost(snapshot, run, now_ns=now_ns) if is_all else snapshot


def mark_lost(snapshot: RunSnapshot, run: RunDir, *, now_ns: int) -> RunSnapshot:
    """Return the snapshot as LOST if it is not final and its supervisor is no more."""
    found = sight.loss(snapshot, run, now_ns=now_ns)
    if found is None:
        return snapshot
    return _finish(snapshot, RunState.LOST, text=found.text, time_ns=snapshot.last_ns)


def to_json(snapshot: RunSnapshot) -> dict[str, Any]:
    """Turn a snapshot into a JSON-ready dict for pages and saved notebooks; states become their names."""
    value: dict[str, Any] = asdict(snapshot, dict_factory=_plain_dict)
    return {name: part for name, part in value.items() if name not in UNTOLD}


# -- one reducer an event ---------------------------------------------------------------------


def _run_created(s: RunSnapshot, e: Event) -> RunSnapshot:
    if s.created_ns:  # it is told once, before there is a rank
        return s
    entry = e.get("entry")
    if isinstance(entry, Mapping):
        entry = f"{untrusted.text(entry.get('kind'))} {untrusted.text(entry.get('target'))}".strip()
    nproc = e.get("nproc")
    return replace(
        s,
        run_id=untrusted.file_name(e.get("run_id")) or s.run_id,
        rdzv_id=untrusted.text(e.get("rdzv_id")) or s.rdzv_id,
        name=untrusted.text(e.get("name")),
        nproc=untrusted.word(nproc) if isinstance(nproc, str) else untrusted.integer(nproc),
        min_nodes=untrusted.integer(e.get("min_nodes"), 1),
        max_nodes=untrusted.integer(e.get("max_nodes"), 1),
        max_restarts=untrusted.integer(e.get("max_restarts")),
        entry=untrusted.text(entry),
        is_detached=e.get("is_detached") is True,
        boot_id=untrusted.text(e.get("boot_id"), limit=100),
        created_ns=e.time_ns,
    )


def _supervisor_started(s: RunSnapshot, e: Event) -> RunSnapshot:
    if (
        s.supervisor_pid
    ):  # of several nodes the first; what comes later may be a rank's forgery, and names whom to signal
        return s
    return _towards(
        replace(
            s,
            supervisor_pid=untrusted.integer(e.get("pid")),
            supervisor_start_ticks=untrusted.integer(e.get("start_ticks")),
            host=untrusted.word(e.get("host")),
            boot_id=untrusted.text(e.get("boot_id"), limit=100),
            pid_namespace=untrusted.integer(e.get("pid_namespace")),
            torch=untrusted.word(e.get("torch")),
            python=untrusted.word(e.get("python")),
            waits_for="",
        ),
        RunState.STARTING,
    )


def _note(s: RunSnapshot, e: Event) -> RunSnapshot:
    note = ("warning" if e.get("level") == "warning" else "info", untrusted.text(e.get("text")))
    if not note[1] or note in s.notes or len(s.notes) >= MAX_NOTES:
        return s
    return replace(s, notes=(*s.notes, note))


def _mark(s: RunSnapshot, e: Event) -> RunSnapshot:
    is_early = e.get("name") == "waits" and s.state is RunState.CREATED
    return replace(s, waits_for=untrusted.text(e.get("text"), limit=200)) if is_early else s


def _rendezvous_started(s: RunSnapshot, e: Event) -> RunSnapshot:
    s = _enter_round(s, e)
    return _towards(s, RunState.STARTING if len(s.rounds) < 2 else RunState.RESTARTING)


def _rendezvous_finished(s: RunSnapshot, e: Event) -> RunSnapshot:
    s = _enter_round(s, e)
    if untrusted.integer(e.get("round")) != s.round:
        return s
    world_size = untrusted.integer(e.get("world_size"))
    formed_ns = s.rounds[-1].formed_ns or e.time_ns  # of several nodes the first one to tell
    return change_round(replace(s, world_size=world_size), s.round, world_size=world_size, formed_ns=formed_ns)


def _worker_started(s: RunSnapshot, e: Event) -> RunSnapshot:
    s = _enter_round(s, e)
    s = _change_worker(
        s,
        e,
        pid=untrusted.integer(e.get("pid")),
        start_ticks=untrusted.integer(e.get("start_ticks")),
        start_method=untrusted.word(e.get("start_method")),
        started_ns=e.time_ns,
    )
    s = with_member(replace(s, started_ns=s.started_ns or e.time_ns, world_size=max(s.world_size, len(s.workers))), e)
    return _towards(s, RunState.RUNNING)


def _worker_ready(s: RunSnapshot, e: Event) -> RunSnapshot:
    told = untrusted.worker_fields(e.get("worker"))
    _, known = _find_worker(s, e)
    if known is not None and known.pid:
        told = {k: v for k, v in told.items() if k not in {"pid", "start_ticks"}}  # whom to signal no rank decides
    return _change_worker(s, e, state=WorkerState.RUNNING, **told)


def _worker_exited(s: RunSnapshot, e: Event) -> RunSnapshot:
    code = e.get("exit_code")
    state = untrusted.member(WorkerState, e.get("state"))
    if state is None or not state.is_final:
        state = WorkerState.SUCCEEDED if code == 0 else WorkerState.FAILED
    changes = untrusted.worker_fields(e.get("worker")) | untrusted.result_fields(e.get("result"))
    changes |= {
        "state": state,
        "exit_code": None if code is None else untrusted.integer(code),
        "signal": untrusted.word(e.get("signal")),
        "ended_ns": e.time_ns,
        "has_result": e.get("has_result") is True,
        "held": "",
        "how": untrusted.word(e.get("how")),
    }
    if pid := untrusted.integer(e.get("pid")):
        changes["pid"] = pid
    return _map_holds(_change_worker(s, e, **changes), e, lambda holds: _let_go(holds, e.time_ns))


def _worker_held(s: RunSnapshot, e: Event) -> RunSnapshot:
    why = "breakpoint" if e.get("why") == "breakpoint" else "failure"
    text = untrusted.text(e.get("text"), limit=4_000)
    s = _change_worker(s, e, state=WorkerState.HELD, held=why, held_text=text)
    return _map_holds(s, e, lambda holds: (*_let_go(holds, e.time_ns), (e.time_ns, 0)))


def _worker_released(s: RunSnapshot, e: Event) -> RunSnapshot:
    s = _change_worker(s, e, state=WorkerState.RUNNING, held="", held_text="")
    return _map_holds(s, e, lambda holds: _let_go(holds, e.time_ns))


def _hang_found(s: RunSnapshot, e: Event) -> RunSnapshot:
    report = untrusted.stack_report(e.get("report"))
    is_late = s.state.is_final or untrusted.integer(e.get("round")) != s.round
    return s if report is None or is_late else replace(s, hang=report)


def _hang_over(s: RunSnapshot, e: Event) -> RunSnapshot:
    return replace(s, hang=None) if untrusted.integer(e.get("round")) == s.round else s


def _worker_failed(s: RunSnapshot, e: Event) -> RunSnapshot:
    failure = untrusted.failure(e)
    if failure is None or failure.round < s.round:
        return s
    return with_failure(s, failure)


def _round_ended(s: RunSnapshot, e: Event) -> RunSnapshot:
    cause, text = untrusted.text(e.get("cause")), untrusted.text(e.get("text"))
    number = untrusted.integer(e.get("round"))
    s = change_round(s, number, cause=cause, text=text, ended_ns=e.time_ns)
    if number != s.round:
        return s
    s = replace(s, text=text or s.text) if not s.state.is_final else s
    is_again = cause == "membership" or (cause == "failure" and s.attempt < s.max_restarts)
    return _towards(s, RunState.RESTARTING) if is_again else s


def _stop_requested(s: RunSnapshot, e: Event) -> RunSnapshot:
    return _towards(replace(s, stop_by=s.stop_by or untrusted.text(e.get("by")) or "somebody"), RunState.STOPPING)


def _run_finished(s: RunSnapshot, e: Event) -> RunSnapshot:
    state = untrusted.member(RunState, e.get("state"))
    if state is None or not state.is_final:
        return s
    # Another node's success does not undo a failure; a last word undoes somebody's guess that the run was lost.
    if s.state.is_final and s.state is not RunState.LOST and state is not RunState.FAILED:
        return s
    root_rank = untrusted.integer(e.get("root_rank"), -1)
    root = next((f for f in s.failures if f.rank == root_rank), None)
    if root is not None and not (is_follower(root, s.failures) and not root.followed):
        failures = tuple(sorted(s.failures, key=lambda f: f.rank != root_rank))
        s = change_round(replace(s, failures=failures, root_rank=root_rank), s.round, failures=failures)
    elif s.root_rank is None and root_rank >= 0:
        s = replace(s, root_rank=root_rank)
    category, reasons = untrusted.word(e.get("category"), limit=100), untrusted.texts(e.get("reasons"))
    cause = s.failures[0].category if root is not None and s.failures[0] is not root else ""
    if cause not in {"", FailureCategory.LOST_NODE.value}:  # another node's rank is the cause
        category, reasons = s.failures[0].category, s.failures[0].reasons
    s = replace(s, category=category, reasons=reasons)
    return _finish(s, state, text=untrusted.text(e.get("text")), time_ns=e.time_ns)


def _run_lost(s: RunSnapshot, e: Event) -> RunSnapshot:
    if s.state.is_final:
        return s
    return _finish(s, RunState.LOST, text=untrusted.text(e.get("text")), time_ns=e.time_ns)


_REDUCERS: Mapping[str, Callable[[RunSnapshot, Event], RunSnapshot]] = {
    "run_created": _run_created,
    "supervisor_started": _supervisor_started,
    "note": _note,
    "mark": _mark,
    "rendezvous_started": _rendezvous_started,
    "rendezvous_finished": _rendezvous_finished,
    "node_joined": node_joined,
    "node_lost": node_lost,
    "node_left": node_left,
    "worker_started": _worker_started,
    "worker_ready": _worker_ready,
    "worker_held": _worker_held,
    "worker_released": _worker_released,
    "worker_exited": _worker_exited,
    "hang_found": _hang_found,
    "stall_found": _hang_found,
    "hang_over": _hang_over,
    "worker_failed": _worker_failed,
    "round_ended": _round_ended,
    "stop_requested": _stop_requested,
    "run_finished": _run_finished,
    "run_lost": _run_lost,
}


# -- steps the reducers share -----------------------------------------------------------------


def _towards(s: RunSnapshot, state: RunState) -> RunSnapshot:
    """Move to a state that is not final, unless the run is stopping or over."""
    if s.state.is_final or s.state is RunState.STOPPING or s.state is state:
        return s
    return replace(s, state=state)


def _finish(s: RunSnapshot, state: RunState, *, text: str, time_ns: int) -> RunSnapshot:
    left = WorkerState.STOPPED if state is RunState.STOPPED else WorkerState.ENDED
    workers = tuple(
        w if w.state.is_final else replace(w, state=left, ended_ns=time_ns, held="", holds=_let_go(w.holds, time_ns))
        for w in s.workers
    )
    is_well = state is RunState.SUCCEEDED
    last_words = text or ("" if is_well else s.text)
    hang = None if is_well else s.hang  # it ended by itself
    return replace(s, state=state, text=last_words, finished_ns=time_ns, workers=workers, hang=hang)


def _enter_round(s: RunSnapshot, e: Event) -> RunSnapshot:
    """Begin the event's round if it is a new one: its workers and failures replace the last round's."""
    number, attempt = untrusted.integer(e.get("round")), untrusted.integer(e.get("attempt"))
    if s.rounds and number <= s.round:
        return s
    return replace(
        s,
        round=number,
        attempt=max(attempt, s.attempt),
        rounds=(*s.rounds[-MAX_ROUNDS:], RoundSnapshot(number=number, attempt=attempt, started_ns=e.time_ns)),
        workers=(),
        failures=(),
        root_rank=None,
        hang=None,
    )


def _change_worker(s: RunSnapshot, e: Event, **changes: Any) -> RunSnapshot:
    """Change (or add) the event's worker, if it belongs to the current round; a final state stays."""
    number, local_rank = untrusted.integer(e.get("round")), untrusted.integer(e.get("local_rank"), -1)
    if number < s.round or local_rank < 0:
        return s
    s = _enter_round(s, e)
    at, known = _find_worker(s, e)
    if known is None and len(s.workers) >= MAX_WORKERS:
        return s
    old = known or WorkerSnapshot(node=e.node, local_rank=local_rank, round=number, started_ns=e.time_ns)
    if old.how == NODE_LOST:  # whatever is still told of it, nobody saw
        return s
    if old.state.is_final and "state" in changes:
        changes["state"] = old.state
    changes.setdefault("rank", untrusted.integer(e.get("rank"), old.rank))
    return replace(s, workers=(*s.workers[:at], replace(old, **changes), *s.workers[at + (known is not None) :]))


def _find_worker(s: RunSnapshot, e: Event) -> tuple[int, WorkerSnapshot | None]:
    """Where the event's worker stands among all, or belongs; and the worker, if it is known."""
    place = (e.node, untrusted.integer(e.get("local_rank"), -1))
    at = bisect_left(s.workers, place, key=lambda w: (w.node, w.local_rank))
    is_known = at < len(s.workers) and (s.workers[at].node, s.workers[at].local_rank) == place
    return at, s.workers[at] if is_known else None


def _map_holds(s: RunSnapshot, e: Event, change: Callable[[Holds], Holds]) -> RunSnapshot:
    """Change when the event's worker was held; one that is gone is not held again."""
    _, old = _find_worker(s, e)
    if old is None or (e.kind == "worker_held" and old.state is not WorkerState.HELD):
        return s
    holds = change(old.holds)[-MAX_HOLDS:]
    return s if holds == old.holds else _change_worker(s, e, holds=holds)


def _let_go(holds: Holds, time_ns: int) -> Holds:
    return tuple((begin, end or time_ns) for begin, end in holds)


def _plain_dict(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {k: v.value if isinstance(v, Enum) else v for k, v in items}
