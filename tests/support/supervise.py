"""Drives a real supervisor without a kernel: launch frame in, events out, the run folder beside.

Runs in: the tests and benchmarks.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nb_elastic import rundir, wire
from nb_elastic.events import Event, decode
from nb_elastic.model import Entrypoint, LaunchSpec, WorkerFailure, from_json, to_json
from nb_elastic.model_options import LaunchOptions
from nb_elastic.rundir import RunDir
from tests.support import nursery
from tests.support.until import until

ROOT = Path(__file__).parents[2]
LIMITED_UID = 54_321
PROGRAMS = ROOT / "tests" / "programs"
SUPERVISOR_ENV = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}  # fmt: skip


def entry(text: str, *argv: str) -> Entrypoint:
    """``name.py`` is a script of tests/programs; ``-m x`` a module; ``module:function``; ``!program`` any program."""
    if text.startswith("-m "):
        return Entrypoint(kind="module", target=text[3:], argv=argv)
    if text.startswith("!"):
        return Entrypoint(kind="program", target=text[1:], argv=argv)
    if text.endswith(".py"):
        return Entrypoint(kind="script", target=str(PROGRAMS / text), argv=argv)
    return Entrypoint(kind="import", target=text, argv=argv)


@dataclass
class Supervised:
    """A supervisor that was started: its events so far and its folder."""

    run: RunDir
    process: subprocess.Popen[bytes] | nursery.Child
    lines: list[bytes] = field(default_factory=list)
    reader: threading.Thread | None = None

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line)

    @property
    def events(self) -> list[Event]:
        """What came over stdout so far."""
        return [e for e in map(decode, list(self.lines)) if e]

    def of(self, kind: str) -> list[Event]:
        """Events of one kind."""
        return [e for e in self.events if e.kind == kind]

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one more frame."""
        assert self.process.stdin
        self.process.stdin.write(wire.encode(message))
        self.process.stdin.flush()

    def stop(self, grace_s: float = 5.0) -> None:
        """Ask for a stop."""
        self.send({"type": "stop", "grace_s": grace_s, "by": "the test"})

    def wait(self, timeout_s: float = 120.0) -> Supervised:
        """Wait for its end; all events are here afterwards."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            told = "\n".join(f"{e.kind} {dict(e.data)}"[:300] for e in self.events)
            self.close()
            raise AssertionError(f"the supervisor still runs after {timeout_s} s:\n{told}\n{self.log}") from None
        assert self.reader
        self.reader.join(timeout=30)
        return self

    def close(self) -> None:
        """End it, whatever it does."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is self.process.stdin and pipe:
                pipe.close()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.reader:
            self.reader.join(timeout=30)
        if self.process.stdout:
            self.process.stdout.close()

    def __enter__(self) -> Supervised:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def end(self) -> Event:
        """The run's last word."""
        (found,) = self.of("run_finished")
        return found

    @property
    def state(self) -> str:
        """How it ended."""
        return str(self.end["state"])

    @property
    def log(self) -> str:
        """The supervisor's own stderr."""
        return self.run.supervisor_log.read_text(errors="replace") if self.run.supervisor_log.exists() else ""

    def until_event(self, kind: str, count: int = 1, timeout_s: float = 120.0) -> list[Event]:
        """Wait for events of a kind."""
        until(lambda: len(self.of(kind)) >= count or self.process.poll() is not None, timeout_s)
        if len(self.of(kind)) < count and self.reader:  # it may have to read what was told last
            self.reader.join(10)
        found = self.of(kind)
        assert len(found) >= count, f"no {kind}:\n{[e.kind for e in self.events]}\n{self.log}"
        return found

    def out(self, local_rank: int = 0, *, round_number: int = 0, stream: str = "stdout") -> bytes:
        """What a rank wrote, without what older gloo says on stdout when it connects."""
        written = self.run.rank(round_number, local_rank).stream(stream).read_bytes()  # type: ignore[arg-type]
        return re.sub(rb"^\[Gloo\] Rank \d+ is connected .*\n", b"", written, flags=re.MULTILINE)

    def err(self, local_rank: int = 0, *, round_number: int = 0) -> str:
        """What a rank wrote to stderr."""
        return self.out(local_rank, round_number=round_number, stream="stderr").decode(errors="replace")

    def failures(self, round_number: int = 0) -> list[WorkerFailure]:
        """The last told failure of each rank of a round, the root cause first."""
        found = {
            e["local_rank"]: from_json(WorkerFailure, e["failure"])
            for e in self.of("worker_failed")
            if e["round"] == round_number
        }
        return sorted(found.values(), key=lambda f: (bool(f.followed), f.time_ns))

    def worker(self, local_rank: int = 0, *, round_number: int = 0) -> dict[str, Any]:
        """A rank's worker.json."""
        return rundir.read_json(self.run.rank(round_number, local_rank).worker_json)

    def exits(self) -> dict[tuple[int, int], tuple[int | None, str]]:
        """(round, local rank) -> (exit code, state)."""
        return {(e["round"], e["local_rank"]): (e["exit_code"], e["state"]) for e in self.of("worker_exited")}


