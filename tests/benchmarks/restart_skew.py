"""A program that fails once, restarted with its ranks out of step: how often does the next attempt work?

Runs in: the benchmarks, by itself: ``python -m tests.benchmarks.restart_skew [TIMES] [TIMES_OF_TORCHRUN]``. Both are given the
same program, ``--max-restarts 2``, and the same skews: in each attempt one rank is up to a second later than the other.
"""

from __future__ import annotations

import collections
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from nb_elastic.lifeline import ProcessId, descendants
from tests.support import supervise

PROGRAM = supervise.PROGRAMS / "fails_once_out_of_step.py"
PATIENCE_S = 60.0
"""A run takes about five seconds; torchrun's own limits are minutes."""

OUTCOMES = ("next attempt", "later attempt", "failed", "hung")


def skews(times: int) -> list[str]:
    """Seconds that rank 1 (or, negative, rank 0) is late in each of three attempts; the same in every run of this script."""
    dice = random.Random(2)
    return [",".join(f"{dice.choice((-1, 1)) * dice.uniform(0.3, 1):.2f}" for _ in range(3)) for _ in range(times)]


def by_torchrun(skew: str) -> str:
    """Outcome under plain torchrun."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "--max-restarts=2",
        str(PROGRAM),
    ]
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            command, env={**os.environ, "RESTART_SKEW_S": skew, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            code: int | None = process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            code = None
        for pid in [*descendants(process.pid), process.pid] if code is None else []:
            if found := ProcessId.of(pid):
                found.signal(signal.SIGKILL)
        process.wait()
        out.seek(0)
        return outcome(code, out.read().decode(errors="replace"))


def by_us(skew: str) -> str:
    """Outcome under nb_elastic: a real supervisor."""
    with supervise.start(supervise.entry(PROGRAM.name), nproc=2, max_restarts=2, env={"RESTART_SKEW_S": skew}) as one:
        try:
            code: int | None = one.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            code = None
        text = "".join(folder.stdout.read_text() for *_, local, folder in one.run.ranks() if local == 0)
    return outcome(code, text)


def outcome(code: int | None, text: str) -> str:
    """What became of a run."""
    if code is None:
        return "hung"
    if code != 0:
        return "failed"
    return "next attempt" if "done in attempt 1" in text else "later attempt"


def main(times: int, times_of_torchrun: int) -> None:
    """Run, and print the table."""
    os.environ["NB_ELASTIC_HOME"] = home = tempfile.mkdtemp(prefix="nbe-")
    rows: dict[str, tuple[collections.Counter[str], float]] = {}
    try:
        for who, run, count in (
            ("nb_elastic", by_us, times),
            ("torchrun --standalone", by_torchrun, times_of_torchrun),
        ):
            counts: collections.Counter[str] = collections.Counter()
            started = time.monotonic()
            for number, skew in enumerate(skews(count), 1):
                result = run(skew)
                counts[result] += 1
                print(f"  {number}/{count}  {who}  late by {skew} s: {result}", flush=True)
            rows[who] = counts, (time.monotonic() - started) / max(1, count)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print(
        f"\n{'fails once, ranks up to 1 s out of step':40} {'runs':>5}"
        + "".join(f"{name:>15}" for name in OUTCOMES)
        + f"{'s a run':>9}"
    )
    for who, (counts, seconds) in rows.items():
        print(
            f"{who:40} {sum(counts.values()):5d}"
            + "".join(f"{counts[name]:15d}" for name in OUTCOMES)
            + f"{seconds:9.1f}"
        )


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]]
    main(given[0] if given else 20, given[1] if len(given) > 1 else 3)
