"""How faults are drawn: which, when, to whom and how hard.

Runs in: the chaos test.
"""

from __future__ import annotations

import random
import signal
from dataclasses import replace

from tests.chaos.scene import Fault

STAGES = (
    "sent", "sent", "run_created", "supervisor_started", "rendezvous_started", "worker_started", "worker_ready",
    "line", "line", "line", "worker_exited", "round_ended",
)  # fmt: skip
"""Moments to wait for: of the cell, of the journal, or the first line of a rank; often the run is in full swing."""


WEIGHTS = (
    ("rank", 6),
    ("interrupt", 5),
    ("supervisor", 3),
    ("forkserver", 2),
    ("launcher", 2),
    ("standby", 2),
    ("starter", 2),
    ("rank stops", 3),
    ("supervisor stops", 2),
    ("starter stops", 1),
    ("forkserver stops", 1),
    ("launcher stops", 1),
    ("rank child", 1),
    ("stop", 2),
    ("stacks", 2),
    ("attach", 1),
    ("disk", 2),
    ("delete", 1),
    ("limit files", 1),
    ("limit size", 1),
    ("clock", 2),
    ("slow", 2),
)
"""Each kind with how often it is drawn."""


def draw(rng: random.Random, nproc: int, *, only: str = "", may_end: bool = True) -> Fault:
    """Draw one.

    Args:
        may_end: the run may end by itself, so that there will be moments after that.
    """
    kind = only or rng.choices([k for k, _ in WEIGHTS], [w for _, w in WEIGHTS])[0]
    fault = Fault(
        kind=kind,
        stage=rng.choice(STAGES if may_end else STAGES[:-2]),
        after_s=rng.choice([0.0, rng.uniform(0, 0.05), rng.uniform(0, 0.5), rng.uniform(0, 1.5)]),
        rank=rng.randrange(nproc),
    )
    deadly = [signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM]
    if kind == "rank":
        return replace(fault, number=rng.choice([*deadly, signal.SIGABRT, signal.SIGINT]))
    if kind in {"rank child", "launcher", "standby", "forkserver", "supervisor"}:
        return replace(fault, number=rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV]))
    if kind == "starter":
        return replace(fault, number=rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM]))
    if kind.endswith(" stops"):
        may_last = kind in {"rank stops", "forkserver stops", "supervisor stops"}
        lasts = -1 if may_last and rng.random() < 0.3 else rng.uniform(0, 2)
        return replace(fault, number=signal.SIGSTOP, again_s=lasts)
    if kind == "interrupt":
        return replace(fault, again_s=rng.choice([-1, -1, rng.uniform(0, 0.5), rng.uniform(0, 3)]))
    if kind == "stop":
        return replace(fault, amount=rng.choice([0, 1, 5]))
    if kind == "disk":
        return replace(fault, again_s=rng.choice([-1, rng.uniform(0, 2)]))
    if kind == "limit files":
        return replace(fault, stage=rng.choice(["before", fault.stage]), amount=rng.choice([0, 3, 10, 30]))
    if kind == "limit size":
        return replace(fault, stage=rng.choice(["before", fault.stage]), amount=rng.choice([0, 4096, 100_000]))
    if kind == "clock":
        return replace(fault, amount=rng.choice([-86_400, -3600, -1, 1, 130, 3600, 30 * 86_400]))
    if kind == "slow":
        return replace(fault, amount=rng.choice([0.001, 0.005, 0.02]), again_s=rng.uniform(0.2, 3))
    return fault
