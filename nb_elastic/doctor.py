"""Checks this machine for what stops or slows runs, and says what to do about it.

Runs in: the kernel or command line; everything that may hang or crash happens in short processes of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from typing import Any

from nb_elastic import doctor_engines
from nb_elastic import doctor_rules as rules
from nb_elastic.doctor_rules import Check

__all__ = ["Check", "check", "text"]

TIMEOUT_S = 60.0
PROBES = ("torch", "gpus", "machine", "names", "home")
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
"""What the launcher sets before it imports torch, so that the probe sees what the launcher will."""
WIDTH = 100


def check(*, timeout_s: float = TIMEOUT_S, environ: Mapping[str, str] | None = None) -> list[Check]:
    """Look at everything; never raises, and ends in time.

    Args:
        timeout_s: longest wait for any one look.
        environ: environment to judge, by default this process's.
    """
    environ = os.environ if environ is None else environ
    facts = _facts(timeout_s, environ)
    steps: list[Callable[[], list[Check]]] = [
        rules.python,
        lambda: rules.torch(facts["torch"], facts["gpus"]),
        lambda: rules.fork(facts["torch"]),
        lambda: rules.gpus(facts["gpus"], environ),
        lambda: rules.numa(facts["gpus"], facts["machine"]),
        lambda: rules.cpus(facts["machine"], facts["gpus"], environ),
        lambda: rules.memory(facts["machine"]),
        lambda: rules.limits(facts["machine"]),
        lambda: rules.names(facts["names"]),
        lambda: rules.home(facts["home"]),
        lambda: doctor_engines.engines(environ),
        lambda: rules.front_end(environ),
        lambda: rules.environment(environ),
    ]
    return [found for step in steps for found in _guarded(step)]


def text(checks: list[Check]) -> str:
    """Checks as lines of text, the advice under each."""
    width = max((len(c.name) for c in checks), default=0)
    lines: list[str] = []
    for found in checks:
        head = f"{found.state:<4} {found.name:<{width}}  "
        lines += textwrap.wrap(found.text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head)) or [
            head.rstrip()
        ]
        if found.advice:
            indent = " " * len(head)
            lines += textwrap.wrap(f"-> {found.advice}", WIDTH, initial_indent=indent, subsequent_indent=f"{indent}   ")
    bad, warned = (sum(c.state == state for c in checks) for state in ("bad", "warn"))
    if not bad and not warned:
        last = "This machine is ready."
    else:
        last = (
            f"{bad} to mend before runs can work, {warned} to know about."
            if bad
            else f"Runs work here; {warned} to know about."
        )
    return "\n".join([*lines, "", last])


def _facts(timeout_s: float, environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Run all probes at once; one that gives no facts gives ``{"failed": why}``."""
    started: dict[str, subprocess.Popen[bytes] | str] = {}
    deadline = time.monotonic() + timeout_s
    try:
        for name in PROBES:
            started[name] = _start(name, environ)
        return {name: _answer(process, deadline, timeout_s) for name, process in started.items()}
    finally:
        for process in started.values():
            _end(process)


def _start(name: str, environ: Mapping[str, str]) -> subprocess.Popen[bytes] | str:
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "nb_elastic.doctor_probe", name],
            env={**environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that what it starts in its turn can be ended with it
        )
    except OSError as e:
        return f"could not be started: {e}"


def _answer(process: subprocess.Popen[bytes] | str, deadline: float, timeout_s: float) -> dict[str, Any]:
    if isinstance(process, str):
        return {"failed": process}
    try:
        out, err = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return {"failed": f"gave no answer in {timeout_s:g} s"}
    try:
        found = json.loads(out)
    except ValueError:
        lines = err.decode("utf-8", "replace").strip().splitlines()
        is_told = process.returncode == 1 and lines
        return {"failed": lines[-1][:300] if is_told else f"ended with exit code {process.returncode}"}
    return found if isinstance(found, dict) else {"failed": "gave no facts"}


def _end(process: subprocess.Popen[bytes] | str) -> None:
    """End a probe that still runs. One stuck in a driver can't be ended, so it is not waited for long."""
    if isinstance(process, str):
        return
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _guarded(step: Callable[[], list[Check]]) -> list[Check]:
    try:
        return step()
    except Exception as e:  # noqa: BLE001 - the border: one look that fails must not hide the others
        return [
            Check(
                name="doctor",
                state="warn",
                text=f"A check failed itself: {type(e).__name__}: {e}",
                advice="Please report it.",
            )
        ]
