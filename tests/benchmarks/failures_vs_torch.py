"""The same failing functions through torch's own ``elastic_launch`` and through nb_elastic: what each one tells.

Runs in: a person's hands, ``python -m tests.benchmarks.failures_vs_torch [CASE...]``.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support import supervise

ROOT = Path(__file__).parents[2]

TORCH_SIDE = """
import importlib, sys, time
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

def main(target, nproc, restarts, *args):
    module, _, name = target.partition(":")
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=int(nproc), rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0",
        run_id=f"cmp{time.time_ns()}", max_restarts=int(restarts), start_method="fork", monitor_interval=0.1,
    )
    try:
        elastic_launch(config, getattr(importlib.import_module(module), name))(*args)
    except ChildFailedError as e:
        for rank, f in sorted(e.failures.items()):
            message = f.message["message"] if isinstance(f.message, dict) else f.message
            print(f"rank {rank}: exit code {f.exitcode}, at second {f.timestamp}: {' '.join(str(message).split())[:150]}")
        print("root cause named: rank", e.get_first_failure()[0])
    except BaseException as e:
        print(f"{type(e).__name__}: {str(e)[:150]}")
    else:
        print("no failure told")

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@dataclass(frozen=True)
class Case:
    """One failing program."""

    target: str
    args: tuple[str, ...] = ()
    nproc: int = 2
    restarts: int = 0
    about: str = ""


CASES = {
    "20_ms_apart": Case("tests.programs.fails_in_turn:main", ("20", "1"), about="ranks 1 and 0 fail 20 ms apart; rank 1 first"),
    "50_ms_apart": Case("tests.programs.fails_in_turn:main", ("50", "1"), about="the same with 50 ms"),
    "collective": Case("tests.programs.one_rank_raises:main", ("2",), nproc=4, about="rank 2 raises, the others wait for it"),
    "exit_text": Case("tests.programs.ends_oddly:main", ("exit_text",), about='SystemExit("no data found")'),
    "exit_0": Case("tests.programs.ends_oddly:main", ("exit_0",), about="SystemExit(0): no failure at all"),
    "os_exit": Case("tests.programs.ends_oddly:main", ("os_exit",), about="os._exit(3)"),
    "interrupt": Case("tests.programs.ends_oddly:main", ("interrupt",), about="KeyboardInterrupt, from nobody"),
    "unsayable": Case("tests.programs.ends_oddly:main", ("unsayable",), about="an exception whose __str__ raises"),
    "segv": Case("tests.programs.ends_oddly:main", ("segv",), about="a native crash"),
    "kill": Case("tests.programs.ends_oddly:main", ("kill",), about="SIGKILL, as the OOM killer sends it"),
    "restart": Case("tests.programs.first_attempt_fails:main", restarts=1, about="fails once, 1 restart, ranks out of step"),
}  # fmt: skip


def torch_tells(case: Case) -> str:
    """What ``elastic_launch`` tells, or that it hung."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "torch_side.py"
        script.write_text(TORCH_SIDE)
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "NB_ELASTIC_RUN_DIR": folder,
            "OMP_NUM_THREADS": "1",
            "TMPDIR": folder,
        }
        command = [sys.executable, str(script), case.target, str(case.nproc), str(case.restarts), *case.args]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                env=env,
                timeout=90,
                check=False,
                cwd=folder,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            return "it hung: given up after 90 s"
        return done.stdout.strip() or f"exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"


def we_tell(case: Case) -> str:
    """What nb_elastic tells."""
    done = supervise.run(case.target, *case.args, nproc=case.nproc, max_restarts=case.restarts)
    last = max((e["round"] for e in done.of("round_ended")), default=0)
    lines = []
    for f in done.failures(last):
        kind = f"{f.error_type}: " if f.error_type else ""
        where = f" at {Path(f.frames[-1].file).name}:{f.frames[-1].line}" if f.frames else ""
        note = f" [{f.followed}]" if f.followed else ""
        text = " ".join(f.message.split())[:100]
        lines.append(
            f"rank {f.rank}: exit code {f.exit_code}, at {f.time_ns % 10**11 / 1e9:.6f} s: {kind}{text}{where}{note}"
        )
    ended = [
        f"rank {e['rank']}: {e['state']}"
        for e in done.of("worker_exited")
        if e["round"] == last and e["state"] != "failed"
    ]
    root = done.end["root_rank"]
    return "\n".join([*lines, *ended, f"root cause named: rank {root}" if root is not None else done.state])


def main(names: list[str]) -> None:
    """Print both answers to each case."""
    sides: tuple[tuple[str, Callable[[Case], str]], ...] = (("torch", torch_tells), ("nb_elastic", we_tell))
    for name in names or list(CASES):
        case = CASES[name]
        print(f"\n== {name}: {case.about}")
        for side, ask in sides:
            print(f"  {side}:")
            print(textwrap.indent(ask(case), "    "), flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home, contextlib.suppress(KeyboardInterrupt):
        os.environ["NB_ELASTIC_HOME"] = home
        main(sys.argv[1:])
