"""Engines side by side: cells on two nodes, beside each engine's own smallest task and local commands; cables; a thousand nodes.

Runs in: the benchmarks (``make bench-engines``; ``ARGS='popen slurm'`` measures some, ``ARGS=cables`` those alone, ``ARGS=scale`` the
thousand pretended nodes).

Two nodes of two ranks each. A cell is sent by a real kernel; its figure ends at its first line after an all-reduce. Clusters, kernels
and ranks share this machine's cores: read an engine against local commands (popen) in the same run.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from tests.benchmarks import engines_cables, engines_scale
from tests.benchmarks import engines_places as places
from tests.benchmarks.engines_places import Missing, Place
from tests.benchmarks.engines_runs import Launches, joins_and_crashes
from tests.benchmarks.table import Row, at_most, more_at_most, render, take_turns, verdicts

ROUNDS = 7
LOCAL_S, BEYOND_NOOP_S = 1.5, 1.0
CRASH_S, JOIN_S, KILLED_S, LAG_MS = 10.0, 5.0, 15.0, 50.0
LOCALS = frozenset({"popen", "join"})
Tell = Callable[[str], None]


@dataclass
class Measured:
    """One engine's rows."""

    place: Place
    warm: Row = field(init=False)
    noop: Row = field(init=False)
    cold: Row = field(init=False)
    lag: Row = field(init=False)
    joins: Row = field(init=False)
    greets: Row = field(init=False)
    crash: Row = field(init=False)
    killed: Row = field(init=False)

    def __post_init__(self) -> None:
        who = self.place.name
        self.warm = Row("cell on 2 nodes x 2 ranks, warm, to its line", who, is_reference=who == "popen")
        self.noop = Row("the engine's own no-op on two nodes", who)
        self.cold = Row("the same cell, cold (the cluster is up)", who)
        self.lag = Row("a rank's line, until it is in the run folder", who, "ms")
        self.joins = Row("a machine comes: world 2", who)
        self.greets = Row("the same since its node said hello", who)
        self.crash = Row("a node crashes (1:2): world 1 runs again", who)
        self.killed = Row("the kernel is killed: nothing left anywhere", who)

    @property
    def rows(self) -> list[Row]:
        """All of them."""
        return [self.warm, self.noop, self.cold, self.lag, self.joins, self.greets, self.crash, self.killed]

    def judge(self, popen: Row | None) -> None:
        """What the figures must reach."""
        if self.place.name in LOCALS:
            at_most(self.warm, LOCAL_S)
        elif self.noop.samples:
            more_at_most(self.warm, BEYOND_NOOP_S, self.noop, "beyond its no-op")
        if self.place.share_s and popen is not None:
            more_at_most(self.warm, self.place.share_s, popen, "the engine's share, beyond popen")
        at_most(self.lag, LAG_MS)
        at_most(self.greets, JOIN_S)
        at_most(self.crash, CRASH_S)
        at_most(self.killed, KILLED_S)


def begin(kinds: list[type[Place]], stack: ExitStack, tell: Tell) -> list[Measured]:
    """Start the clusters that can be had here, and see machines come and go."""
    found = []
    for kind in kinds:
        place = kind()
        stack.callback(place.close)
        try:
            tell(f"{place.name}: starts")
            place.start()
        except Missing as e:
            tell(f"{place.name} is left out: {e}")
            continue
        except Exception as e:  # the others are still worth their figures
            tell(f"{place.name} is left out: its cluster did not start: {type(e).__name__}: {e}")
            continue
        one = Measured(place)
        found.append(one)
        with place.entered():
            _note(one, (one.joins, one.greets, one.crash), lambda place=place: joins_and_crashes(place), tell)
    return found


def cells(found: list[Measured], stack: ExitStack, tell: Tell) -> None:
    """Cold, then warm and no-op in turns, then the end of each kernel."""
    warm: list[tuple[Measured, Launches]] = []
    for one in found:
        try:
            launches = Launches(one.place, one.place.complete())
        except Exception as e:  # as above
            one.cold.failures, one.cold.note = 1, f"{type(e).__name__}: {e}"[:200]
            continue
        stack.callback(launches.close)
        if _note(one, (one.cold,), lambda launches=launches: (launches.cell(),), tell):
            warm.append((one, launches))
    for one, _ in warm:
        if one.place.has_noop:
            one.place.noop()
    for _, launches in warm:  # so that the turns find the same of all
        with contextlib.suppress(AssertionError):
            launches.warm_up()
    turns: list[tuple[Row, Callable[[], float]]] = []
    for one, launches in warm:
        turns.append((one.warm, launches.cell))
        if one.place.has_noop:
            turns.append((one.noop, one.place.noop))
    take_turns(ROUNDS, [row for row, _ in turns], [measure for _, measure in turns], tell)
    for one, launches in warm:
        try:
            one.lag.samples += launches.lags()
        except AssertionError as e:  # as above
            one.lag.failures, one.lag.note = 1, str(e)[:200]
            continue
        tell(f"  {one.place.name}: {one.lag.what}  median {one.lag.median:.1f} ms")
    for one, launches in warm:
        _note(one, (one.killed,), lambda launches=launches: (launches.killed(),), tell)


def _note(one: Measured, rows: tuple[Row, ...], measure: Callable[[], tuple[float, ...]], tell: Tell) -> bool:
    """Put down figures that are measured together; False if that failed."""
    try:
        values = measure()
    except Exception as e:  # as above
        rows[0].failures, rows[0].note = 1, f"{type(e).__name__}: {str(e).splitlines()[0]}"[:200]
        tell(f"  {one.place.name}: {rows[0].what}  failed: {e}")
        return False
    for row, value in zip(rows, values, strict=True):
        row.samples.append(value)
        if row.what:
            tell(f"  {one.place.name}: {row.what}  {value:.3f} s")
    return True


def measure(tell: Tell, chosen: list[str]) -> list[Row]:
    """Fill the rows of these engines, or of all."""
    is_of_cables = chosen[:1] == ["cables"]
    chosen = chosen[is_of_cables:]
    kinds = [kind for kind in places.ALL if not is_of_cables and (not chosen or kind.name in chosen)]
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="nbe-", ignore_cleanup_errors=True))
        stack.enter_context(places.environment())
        os.environ.update(NB_ELASTIC_HOME=home, OMP_NUM_THREADS="1")
        found = begin(kinds, stack, tell)
        cells(found, stack, tell)
        popen = next((one.warm for one in found if one.place.name == "popen"), None)
        for one in found:
            one.judge(popen)
        cables = engines_cables.measure(tell, chosen)
    return [row for number in range(8) for one in found for row in one.rows[number : number + 1]] + cables


def main(chosen: list[str]) -> int:
    """Measure what was chosen, or all engines; 0 if everything could be measured."""
    known = {kind.name for kind in places.ALL} | {"cables"}
    is_scale = chosen[:1] == ["scale"]
    if not is_scale and (unknown := sorted(set(chosen) - known)):
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(sorted(known))}, and scale", file=sys.stderr)
        return 2

    def tell(text: str) -> None:
        print(text, flush=True)

    rows = engines_scale.measure(tell, chosen[1:]) if is_scale else measure(tell, chosen)
    judged = [reach for reach in verdicts(rows) if reach.is_measured]
    print(f"\n{render(rows)}\n{sum(reach.is_reached for reach in judged)} of {len(judged)} figures reached")
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; Python {sys.version.split()[0]}")
    return 1 if any(row.failures for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
