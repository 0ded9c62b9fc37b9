"""How long `import nb_elastic` and `%load_ext nb_elastic` hold a notebook up.

Runs in: the benchmarks.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from tests.benchmarks.table import Row, take_turns
from tests.support.kernel import Kernel

ROUNDS = 7
TIMED = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


def in_python(statement: str) -> float:
    """Seconds that a statement takes in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", TIMED.format(statement)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def in_kernel(statement: str) -> float:
    """Seconds that a statement takes as the first cell of a fresh kernel."""
    with Kernel() as kernel:
        return float(kernel.ok(TIMED.format(statement)).stdout)


def measure(tell: Callable[[str], None]) -> list[Row]:
    """Fill the rows."""
    rows = [
        Row("import in a fresh Python", "nb_elastic"),
        Row("import in a fresh Python", "torch, to compare", is_reference=True),
        Row("%load_ext in a fresh kernel", "nb_elastic"),
    ]
    measures = [
        lambda: in_python("import nb_elastic"),
        lambda: in_python("import torch"),
        lambda: in_kernel("get_ipython().run_line_magic('load_ext', 'nb_elastic')"),
    ]
    take_turns(ROUNDS, rows, measures, tell)
    return rows
