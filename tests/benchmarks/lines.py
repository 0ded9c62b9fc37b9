"""Four ranks print 50,000 lines each: how long, and how many lines are on disk afterwards.

Runs in: the benchmarks.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.benchmarks.table import Row, take_turns
from tests.support.kernel import Kernel

NPROC = 4
LINES = 50_000
ROUNDS = 5
CHATTY = f"""
def chatty():
    import os
    rank = os.environ["RANK"]
    for i in range({LINES}):
        print(f"rank {{rank}} step {{i}} loss {{i * 0.001:.6f}} some more words to make a usual line of text")
"""


def whole_lines(files: Iterable[Path]) -> int:
    """Lines of the program that stand in the files unharmed."""
    return sum(line.endswith(b"usual line of text") for file in files for line in file.read_bytes().splitlines())


def measure(tell: Callable[[str], None]) -> list[Row]:
    """Fill the rows."""
    what = f"{NPROC} ranks x {LINES:,} printed lines, to the end"
    rows = [
        Row(what, "torchrun --redirects 3 (files only)", is_reference=True),
        Row(what, "nb_elastic (files and notebook)"),
    ]
    os.environ["OMP_NUM_THREADS"] = "1"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nbe-")))
        script = folder / "chatty.py"
        script.write_text(CHATTY + "\nchatty()\n")
        kernel = stack.enter_context(Kernel())
        kernel.ok("%load_ext nb_elastic\nimport nb_elastic")
        kernel.ok(CHATTY)
        kernel.ok(f"%%elastic_launch --nproc {NPROC}\n1")

        def by_torchrun() -> float:
            logs = Path(tempfile.mkdtemp(dir=folder))
            command = [
                sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={NPROC}", "--redirects", "3",
                "--log-dir", str(logs), str(script),
            ]  # fmt: skip
            started = time.monotonic()
            subprocess.run(command, check=True, capture_output=True)
            seconds = time.monotonic() - started
            rows[0].note = f"{whole_lines(logs.rglob('stdout.log')):,} whole lines on disk"
            return seconds

        def by_cell() -> float:
            cell = kernel.ok(f"%%elastic_launch --nproc {NPROC}\nchatty()")
            run_dir = Path(kernel.ok("print(nb_elastic.last_run().dir)").stdout.strip())
            on_disk = whole_lines(run_dir.rglob("stdout.log"))
            rows[1].note = f"{on_disk:,} whole lines on disk; {len(cell.messages)} messages to the notebook"
            return cell.seconds

        take_turns(ROUNDS, rows, [by_torchrun, by_cell], tell)
    return rows
