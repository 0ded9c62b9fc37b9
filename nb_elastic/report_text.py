"""What a run comes to, in words: headers, restarts, tables and summaries.

Runs in: the kernel or command line.
"""

from __future__ import annotations

from nb_elastic.model import RunState
from nb_elastic.report_failure import failure_text
from nb_elastic.report_nodes import (
    NODE_ROWS,
    NodeNews,
    lost_lines,
    lost_node,
    node_columns,
    node_text,
    rank_text,
    size_text,
)
from nb_elastic.report_words import (
    RANK_LINES,
    attempt_text,
    command,
    elapsed_text,
    failure_words,
    first_line,
    note_text,
    ranks_text,
)
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import RoundSnapshot, RunSnapshot

TABLE_RANKS = 64
BY_ITSELF = "left by itself"
"""How a worker ends that nobody ended; nothing to be told of where all did."""


def header_text(snapshot: RunSnapshot, *, folder: RunDir | None) -> str:
    """One line when a run starts: its id, its ranks, where its logs lie."""
    name = f" {first_line(snapshot.name, limit=60)!r}" if snapshot.name else ""
    where = size_text(snapshot) if snapshot.workers else ""
    logs = f"; logs in {folder.path}" if folder is not None else ""
    count = {0: snapshot.state.value, 1: "1 rank"}.get(snapshot.world_size, f"{snapshot.world_size} ranks")
    return f"Run {snapshot.run_id}{name}: {count}{where}{logs}"


def round_text(ended: RoundSnapshot, snapshot: RunSnapshot) -> str:
    """One line about a round that another one follows."""
    root = ended.failures[0] if ended.failures else None
    if (node := lost_node(snapshot, root)) is not None:
        return f"Round {ended.number} ended: {node_text(node)} was lost; forming it again"
    if ended.cause == "failure" or ended.failures:
        why = (
            f"{rank_text(snapshot, root)} failed first ({failure_words(root)})"
            if root
            else first_line(ended.text) or "a rank failed"
        )
        return f"Round {ended.number} failed: {why}; restarting, {attempt_text(snapshot)}"
    why = f" ({first_line(ended.text)})" if ended.text else ""
    return f"Round {ended.number} ended: the group's membership changed{why}; forming it again"


class News:
    """Tells each thing about a run once: the header, notes, and rounds that ended."""

    def __init__(self, folder: RunDir | None) -> None:
        self._folder = folder
        self._has_header = False
        self._notes = 0
        self._rounds = 0
        self._nodes = NodeNews()

    def of(self, snapshot: RunSnapshot) -> tuple[list[str], list[str]]:
        """Return what is new, to be told now, and what is to be told after the lines that are on their way."""
        now: list[str] = []
        if snapshot.workers and not self._has_header:
            self._has_header = True
            now.append(header_text(snapshot, folder=self._folder))
        # Where other nodes are to come, a note tells how: nobody may wait for ranks to read it.
        if self._has_header or snapshot.state.is_final or snapshot.max_nodes > 1:
            now += [note_text(*note) for note in snapshot.notes[self._notes :]]
            self._notes = len(snapshot.notes)
        if self._has_header or snapshot.state.is_final:
            now += self._nodes.of(snapshot, has_header=bool(snapshot.workers))
        ended = snapshot.rounds[self._rounds : -1]
        self._rounds += len(ended)
        return now, [round_text(r, snapshot) for r in ended]


def summary_lines(snapshot: RunSnapshot, *, folder: RunDir | None, now_ns: int, has_report: bool) -> list[str]:
    """The last lines about a run: its state, time, results, and the failure.

    Args:
        snapshot: the run's last state, final or not.
        folder: where the report reads logs, as in ``failure_text``.
        now_ns: the present, for a run that is not over.
        has_report: tell failures whole; without it one line, because an error will tell them.
    """
    took = elapsed_text(snapshot.elapsed_s(now_ns))
    state = snapshot.state
    if state is RunState.FAILED and has_report:
        return [*failure_text(snapshot, folder=folder).split("\n"), f"Failed after {took}."]
    root = snapshot.root
    if state is RunState.FAILED and lost_node(snapshot, root) is not None:
        return [f"Failed after {took}: {first_line(snapshot.text, limit=400) or lost_lines(snapshot)[0]}"]
    if state is RunState.FAILED and root is not None and not root.followed:
        return [f"Failed after {took}: {rank_text(snapshot, root)} failed first ({failure_words(root)})."]
    if not state.is_final and snapshot.held:
        return [f"Run {snapshot.run_id} is held ({took}): {held_words(snapshot)}."]
    if not state.is_final:
        return [
            f"Run {snapshot.run_id} is {state.value} ({took}); it goes on. `{command()} attach {snapshot.run_id}` follows it again."
        ]
    lines = [f"{state.value.capitalize()} after {took}."]
    if state is RunState.STOPPED and snapshot.stop_by:
        lines = [f"Stopped by {first_line(snapshot.stop_by)} after {took}."]
    if state in {RunState.FAILED, RunState.LOST} and snapshot.text:
        lines = [f"{lines[0]} {first_line(snapshot.text)}"]
    elif snapshot.nodes:
        lines += lost_lines(snapshot)
    return lines + result_lines(snapshot)


