"""Four ranks print as fast as they can: how soon does the notebook answer another request, and obey its stop button?

Runs in: the benchmarks.

A completion is asked for on a subshell, as a front end does while a cell runs. An interrupt is answered when the request to stop
stands in the run's journal. Each sample of a completion is one request; the row's note has their percentiles.
"nobody reads" is what the machine itself can do while the ranks print.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.table import Row
from tests.support.kernel import Cell, Kernel
from tests.support.until import until

NPROC = 4
ASKED = 150
"""Completions under each face."""
ROUNDS = 3
FLOOD = """
rank = os.environ["RANK"]
i = 0
while {has_flood}:
    print(f"rank {{rank}} step {{i}} loss {{i * 0.001:.6f}} some more words to make a usual line of text")
    i += 1
while True:
    time.sleep(60)
"""
CASES = {
    "four ranks sleep": ("plain", False),
    "plain": ("plain", True),
    "widget": ("widget", True),
    "nobody reads": ("none", True),
}


def measure(tell: Callable[[str], None]) -> list[Row]:
    """Fill the rows."""
    rows: list[Row] = []
    os.environ["OMP_NUM_THREADS"] = "1"
    with contextlib.ExitStack() as stack:
        kernel = stack.enter_context(Kernel())
        kernel.ok("%load_ext nb_elastic\nimport nb_elastic, os, time, collections")
        kernel.ok(f"%%elastic_launch -n {NPROC}\n1")
        subshell = kernel.subshell()
        for name, (mode, has_flood) in CASES.items():
            what = f"{NPROC} ranks {'print at full speed' if has_flood else 'sleep'}"
            answer = Row(f"{what}: completion answered", f"nb_elastic, {name}", unit="ms")
            stop = Row(f"{what}: interrupt to stop", f"nb_elastic, {name}", unit="ms")
            for _ in range(ROUNDS):
                cell = kernel.start(f"%%elastic_launch -n {NPROC} --render {mode}\n{FLOOD.format(has_flood=has_flood)}")
                run = _started(kernel, cell, subshell)
                kernel.complete("collections.Ord", cell, subshell=subshell)  # the first one imports what completes
                size = _bytes_of(run)
                began = time.monotonic()
                answer.samples += [
                    1e3 * kernel.complete("collections.Ord", cell, subshell=subshell) for _ in range(ASKED // ROUNDS)
                ]
                speed = (_bytes_of(run) - size) / (time.monotonic() - began) / 1e6
                stop.samples.append(_interrupted(kernel, cell, run))
                tell(f"  {answer.what}: {answer.who}  {_percentiles(answer.samples)}; stop {stop.samples[-1]:.0f} ms")
            answer.note = f"{_percentiles(answer.samples)}; ranks wrote {speed:.0f} MB/s"
            rows += [answer, stop]
    return rows


def _started(kernel: Kernel, cell: Cell, subshell: str) -> Path:
    """Folder of the cell's run, once all its ranks are at work."""
    home = Path(os.environ["NB_ELASTIC_HOME"])

    def at_work() -> Path | None:
        kernel.complete("x", cell, subshell=subshell)  # it also takes in what the cell publishes
        run = max((p for p in home.iterdir() if p.is_dir()), key=lambda p: p.stat().st_ctime_ns)
        ready = [e for e in _journal(run) if e["event"] == "worker_ready"]
        is_over = any(e["event"] == "run_finished" for e in _journal(run))
        return run if len(ready) == NPROC and not is_over else None

    found = until(at_work, 120)
    assert found is not None
    return found


def _interrupted(kernel: Kernel, cell: Cell, run: Path) -> float:
    """Milliseconds from the interrupt to the run's request to stop."""
    sent_ns = time.time_ns()
    kernel.interrupt()
    kernel.wait(cell)
    asked_ns = next(e["time_ns"] for e in _journal(run) if e["event"] == "stop_requested")
    return (asked_ns - sent_ns) / 1e6


def _journal(run: Path) -> list[dict[str, Any]]:
    with contextlib.suppress(FileNotFoundError):
        return [
            json.loads(line)
            for line in (run / "journal.jsonl").read_text().splitlines(keepends=True)
            if line.endswith("\n")
        ]
    return []


def _bytes_of(run: Path) -> int:
    return sum(path.stat().st_size for path in run.rglob("stdout.log"))


def _percentiles(samples: list[float]) -> str:
    cuts = statistics.quantiles(samples, n=100, method="inclusive")
    return f"p50 {cuts[49]:.1f}, p95 {cuts[94]:.1f}, max {max(samples):.1f} ms"
