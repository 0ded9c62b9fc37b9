"""The nodes in the reducer of the journal: who joined, was lost or left, what becomes of their ranks, and who is to blame.

Runs in: the kernel or command line, and tests; ``snapshot`` calls it, and no other.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from typing import Any

from nb_elastic import untrusted
from nb_elastic.events import Event
from nb_elastic.model import FailureCategory, WorkerFailure, WorkerState
from nb_elastic.snapshot_nouns import NodeSnapshot, RunSnapshot, WorkerSnapshot

MAX_NODES = 20_000
MAX_SPANS = 100
NODE_LOST = "its node was lost"
"""Why a rank failed that nobody saw fail."""
NODE_LEFT = "its node left"


def node_joined(s: RunSnapshot, e: Event) -> RunSnapshot:
    """A node joins, or is back: its ranks that nobody saw end were only out of sight."""
    known = s.node(e.node)
    is_news = known is None or not known.is_here
    if s.state.is_final or e.node < 0 or not is_news or (known is None and len(s.nodes) >= MAX_NODES):
        return s
    old = known or NodeSnapshot(node=e.node, joined_ns=e.time_ns)
    nproc = e.get("nproc")
    joined = replace(
        old,
        host=untrusted.word(e.get("host"), limit=200) or old.host,
        address=untrusted.word(e.get("address"), limit=200) or old.address,
        place=untrusted.word(e.get("place"), limit=200) or old.place,
        state="joined",
        lost_ns=0,
        nproc=untrusted.word(nproc, limit=20) if isinstance(nproc, str) else untrusted.integer(nproc),
        gpus=untrusted.integer(e.get("gpus")),
        is_back=known is not None,
        spans=(*old.spans, (e.time_ns, 0))[-MAX_SPANS:],
    )
    return _with_node(s if known is None else _found_again(s, e.node), joined)


def node_lost(s: RunSnapshot, e: Event) -> RunSnapshot:
    """A node is not heard of any more: of its ranks nobody knows more than that."""
    known = s.node(e.node)
    if s.state.is_final or known is None or not known.is_here:
        return s
    gone = _gone(known, e, "lost")
    s = _with_node(s, gone)
    lost = [w for w in s.workers if w.node == e.node and not w.state.is_final]
    if not lost:
        return s
    s = _ended(s, e, lost, WorkerState.FAILED, NODE_LOST)
    return with_failures(s, (*s.failures, *(_failure(w, gone) for w in lost)))


def node_left(s: RunSnapshot, e: Event) -> RunSnapshot:
    """A node goes by itself."""
    known = s.node(e.node)
    if s.state.is_final or known is None or not known.is_here:
        return s
    left = [w for w in s.workers if w.node == e.node and not w.state.is_final]
    return _ended(_with_node(s, _gone(known, e, "left")), e, left, WorkerState.ENDED, NODE_LEFT)


def with_member(s: RunSnapshot, e: Event) -> RunSnapshot:
    """Count the event's node among those of its round, in a run that has nodes to tell apart."""
    number = untrusted.integer(e.get("round"))
    current = s.rounds[-1] if s.rounds and s.nodes else None
    if current is None or current.number != number or e.node in current.nodes or len(current.nodes) >= MAX_NODES:
        return s
    return change_round(s, number, nodes=tuple(sorted((*current.nodes, e.node))))


def with_failures(s: RunSnapshot, failures: tuple[WorkerFailure, ...]) -> RunSnapshot:
    """The current round's failures in order: the root cause, other causes by time, then what only followed."""
    ordered = tuple(sorted(failures, key=lambda f: (is_follower(f, failures), f.time_ns, f.rank)))
    s = replace(s, failures=ordered, root_rank=ordered[0].rank if ordered else None)
    return change_round(s, s.round, failures=ordered)