def start(
    entrypoint: Entrypoint,
    *,
    nproc: int = 2,
    env: Mapping[str, str] | None = None,
    payload: str = "",
    buffers_fd: int = -1,
    is_detached: bool = False,
    cwd: str = "",
    supervisor_env: Mapping[str, str] | None = None,
    sys_path: tuple[str, ...] = (),
    max_processes: int = 0,
    stop: Mapping[str, Any] | None = None,
    ambient: Mapping[str, Any] | None = None,
    prefix: Sequence[str] = (),
    is_cold: bool = False,
    **options: Any,
) -> Supervised:
    """Start a supervisor on a fresh run folder and hand it the launch.

    Args:
        max_processes: run as a user of no name, who may have so many processes (root has no limit).
        stop: what another process asks for in ``stop.json`` before the supervisor is there.
        prefix: words before the command line, to start it in a place of its own.
        ambient: the notebook's limits and priority, as fields of the launch.
        is_cold: it is started anew, and not forked from what has torch already.
    """
    run = rundir.create(log_dir=options.get("log_dir"))
    settings = LaunchOptions(nproc_per_node=nproc, **{"numa_binding": "none", **options})
    spec = LaunchSpec(
        run_id=run.run_id,
        rdzv_id=run.run_id,
        run_dir=str(run.path),
        entrypoint=entrypoint,
        options=settings,
        env={**os.environ, **(env or {})},
        cwd=cwd or str(run.path),
        sys_path=(*sys_path, str(ROOT), *[p for p in sys.path if p and p != str(ROOT)]),
        payload=payload,
        buffers_fd=buffers_fd,
        key_hex="00" * 32,
        is_detached=is_detached,
        **(ambient or {}),
    )
    rundir.write_json(run.run_json, {"run_id": run.run_id})
    if stop:
        rundir.write_json(run.stop_json, stop)
    prefix = list(prefix)
    if max_processes:
        os.chown(run.path, LIMITED_UID, -1)
        caps = [f"--{kind}-caps=+dac_override" for kind in ("inh", "ambient")]
        prefix += ["setpriv", f"--reuid={LIMITED_UID}", "--clear-groups", *caps, "prlimit", f"--nproc={max_processes}"]
    full_env = {**os.environ, **SUPERVISOR_ENV, "PYTHONPATH": str(ROOT), **(supervisor_env or {})}
    pass_fds = (buffers_fd,) if buffers_fd >= 0 else ()
    process: Any = None
    with open(run.supervisor_log, "wb") as log:
        if not (prefix or is_cold or supervisor_env):
            process = nursery.fork(full_env, cwd="/", log=log.fileno(), pass_fds=pass_fds)
        process = process or subprocess.Popen(
            [*prefix, sys.executable, "-m", "nb_elastic.supervisor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=full_env,
            pass_fds=pass_fds,
            cwd="/",
        )
    found = Supervised(run=run, process=process)
    found.reader = threading.Thread(target=found._read, name="supervise-reader", daemon=True)
    found.reader.start()
    found.send({"type": "launch", "spec": to_json(spec)})
    return found


def run(entrypoint: Entrypoint | str, *argv: str, timeout_s: float = 120.0, **settings: Any) -> Supervised:
    """Start a supervisor and wait for its end."""
    with start(entry(entrypoint, *argv) if isinstance(entrypoint, str) else entrypoint, **settings) as one:
        return one.wait(timeout_s)


if __name__ == "__main__":  # python -m tests.support.supervise NPROC ENTRY [ARGS]: look at one by hand
    done = run(sys.argv[2], *sys.argv[3:], nproc=int(sys.argv[1]))
    for event in done.events:
        print(json.dumps({"event": event.kind, **event.data})[:1000])
    print(done.log)
