"""What is told of a run that failed or was stopped: the root cause and its evidence, then every other rank.

Runs in: the kernel or command line.
"""

from __future__ import annotations

from collections.abc import Sequence

from nb_elastic import opening, rundir
from nb_elastic.model import STREAMS, FailureCategory, WorkerFailure
from nb_elastic.report_nodes import lost_lines, lost_node, node_text, rank_text
from nb_elastic.report_words import (
    attempt_text,
    clean_text,
    command,
    elapsed_text,
    failure_words,
    first_line,
    fold_lines,
    rank_dir,
    tail,
    verdict_words,
    worker_words,
)
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import RunSnapshot

VALUE_LINES = 12
MAX_REASONS = 5


def failure_text(snapshot: RunSnapshot, *, folder: RunDir | None = None) -> str:
    """The report of a failed run: the root cause with its traceback, the other ranks, where the evidence lies.

    Args:
        snapshot: of a failed run.
        folder: where the logs and the whole traceback are read; without it the journal must do.
    """
    root = snapshot.root
    if lost_node(snapshot, root) is not None:
        return "\n".join(_lost_lines(snapshot, folder))
    if root is None or (root.followed and snapshot.text):  # the time was up, say, and then a rank could not save
        words = verdict_words(snapshot.category, clean_text(snapshot.text) or "no rank said why.")
        why = why_lines(snapshot.reasons)
        lines = [f"Run {snapshot.run_id} failed: {words}", *([""] if why else []), *why]
        return "\n".join(lines + _evidence_lines(snapshot, None, folder))
    again = f" in round {root.round}, {attempt_text(snapshot)}" if snapshot.max_restarts else ""
    is_own = not root.category or (root.category == FailureCategory.USER_ERROR.value and root.error_type)
    words = f" ({failure_words(root)})" if is_own else f": {verdict_words(root.category, failure_words(root))}"
    lines = [f"Run {snapshot.run_id} failed: {rank_text(snapshot, root)} failed first{again}{words}"]
    if (why := why_lines(root.reasons)) and not (is_own and root.error_type != "SystemExit"):  # the exception says it
        lines += ["", *why]
    lines += ["", *_root_lines(snapshot, root, folder)]
    if values := _value_lines(root):
        lines += ["", *values]
    if root.hint:
        lines += ["", f"Hint: {clean_text(root.hint)}"]
    if others := _other_lines(snapshot, root):
        lines += ["", "Others:", *others]
    lines += _earlier_lines(snapshot)
    return "\n".join(lines + _evidence_lines(snapshot, root, folder))


def stopped_text(snapshot: RunSnapshot, *, folder: RunDir | None = None) -> str:
    """What is told of a stopped run: by whom, what became of the ranks, and what is kept."""
    by = first_line(snapshot.stop_by) or "somebody"
    lines = [f"Run {snapshot.run_id} was stopped by {by} after {elapsed_text(snapshot.elapsed_s(snapshot.last_ns))}."]
    lines += fold_lines([(w.rank, worker_words(w)) for w in snapshot.workers])
    if gone := gone_text(folder):
        lines.append(gone)
    elif folder is not None:
        lines.append(f"Logs, and results of ranks that had finished, are kept: {folder.path}")
    return "\n".join(lines)


def gone_text(folder: RunDir | None) -> str:
    """That nothing is kept of a run, or ""."""
    if folder is None or not opening.is_gone(folder.path):
        return ""
    return f"The run folder {folder.path} was deleted while the run lasted: its logs and results are gone."


def why_lines(reasons: Sequence[str]) -> list[str]:
    """The evidence for a verdict, a short list."""
    told = [first_line(reason, limit=300) for reason in reasons if reason.strip()]
    rest = len(told) - MAX_REASONS
    lines = [f"  - {reason}" for reason in told[:MAX_REASONS]]
    return ["Why:", *lines, *([f"  - and {rest} more"] if rest > 0 else [])] if told else []


def _lost_lines(snapshot: RunSnapshot, folder: RunDir | None) -> list[str]:
    """The report of a run that ended because nodes were lost: what is known of them, and what became of the ranks."""
    told = lost_lines(snapshot)
    words = clean_text(snapshot.text)
    lines = [f"Run {snapshot.run_id} failed: {words or told[0]}"]
    lines += ["", *told] if words and len(told) > 1 else []
    lines += ["", "Ranks:", *_other_lines(snapshot, None), *_earlier_lines(snapshot)]
    return lines + _evidence_lines(snapshot, snapshot.root, folder)


