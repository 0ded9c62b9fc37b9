"""What the ranks of an episode run: cells whose end, results and lines are known beforehand.

Runs in: the chaos test.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

HEAD = (
    "import os, signal, subprocess, sys, time\nrank, world = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])\n"
)
CHILD_S = 7654
"""Children of ranks sleep so long: their command line tells them, too, where their environment does not."""

MANY = "for k in range({n}):\n    print('line', k, flush=True)\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """One way a run may end.

    Attributes:
        state: final state of the run.
        root: rank of the root cause, or None where no rank need be named.
        how: name of the signal or of the error that ended it, or "" where any will do.
        says: a piece of the run's own account that must be there, or "".
    """

    state: str
    root: int | None = None
    how: str = ""
    says: str = ""


SUCCESS = End(state="succeeded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A cell's body and what is known of it.

    Attributes:
        body: source, without the magic's line.
        ends: how it ends when nobody does anything to it; empty for one that never does.
        lines: numbered lines that each rank has printed when it ends well.
        value: makes a rank's return value from (rank, world size), JSON-ready; None where there is none.
        look: expression that makes ``v``, a return value, JSON-ready.
        seconds: about how long it takes by itself.
        is_deaf: ranks ignore every signal they can.
        needs_peers: ranks that lose one fail, too.
        restarts: how many it needs itself.
        has_loaders: ranks have DataLoader workers.
    """

    name: str
    body: str
    ends: tuple[End, ...] = (SUCCESS,)
    lines: int = 0
    value: Callable[[int, int], object] | None = None
    look: str = "v"
    seconds: float = 0.5
    is_deaf: bool = False
    needs_peers: bool = False
    restarts: int = 0
    has_loaders: bool = False


Maker = Callable[[random.Random, int], Program]
"""Draws one of a kind; the int is the number of ranks."""


def quick(rng: random.Random, nproc: int) -> Program:
    """Return at once."""
    number = rng.randrange(1000)
    return Program(
        name="quick",
        body=f"{HEAD}print('line 0')\nrank * 7 + {number}",
        lines=1,
        value=lambda rank, world: rank * 7 + number,
    )


def prints(rng: random.Random, nproc: int) -> Program:
    """Print thousands of lines as fast as it goes."""
    n = rng.choice([500, 3000, 20_000])
    return Program(
        name="prints", body=f"{HEAD}{MANY.format(n=n)}{n}", lines=n, value=lambda rank, world: n, seconds=1 + n / 10_000
    )


def reduces(rng: random.Random, nproc: int) -> Program:
    """Sum over all ranks, step by step."""
    steps = rng.choice([20, 100, 200])
    body = (
        f"{HEAD}import torch, torch.distributed as dist\ndist.init_process_group('gloo')\ntotal = 0\n"
        f"for k in range({steps}):\n    x = torch.ones(8)\n    dist.all_reduce(x)\n    total += int(x[0])\n"
        "    print('line', k, flush=True)\n    time.sleep(0.01)\ndist.destroy_process_group()\ntotal"
    )
    return Program(
        name="reduces",
        body=body,
        lines=steps,
        value=lambda rank, world: steps * world,
        seconds=1 + steps * 0.02,
        needs_peers=True,
    )


def reports(rng: random.Random, nproc: int) -> Program:
    """Tell steps and a loss, one after the other."""
    steps = rng.choice([50, 300])
    body = (
        f"{HEAD}from nb_elastic import report\nfor k in range({steps}):\n    report(step=k, total={steps}, loss=1 / (k + 1))\n"
        f"    print('line', k, flush=True)\n    time.sleep(0.005)\n{{'steps': {steps}, 'rank': rank}}"
    )
    return Program(
        name="reports",
        body=body,
        lines=steps,
        value=lambda rank, world: {"steps": steps, "rank": rank},
        seconds=0.5 + steps * 0.007,
    )


