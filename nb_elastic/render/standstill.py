"""A run that stands still, in text: nothing moves, or ranks are held; and how ranks that were stopped came to their ends.

Runs in: the kernel or command line. The page says the same by ``labextension/core/src/standstill``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from nb_elastic import notebook, report_words, rundir
from nb_elastic.dashboard import messages
from nb_elastic.model import StackGroup, StackReport
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import RunSnapshot, WorkerSnapshot

GROUPS = 16
"""So many groups of a hang are told, a line each."""
NOTES = 3
_STATES = {"stopped": "stopped (SIGSTOP)", "stuck": "stuck in the kernel", "silent": "no stack to be had"}


class Standstill:
    """Tells each standstill once: a hang when it is found and when it is over, a rank when it is held."""

    def __init__(self, folder: RunDir) -> None:
        self._folder = folder
        self._hang_ns = 0
        self._held: set[tuple[int, int, int, int]] = set()

    def of(self, snapshot: RunSnapshot) -> list[str]:
        """Return what is new."""
        lines: list[str] = []
        hang = snapshot.hang
        if hang is not None and hang.time_ns != self._hang_ns:
            self._hang_ns = hang.time_ns
            lines += hang_lines(hang, after_s=hang_after_s(self._folder))
        elif hang is None and self._hang_ns:
            self._hang_ns = 0
            if not snapshot.state.is_final:
                lines.append("The ranks move again.")
        new = [w for w in snapshot.held if _key(w) not in self._held]
        self._held.update(map(_key, new))
        return lines + held_lines(new, snapshot, is_attended=not snapshot.is_detached)


def hang_after_s(folder: RunDir) -> float:
    """Seconds of standstill after which the run's hang was told."""
    return messages.hang_after_s(rundir.read_json(folder.run_json))


def hang_lines(report: StackReport, *, after_s: float) -> list[str]:
    """The headline, one line a group with what else is known of it, the advice."""
    title = hang_title(report, after_s, is_over=False)
    lines = [f"{title}. {report_words.clean_text(report.headline)}".rstrip()]
    groups = sorted(report.groups, key=lambda g: not g.is_odd)
    for group in groups[:GROUPS]:
        lines.append(f"  {group_text(group)}")
        lines += [f"    {report_words.first_line(note, limit=400)}" for note in group.notes[:NOTES]]
    if rest := len(groups) - GROUPS:
        lines += [f"  and {rest} more groups"] if rest > 0 else []
    return lines + ([f"  {report_words.clean_text(report.advice)}"] if report.advice else [])


def hang_title(report: StackReport, still_s: float, *, is_over: bool) -> str:
    """``Nothing has moved for 60 s``, ``Rank 2 has not moved for 60 s, others have``; of a run that is over, before its end."""
    took = seconds_text(still_s)
    ranks = [rank for group in report.groups if group.is_still for rank in group.ranks]
    if report.cause != "stall":
        return f"Nothing moved for {took} before the end" if is_over else f"Nothing has moved for {took}"
    who = report_words.ranks_text(ranks).capitalize() if ranks else "Some ranks"
    if is_over:
        return f"{who} did not move for {took} before the end"
    return f"{who} {'has' if len(ranks) == 1 else 'have'} not moved for {took}, others have"


def group_text(group: StackGroup) -> str:
    """``rank 2 (waiting): is in next(loader), Cell In[12], line 24``."""
    doing = report_words.first_line(group.doing, limit=400)
    odd = ", the odd one out" if group.is_odd else ""
    return f"{report_words.ranks_text(group.ranks)} ({group_state(group)}{odd}): {doing}"


def group_state(group: StackGroup) -> str:
    """What a group's main threads do, in a word or three."""
    return _STATES.get(group.state, report_words.first_line(group.state, limit=40))


def held_lines(workers: Sequence[WorkerSnapshot], snapshot: RunSnapshot, *, is_attended: bool) -> list[str]:
    """What to do about ranks that wait to be looked at.

    Args:
        is_attended: a breakpoint asks where the run is followed, so that nothing need be said of it.
    """
    failed = [w for w in workers if w.held != "breakpoint"]
    stopped = [w for w in workers if w.held == "breakpoint"]
    elastic = "%elastic" if notebook.shell() is not None else "nb-elastic"
    lines: list[str] = []
    if failed:
        how = "is held at its exception" if len(failed) == 1 else "are held at their exceptions"
        lines.append(
            f"{named(failed)} {how}: `{elastic} debug {snapshot.run_id}` opens pdb there, "
            f"`{elastic} eval {snapshot.run_id} EXPR` looks, `{elastic} stop {snapshot.run_id}` ends the run."
        )
        lines += _places(failed)
    if stopped and not is_attended:
        how = "is at a breakpoint" if len(stopped) == 1 else "are at breakpoints"
        lines.append(f"{named(stopped)} {how}: `{elastic} debug {snapshot.run_id}` goes on from there.")
        lines += _places(stopped)
    return lines


def named(workers: Sequence[WorkerSnapshot]) -> str:
    """``Rank 2``, ``Ranks 0-3``."""
    return report_words.ranks_text([w.rank for w in workers]).capitalize()


def ways_text(workers: Sequence[WorkerSnapshot]) -> str:
    """How ranks ended, equal ways together: ``3 saved and left by themselves, 1 killed after 5 s``; "" if nobody told."""
    counts = Counter(report_words.first_line(w.how) for w in workers if w.how)
    return ", ".join(
        f"{n} {how.replace('by itself', 'by themselves') if n > 1 else how}" for how, n in counts.most_common()
    )


def seconds_text(seconds: float) -> str:
    """``60 s``; minutes where there are some."""
    return f"{seconds:.3g} s" if seconds < 120 else report_words.elapsed_text(seconds)


def _places(workers: Sequence[WorkerSnapshot]) -> list[str]:
    told = [(w.rank, report_words.first_line(w.held_text, limit=400)) for w in workers[:GROUPS] if w.held_text]
    return [f"  rank {rank}: {text}" for rank, text in told]


def _key(worker: WorkerSnapshot) -> tuple[int, int, int, int]:
    """Names one time that one worker is held."""
    return worker.node, worker.local_rank, worker.round, worker.holds[-1][0] if worker.holds else 0
