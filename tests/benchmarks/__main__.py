"""Runs the benchmarks and prints one table.

Runs in: `make bench`; `make bench ARGS='lines capture'` runs some of them.

Figures from two shared cores wander: read ratios, taken in the same run, not seconds.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.table import Row, render, verdicts

ALL = (
    "start",
    "first_launch",
    "first_line",
    "path",
    "many",
    "preload",
    "capture",
    "killed",
    "interrupt",
    "lines",
    "answers",
)


def main(chosen: list[str]) -> int:
    """Run what was chosen, or all; 0 if everything could be measured and was reached."""
    if unknown := sorted(set(chosen) - set(ALL)):
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(ALL)}", file=sys.stderr)
        return 2
    home = Path(tempfile.mkdtemp(prefix="nbe-"))
    os.environ["NB_ELASTIC_HOME"] = str(home)
    os.environ["OMP_NUM_THREADS"] = "1"
    rows: list[Row] = []
    failed = 0
    try:
        for name in chosen or ALL:
            print(name, flush=True)
            try:
                rows += importlib.import_module(f"tests.benchmarks.{name}").measure(
                    lambda text: print(text, flush=True)
                )
            except Exception as e:  # the others are still worth their figures
                failed += 1
                print(f"  {name} failed: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    judged = verdicts(rows)
    reached = sum(reach.is_measured and reach.is_reached for reach in judged)
    print(f"\n{render(rows)}\n{reached} of {len(judged)} figures reached")
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; Python {sys.version.split()[0]}")
    return 1 if failed or reached < len(judged) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
