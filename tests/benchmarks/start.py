"""What `import nb_elastic` and `%load_ext nb_elastic` cost a notebook: time, and memory of the kernel and the launcher.

Runs in: the benchmarks.

Times are those of the statement itself, in a fresh interpreter and in a fresh kernel that has run one cell. The kernel's
memory is what no other process shares (USS), before `%load_ext` and once it is idle again. The launcher's is taken after
five idle seconds, all of its pages in memory (RSS), beyond those of a process that only imported torch. PSS would not do: it
shrinks with every fork, and with every other process on the machine that has torch loaded. A last row adds what the
launcher's forks hold of their own, each page once.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from nb_elastic.lifeline import descendants
from tests.benchmarks.launches import IMPORT_TORCH, Notebook
from tests.benchmarks.table import Row, at_most, more_at_most, take_turns
from tests.support import proc
from tests.support.proc import Memory

ROUNDS = 7
MEMORY_ROUNDS = 3
IDLE_S = 5.0
MB = 1e6
TIMED = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
LOAD = "get_ipython().run_line_magic('load_ext', 'nb_elastic')"


def in_python(statement: str) -> float:
    """Milliseconds that a statement takes in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", TIMED.format(statement)], capture_output=True, text=True, check=True)
    return float(done.stdout) * 1e3


def load(notebook: Notebook) -> float:
    """Milliseconds that `%load_ext` takes."""
    return float(notebook.kernel.ok(TIMED.format(LOAD)).stdout) * 1e3


def settled(kernel_pid: int) -> tuple[int, int | None]:
    """The kernel's own memory and its launcher's pid, after the idle seconds."""
    time.sleep(IDLE_S)
    return Memory.of(kernel_pid).own, proc.launcher_of(kernel_pid)


def alone(pid: int) -> float:
    """Memory of a process, shared or not, in MB."""
    return Memory.of(pid).resident / MB


def family(pid: int) -> float:
    """Memory of a process and of what its forks hold beside it, in MB."""
    return (Memory.of(pid).files + proc.family_anonymous(pid)) / MB


def of_torch_alone() -> float:
    """MB of a process that has imported torch and sleeps."""
    code = f"{IMPORT_TORCH}, sys, time; print('up', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        try:
            return alone(process.pid)
        finally:
            process.stdin.close()


def measure(tell: Callable[[str], None]) -> list[Row]:
    """Fill the rows."""
    python, kernel = "import in a fresh Python", "%load_ext in a fresh kernel"
    rows = [
        Row(python, "torch, to compare", unit="ms", is_reference=True), Row(python, "nb_elastic", unit="ms"),
        Row(kernel, "nb_elastic", unit="ms"),
    ]  # fmt: skip
    for row in rows[1:]:
        at_most(row, 60.0)

    def in_kernel() -> float:
        with Notebook(is_loaded=False) as notebook:
            notebook.kernel.ok(TIMED.format("pass"))
            return load(notebook)

    measures = [lambda: in_python("import torch"), lambda: in_python("import nb_elastic"), in_kernel]
    take_turns(ROUNDS, rows, measures, tell)
    return [*rows, *_memory(tell)]


def _memory(tell: Callable[[str], None]) -> list[Row]:
    grown = Row("memory that %load_ext adds to the kernel", "nb_elastic", unit="MB")
    at_most(grown, 5.0)
    what = "memory of an idle launcher"
    torch_row = Row(what, f"python -c '{IMPORT_TORCH}'", unit="MB", is_reference=True)
    launcher = Row(what, "nb_elastic:launcher", unit="MB")
    forked = Row(what, "nb_elastic:launcher and its forks", unit="MB")
    more_at_most(launcher, 30.0, torch_row, "MB beyond torch's import")
    forks: list[int] = []

    def look() -> None:
        with Notebook(is_loaded=False) as notebook:
            pid = notebook.kernel.pid
            notebook.kernel.ok(TIMED.format("pass"))
            before = Memory.of(pid).own
            load(notebook)
            after, launcher_pid = settled(pid)
            grown.samples.append((after - before) / MB)
            if launcher_pid is not None:
                launcher.samples.append(alone(launcher_pid))
                forked.samples.append(family(launcher_pid))
                forks.append(len(descendants(launcher_pid)))

    for _ in range(MEMORY_ROUNDS):
        torch_row.samples.append(of_torch_alone())
        look()
    forked.note = f"{statistics.median(forks):g} forks" if forks else ""
    launcher.note = "" if forks else "no launcher"
    tell(f"  %load_ext adds {grown.median:.2f} MB to the kernel; launcher: {launcher.samples or 'no launcher'}")
    return [grown, torch_row, launcher, forked]
