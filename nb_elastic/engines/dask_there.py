"""The relay beside a node program that was started on a Dask worker: it keeps its stdin, stdout and stderr for the driver.

Runs in: a Dask worker's process, in the thread of one long-running task, which gets this file as text: so neither the
scheduler nor a worker needs nb_elastic to carry it, and Python versions may differ until the node program can tell.
Standard library only; Dask's own things are handed in.

It ends the node program when its task is cancelled, which the scheduler does at once when the driver's client is gone,
when the worker closes, and when nothing was heard of the driver for ``LEASE_S``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

LEASE_S = 15.0
GRACE_S = 3.0
PIECE_BYTES = 1 << 20
MAX_BYTES = 4 << 20
"""What is kept of either direction before the other side has to wait."""
MAX_ERROR_BYTES = 64 << 10
LIVE_TASK = ("executing", "long-running")
LIVE_WORKER = ("init", "running", "paused")


class Relay:
    """One node program, its pipes, and what the driver asks of them.

    ``run`` belongs to the task's thread, which must live as long as the program (a child may be told to end when the
    thread that made it does); ``answer`` to the worker's event loop. Between them: one lock, a pipe, an event.
    """

    def __init__(self, order: Mapping[str, Any], is_wanted: Callable[[], bool], on_loop: Callable[..., Any]) -> None:
        self._is_wanted = is_wanted
        self._on_loop = on_loop
        self._process = subprocess.Popen(
            [sys.executable, *order["arguments"]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(order),
            bufsize=0,
            start_new_session=True,
        )
        self._wake_read, self._wake_write = os.pipe()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)
        self._lock = threading.Lock()
        self._changed = asyncio.Event()
        self._frames: deque[memoryview] = deque()
        self._frames_bytes = 0
        self._taken = 0
        self._out = bytearray()
        self._out_start = 0
        self._errors = bytearray()
        self._errors_start = 0
        self._code: int | None = None
        self._heard = time.monotonic()
        self._is_closing = False
        self._kill_at = float("inf")
        self._is_over = False

    async def answer(
        self, do: str = "", seq: int = 0, data: bytes = b"", after: int = 0, errors: int = 0, within: float = 0.0
    ) -> dict[str, Any]:
        """Answer the driver; any question may come twice, when its first answer was lost.

        Args:
            do: ``send`` frames, ``read`` what the program wrote, ``close`` its stdin and wait for its end, or nothing.
            seq: number of these frames, from 1.
            data: the frames.
            after: bytes of its stdout that the driver has.
            errors: and of its stderr.
            within: seconds to wait for room, or for something to read, or until it is killed.
        """
        self._heard = time.monotonic()
        if do == "send":
            self._take(seq, data)
            await self._until(lambda: self._frames_bytes < MAX_BYTES, within)
        elif do == "read":
            self._drop(after, errors)
            await self._until(lambda: len(self._out) > 0 or len(self._errors) > 0, within)
        elif do == "close":
            self._is_closing = True
            self._kill_at = min(self._kill_at, time.monotonic() + within)
            self._wake()
            await self._until(lambda: False, within + GRACE_S)
        return self._state(after) if do == "read" else self._state_of_stdin()

    def run(self) -> None:
        """Relay until the program has ended and the driver has all of it, or is gone."""
        process = self._process
        try:
            with selectors.DefaultSelector() as selector:
                self._relay(selector)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, min(GRACE_S, self._kill_at - time.monotonic())))
        finally:
            process.kill()
            code = process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                with contextlib.suppress(OSError):
                    pipe.close() if pipe else None
            self._code = code
            self._tell()
        while (self._out or self._errors) and self._is_needed():
            self._sleep()
        with self._lock:  # a question may come even now
            self._is_over = True
        for fd in (self._wake_read, self._wake_write):
            os.close(fd)

    def _relay(self, selector: selectors.DefaultSelector) -> None:
        process = self._process
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise AssertionError
        os.set_blocking(process.stdin.fileno(), False)
        selector.register(self._wake_read, selectors.EVENT_READ)
        reading = {process.stdout: self._out, process.stderr: self._errors}
        ended_at = float("inf")
        while reading and time.monotonic() < ended_at + 1.0:
            for pipe, kept in reading.items():
                _watch(selector, pipe, selectors.EVENT_READ, is_wanted=len(kept) < MAX_BYTES)
            _watch(selector, process.stdin, selectors.EVENT_WRITE, is_wanted=bool(self._frames))
            for key, _events in selector.select(0.25):
                if key.fileobj is process.stdin:
                    self._write(process.stdin)
                elif key.fileobj == self._wake_read:
                    os.read(self._wake_read, 4096)
                elif not self._read(key.fd, is_error=key.fileobj is process.stderr):
                    selector.unregister(key.fileobj)
                    del reading[key.fileobj]  # type: ignore[arg-type]
            self._look(selector, process.stdin)
            if process.poll() is not None:  # a child of its own may hold the pipes open for ever
                ended_at = min(ended_at, time.monotonic())
        _watch(selector, process.stdin, selectors.EVENT_WRITE, is_wanted=False)

    def _look(self, selector: selectors.DefaultSelector, stdin: Any) -> None:
        """End the program when it is told to, or when nobody wants it any more."""
        if not self._is_needed():
            self._forget_frames()
            self._is_closing = True
            self._kill_at = min(self._kill_at, time.monotonic() + GRACE_S)
        if self._is_closing and not self._frames and not stdin.closed:
            _watch(selector, stdin, selectors.EVENT_WRITE, is_wanted=False)
            stdin.close()
        if time.monotonic() > self._kill_at:
            self._process.kill()

    def _is_needed(self) -> bool:
        return self._is_wanted() and time.monotonic() < self._heard + LEASE_S

    def _read(self, fd: int, *, is_error: bool) -> bool:
        data = os.read(fd, 1 << 16)
        with self._lock:
            if not is_error:
                self._out += data
            else:
                self._errors += data
                surplus = max(0, len(self._errors) - MAX_ERROR_BYTES)
                del self._errors[:surplus]
                self._errors_start += surplus
        self._tell()
        return bool(data)

    def _write(self, stdin: Any) -> None:
        with self._lock:
            frame = self._frames.popleft()
        try:
            count = os.write(stdin.fileno(), frame)
        except BlockingIOError:
            count = 0
        except OSError:  # it reads no more, or has ended
            self._forget_frames()
            return
        with self._lock:
            self._frames_bytes -= count
            if count < len(frame):
                self._frames.appendleft(frame[count:])
        self._tell()

    def _forget_frames(self) -> None:
        with self._lock:
            self._frames.clear()
            self._frames_bytes = 0
        self._tell()

    def _take(self, seq: int, data: bytes) -> None:
        with self._lock:
            if seq == self._taken + 1:
                self._taken = seq
                if self._code is None and not self._is_closing and data:
                    self._frames.append(memoryview(data))
                    self._frames_bytes += len(data)
        self._wake()

    def _drop(self, after: int, errors: int) -> None:
        with self._lock:
            done = max(0, after - self._out_start)
            del self._out[:done]
            self._out_start += done
            done = max(0, errors - self._errors_start)
            del self._errors[:done]
            self._errors_start += done
        self._wake()

    def _state(self, after: int) -> dict[str, Any]:
        with self._lock:
            is_old = after < self._out_start  # a question that was asked again since
            out = b"" if is_old else bytes(self._out[:PIECE_BYTES])
            errors = bytes(self._errors)
            errors_end = self._errors_start + len(errors)
            is_all = len(out) == len(self._out)
        return {
            "data": out,
            "errors": errors,
            "errors_end": errors_end,
            "code": self._code if is_all and not is_old else None,
        }

    def _state_of_stdin(self) -> dict[str, Any]:
        return {"is_full": self._frames_bytes >= MAX_BYTES, "code": self._code}

    async def _until(self, is_met: Callable[[], bool], within: float) -> None:
        end = time.monotonic() + within
        while not is_met() and self._code is None and (left := end - time.monotonic()) > 0:
            self._changed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    def _tell(self) -> None:
        """Let questions that wait look again."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._on_loop(self._changed.set)

    def _wake(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):  # full, so awake
            if not self._is_over:
                os.write(self._wake_write, b".")

    def _sleep(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            if selector.select(0.25):
                os.read(self._wake_read, 4096)


def _watch(selector: selectors.DefaultSelector, pipe: Any, event: int, *, is_wanted: bool) -> None:
    if is_wanted and not pipe.closed:
        if pipe.fileno() not in selector.get_map():
            selector.register(pipe, event)
    elif not pipe.closed and pipe.fileno() in selector.get_map():
        selector.unregister(pipe)


def environment(order: Mapping[str, Any]) -> dict[str, str]:
    """The worker's own environment, without what its nanny set for Dask's tasks, and with what is ordered."""
    env = dict(os.environ)
    for name, value in order.get("nanny_env", {}).items():
        if env.get(name) == str(value):
            del env[name]
    env.update(order["env"])
    return env


def hold(worker: Any, secede: Callable[[], None], order: Mapping[str, Any]) -> None:
    """Be the task that keeps a Dask worker for a node: start its program, say so, and relay until it ends."""
    ticket = order["ticket"]
    operation = f"nb_elastic_{ticket}_{os.urandom(4).hex()}"  # Dask may run a task again: that is another relay
    key = worker.get_current_task()

    def is_wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state in LIVE_TASK and worker.status.name in LIVE_WORKER

    try:
        relay = Relay(order, is_wanted, worker.loop.asyncio_loop.call_soon_threadsafe)
    except OSError as e:
        worker.log_event(order["topic"], {"ticket": ticket, "error": f"{sys.executable} can't be started: {e}"})
        return
    worker.handlers[operation] = relay.answer
    try:
        worker.log_event(order["topic"], {"ticket": ticket, "operation": operation})
        secede()  # other tasks may have this thread's place; the resources stay ours
        relay.run()
    finally:
        worker.handlers.pop(operation, None)
