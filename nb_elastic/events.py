"""The events of the journal and their JSON: one event a line, only ever appended.

Runs in: the kernel or command line (``run_created``, ``run_lost``), the supervisor, and the driver of many nodes (``node_*``).

Every event has ``event``, ``time_ns`` and ``node``, in the journal also ``seal`` (see ``seals``); what else it carries:

==================== ====================================================================
event                carries
==================== ====================================================================
run_created          run_id, rdzv_id, name, nproc (int or text), min_nodes, max_nodes, max_restarts, entry, is_detached, boot_id
supervisor_started   pid, start_ticks, host, boot_id, pid_namespace, torch, python, executable
note                 level (info or warning), text: told once to the user
rendezvous_started   round, attempt, backend
rendezvous_finished  round, attempt, group_rank, group_world_size, world_size, master_addr, master_port
node_joined          host, address, place (what the engine calls it), nproc, gpus, pid, is_back (it was called lost before)
node_lost            text: why; its ranks that had not ended ended with it
node_left            text: it went by itself
worker_started       round, attempt, rank, local_rank, pid, start_ticks, start_method
worker_ready         round, rank, local_rank, worker (content of worker.json)
worker_held          round, rank, local_rank, why (failure or breakpoint), text: it waits to be looked at
worker_released      round, rank, local_rank: it goes on, or ends
worker_exited        round, rank, local_rank, pid, exit_code, signal, state (a WorkerState), has_result, how: its way to its end
worker_failed        round, rank, local_rank, failure (a WorkerFailure)
round_ended          round, attempt, cause (success, failure, membership, stopped), text
stop_requested       by, grace_s
signal_sent          round, rank, local_rank, signal
hang_found           round, report (a StackReport): nothing has moved for too long
stall_found          round, report: some ranks have not moved for too long, others have; to a driver ``ranks`` and no report
hang_over            round: something moves again, or those ranks do
run_finished         state (succeeded, failed, stopped), root_rank, text, category, reasons: what made it fail
run_lost             text
mark                 name: a point on the way of a launch, for measuring; ``waits`` has text: what the launch waits for
==================== ====================================================================

Over a supervisor's stdout an event also carries ``is_unwritten`` where the journal could not be given it: its disk is full,
or its folder gone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_LINE_BYTES = 32_000
"""An event is one write of at most this size, so that no reader and no pipe sees half of it."""

MIN_KEYS = 32
"""So many keys of a dict are always kept: more than any of our own has."""

BARE_CHARS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: one of the names in the table above.
        time_ns: nanoseconds since the epoch.
        node: index of the node within the run (0 where there is one).
        data: what else it carries; JSON values only.
    """

    kind: str
    time_ns: int
    node: int = 0
    data: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def get(self, key: str, default: Any = None) -> Any:
        """Value of ``key``, or ``default``."""
        return self.data.get(key, default)


def make(kind: str, *, node: int = 0, time_ns: int | None = None, **data: Any) -> Event:
    """Make an event that happens now, unless ``time_ns`` says when."""
    return Event(kind=kind, time_ns=time.time_ns() if time_ns is None else time_ns, node=node, data=data)


def encode(event: Event) -> bytes:
    """Encode as one line of at most MAX_LINE_BYTES; the longest texts, lists and dicts are cut to fit."""
    return fit({"event": event.kind, "time_ns": event.time_ns, "node": event.node, **event.data}) or _dump(_bare(event))


def fit(record: Mapping[str, Any], max_bytes: int = MAX_LINE_BYTES) -> bytes:
    """Encode any record so; b"" where cutting its texts, lists and dicts was not enough."""
    limit = max_bytes // 2
    try:
        line = _dump(record)
        while len(line) > max_bytes and limit > 16:
            record = _cut(record, limit)
            line = _dump(record)
            limit //= 2
    except RecursionError:
        return b""
    return line if len(line) <= max_bytes else b""


def decode(line: bytes) -> Event | None:
    """Decode one line; None for what is not an event (a torn last line, say)."""
    try:
        record = json.loads(line)
        kind, time_ns = record.pop("event"), record.pop("time_ns")
        node = record.pop("node", 0)
        record.pop("seal", None)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
    if not isinstance(kind, str) or not isinstance(time_ns, int) or not isinstance(node, int):
        return None
    return Event(kind=kind, time_ns=time_ns, node=node, data=record)


def _dump(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":"), ensure_ascii=True, default=str).encode() + b"\n"


def _bare(event: Event) -> dict[str, Any]:
    """What is left of an event whose dicts and lists are too many and too deep to be cut: its plain values."""
    plain = {k: v for k, v in event.data.items() if v is None or isinstance(v, (str, int, float))}
    return {"event": event.kind, "time_ns": event.time_ns, "node": event.node, **_cut(plain, BARE_CHARS)}


def _cut(value: Any, limit: int) -> Any:
    """Shorten texts in the middle, long lists and dicts at the end, everywhere in ``value``."""
    if isinstance(value, str) and len(value) > limit:
        half = limit // 2
        return f"{value[:half]}\n[... {len(value) - 2 * half} characters cut ...]\n{value[-half:]}"
    if isinstance(value, dict):
        kept = list(value.items())[: max(MIN_KEYS, limit // 64)]
        return {str(k)[:limit]: _cut(v, limit) for k, v in kept}
    if isinstance(value, (list, tuple)):
        return [_cut(v, limit) for v in value[: max(4, limit // 64)]]
    return value
