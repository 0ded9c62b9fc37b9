"""Runs programs that hang, from one warm launcher, and hands over where their ranks stand.

Runs in: the tests.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from nb_elastic import rundir
from nb_elastic.events import Event
from nb_elastic.model import StackReport, from_json
from nb_elastic.rundir import JournalReader, RunDir
from tests.support.kernel import Kernel
from tests.support.until import until

HANGING = Path(__file__).parents[1] / "programs" / "hanging"


def events(run: RunDir, *kinds: str) -> list[Event]:
    """What the journal says of these kinds."""
    return [e for e in JournalReader(run.journal).read() if e.kind in kinds]


@contextlib.contextmanager
def launched(kernel: Kernel, flags: str, target: str, *, nproc: int = 3, name: str = "r") -> Iterator[RunDir]:
    """A detached run of a program, ended at the end; the kernel has ``nb_elastic`` loaded.

    Args:
        name: of the notebook's variable for it.
    """
    kernel.ok(f"%elastic_launch --detach --out {name} --nproc {nproc} {flags} {target}")
    run = RunDir(Path(kernel.ok(f"print({name}.dir)").stdout.strip()))
    try:
        until(lambda: len(events(run, "worker_ready")) == nproc or events(run, "run_finished"), 60)
        yield run
    finally:
        kernel.run(f"{name}.stop(0)\n{name}.wait(30)")


def all_said(run: RunDir, word: str = "ready", *, nproc: int = 3) -> bool:
    """True once every rank has printed a word."""
    return all(word.encode() in rundir.read_whole(run.rank(0, r).stdout) for r in range(nproc))


def hang_of(run: RunDir, timeout_s: float = 60.0) -> StackReport:
    """Wait until the watch tells that the run hangs."""
    (found, *_) = until(lambda: events(run, "hang_found"), timeout_s, "hang_found")
    return report_of(found)


def report_of(event: Event) -> StackReport:
    """What an event tells of where the ranks stand."""
    return from_json(StackReport, event["report"])


def command(*words: str) -> str:
    """What ``nb-elastic`` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "nb_elastic", *words], capture_output=True, text=True, timeout=60, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    return done.stdout