def with_failure(s: RunSnapshot, failure: WorkerFailure) -> RunSnapshot:
    """One more failure. Of a rank whose node was lost there is but the time to be learned: when it was last heard of."""
    key = (failure.node, failure.local_rank)
    known = next((f for f in s.failures if (f.node, f.local_rank) == key), None)
    if known is not None and known.category == FailureCategory.LOST_NODE.value:
        failure = replace(known, time_ns=min(known.time_ns, failure.time_ns))
    return with_failures(s, (*(f for f in s.failures if f is not known), failure))


def is_follower(failure: WorkerFailure, failures: tuple[WorkerFailure, ...]) -> bool:
    """True if a failure only followed: its node says so, or it lost a peer while another node's rank failed by itself.

    No node can see the ranks of another one.
    """
    lost = FailureCategory.LOST_PEER.value
    is_lost = failure.category == lost
    return bool(failure.followed) or (
        is_lost and any(f.node != failure.node and not f.followed and f.category != lost for f in failures)
    )


def change_round(s: RunSnapshot, number: int, **changes: Any) -> RunSnapshot:
    """Change the round of this number, if there is one."""
    at = bisect_left(s.rounds, number, key=lambda r: r.number)  # they rise, and a hostile journal may tell of very many
    if at == len(s.rounds) or s.rounds[at].number != number:
        return s
    return replace(s, rounds=(*s.rounds[:at], replace(s.rounds[at], **changes), *s.rounds[at + 1 :]))


def _with_node(s: RunSnapshot, node: NodeSnapshot) -> RunSnapshot:
    at = bisect_left(s.nodes, node.node, key=lambda n: n.node)
    is_known = at < len(s.nodes) and s.nodes[at].node == node.node
    return replace(s, nodes=(*s.nodes[:at], node, *s.nodes[at + is_known :]))


def _gone(node: NodeSnapshot, e: Event, state: str) -> NodeSnapshot:
    spans = tuple((begin, end or e.time_ns) for begin, end in node.spans)
    return replace(node, state=state, lost_ns=e.time_ns, text=untrusted.text(e.get("text"), limit=4_000), spans=spans)


def _ended(s: RunSnapshot, e: Event, gone: list[WorkerSnapshot], state: WorkerState, how: str) -> RunSnapshot:
    """The workers end with their node."""

    def end(worker: WorkerSnapshot) -> WorkerSnapshot:
        holds = tuple((begin, until or e.time_ns) for begin, until in worker.holds)
        return replace(worker, state=state, ended_ns=e.time_ns, how=how, held="", holds=holds)

    keys = {w.local_rank for w in gone}
    workers = tuple(end(w) if w.node == e.node and w.local_rank in keys else w for w in s.workers)
    return replace(s, workers=workers) if gone else s


def _failure(worker: WorkerSnapshot, node: NodeSnapshot) -> WorkerFailure:
    name = f"Node {node.node} ({node.host})" if node.host else f"Node {node.node}"
    return WorkerFailure(
        rank=worker.rank,
        local_rank=worker.local_rank,
        round=worker.round,
        time_ns=node.lost_ns,
        node=worker.node,
        pid=worker.pid,
        message=NODE_LOST,
        category=FailureCategory.LOST_NODE.value,
        reasons=(f"{name} was lost: {node.text or 'nobody knows why'}.",),
    )


def _found_again(s: RunSnapshot, node: int) -> RunSnapshot:
    """Take back what was said of a node's ranks when it was called lost."""

    def again(worker: WorkerSnapshot) -> WorkerSnapshot:
        is_out_of_sight = worker.node == node and worker.how in {NODE_LOST, NODE_LEFT}
        return replace(worker, state=WorkerState.RUNNING, ended_ns=0, how="") if is_out_of_sight else worker

    s = replace(s, workers=tuple(map(again, s.workers)))
    lost = FailureCategory.LOST_NODE.value
    return with_failures(s, tuple(f for f in s.failures if f.node != node or f.category != lost))
