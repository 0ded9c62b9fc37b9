"""The node program: hears the driver's frames, answers in lines, starts runs, and ends with all that it started.

Runs in: the node program. It ends at stdin's end, at ``end``, by a signal, with its parent, or when nothing was heard for too
long (``lease``); each of these alone is enough.
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nb_elastic import lifeline, reap, stacks, wire
from nb_elastic.engines import warm
from nb_elastic.errors import ElasticError
from nb_elastic.model import to_json
from nb_elastic.node import about, folder, reaching
from nb_elastic.node.hosting import BUFFERS, Hosted
from nb_elastic.node.keeping import Keeper
from nb_elastic.node.lease import LEASE_S, Lease
from nb_elastic.node.outbox import Outbox
from nb_elastic.node.relaying import Relays
from nb_elastic.node.shipping import Shipment
from nb_elastic.rundir import RunDir, new_run_id
from nb_elastic.wakes import Wakes

ALIVE_S = 1.5
STOP_S = 1.0
"""Grace of runs whose driver is gone."""
RUNS_S = 3.4
"""By then their supervisors have ended, or are ended."""
LAST_WORD_S = 0.2
STATE_FILES = ("payload.pkl", BUFFERS)
MAX_FILE_BYTES = 1 << 40
PIPE_BYTES = 1 << 20
F_SETPIPE_SZ = 1031


def main() -> int:
    """Run the program; returns its exit code."""
    stdin, stdout = _take_pipes()
    told = {name: os.environ.pop(name, "") for name in about.VARIABLES}
    lifeline.become_subreaper()
    try:
        token = secrets.token_hex(4)
        home = folder.make(f"node-{token}")
    except ElasticError as e:
        sys.stderr.write(f"{e}\n")
        return 3
    program = Program(stdin, stdout, token=token, home=home, told=told)
    try:
        return program.run()
    finally:
        folder.remove(home)


def _take_pipes() -> tuple[io.FileIO, int]:
    """Keep the two pipes to ourselves: what we start must neither hold nor write to them."""
    pipes = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.fcntl(pipes[1], F_SETPIPE_SZ, PIPE_BYTES)
    return io.FileIO(pipes[0], "r"), pipes[1]


class _Heard(io.RawIOBase):
    """Stdin, telling the lease of every byte that comes."""

    def __init__(self, raw: io.FileIO, on_data: Callable[[], None]) -> None:
        self._raw = raw
        self._on_data = on_data

    def readable(self) -> bool:
        """See base class."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """See base class."""
        size = self._raw.readinto(buffer)
        self._on_data()
        return size


class Program:
    """The main thread's loop, and what it answers with.

    Args:
        told: what the engine said by the environment (``about.VARIABLES``).
    """

    def __init__(self, stdin: io.FileIO, stdout: int, *, token: str, home: Path, told: Mapping[str, str]) -> None:
        self._token = token
        self._home = home
        self._told = told
        self._why = ""
        self._code = 0
        self._inbox: queue.SimpleQueue[tuple[dict[str, Any], bytes] | None] = queue.SimpleQueue()
        self._wakes = Wakes()
        self._out = Outbox(stdout, token, wakes=self._wakes, on_broken=lambda: self.end("nobody reads its words"))
        self._lease = Lease(
            float(told.get("NB_ELASTIC_NODE_LEASE_S") or LEASE_S),
            on_expired=lambda: self.end("nothing was heard of the driver for too long"),
        )
        self._stdin = io.BufferedReader(_Heard(stdin, self._lease.renew), PIPE_BYTES)
        self._reader = threading.Thread(target=self._read, name="nb_elastic-node-in", daemon=True)
        self._keeper = Keeper(os.environ, lambda told: self._out.say("hosting", **told))
        self._runs: dict[str, Hosted] = {}
        self._relays = Relays(token, wakes=self._wakes)
        self._out.add(self._relays)
        self._words: dict[str, Callable[[dict[str, Any], bytes], None]] = {
            "refuse": self._refuse,
            "reach": self._reach,
            "host": self._host,
            "file": self._file,
            "run": self._run,
            "stop": self._stop,
            "stacks": self._stacks,
            "debug": self._debug,
            "end": self._end,
        }

    def run(self) -> int:
        """Serve the driver until the end; returns the exit code."""
        for number in lifeline.DEATH_SIGNALS:
            signal.signal(number, lambda n, _f: self.end(f"signal {signal.Signals(n).name}"))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, lifeline.DEATH_SIGNALS)  # whoever started it may have blocked them
        lifeline.hear_of_parent(os.getppid(), lambda: self.end("its parent is gone"))
        warm.start()
        self._out.start()
        self._out.say("hello", **about.hello(self._told))
        self._reader.start()
        self._lease.start()
        threading.Thread(target=folder.sweep, name="nb_elastic-node-sweep", daemon=True).start()
        alive_at = time.monotonic() + ALIVE_S
        while not self._why:
            try:
                got = self._inbox.get(timeout=max(0.0, alive_at - time.monotonic()))
            except queue.Empty:
                got = None
            if got is not None:
                self._heed(*got)
            if time.monotonic() >= alive_at:
                self._out.say_alive()
                alive_at += ALIVE_S
        self._close()
        return self._code

    def end(self, why: str, code: int = 0) -> None:
        """Have the loop end. Any thread and any signal's handler may call this."""
        if not self._why:
            self._why, self._code = why, code
        self._lease.begin_end()
        self._inbox.put(None)

    # -- in the reader's thread --------------------------------------------------------------

    def _read(self) -> None:
        why = "its stdin ended"
        try:
            while (frame := wire.read(self._stdin)) is not None:
                self._inbox.put(frame)
        except (OSError, ValueError) as e:
            why = f"its stdin can't be read: {e}"
        self.end(why)

    # -- in the main thread ------------------------------------------------------------------

    def _heed(self, message: dict[str, Any], blob: bytes) -> None:
        if self._token not in message.get("to", (self._token,)):
            return
        heed = self._words.get(str(message.get("type")))
        if heed is None:
            return
        try:
            heed(message, blob)
        except (KeyError, TypeError, ValueError, OSError) as e:
            self._out.say("note", level="warning", text=f"The word {message.get('type')!r} can't be heeded: {e!r}")

    def _refuse(self, message: dict[str, Any], _blob: bytes) -> None:
        sys.stderr.write(f"{message.get('text', '')}\n")
        sys.stderr.flush()
        self.end("the driver refused it", 2)

    def _reach(self, message: dict[str, Any], _blob: bytes) -> None:
        def reach() -> None:
            why = reaching.why_not(str(message["endpoint"]))
            self._out.say("reached", nonce=message.get("nonce"), ok=not why, why=why)

        threading.Thread(target=reach, name="nb_elastic-node-reach", daemon=True).start()

    def _host(self, message: dict[str, Any], _blob: bytes) -> None:
        self._keeper.host(str(message["address"]))

    def _file(self, message: dict[str, Any], blob: bytes) -> None:
        name, offset, size = str(message["name"]), int(message["offset"]), int(message["size"])
        if name not in STATE_FILES or not 0 <= offset <= offset + len(blob) <= size <= MAX_FILE_BYTES:
            raise ValueError(name)
        path = self._home_of(message).path / name
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size)
            os.pwrite(fd, blob, offset)
        finally:
            os.close(fd)

    def _run(self, message: dict[str, Any], _blob: bytes) -> None:
        message = {**message, **message.get("each", {}).get(self._token, {})}
        home, node = self._home_of(message), int(message["node"])
        shipment = Shipment(home, node=node, token=self._token, wakes=self._wakes)
        self._runs = {run_id: run for run_id, run in self._runs.items() if not run.is_over}
        self._runs[home.run_id] = hosted = Hosted(home, message, shipment)
        self._out.add(shipment)
        hosted.start()

    def _stop(self, message: dict[str, Any], _blob: bytes) -> None:
        if run := self._runs.get(str(message["run_id"])):
            run.stop(str(message.get("by") or "somebody"), float(message.get("grace_s", STOP_S)))

    def _stacks(self, message: dict[str, Any], _blob: bytes) -> None:
        run = self._runs.get(str(message["run_id"]))

        def take() -> None:
            found = [to_json(one) for one in stacks.found(run.home)] if run is not None else []
            self._out.say("stacks", nonce=message.get("nonce"), run_id=message["run_id"], stacks=found)

        threading.Thread(target=take, name="nb_elastic-node-stacks", daemon=True).start()

    def _debug(self, message: dict[str, Any], blob: bytes) -> None:
        if (run := self._runs.get(str(message["run_id"]))) is not None:
            self._relays.heed(message, blob, run.rank)

    def _end(self, _message: dict[str, Any], _blob: bytes) -> None:
        self.end("the driver said so")

    def _home_of(self, message: Mapping[str, Any]) -> RunDir:
        run_id = str(message["run_id"])
        if not run_id or run_id != new_run_id(wanted=run_id):
            raise ValueError(run_id)
        path = self._home / run_id
        path.mkdir(mode=0o700, exist_ok=True)
        return RunDir(path)

    def _close(self) -> None:
        """End all runs, and then whatever is left below this process."""
        deadline = time.monotonic() + RUNS_S
        for run in list(self._runs.values()):
            if not run.is_over and run.end(self._why, STOP_S):
                run.wait(deadline - time.monotonic())
        warm.stop()
        self._keeper.close()
        reap.end_below()
        self._out.say("bye", why=self._why)
        self._out.close(LAST_WORD_S)