def held_words(snapshot: RunSnapshot) -> str:
    """Which ranks wait to be looked at, and where."""
    told = [f"rank {w.rank} at {first_line(w.held_text) or 'an unknown place'}" for w in snapshot.held]
    return "; ".join(told[:RANK_LINES]) + (f"; and {len(told) - RANK_LINES} more" if len(told) > RANK_LINES else "")


def status_lines(
    snapshot: RunSnapshot, *, folder: RunDir | None, now_ns: int, has_story: bool = True, has_report: bool = True
) -> list[str]:
    """A whole run in text: its story, a table of its ranks, and how it ended.

    Args:
        snapshot: the run's state.
        folder: where the report reads logs.
        now_ns: the present, for a run that is not over.
        has_story: tell header, notes and rounds; without it somebody has.
        has_report: tell a failure whole; without it an error will.
    """
    lines: list[str] = []
    if has_story:
        lines = [header_text(snapshot, folder=folder), *(note_text(*note) for note in snapshot.notes)]
        lines += [round_text(ended, snapshot) for ended in snapshot.rounds[:-1]]
    if snapshot.nodes:
        lines += _table(node_columns(snapshot), rows=NODE_ROWS, noun="nodes")
    if snapshot.workers:
        lines += _table(worker_columns(snapshot, now_ns=now_ns), rows=TABLE_RANKS, noun="ranks")
    return lines + summary_lines(snapshot, folder=folder, now_ns=now_ns, has_report=has_report)


def _table(columns: dict[str, list[str]], *, rows: int, noun: str) -> list[str]:
    widths = [max(len(name), *map(len, cells)) for name, cells in columns.items()]
    table = [tuple(columns), *zip(*columns.values(), strict=True)]
    lines = ["  ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)).rstrip() for row in table]
    rest = len(lines) - 1 - rows
    return lines[: rows + 1] + ([f"and {rest} more {noun}"] if rest > 0 else [])


def worker_columns(snapshot: RunSnapshot, *, now_ns: int) -> dict[str, list[str]]:
    """The table of ranks, column by column; columns that say nothing are left out."""
    workers = snapshot.workers
    has_nodes = bool(snapshot.nodes) or len({w.node for w in workers}) > 1
    told = {text for _, text in snapshot.notes}
    end_ns = snapshot.finished_ns or now_ns
    times = [max(0, (w.ended_ns or end_ns) - w.started_ns) / 1e9 if w.started_ns else 0.0 for w in workers]
    columns = {
        "rank": [str(w.rank) for w in workers],
        "node": [str(w.node) for w in workers] if has_nodes else [],
        "state": [w.state.value for w in workers],
        "exit": [w.signal or (str(w.exit_code) if w.exit_code else "") for w in workers],
        "pid": [str(w.pid) if w.pid else "" for w in workers],
        "device": [w.device for w in workers],
        "cpus": [first_line(w.cpus, limit=24) for w in workers],
        "binding": ["" if w.binding in told else first_line(w.binding, limit=40) for w in workers],
        "time": [elapsed_text(t) for t in times],
        "end": [first_line(w.how, limit=40) for w in workers],
    }
    if all(w.how in {"", BY_ITSELF} for w in workers):
        del columns["end"]
    return {name: cells for name, cells in columns.items() if any(cells)}


def result_lines(snapshot: RunSnapshot) -> list[str]:
    """What the ranks returned, equal ones folded; nothing where all returned None."""
    told: dict[str, list[int]] = {}
    for worker in snapshot.workers:
        if worker.result_error:
            told.setdefault(f"its result was not kept: {first_line(worker.result_error)}", []).append(worker.rank)
        elif worker.result_text:
            told.setdefault(first_line(worker.result_text), []).append(worker.rank)
    if not told or set(told) == {"None"}:
        return []
    lines = [f"{ranks_text(ranks)}: {text}" for text, ranks in told.items()]
    return ["Results:", *(f"  {line}" for line in lines)]
