"""Runs a failing program through a supervisor of ours, or through torch's own ``elastic_launch``, and reads what is told.

Runs in: the tests and benchmarks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nb_elastic import cell, killing, payload, report_failure, rundir, snapshot
from nb_elastic.events import decode
from nb_elastic.model import Entrypoint, FailureCategory, WorkerFailure
from nb_elastic.snapshot import RunSnapshot
from nb_elastic.supervisor import addresses, failures_verdict, failures_words, forkserver
from tests.programs.failing import loading
from tests.support import supervise
from tests.support.corpus import Case
from tests.support.corpus_places import place

RUN_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Told:
    """What somebody tells of a failed program.

    Attributes:
        kind: the category, or None where nothing is told of one (or of a failure at all).
        root: the rank named as the first to fail, or None.
        text: the whole report.
        reasons: why it is of this kind, a sentence each.
    """

    kind: FailureCategory | None
    root: int | None
    text: str
    reasons: tuple[str, ...] = ()


def ours(case: Case) -> Told:
    """What nb_elastic tells."""
    with tempfile.TemporaryDirectory(prefix="nbe-") as folder, place(case.place, Path(folder)) as where:
        entry, more = _entry(case, Path(folder))
        env = {**where.env, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        try:
            done = supervise.run(
                entry, nproc=case.nproc, env=env, prefix=where.prefix, timeout_s=RUN_S, **more, **_options(case)
            )
        finally:
            if (fd := more.get("buffers_fd", -1)) >= 0:
                os.close(fd)
    last = folded(done.run)
    kind = FailureCategory(last.category) if last.category else None
    is_rank = last.root is not None and not last.root.followed
    return Told(
        kind=kind,
        root=last.root_rank if is_rank else None,
        text=report_failure.failure_text(last, folder=done.run),
        reasons=last.reasons,
    )


def folded(run: rundir.RunDir) -> RunSnapshot:
    """A run's last state, from its folder alone."""
    state = snapshot.EMPTY
    for event in filter(None, map(decode, run.journal.read_bytes().splitlines())):
        state = snapshot.fold(state, event)
    return state


def _options(case: Case) -> dict[str, Any]:
    with addresses.listen("127.0.0.1") as free:
        port = str(free.getsockname()[1])
    return {k: v.replace("{port}", port) if isinstance(v, str) else v for k, v in case.options.items()}


def _entry(case: Case, folder: Path) -> tuple[Entrypoint, dict[str, Any]]:
    if not case.target.startswith("cell:"):
        return supervise.entry(case.target, *case.args), {}
    names: dict[str, Any] = {"__name__": "__main__", "use": loading.use, "thing": loading.ExplodesOnLoad()}
    code = cell.analyze(case.target.removeprefix("cell:"), label="Cell In[2]")
    path = folder / "payload.pkl"
    fd = payload.write(payload.dump_cell(code, names, sources={}, labels={}), path)
    return Entrypoint(kind="cell", target="Cell In[2]"), {"payload": str(path), "buffers_fd": fd}


# -- torch -------------------------------------------------------------------------------------

TORCH_SIDE = """
import importlib, json, sys, time
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

def main(target, nproc, options, *args):
    options = json.loads(options)
    if target.startswith("!"):
        entry = target[1:]
    elif target.endswith(".py"):
        entry, args = sys.executable, (target, *args)
    else:
        module, _, name = target.partition(":")
        entry = getattr(importlib.import_module(module), name)
    config = LaunchConfig(
        min_nodes=int(options.get("nnodes", "1")), max_nodes=int(options.get("nnodes", "1")), nproc_per_node=int(nproc),
        rdzv_backend="c10d", rdzv_endpoint=options.get("rdzv_endpoint", "127.0.0.1:0"), run_id=f"cmp{time.time_ns()}",
        rdzv_configs=options.get("rdzv_conf", {}), max_restarts=int(options.get("max_restarts", 0)),
        start_method="fork", monitor_interval=0.1,
    )
    told = {"failures": {}, "root": None, "text": "", "ok": False}
    try:
        elastic_launch(config, entry)(*args)
        told["ok"] = True
    except ChildFailedError as e:
        told["text"] = str(e)
        told["root"] = e.get_first_failure()[0]
        for rank, f in e.failures.items():
            message = f.message
            told["failures"][rank] = [f.exitcode, message["message"] if isinstance(message, dict) else str(message)]
    except BaseException as e:
        told["text"] = f"{type(e).__name__}: {e}"
    print("@@" + json.dumps(told), flush=True)

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


def torchs(case: Case, *, limit_s: float = 45.0) -> Told:
    """What plain ``elastic_launch`` (start method fork) tells of the same program, read with the same patterns."""
    if case.target.startswith("cell:"):
        return Told(kind=None, root=None, text="it takes no cells")
    with tempfile.TemporaryDirectory(prefix="nbe-") as name, place(case.place, Path(name)) as where:
        folder = Path(name)
        (folder / "torch_side.py").write_text(TORCH_SIDE)
        target = str(supervise.PROGRAMS / case.target) if case.target.endswith(".py") else case.target
        env = {
            **os.environ, **where.env, "PYTHONPATH": str(supervise.ROOT), "NB_ELASTIC_RUN_DIR": name, "TMPDIR": name,
            "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }  # fmt: skip
        command = [
            *where.prefix, sys.executable, str(folder / "torch_side.py"), target, str(case.nproc), json.dumps(_options(case)), *case.args,
        ]  # fmt: skip
        out = _run(command, env, folder, limit_s)
    line = next((line for line in out.splitlines() if line.startswith("@@")), "")
    if not line:
        return Told(kind=None, root=None, text=out or f"it hung: given up after {limit_s:g} s")
    return _read(json.loads(line[2:]))


def _run(command: list[str], env: Mapping[str, str], folder: Path, limit_s: float) -> str:
    """Run in a session of its own, and end that session whatever happens."""
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env, cwd=folder, start_new_session=True)
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return ""
        finally:
            members = forkserver.session_members({process.pid})
            killing.kill_pids([process.pid, *members], 9)
            process.wait()
    return (folder / "out").read_text(errors="replace")


def _read(told: Mapping[str, Any]) -> Told:
    """The rank that torch names, and the category that its message lets a reader conclude."""
    if told["root"] is None:
        kind = None if told["ok"] else _kind_of_text(told["text"])
        return Told(kind=kind, root=None, text=told["text"])
    code, message = told["failures"][str(told["root"])]
    name, _, text = message.partition(": ")
    is_typed = name.isidentifier()
    is_signal = isinstance(code, int) and code < 0
    failure = WorkerFailure(
        rank=told["root"], local_rank=told["root"], round=0, time_ns=1, exit_code=code,
        signal=failures_words.signal_name(code) if is_signal else "",
        error_type=name if is_typed and not is_signal else "", message=text if is_typed else message,
    )  # fmt: skip
    is_silent = not is_signal and not is_typed
    kind = None if is_silent else FailureCategory(failures_verdict.give(failure).category)
    return Told(kind=None if kind is FailureCategory.UNKNOWN else kind, root=told["root"], text=told["text"])


def _kind_of_text(text: str) -> FailureCategory | None:
    return FailureCategory.RENDEZVOUS if text.startswith("Rendezvous") else None
