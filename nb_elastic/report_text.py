"""What a run comes to, in words: headers, summaries, restarts and the failure report.

Runs in: the kernel or command line. Every renderer and every error speaks with these words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nb_elastic import notebook, rundir
from nb_elastic.model import STREAMS, FailureCategory, RunState, WorkerFailure, WorkerState
from nb_elastic.render.lines import LineSplitter, clean
from nb_elastic.rundir import RankDir, RunDir
from nb_elastic.snapshot import RoundSnapshot, RunSnapshot, WorkerSnapshot

TAIL_LINES = 20
"""Lines of a rank's log shown where it left no traceback."""
TAIL_BYTES = 64_000
RANK_LINES = 16
"""Up to so many ranks each have a line of their own; with more, equal lines are folded."""
TABLE_RANKS = 64
VALUE_LINES = 12
MAX_REASONS = 5
SHORT_CHARS = 160


def ranks_text(ranks: Iterable[int]) -> str:
    """Name ranks: ``rank 2``, ``ranks 0-3``, ``ranks 0, 2-3``."""
    numbers = sorted(set(ranks))
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    words = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
    return f"rank {words}" if len(numbers) == 1 else f"ranks {words}"


def attempt_text(snapshot: RunSnapshot) -> str:
    """Which attempt is under way, counted from one: ``attempt 2 of 3`` with two restarts allowed."""
    return f"attempt {snapshot.attempt + 1} of {snapshot.max_restarts + 1}"


def elapsed_text(seconds: float) -> str:
    """Time in words: ``0.4 s``, ``12 s``, ``3 min 05 s``, ``2 h 03 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def first_line(text: str, *, limit: int = SHORT_CHARS) -> str:
    """First line of a text, made harmless and cut to ``limit`` characters."""
    line = clean(next((part for part in text.splitlines() if part.strip()), "").strip(), limit=10 * limit)
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def header_text(snapshot: RunSnapshot, *, folder: RunDir | None) -> str:
    """One line when a run starts: its id, its ranks, where its logs lie."""
    name = f" {first_line(snapshot.name, limit=60)!r}" if snapshot.name else ""
    nodes = len({w.node for w in snapshot.workers})
    where = f" on {nodes} nodes" if nodes > 1 else ""
    logs = f"; logs in {folder.path}" if folder is not None else ""
    count = {0: snapshot.state.value, 1: "1 rank"}.get(snapshot.world_size, f"{snapshot.world_size} ranks")
    return f"Run {snapshot.run_id}{name}: {count}{where}{logs}"


def failure_words(failure: WorkerFailure) -> str:
    """One failure in a few words: ``ValueError: no``, or how the process died."""
    if failure.error_type:
        message = first_line(failure.message)
        return f"{failure.error_type}: {message}" if message else failure.error_type
    if failure.message:
        return first_line(failure.message)
    if failure.signal:
        return f"killed by {failure.signal}"
    return f"exit code {failure.exit_code}" if failure.exit_code is not None else "no exit code"


def verdict_words(category: str, words: str) -> str:
    """What failed and how, without saying a thing twice: ``out of host memory: killed by the kernel's OOM killer``."""
    category = first_line(category)
    if not category or words.lower().startswith(category.lower()):
        return words
    if category == FailureCategory.NATIVE_CRASH.value:
        words = words.removeprefix("native crash: ")
    return f"{category}: {words}" if words else category


def why_lines(reasons: Sequence[str]) -> list[str]:
    """The evidence for a verdict, a short list."""
    told = [first_line(reason, limit=300) for reason in reasons if reason.strip()]
    rest = len(told) - MAX_REASONS
    lines = [f"  - {reason}" for reason in told[:MAX_REASONS]]
    return ["Why:", *lines, *([f"  - and {rest} more"] if rest > 0 else [])] if told else []


