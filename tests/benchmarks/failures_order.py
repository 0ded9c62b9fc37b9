"""Two ranks that fail a little apart: how often the first one is named, by nb_elastic and by ``elastic_launch``.

Runs in: ``python -m tests.benchmarks.failures order``.

Which one was first is what the ranks themselves wrote down, in nanoseconds, in their last instruction before they failed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support import supervise

GAPS_MS = (1, 5, 20, 50)
HOWS = {"raise": "an exception", "exit": "os._exit(3)", "kill": "SIGKILL"}
TARGET = "tests.programs.fails_in_turn:main"

TORCH_SIDE = """
import json, os, sys, tempfile, time
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from tests.programs.fails_in_turn import main

gap, how, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
for n in range(times):
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NB_ELASTIC_RUN_DIR"] = folder
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0",
            run_id=f"order{time.time_ns()}", max_restarts=0, start_method="fork", monitor_interval=0.1,
        )
        named = None
        try:
            elastic_launch(config, main)(gap, str(n % 2), how)
        except ChildFailedError as e:
            named = e.get_first_failure()[0]
        moments = [int.from_bytes(open(f"{folder}/start-0-{r}", "rb").read(8), "little") for r in range(2)]
        print("@@" + json.dumps([named, moments]), flush=True)
"""


@dataclass(frozen=True)
class Trial:
    """One time that both failed: the rank that was named first, and when each rank failed (0 if it never came to it)."""

    named: int | None
    moments_ns: Sequence[int]

    @property
    def first(self) -> int:
        """The rank that really failed first."""
        came = [(at, rank) for rank, at in enumerate(self.moments_ns) if at]
        return min(came)[1] if came else -1

    @property
    def gap_ms(self) -> float:
        """Milliseconds between both; infinite if the second was ended before it failed."""
        a, b = self.moments_ns
        return abs(a - b) / 1e6 if a and b else float("inf")


def ours(gap_ms: int, how: str, times: int) -> list[Trial]:
    """One run of nb_elastic with a restart after each failure."""
    with supervise.start(supervise.entry(TARGET, str(gap_ms), "turn", how), nproc=2, max_restarts=times - 1) as one:
        one.wait(60 + 20 * times)
    trials = []
    for n in range(times):
        failures = one.failures(n)
        files = [one.run.path / f"start-{n}-{rank}" for rank in range(2)]
        moments = [int.from_bytes(f.read_bytes()[:8], "little") for f in files]
        trials.append(Trial(failures[0].rank if failures else None, moments))
    return trials


def torchs(gap_ms: int, how: str, times: int) -> list[Trial]:
    """As many launches of ``elastic_launch``: it tells nothing of attempts before the last."""
    with tempfile.TemporaryDirectory(prefix="nbe-") as folder:
        script = Path(folder) / "torch_side.py"
        script.write_text(TORCH_SIDE)
        env = {**os.environ, "PYTHONPATH": str(supervise.ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": folder}
        done = subprocess.run(
            [sys.executable, str(script), str(gap_ms), how, str(times)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env, cwd=folder, timeout=60 + 20 * times, check=False,
        )  # fmt: skip
    return [Trial(*json.loads(line[2:])) for line in done.stdout.splitlines() if line.startswith("@@")]


def right(trials: Sequence[Trial]) -> int:
    """How often the first one was named."""
    return sum(t.named == t.first for t in trials)


def main(times: int) -> int:
    """Print the table; 0 if we named the first one each time."""
    is_good = True
    print(f"the rank named first is the one that failed first, of {times} times; the smallest real gap in brackets")
    print(f"{'they end by':<16}{'planned gap':<14}{'nb_elastic':<24}elastic_launch")
    for how, words in HOWS.items():
        for gap in GAPS_MS:
            cells = []
            for ask in (ours, torchs):
                trials = ask(gap, how, times)
                nearest = min((t.gap_ms for t in trials), default=float("inf"))
                cells.append(f"{right(trials)} of {len(trials)} ({nearest:.2f} ms)")
                is_good = is_good and (ask is torchs or right(trials) == times)
            print(f"{words:<16}{f'{gap} ms':<14}{cells[0]:<24}{cells[1]}", flush=True)
    return 0 if is_good else 1
