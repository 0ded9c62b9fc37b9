"""The nodes of a run in words: which rank is where, who was lost and why, and a line or a row for each.

Runs in: the kernel or command line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from nb_elastic.model import FailureCategory, WorkerFailure
from nb_elastic.report_words import elapsed_text, first_line, ranks_text
from nb_elastic.snapshot import NodeSnapshot, RunSnapshot, WorkerSnapshot
from nb_elastic.spans import is_one, spans

HOSTS_SHOWN = 4
NODE_ROWS = 64
NEWS_SHOWN = 8
"""Of more nodes that come or go at the same time only the number is told."""


def rank_text(snapshot: RunSnapshot, one: WorkerSnapshot | WorkerFailure) -> str:
    """Name a rank; in a run of many nodes with its place: ``rank 3 (node 1, local rank 1, host b)``."""
    place = f" ({place_text(snapshot, one)})" if snapshot.has_nodes else ""
    return f"{ranks_text([one.rank])}{place}"


def place_text(snapshot: RunSnapshot, one: WorkerSnapshot | WorkerFailure) -> str:
    """Where a rank is: ``node 1, local rank 1, host b``."""
    node = snapshot.node(one.node)
    host = f", host {first_line(node.host, limit=60)}" if node is not None and node.host else ""
    return f"node {one.node}, local rank {one.local_rank}{host}"


def node_text(node: NodeSnapshot) -> str:
    """Name a node: ``node 1 (host b)``."""
    return f"node {node.node} (host {first_line(node.host, limit=60)})" if node.host else f"node {node.node}"


def nodes_text(nodes: Sequence[int]) -> str:
    """``node 2``, ``nodes 0-3``."""
    parts = spans(nodes)
    words = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
    return f"node {words}" if is_one(parts) else f"nodes {words}"


def size_text(snapshot: RunSnapshot) -> str:
    """On how many nodes the ranks are, and which machines these are: `` on 2 nodes (a, b)``; "" where that is no question."""
    taking_part = sorted({w.node for w in snapshot.workers} | {n.node for n in snapshot.nodes if n.is_here})
    if not snapshot.nodes:
        return f" on {len(taking_part)} nodes" if len(taking_part) > 1 else ""
    hosts = list(dict.fromkeys(first_line(n.host, limit=60) for i in taking_part if (n := snapshot.node(i)) and n.host))
    more = f" and {len(hosts) - HOSTS_SHOWN} more" if len(hosts) > HOSTS_SHOWN else ""
    names = f" ({', '.join(hosts[:HOSTS_SHOWN])}{more})" if hosts else ""
    return f" on {len(taking_part)} {'node' if len(taking_part) == 1 else 'nodes'}{names}"


def gone_text(snapshot: RunSnapshot, node: NodeSnapshot) -> str:
    """A sentence about a node that was lost or left: ``Node 1 (host b) was lost after 12 s: nothing was heard of it.``."""
    name = node_text(node)
    after = f" after {elapsed_text((node.lost_ns - snapshot.created_ns) / 1e9)}" if snapshot.created_ns else ""
    why = first_line(node.text, limit=400).rstrip(".")
    how = "was lost" if node.state == "lost" else "left"
    return f"{name[0].upper()}{name[1:]} {how}{after}{f': {why}' if why else ''}."


def lost_nodes(snapshot: RunSnapshot) -> list[NodeSnapshot]:
    """Nodes that were lost and are not back, in the order in which that happened."""
    return sorted((n for n in snapshot.nodes if n.state == "lost"), key=lambda n: n.lost_ns)


def lost_node(snapshot: RunSnapshot, failure: WorkerFailure | None) -> NodeSnapshot | None:
    """The node with which a rank was lost; None for a rank that failed by itself."""
    is_lost = failure is not None and failure.category == FailureCategory.LOST_NODE.value
    return snapshot.node(failure.node) if failure is not None and is_lost else None


def lost_lines(snapshot: RunSnapshot) -> list[str]:
    """A sentence for each node that was lost; of many the first ones."""
    lost = lost_nodes(snapshot)
    rest = lost[NEWS_SHOWN:]
    lines = [gone_text(snapshot, n) for n in lost[:NEWS_SHOWN]]
    return lines + ([f"{len(rest)} more were lost: {nodes_text([n.node for n in rest])}."] if rest else [])


class NodeNews:
    """Tells each coming and going of a node once; the first nodes are told by the run's header."""

    def __init__(self) -> None:
        self._told: dict[int, int] = {}
        self._has_begun = False

    def of(self, snapshot: RunSnapshot, *, has_header: bool) -> list[str]:
        """Return what is new."""
        news: list[tuple[int, str]] = []
        for node in snapshot.nodes:
            steps = 2 * len(node.spans) - node.is_here
            if steps != self._told.get(node.node, 0):
                is_first = not self._has_begun and node.is_here and len(node.spans) == 1
                self._told[node.node] = steps
                if not (is_first and has_header):
                    news.append((max(max(span) for span in node.spans), _news_text(snapshot, node)))
        self._has_begun = True
        lines = [text for _, text in sorted(news)]
        rest = len(lines) - NEWS_SHOWN
        return lines[:NEWS_SHOWN] + ([f"... and {rest} more nodes came or went."] if rest > 0 else [])


def node_columns(snapshot: RunSnapshot) -> dict[str, list[str]]:
    """The table of nodes, column by column; columns that say nothing are left out, of a run without nodes all of them."""
    members: dict[int, list[WorkerSnapshot]] = {}
    for worker in snapshot.workers:
        members.setdefault(worker.node, []).append(worker)
    nodes = [n for n in snapshot.nodes if n.is_here or n.node in members]
    gone = [n for n in snapshot.nodes if not n.is_here and n.node not in members]
    nodes = sorted([*nodes, *gone[-max(0, NODE_ROWS - len(nodes)) or len(gone) :]], key=lambda n: n.node)
    columns = {
        "node": [str(n.node) for n in nodes],
        "host": [first_line(n.host, limit=40) for n in nodes],
        "place": ["" if n.place == n.host else first_line(n.place, limit=40) for n in nodes],
        "state": [state_text(n) for n in nodes],
        "ranks": [_numbers(members.get(n.node, ())) for n in nodes],
        "they are": [states_text(members.get(n.node, ())) for n in nodes],
        "why": ["" if n.is_here else first_line(n.text, limit=100) for n in nodes],
    }
    return {name: cells for name, cells in columns.items() if any(cells)}


def state_text(node: NodeSnapshot) -> str:
    """``joined``, ``joined again``, ``lost``, ``left``."""
    return f"{first_line(node.state, limit=20)}{' again' if node.is_here and node.is_back else ''}"


def states_text(workers: Sequence[WorkerSnapshot]) -> str:
    """How ranks are, equal states together: ``7 running, 1 failed``."""
    return ", ".join(f"{n} {state}" for state, n in Counter(w.state.value for w in workers).most_common())


def _numbers(workers: Sequence[WorkerSnapshot]) -> str:
    return ranks_text(w.rank for w in workers).split(" ", 1)[1] if workers else ""


def _news_text(snapshot: RunSnapshot, node: NodeSnapshot) -> str:
    if not node.is_here:
        return gone_text(snapshot, node)
    name = node_text(node)
    return f"{name[0].upper()}{name[1:]} {'is back' if node.is_back else 'joined'}."