def round_text(ended: RoundSnapshot, snapshot: RunSnapshot) -> str:
    """One line about a round that another one follows."""
    if ended.cause == "failure" or ended.failures:
        root = ended.failures[0] if ended.failures else None
        why = (
            f"{ranks_text([root.rank])} failed first ({failure_words(root)})"
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

    def of(self, snapshot: RunSnapshot) -> tuple[list[str], list[str]]:
        """Return what is new, to be told now, and what is to be told after the lines that are on their way."""
        now: list[str] = []
        if snapshot.workers and not self._has_header:
            self._has_header = True
            now.append(header_text(snapshot, folder=self._folder))
        if self._has_header or snapshot.state.is_final:
            now += [note_text(*note) for note in snapshot.notes[self._notes :]]
            self._notes = len(snapshot.notes)
        ended = snapshot.rounds[self._rounds : -1]
        self._rounds += len(ended)
        return now, [round_text(r, snapshot) for r in ended]


def note_text(level: str, text: str) -> str:
    """A note, as it is told once."""
    return f"{'Warning: ' if level == 'warning' else ''}{clean_text(text)}"


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
    if state is RunState.FAILED and root is not None and not root.followed:
        return [f"Failed after {took}: {ranks_text([root.rank])} failed first ({failure_words(root)})."]
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
    columns = worker_columns(snapshot, now_ns=now_ns)
    if snapshot.workers:
        widths = [max(len(name), *map(len, cells)) for name, cells in columns.items()]
        table = [tuple(columns), *zip(*columns.values(), strict=True)]
        rows = ["  ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)).rstrip() for row in table]
        rest = len(rows) - 1 - TABLE_RANKS
        lines += rows[: TABLE_RANKS + 1] + ([f"and {rest} more ranks"] if rest > 0 else [])
    return lines + summary_lines(snapshot, folder=folder, now_ns=now_ns, has_report=has_report)


def worker_columns(snapshot: RunSnapshot, *, now_ns: int) -> dict[str, list[str]]:
    """The table of ranks, column by column; columns that say nothing are left out."""
    workers = snapshot.workers
    has_nodes = len({w.node for w in workers}) > 1
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


def failure_text(snapshot: RunSnapshot, *, folder: RunDir | None = None) -> str:
    """The report of a failed run: the root cause with its traceback, the other ranks, where the evidence lies.

    Args:
        snapshot: of a failed run.
        folder: where the logs and the whole traceback are read; without it the journal must do.
    """
    root = snapshot.root
    if root is None or (root.followed and snapshot.text):  # the time was up, say, and then a rank could not save
        words = verdict_words(snapshot.category, clean_text(snapshot.text) or "no rank said why.")
        why = why_lines(snapshot.reasons)
        lines = [f"Run {snapshot.run_id} failed: {words}", *([""] if why else []), *why]
        return "\n".join(lines + _evidence_lines(snapshot, None, folder))
    where = f" on node {root.node}" if snapshot.max_nodes > 1 else ""
    again = f" in round {root.round}, {attempt_text(snapshot)}" if snapshot.max_restarts else ""
    is_own = not root.category or (root.category == FailureCategory.USER_ERROR.value and root.error_type)
    words = f" ({failure_words(root)})" if is_own else f": {verdict_words(root.category, failure_words(root))}"
    lines = [f"Run {snapshot.run_id} failed: {ranks_text([root.rank])}{where} failed first{again}{words}"]
    if (why := why_lines(root.reasons)) and not (is_own and root.error_type != "SystemExit"):  # the exception says it
        lines += ["", *why]
    lines += ["", *_root_lines(snapshot, root, folder)]
    if values := _value_lines(root):
        lines += ["", *values]
    if root.hint:
        lines += ["", f"Hint: {clean_text(root.hint)}"]
    if others := _other_lines(snapshot, root):
        lines += ["", "Others:", *others]
    if earlier := [r for r in snapshot.rounds if r.number < snapshot.round and r.failures]:
        lines += ["", "Earlier rounds:"]
        lines += [
            f"  round {r.number}: {ranks_text([r.failures[0].rank])} failed first ({failure_words(r.failures[0])})"
            for r in earlier
        ]
    return "\n".join(lines + _evidence_lines(snapshot, root, folder))


def stopped_text(snapshot: RunSnapshot, *, folder: RunDir | None = None) -> str:
    """What is told of a stopped run: by whom, what became of the ranks, and what is kept."""
    by = first_line(snapshot.stop_by) or "somebody"
    lines = [f"Run {snapshot.run_id} was stopped by {by} after {elapsed_text(snapshot.elapsed_s(snapshot.last_ns))}."]
    lines += _fold_lines([(w.rank, worker_words(w)) for w in snapshot.workers])
    if folder is not None:
        lines.append(f"Logs, and results of ranks that had finished, are kept: {folder.path}")
    return "\n".join(lines)


def worker_words(worker: WorkerSnapshot) -> str:
    """What became of a worker, in a few words."""
    how = worker.signal or (f"exit code {worker.exit_code}" if worker.exit_code else "")
    if worker.state is WorkerState.STOPPED and worker.how:
        return f"stopped: {first_line(worker.how)}"
    words = {
        WorkerState.ENDED: "ended by the agent",
        WorkerState.STOPPED: "stopped",
        WorkerState.STARTING: "had not started",
        WorkerState.RUNNING: "was still running",
    }.get(worker.state, worker.state.value)
    return f"{words} ({how})" if how else words


def clean_text(text: str) -> str:
    """Make a text of several lines harmless."""
    return "\n".join(clean(line) for line in text.strip("\n").split("\n"))


def rank_dir(folder: RunDir, *, node: int, round_number: int, local_rank: int) -> RankDir:
    """Folder of a worker, with the level for its node where the run has one."""
    has_level = (folder.path / f"node_{node}").is_dir()
    return folder.rank(round_number, local_rank, node=node if has_level else None)


def tail(rank: RankDir, stream: str, *, lines: int = TAIL_LINES) -> list[str]:
    """Last lines of a log, made harmless; none where there is no such file."""
    path = rank.stdout if stream == "stdout" else rank.stderr
    try:
        size = path.lstat().st_size
    except OSError:
        return []
    data = rundir.read_at(path, max(0, size - TAIL_BYTES), TAIL_BYTES)
    splitter = LineSplitter()
    found = splitter.feed(data) + splitter.flush()
    return found[1:][-lines:] if size > TAIL_BYTES and len(found) > 1 else found[-lines:]


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


def _other_lines(snapshot: RunSnapshot, root: WorkerFailure) -> list[str]:
    failures = {(f.node, f.local_rank): f for f in snapshot.failures}
    told: list[tuple[int, str]] = []
    for worker in sorted(snapshot.workers, key=lambda w: w.rank):
        failure = failures.pop((worker.node, worker.local_rank), None)
        if failure is not root:
            told.append((worker.rank, worker_words(worker) if failure is None else _failed_words(failure, root)))
    told += [(f.rank, _failed_words(f, root)) for f in failures.values() if f is not root]
    return _fold_lines(sorted(told))


def _failed_words(failure: WorkerFailure, root: WorkerFailure) -> str:
    words = failure_words(failure)
    if failure.followed:
        followed = first_line(failure.followed)
        return f"followed: {words}" if followed in words else f"followed: {words} ({followed})"
    later_s = (failure.time_ns - root.time_ns) / 1e9
    gap = f"{later_s * 1000:.0f} ms" if later_s < 1 else elapsed_text(later_s)
    return f"failed {gap} later ({words})" if later_s >= 0 else f"failed ({words})"


def command() -> str:
    """What the reader types to call us."""
    return "%elastic" if notebook.shell() is not None else "nb-elastic"


def _fold_lines(told: Sequence[tuple[int, str]]) -> list[str]:
    if len(told) <= RANK_LINES:
        return [f"  rank {rank}: {text}" for rank, text in told]
    folded: dict[str, list[int]] = {}
    for rank, text in told:
        folded.setdefault(text, []).append(rank)
    return [f"  {ranks_text(ranks)}: {text}" for text, ranks in folded.items()]


def _evidence_lines(snapshot: RunSnapshot, root: WorkerFailure | None, folder: RunDir | None) -> list[str]:
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
