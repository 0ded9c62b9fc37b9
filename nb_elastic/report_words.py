"""The words that every face of a run speaks with: ranks, times, states, failures in a few words, ends of logs.

Runs in: the kernel or command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nb_elastic import notebook, rundir
from nb_elastic.errors import DescriptorsError
from nb_elastic.model import FailureCategory, WorkerFailure, WorkerState
from nb_elastic.render.lines import LineSplitter, clean
from nb_elastic.rundir import RankDir, RunDir
from nb_elastic.snapshot import RunSnapshot, WorkerSnapshot
from nb_elastic.spans import is_one, spans

TAIL_LINES = 20
"""Lines of a rank's log shown where it left no traceback."""
TAIL_BYTES = 64_000
RANK_LINES = 16
"""Up to so many ranks each have a line of their own; with more, equal lines are folded."""
SHORT_CHARS = 160


def ranks_text(ranks: Iterable[int]) -> str:
    """Name ranks: ``rank 2``, ``ranks 0-3``, ``ranks 0, 2-3``."""
    parts = spans(ranks)
    words = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
    return f"rank {words}" if is_one(parts) else f"ranks {words}"


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
    is_told = words.lower().startswith(category.lower()) or category == FailureCategory.UNKNOWN.value
    if not category or (words and is_told):
        return words
    if category == FailureCategory.NATIVE_CRASH.value:
        words = words.removeprefix("native crash: ")
    return f"{category}: {words}" if words else category


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


def note_text(level: str, text: str) -> str:
    """A note, as it is told once."""
    return f"{'Warning: ' if level == 'warning' else ''}{clean_text(text)}"


def command() -> str:
    """What the reader types to call us."""
    return "%elastic" if notebook.shell() is not None else "nb-elastic"


def rank_dir(folder: RunDir, *, node: int, round_number: int, local_rank: int) -> RankDir:
    """Folder of a worker, with the level for its node where the run has one."""
    return folder.rank(round_number, local_rank, node=folder.level(node))


def tail(rank: RankDir, stream: str, *, lines: int = TAIL_LINES) -> list[str]:
    """Last lines of a log, made harmless; none where there is no such file."""
    path = rank.stdout if stream == "stdout" else rank.stderr
    try:
        size = path.lstat().st_size
    except OSError:
        return []
    try:
        data = rundir.read_at(path, max(0, size - TAIL_BYTES), TAIL_BYTES)
    except DescriptorsError as e:
        return [f"({e})"]
    splitter = LineSplitter()
    found = splitter.feed(data) + splitter.flush()
    return found[1:][-lines:] if size > TAIL_BYTES and len(found) > 1 else found[-lines:]


def fold_lines(told: Sequence[tuple[int, str]]) -> list[str]:
    """A line for each rank; of more than ``RANK_LINES`` ranks one for each text."""
    if len(told) <= RANK_LINES:
        return [f"  rank {rank}: {text}" for rank, text in told]
    folded: dict[str, list[int]] = {}
    for rank, text in told:
        folded.setdefault(text, []).append(rank)
    return [f"  {ranks_text(ranks)}: {text}" for text, ranks in folded.items()]