def _earlier_lines(snapshot: RunSnapshot) -> list[str]:
    earlier = [r for r in snapshot.rounds if r.number < snapshot.round and r.failures]
    return (
        ["", "Earlier rounds:", *(f"  round {r.number}: {_first_words(snapshot, r.failures[0])}" for r in earlier)]
        if earlier
        else []
    )


def _first_words(snapshot: RunSnapshot, root: WorkerFailure) -> str:
    node = lost_node(snapshot, root)
    return (
        f"{node_text(node)} was lost" if node else f"{rank_text(snapshot, root)} failed first ({failure_words(root)})"
    )


def _root_lines(snapshot: RunSnapshot, root: WorkerFailure, folder: RunDir | None) -> list[str]:
    """The root cause's own traceback; where it left none, the end of what it wrote."""
    place = None
    if folder is not None:
        place = rank_dir(folder, node=root.node, round_number=root.round, local_rank=root.local_rank)
    traceback = root.traceback
    if place is not None:
        whole = rundir.read_json(place.failure_json).get("traceback")
        traceback = whole if isinstance(whole, str) and whole.strip() else traceback
    if traceback.strip():
        lines = clean_text(traceback).split("\n")
        return lines if len(lines) <= 300 else [*lines[:100], f"[... {len(lines) - 200} lines cut ...]", *lines[-100:]]
    for stream in reversed(STREAMS) if place is not None else ():
        if place is not None and (lines := tail(place, stream)):
            return [f"The last lines of its {stream}:", *(f"  {line}" for line in lines)]
    if gone_text(folder):
        return ["What it wrote is gone with the run folder."]
    worker = snapshot.worker(root.rank)
    return [f"It left no traceback and wrote nothing ({worker_words(worker) if worker else failure_words(root)})."]


def _value_lines(root: WorkerFailure) -> list[str]:
    """What the variables were where the notebook's code failed, the innermost frame first."""
    lines: list[str] = []
    for frame in reversed(root.frames):
        if frame.values and len(lines) + 2 <= VALUE_LINES:
            lines.append(f"Values in {first_line(frame.file)}, line {frame.line}:")
            told = [f"  {first_line(name)} = {first_line(value, limit=240)}" for name, value in frame.values.items()]
            lines += told[: VALUE_LINES - len(lines)]
    return lines


def _other_lines(snapshot: RunSnapshot, root: WorkerFailure | None) -> list[str]:
    failures = {(f.node, f.local_rank): f for f in snapshot.failures}
    told: list[tuple[int, str]] = []
    for worker in sorted(snapshot.workers, key=lambda w: w.rank):
        failure = failures.pop((worker.node, worker.local_rank), None)
        if root is None or failure is not root:
            told.append((worker.rank, worker_words(worker) if failure is None else _failed_words(failure, root)))
    told += [(f.rank, _failed_words(f, root)) for f in failures.values() if f is not root]
    return fold_lines(sorted(told))


def _failed_words(failure: WorkerFailure, root: WorkerFailure | None) -> str:
    words = failure_words(failure)
    if root is None:
        return f"failed ({words})"
    if followed := first_line(failure.followed) or _followed_another_node(failure, root):
        return f"followed: {words}" if followed in words else f"followed: {words} ({followed})"
    later_s = (failure.time_ns - root.time_ns) / 1e9
    gap = f"{later_s * 1000:.0f} ms" if later_s < 1 else elapsed_text(later_s)
    return f"failed {gap} later ({words})" if later_s >= 0 else f"failed ({words})"


def _followed_another_node(failure: WorkerFailure, root: WorkerFailure) -> str:
    """What the failure's own node could not know: that it lost a peer which had failed by itself."""
    lost = FailureCategory.LOST_PEER.value
    is_one = failure.node != root.node and failure.category == lost and root.category != lost
    return f"lost its connection after rank {root.rank} failed" if is_one else ""


def _evidence_lines(snapshot: RunSnapshot, root: WorkerFailure | None, folder: RunDir | None) -> list[str]:
    if gone := gone_text(folder):
        return ["", gone]
    lines = [""]
    if folder is not None:
        lines.append(f"Logs: {folder.path}")
    if root is not None:
        lines.append(
            f"Next: `{command()} logs {snapshot.run_id} --rank {root.rank} --stream stderr` prints all that "
            f"rank {root.rank} wrote to stderr; `{command()} show {snapshot.run_id}` shows the run again."
        )
    elif snapshot.workers:
        lines.append(f"Next: `{command()} logs {snapshot.run_id} --rank 0` prints all that rank 0 wrote.")
    elif folder is not None:
        lines.append(f"Next: read {folder.supervisor_log}; `{command()} doctor` checks this machine.")
    return lines if len(lines) > 1 else []
