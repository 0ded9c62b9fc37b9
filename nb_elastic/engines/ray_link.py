"""A link to one node program over the calls of its actor: pieces in numbered order, whatever gets lost on the way.

Runs in: the driver. Knows nothing of Ray but that calls take a while, fail, and may be made again.

A call costs a millisecond or two, so frames that wait go together, several pieces are under way at once, and the next read is
there before the last one's lines are handed out.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

PIECE_BYTES = 1 << 20
WINDOW = 4
"""How many pieces may be under way."""
AGAIN_S = 0.5
"""How long to wait before a call is made again."""


class Away(Exception):  # noqa: N818  (no error of a user's)
    """The actor can't be reached now; it may be again."""


class Gone(Exception):  # noqa: N818
    """The actor is gone for good; says why, in Ray's words."""


class Far(Protocol):
    """The actor's methods, as calls that are under way. See ``ray_actor.Relay``."""

    def call(self, name: str, *arguments: Any) -> Future[Any]:
        """Begin a call. Raises ``Away`` or ``Gone``."""
        ...

    def answer(self, call: Future[Any], timeout_s: float | None = None) -> Any:
        """Wait for the answer of a call. Raises ``Away``, ``Gone``, or TimeoutError."""
        ...

    def kill(self) -> None:
        """End the actor's process at once; never fails."""
        ...


@dataclass(slots=True)
class _UnderWay:
    """A piece that the node program may not have taken yet."""

    number: int
    data: bytes
    call: Future[Any] | None = None

    @property
    def is_answered(self) -> bool:
        return self.call is None or self.call.done()


class RayLink:
    """See ``nb_elastic.engines.base.Link``.

    Args:
        place: what the machine is called, for sentences.
        log: what the node program writes to stderr is appended there.
        on_over: told that it is over, and whether the node program is then certainly gone.
    """

    def __init__(self, far: Far, *, place: str, log: Path, on_over: Callable[..., None]) -> None:
        self.nodes = 1
        self.place = place
        self._far = far
        self._log = log
        self._on_over = on_over
        self._why = ""
        self._is_over = False
        self._is_closing = False
        self._changed = threading.Condition()
        self._queue: deque[bytes] = deque()
        self._under_way: deque[_UnderWay] = deque()
        self._n_sent = 0
        self._sender = threading.Thread(target=self._send_all, name="nb_elastic-ray-send", daemon=True)
        self._sender.start()
        self._first = self._begin_read(1)

    @property
    def is_alive(self) -> bool:
        """False once the node program has ended, or Ray knows that its actor has."""
        return not self._is_over

    @property
    def why(self) -> str:
        """Why it is over, in Ray's words."""
        return self._why

    def send(self, frame: bytes) -> None:
        """Put a frame where the sender takes it."""
        with self._changed:
            if not (self._is_over or self._is_closing):
                self._queue.append(frame)
                self._changed.notify_all()

    def lines(self) -> Iterator[bytes]:
        """Yield the node program's lines."""
        rest = b""
        for piece in self._pieces():
            *whole, rest = (rest + piece).split(b"\n")
            yield from whole
        if rest:
            yield rest

    def close(self, timeout_s: float = 10.0) -> None:
        """End the node program by its stdin, then by force, and the actor with it."""
        with self._changed:
            if self._is_closing:
                return
            self._is_closing = True
            self._changed.notify_all()
        deadline = time.monotonic() + timeout_s
        is_certain = True
        if self.is_alive:
            try:
                # What was sent before is to arrive before its end.
                self._sender.join(timeout_s / 2)
                left = max(0.1, deadline - time.monotonic())
                self._far.answer(self._far.call("end", left), left + 6.0)
            except Gone:
                pass
            except (Away, TimeoutError):
                is_certain = False
        self._finish("", is_certain=is_certain)

    # -- towards the node program ------------------------------------------------------------

    def _send_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work)
                if self._is_over or not (self._queue or self._under_way):
                    return
                if self._queue and len(self._under_way) < WINDOW:
                    self._n_sent += 1
                    self._under_way.append(_UnderWay(self._n_sent, self._take_piece()))
            try:
                for one in self._under_way:
                    if one.call is None:
                        self._begin_write(one, one.data)
                self._hear_of_first()
            except Away:
                for one in self._under_way:
                    one.call = None
                with self._changed:
                    self._changed.wait_for(lambda: self._is_over, AGAIN_S)
            except Gone as e:
                self._finish(str(e))
                return

    def _has_work(self) -> bool:
        if self._is_over or (self._queue and len(self._under_way) < WINDOW):
            return True
        return self._under_way[0].is_answered if self._under_way else self._is_closing

    def _take_piece(self) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while self._queue and (not pieces or size + len(self._queue[0]) <= PIECE_BYTES):
            pieces.append(self._queue.popleft())
            size += len(pieces[-1])
        return b"".join(pieces)

    def _begin_write(self, one: _UnderWay, data: bytes) -> None:
        one.call = self._far.call("write", one.number, data)
        one.call.add_done_callback(self._wake)

    def _wake(self, _call: object) -> None:
        with self._changed:
            self._changed.notify_all()

    def _hear_of_first(self) -> None:
        while self._under_way and (call := self._under_way[0].call) is not None and call.done():
            if self._far.answer(call) >= self._under_way[0].number:
                self._under_way.popleft()
            else:  # the node program takes nothing now
                self._begin_write(self._under_way[0], b"")

    # -- from the node program ---------------------------------------------------------------

    def _begin_read(self, number: int) -> Future[Any] | None:
        try:
            return self._far.call("read", number)
        except (Away, Gone):
            return None

    def _pieces(self) -> Iterator[bytes]:
        number, call = 1, self._first
        while not self._is_over:
            try:
                if call is None:
                    call = self._far.call("read", number)
                out, err, code = self._far.answer(call)
            except Away:
                call = None
                with self._changed:
                    self._changed.wait_for(lambda: self._is_over, AGAIN_S)
                continue
            except Gone as e:
                self._finish(str(e))
                return
            number += 1
            call = self._begin_read(number) if code is None else None
            if err:
                self._write_log(err)
            if out:
                yield out
            if code is not None:
                self._finish(self._ending(code))
                return

    def _ending(self, code: int) -> str:
        if self._is_closing:
            return ""
        how = f"with exit code {code}" if code >= 0 else f"by signal {-code}"
        return f"the node program on {self.place} ended {how}"

    def _write_log(self, data: bytes) -> None:
        text = data.decode(errors="replace")
        with self._log.open("a", encoding="utf-8") as file:
            file.writelines(f"{self.place}: {line}\n" for line in text.splitlines())

    def _finish(self, why: str, *, is_certain: bool = True) -> None:
        with self._changed:
            if self._is_over:
                return
            self._is_over = True
            self._why = why
            self._queue.clear()
            self._changed.notify_all()
        self._far.kill()  # what it holds of its machine is for others now
        self._on_over(is_certain=is_certain)
