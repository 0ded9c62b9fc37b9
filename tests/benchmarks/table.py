"""Samples of a benchmark and the one table they end in.

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
    """

    what: str
    who: str
    unit: str = "s"
    samples: list[float] = field(default_factory=list)
    note: str = ""
    is_reference: bool = False
    failures: int = 0

    @property
    def median(self) -> float:
        """Median of the samples."""
        return statistics.median(self.samples)


def take_turns(
    rounds: int, rows: Sequence[Row], measures: Sequence[Callable[[], float]], tell: Callable[[str], None]
) -> None:
    """Measure all in turn, round after round, so that a busy moment of the machine hits all of them."""
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
    """Table with medians, ranges and ratios; a ratio under 1 is less than the reference needs."""
    rows = [row for row in rows if row.samples]
    reference = {row.what: row.median for row in rows if row.is_reference}
    lines = [f"{'what':44} {'who':34} {'median':>9} {'least':>9} {'most':>9} {'n':>3} {'ratio':>6}  note"]
    last = ""
    for row in rows:
        ratio = f"{row.median / reference[row.what]:.2f}" if reference.get(row.what) else ""
        what = row.what if row.what != last else ""
        numbers = " ".join(f"{value:9.3f}" for value in (row.median, min(row.samples), max(row.samples)))
        note = f"failed {row.failures} times  {row.note}" if row.failures else row.note
        lines.append(f"{what:44} {row.who:34} {numbers} {len(row.samples):3d} {ratio:>6}  {row.unit}  {note}".rstrip())
        last = row.what
    return "\n".join(lines)
