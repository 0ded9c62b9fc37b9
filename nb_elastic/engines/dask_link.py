"""One node program on a Dask worker, as the driver sees it: frames go there in order, lines are fetched from there.

Runs in: the driver. ``dask_there.Relay`` is the other end. What isn't known to have arrived is asked for again, so neither a
frame nor a line is lost or doubled when a connection breaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path
from typing import Any

Answer = dict[str, Any]
Ask = Callable[..., Awaitable[Any]]
"""Asks the relay of a link: keywords of ``Relay.answer``; gives its answer, or None where no such relay is."""

BATCH_BYTES = 1 << 20
WAIT_S = 2.0
"""How long the relay waits before it answers that there is nothing to read, or no room for more."""
PATIENCE_S = 4.0
"""How much longer an answer may take before it is asked for over a new connection: one that was cut off for a while may stay
silent for as long again."""
AGAIN_S = 0.2
ANSWER_S = 3.0
"""What isn't heard of for so long isn't waited for when it is closed."""


class DaskLink:
    """A link over the connections of a Dask client, whose event loop runs in a thread of its own."""

    nodes = 1

    def __init__(self, ask: Ask, loop: asyncio.AbstractEventLoop, *, place: str, log: Path) -> None:
        self._ask_relay = ask
        self._loop = loop
        self._place = place
        self._log = log
        self._lock = threading.Lock()
        self._frames: deque[bytes] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._sent = 0
        self._got = 0
        self._got_errors = 0
        self._said = ""
        self._is_read = False
        self._why = ""
        self._over = threading.Event()
        self._gone = asyncio.Event()

    @property
    def is_alive(self) -> bool:
        """False once its program has ended, or its worker was lost."""
        return not self._over.is_set()

    @property
    def why(self) -> str:
        """Why it is over; "" while it isn't."""
        return self._why if self._over.is_set() else ""

    def send(self, frame: bytes) -> None:
        """Send a frame, without waiting for it to arrive."""
        with self._lock:
            if self._over.is_set():
                return
            self._frames.append(frame)
        self._call_soon(self._start_sender)

    def lines(self) -> Iterator[bytes]:
        """Yield its program's lines, without their ends."""
        self._is_read = True
        rest = b""
        pending = self._submit(self._read())
        while data := self._result(pending):
            pending = self._submit(self._read())
            *whole, rest = (rest + data).split(b"\n")
            yield from whole
        if rest:
            yield rest

    def close(self, timeout_s: float = 10.0) -> None:
        """Close its program's stdin, wait for its end, and kill it by then."""
        if self.is_alive:
            with contextlib.suppress(NotYet):
                self._submit(self.end(timeout_s)).result(timeout_s + 5.0)
            self.finish("")

    def finish(self, why: str) -> None:
        """Take it as over from now on, whatever becomes of its program."""
        with self._lock:
            if self._over.is_set():
                return
            self._why = why
            self._over.set()
            self._frames.clear()
        self._call_soon(self._gone.set)

    async def end(self, timeout_s: float) -> None:
        """What ``close`` does, for many at once."""
        end = self._loop.time() + timeout_s
        try:
            await asyncio.wait_for(self._ask(within=0.0), ANSWER_S)
        except (
            asyncio.TimeoutError
        ):  # cut off: its own lease ends it, and so does Dask, when it hears that nobody wants it
            self.finish("")
            return
        with contextlib.suppress(asyncio.TimeoutError):
            if self._sender:
                await asyncio.wait_for(asyncio.shield(self._sender), timeout_s / 2)
        await self._ask(do="close", within=max(0.0, end - self._loop.time()))
        if self._is_read:  # what it said last is still to be fetched
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._gone.wait(), 2.0)
        self.finish("")

    def _start_sender(self) -> None:
        if self._sender is None or self._sender.done():
            self._sender = self._loop.create_task(self._send_all())

    async def _send_all(self) -> None:
        while True:
            with self._lock:
                batch, size = [], 0
                while self._frames and size < BATCH_BYTES:
                    batch.append(self._frames.popleft())
                    size += len(batch[-1])
            if not batch:
                return
            self._sent += 1
            data = b"".join(batch)
            while (answer := await self._ask(do="send", seq=self._sent, data=data, within=WAIT_S)) and answer[
                "is_full"
            ]:
                data = b""  # it has these; more only when there is room

    async def _read(self) -> bytes:
        """Fetch what comes next; b"" at the end."""
        while not self._over.is_set():
            answer = await self._ask(do="read", after=self._got, errors=self._got_errors, within=WAIT_S)
            if answer is None:
                continue
            if answer["errors"]:
                self._got_errors = answer["errors_end"]
                self._hear(answer["errors"])
            data: bytes = answer["data"]
            self._got += len(data)
            if data:
                return data
            if answer["code"] is not None:
                self.finish(self._words(answer["code"]))
        return b""

    async def _ask(self, **question: Any) -> Answer | None:
        """Ask until there is an answer; None when it is over before."""
        while not self._over.is_set():
            asking = asyncio.ensure_future(self._ask_relay(**question))
            gone = asyncio.ensure_future(self._gone.wait())
            patience_s = question["within"] + PATIENCE_S
            await asyncio.wait({asking, gone}, return_when=asyncio.FIRST_COMPLETED, timeout=patience_s)
            gone.cancel()
            if not asking.done():
                asking.cancel()
                continue
            try:
                answer: Answer | None = asking.result()
            except (OSError, asyncio.TimeoutError):  # its connection broke; the engine knows whether its worker is lost
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._gone.wait(), AGAIN_S)
                continue
            if answer is None:
                self.finish(f"Dask ended its task on {self._place}")
            return answer
        return None

    def _hear(self, errors: bytes) -> None:
        with contextlib.suppress(OSError), self._log.open("ab") as log:
            log.write(errors)
        said = errors.decode(errors="replace").strip()
        self._said = said.splitlines()[-1] if said else self._said

    def _words(self, code: int) -> str:
        if "No module named nb_elastic" in self._said or "No module named 'nb_elastic" in self._said:
            return f"nb_elastic isn't installed for Dask's worker {self._place}: {self._said}"
        ended = f"exit code {code}" if code >= 0 else f"ended by signal {-code}"
        return f"{ended}: {self._said}" if self._said else ended if code else ""

    def _call_soon(self, call: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: all is over
            self._loop.call_soon_threadsafe(call)

    def _submit(self, what: Coroutine[Any, Any, Any]) -> Future[Any]:
        try:
            return asyncio.run_coroutine_threadsafe(what, self._loop)
        except RuntimeError:  # the loop is closed
            what.close()
            done: Future[Any] = Future()
            done.set_result(b"")
            return done

    def _result(self, pending: Future[Any]) -> bytes:
        """What was fetched; b"" at the end, also where the loop ended first."""
        while True:
            try:
                data: bytes = pending.result(1.0)
                return data
            except NotYet:
                if self._loop.is_closed():
                    return b""
