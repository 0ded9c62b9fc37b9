"""Samples of a benchmark, what they must reach, and the one table they end in.

Runs in: the benchmarks.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field


@dataclass
class Row:
    """One thing that was measured, several times.

    Attributes:
        what: the question, the same for all who answered it.
        who: us, or a peer.
        unit: of the samples.
        note: what else was seen: lines lost, say.
        is_reference: the others' ratios are to this one.
        failures: how often it ended in no figure: hung, or failed.
        reaches: what its figures must reach.
    """

    what: str
    who: str
    unit: str = "s"
    samples: list[float] = field(default_factory=list)
    note: str = ""
    is_reference: bool = False
    failures: int = 0
    reaches: list[Reach] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median of the samples."""
        return statistics.median(self.samples)


@dataclass(frozen=True)
class Reach:
    """A figure that must be reached, of medians of the same run.

    Attributes:
        limit: the most it may be, or with ``is_least`` the least.
        got: the figure; asked for when all is measured.
        of: the figure in words, as "ours / torchrun"; empty where it is the row's own median.
        rows: what it is made of: without samples of all of them there is no verdict.
    """

    limit: float
    got: Callable[[], float]
    of: str
    rows: tuple[Row, ...]
    is_least: bool = False

    @property
    def is_measured(self) -> bool:
        """True if there are samples to judge by."""
        return all(row.samples for row in self.rows)

    @property
    def is_reached(self) -> bool:
        """True if the figure is as good as it must be."""
        return self.got() >= self.limit if self.is_least else self.got() <= self.limit

    @property
    def verdict(self) -> str:
        """One phrase, as the table prints it."""
        bound = "at least " if self.is_least else ""
        told = f"{self.of}: " if self.of else ""
        if not self.is_measured:
            return f"{told}reach {bound}{self.limit:.2f}, not measured"
        outcome = "reached" if self.is_reached else "MISSED"
        return f"{told}reach {bound}{self.limit:.2f}, got {self.got():.2f}: {outcome}"


def at_most(row: Row, limit: float, of: str = "") -> None:
    """The row's median may be at most ``limit``, in its unit."""
    row.reaches.append(Reach(limit, lambda: row.median, of, (row,)))


def ratio_at_most(row: Row, limit: float, other: Row, of: str) -> None:
    """The row's median may be at most ``limit`` times the other's."""
    row.reaches.append(Reach(limit, lambda: row.median / other.median, of, (row, other)))


def times_faster(row: Row, limit: float, other: Row, of: str) -> None:
    """The other's median must be at least ``limit`` times the row's."""
    row.reaches.append(Reach(limit, lambda: other.median / row.median, of, (row, other), is_least=True))


def more_at_most(row: Row, limit: float, other: Row, of: str) -> None:
    """The row's median may exceed the other's by at most ``limit``, in its unit."""
    row.reaches.append(Reach(limit, lambda: row.median - other.median, of, (row, other)))


def take_turns(
    rounds: int, rows: Sequence[Row], measures: Sequence[Callable[[], float]], tell: Callable[[str], None]
) -> None:
    """Measure all in turn, round after round, so that a busy moment of the machine hits all of them.

    A row may stand in the list more than once: what is quick to measure is then measured more often.
    """
    for number in range(rounds):
        for row, measure in zip(rows, measures, strict=True):
            try:
                value = measure()
            except AssertionError as e:
                row.failures += 1
                tell(f"  {number + 1}/{rounds}  {row.what}: {row.who}  failed: {str(e).splitlines()[0]}")
            else:
                row.samples.append(value)
                tell(f"  {number + 1}/{rounds}  {row.what}: {row.who}  {value:.3f} {row.unit}")


def render(rows: Iterable[Row]) -> str:
    """Table with medians, ranges and ratios; a ratio under 1 is less than the reference needs.

    A row without one sample is told, too: that it failed is its figure.
    """
    rows = [row for row in rows if row.samples or row.failures or row.note]
    reference = {row.what: row.median for row in rows if row.is_reference and row.samples}
    lines = [f"{'what':50} {'who':44} {'median':>9} {'least':>9} {'most':>9} {'n':>3} {'ratio':>6}  unit, reach, note"]
    last = ""
    for row in rows:
        what = row.what if row.what != last else ""
        last = row.what
        figures, ratio = f"{'-':>9} {'-':>9} {'-':>9}", ""
        if row.samples:
            figures = " ".join(f"{value:9.3f}" for value in (row.median, min(row.samples), max(row.samples)))
            ratio = f"{row.median / reference[row.what]:.2f}" if reference.get(row.what) else ""
        said = [row.unit, *(r.verdict for r in row.reaches)]
        said += [f"failed {row.failures} times"] if row.failures else []
        said += [row.note] if row.note else []
        lines.append(f"{what:50} {row.who:44} {figures} {len(row.samples):3d} {ratio:>6}  {'; '.join(said)}")
    return "\n".join(lines)


def verdicts(rows: Iterable[Row]) -> list[Reach]:
    """Everything that had to be reached."""
    return [reach for row in rows for reach in row.reaches]