def returns(rng: random.Random, nproc: int) -> Program:
    """Return an array of some size."""
    size = rng.choice([1_000, 200_000])
    return Program(
        name="returns",
        body=f"{HEAD}import numpy\nprint('line 0')\nnumpy.arange({size}) * (rank + 1)",
        lines=1,
        value=lambda rank, world: [size, size * (size - 1) // 2 * (rank + 1)],
        look="[len(v), int(v.sum())]",
        seconds=1.0,
    )


def sleeps(rng: random.Random, nproc: int) -> Program:
    """Wait for ever in Python."""
    return Program(name="sleeps", body=f"{HEAD}print('line 0', flush=True)\nwhile True:\n    time.sleep(60)", ends=())


def deaf(rng: random.Random, nproc: int) -> Program:
    """Ignore every signal, and have deaf children in other sessions."""
    body = (
        f"{HEAD}for number in signal.valid_signals() - {{signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}}:\n"
        "    try:\n        signal.signal(number, signal.SIG_IGN)\n    except (OSError, ValueError):\n        pass\n"
        f"subprocess.Popen(['setsid', 'sleep', '{CHILD_S}'])\nsubprocess.run(['sh', '-c', 'setsid sleep {CHILD_S} & exit 0'])\n"
        "print('line 0', flush=True)\nwhile True:\n    time.sleep(60)"
    )
    return Program(name="deaf", body=body, ends=(), is_deaf=True)


def saves(rng: random.Random, nproc: int) -> Program:
    """Wait for ever, and take a while to save when interrupted."""
    body = (
        f"{HEAD}print('line 0', flush=True)\ntry:\n    while True:\n        time.sleep(60)\n"
        "finally:\n    time.sleep(0.7)\n    print('saved', flush=True)"
    )
    return Program(name="saves", body=body, ends=())


def waits(rng: random.Random, nproc: int) -> Program:
    """Wait in a collective for a rank that never comes."""
    body = (
        f"{HEAD}import torch, torch.distributed as dist\ndist.init_process_group('gloo')\nprint('line 0', flush=True)\n"
        "if rank == 0:\n    time.sleep(7000)\ndist.all_reduce(torch.ones(2))"
    )
    return Program(name="waits", body=body, ends=(), needs_peers=True, seconds=1.5)


def fails(rng: random.Random, nproc: int) -> Program:
    """One rank raises, the others go on for ever."""
    who, after_s = rng.randrange(nproc), rng.choice([0, 0.3])
    body = (
        f"{HEAD}print('line 0', flush=True)\nif rank == {who}:\n    time.sleep({after_s})\n    raise ValueError(f'no {{rank}}')\n"
        "time.sleep(7000)"
    )
    return Program(name="fails", body=body, ends=(End(state="failed", root=who, how="ValueError"),))


def fails_once(rng: random.Random, nproc: int) -> Program:
    """One rank raises in the first attempt only; needs a restart."""
    who = rng.randrange(nproc)
    body = (
        f"{HEAD}print('line 0', flush=True)\nif rank == {who} and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':\n"
        "    raise ValueError('once')\nrank + 1"
    )
    return Program(name="fails_once", body=body, lines=1, value=lambda rank, world: rank + 1, seconds=1.0, restarts=1)


def crashes(rng: random.Random, nproc: int) -> Program:
    """One rank dies in native code, or leaves without a word."""
    who = rng.randrange(nproc)
    how, code = rng.choice(
        [
            ("SIGSEGV", "import ctypes; ctypes.string_at(0)"),
            ("SIGABRT", "os.abort()"),
            ("SIGKILL", "os.kill(os.getpid(), signal.SIGKILL)"),
            ("exit 4", "os._exit(4)"),
            ("exit 3", "sys.exit(3)"),
        ]
    )
    body = f"{HEAD}print('line 0', flush=True)\nif rank == {who}:\n    {code}\ntime.sleep(7000)"
    return Program(name=f"crashes ({how})", body=body, ends=(End(state="failed", root=who, how=how),))


def leaves(rng: random.Random, nproc: int) -> Program:
    """Return while children of every kind live on."""
    body = (
        f"{HEAD}subprocess.Popen(['sleep', '{CHILD_S}'])\nsubprocess.Popen(['setsid', 'sleep', '{CHILD_S}'])\n"
        f"subprocess.run(['sh', '-c', 'setsid sleep {CHILD_S} & exit 0'])\nprint('line 0', flush=True)\ntime.sleep(0.2)\nrank"
    )
    return Program(name="leaves", body=body, lines=1, value=lambda rank, world: rank, seconds=1.0)


def shares(rng: random.Random, nproc: int) -> Program:
    """Load data in processes of its own, over shared memory."""
    body = (
        f"{HEAD}import torch\nfrom torch.utils.data import DataLoader, TensorDataset\n"
        "loader = DataLoader(TensorDataset(torch.arange(400.)), batch_size=10, num_workers=2)\ntotal = 0\n"
        "for k, (batch,) in enumerate(loader):\n    total += int(batch.sum())\n    print('line', k, flush=True)\n    time.sleep(0.02)\ntotal"
    )
    return Program(name="shares", body=body, lines=40, value=lambda rank, world: 79_800, seconds=3.0, has_loaders=True)


def keeps_memory(rng: random.Random, nproc: int) -> Program:
    """Hold a block of shared memory that Python's tracker frees when the rank does not."""
    body = (
        f"{HEAD}from multiprocessing import resource_tracker\nfrom multiprocessing.shared_memory import SharedMemory\n"
        "resource_tracker.ensure_running()  # else the block is there before its tracker, and may stay\nblock = SharedMemory(create=True, size=1 << 20)\n"
        "print('line 0', flush=True)\nwhile True:\n    time.sleep(60)"
    )
    return Program(name="keeps_memory", body=body, ends=())


def eats(rng: random.Random, nproc: int) -> Program:
    """One rank asks for more memory than it may have."""
    who = rng.randrange(nproc)
    body = (
        f"{HEAD}import resource\nprint('line 0', flush=True)\nif rank == {who}:\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))\n    x = bytearray(16 << 30)\ntime.sleep(7000)"
    )
    return Program(name="eats", body=body, ends=(End(state="failed", root=who, how="MemoryError"),))


KINDS: tuple[tuple[Maker, int], ...] = (
    (quick, 4),
    (prints, 3),
    (reduces, 4),
    (reports, 3),
    (returns, 2),
    (sleeps, 4),
    (deaf, 3),
    (saves, 2),
    (waits, 2),
    (fails, 3),
    (crashes, 3),
    (leaves, 2),
    (shares, 2),
    (keeps_memory, 1),
    (eats, 1),
)
"""Each kind with how often it is drawn."""
