"""This machine as a place to run: one supervisor, forked from the warm launcher or started by itself.

Runs in: the kernel or the command line.

The launch's own pipes exist before it is settled who reads them. A supervisor of the launcher says hello first; where
it does not (the launcher died, or takes for ever), or where a stop comes before it does, a new process takes the pipes.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from nb_elastic import machine, opening, wire
from nb_elastic.engines import warm
from nb_elastic.engines.seat import Channel, Seat, with_package
from nb_elastic.engines.warm import Offer
from nb_elastic.errors import EngineError
from nb_elastic.lifeline import blocked_signals

COMMAND = ("-m", "nb_elastic.supervisor")
DETACHED_S = 2.0
"""A detached supervisor ends by itself, soon after its last word; it stays a zombie until its kernel has waited for it."""
HELLO_S = 60.0
"""The launcher may take so long to have a supervisor ready; then one is started without it."""
OVERDUE_S = 20.0
"""A supervisor that has not ended so long after a stop's grace hangs where nothing interrupts it: it is killed."""
EOF_S = 2.0
"""A run that is over may keep the reader of its pipe so long: a child of the notebook's own may have that pipe, too."""
LOOK_S = 0.2
KILLED_S = 5.0
LEAST_PIPE = 4096


@dataclass(slots=True, kw_only=True)
class _Ends:
    """What a supervisor gets: its stdin, stdout and stderr, and the payload's buffers."""

    stdin: int
    stdout: int
    log: int
    buffers: tuple[int, ...] = ()

    @property
    def fds(self) -> list[int]:
        """All, in the order in which a supervisor of the launcher takes them."""
        return [self.stdin, self.stdout, self.log, *self.buffers]

    def close(self) -> None:
        """Close what the supervisor has by now, or will never have."""
        for fd in self.fds:
            os.close(fd)


class LocalChannel:
    """A supervisor on this machine.

    Args:
        ends: of the supervisor; closed here once it has them, unless it can't be started.
        offer: a supervisor of the launcher, or None to start one at once.
        on_close: called when an attached run is over.
        on_leave: told of a supervisor of the launcher that has nothing left to do, and ends.
        on_silence: called when the launcher had no supervisor ready in time.

    Raises:
        OSError: if the process can't be started.
    """

    def __init__(
        self,
        seat: Seat,
        *,
        ends: _Ends,
        stdin: BinaryIO,
        stdout: BinaryIO | None,
        offer: Offer | None,
        on_close: Callable[[], None],
        on_leave: Callable[[Offer], None],
        on_silence: Callable[[], None],
    ) -> None:
        self._seat = seat
        self._ends: _Ends | None = ends
        self._stdin, self._stdout = stdin, stdout
        self._offer = offer
        self._on_close, self._on_leave, self._on_silence = on_close, on_leave, on_silence
        self._lock = threading.RLock()
        self._overdue_at = math.inf
        self._is_read = False
        self._closed_at = math.inf
        self.process: subprocess.Popen[bytes] | None = None
        self.notes: tuple[str, ...] = ()
        if offer is None:
            self._start_cold()
        else:
            self._settle(HELLO_S if seat.is_detached else 0.0, is_last=seat.is_detached)
        is_early = self._ends is not None and offer is not None and offer.is_early
        self.waits_for = "importing torch" if is_early or self.process is not None else ""

    def send(self, message: Mapping[str, Any], blob: bytes = b"") -> None:
        """Send one frame; dropped when the supervisor is gone."""
        if self._stdin.closed:
            return
        frame, is_stop = wire.encode(message, blob), message.get("type") == "stop"
        if is_stop:
            self._settle_at_last(0.0)  # a launcher that still imports would heed it too late
            self._overdue_at = time.monotonic() + float(message.get("grace_s") or 0.0) + OVERDUE_S
        elif not _has_room(self._stdin.fileno(), len(frame)):
            self._settle_at_last(HELLO_S)  # until then nobody reads what the pipe can't hold
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._stdin.write(frame)
            self._stdin.flush()
        if is_stop:
            self._wake()

    def lines(self) -> Iterator[bytes]:
        """Yield the supervisor's JSON lines; nothing for a detached one, whose journal tells all."""
        self._is_read = True
        self._settle_at_last(HELLO_S)
        if self._stdout is None:
            return
        with self._stdout as pipe:  # closed here: who reads has its lock
            rest = b""
            while data := self._read(pipe.fileno()):
                *whole, rest = (rest + data).split(b"\n")
                yield from (line + b"\n" for line in whole)

    @property
    def is_alive(self) -> bool:
        """True while the supervisor runs, or is about to; reaps it when it is done, and ends it when it is long overdue."""
        with self._lock:
            if self._ends is not None:
                return True
            is_overdue = time.monotonic() > self._overdue_at
            if self.process is not None:
                if self.process.poll() is None and is_overdue:
                    self._kill(self.process.send_signal)
                return self.process.poll() is None
            if self._offer is None or self._offer.is_over:
                return False
            if is_overdue and self._offer.identity is not None:
                self._kill(self._offer.identity.signal)
            return True

    def close(self, timeout_s: float = 10.0) -> None:
        """Close stdin, which ends an attached supervisor, and see to its end."""
        with self._lock:
            if self._ends is not None:
                self._ends.close()
                self._ends = None
        with contextlib.suppress(OSError):
            self._stdin.close()
        if self._seat.is_detached:
            if self.process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(DETACHED_S)
            return
        if self.process is not None:
            _end(self.process, timeout_s)
        elif self._offer is not None:
            self._on_leave(self._offer)
        self._closed_at = time.monotonic()
        if self._stdout is not None and not self._is_read:
            self._stdout.close()
        self._on_close()

    def _read(self, fd: int) -> bytes:
        """What comes next; nothing at the end, or when the run is over and nobody has spoken for long."""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while not poll.poll(LOOK_S * 1000):
            if time.monotonic() - self._closed_at > EOF_S:
                return b""
        return os.read(fd, 1 << 16)

    def _kill(self, send: Callable[[int], object]) -> None:
        self._overdue_at = math.inf
        with contextlib.suppress(OSError):
            told = f"The supervisor was killed: {OVERDUE_S:g} s after a stop and its grace it had not ended.\n"
            _append(self._seat.log, told)
        send(signal.SIGKILL)

    def _wake(self) -> None:
        """Have a supervisor that somebody stopped (SIGSTOP) go on: it could heed nothing."""
        with self._lock:
            if self.process is not None:
                self.process.send_signal(signal.SIGCONT)
            elif self._offer is not None and self._offer.identity is not None:
                self._offer.identity.signal(signal.SIGCONT)

    def _settle_at_last(self, timeout_s: float) -> None:
        """Have a supervisor, be it without the launcher; one that can't be started has ended, and its log says why."""
        try:
            self._settle(timeout_s, is_last=True)
        except OSError as e:
            with self._lock:
                ends, self._ends = self._ends, None
            if ends is not None:
                with contextlib.suppress(OSError):
                    os.write(ends.log, f"The supervisor can't be started: {e.strerror or e}.\n".encode())
                ends.close()

    def _settle(self, timeout_s: float, *, is_last: bool) -> None:
        """Hand the pipes to the launcher's supervisor when it has said hello.

        Args:
            is_last: start one without the launcher if it has not said hello in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            with self._lock:
                if self._ends is None or self._offer is None:
                    return
                answer, offer = self._offer.advance(self._ends.fds), self._offer
                is_late = is_last and time.monotonic() >= deadline and (timeout_s > 0 or not offer.is_handed)
                if is_late and answer is None:
                    offer.withdraw()
                    answer = bool(offer.advance(self._ends.fds))  # it may have taken them just now
                if answer:
                    self._ends.close()
                    self._ends = None
                elif answer is False:
                    offer.close()
                    self._offer = None
                    self._start_cold()
            if answer is not None or not timeout_s:
                break
            offer.wait(deadline - time.monotonic())
        if answer is False and timeout_s and is_late:
            self._on_silence()

    def _start_cold(self) -> None:
        ends = self._ends
        if ends is None:
            return
        with blocked_signals():
            self.process = subprocess.Popen(
                [sys.executable, *COMMAND],
                stdin=ends.stdin,
                stdout=ends.stdout,
                stderr=ends.log,
                env=with_package(self._seat.env),
                cwd=self._seat.log.parent,
                pass_fds=ends.buffers,
                start_new_session=True,
            )
        ends.close()
        self._ends = None


def _end(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the kernel: it goes when that lets it
            process.wait(KILLED_S)


def _has_room(pipe: int, size: int) -> bool:
    """True if a pipe that nobody reads takes so many bytes at once; it is made larger where the system allows that."""
    with contextlib.suppress(OSError, AttributeError):
        return size <= fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) or size <= fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, size)
    return size <= LEAST_PIPE


def _append(path: Path, text: str) -> None:
    fd = opening.to_append(path)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


class LocalEngine:
    """Has the supervisor forked from the warm launcher, or starts it with this Python, in a session of its own."""

    def open(self, seat: Seat) -> Channel:
        """Start the one supervisor of this machine.

        Raises:
            EngineError: if the process can't be started.
        """
        launcher = warm.current()
        with contextlib.ExitStack() as stack:
            try:
                stdin_r, stdin = _pipe(stack, "wb")
                log = opening.to_append(seat.log)
                stack.callback(os.close, log)
                machine.hold(log)  # tells others, while a supervisor has it, that there is one
                stdout: BinaryIO | None = None
                if seat.is_detached:
                    stdout_w = os.open(os.devnull, os.O_WRONLY)
                    stack.callback(os.close, stdout_w)
                else:
                    stdout_w, stdout = _pipe(stack, "rb")
                channel = LocalChannel(
                    seat,
                    ends=_Ends(stdin=stdin_r, stdout=stdout_w, log=log, buffers=seat.pass_fds),
                    stdin=stdin,
                    stdout=stdout,
                    offer=launcher.supervisor(spares=seat.nproc, env=seat.rank_env) if launcher else None,
                    on_close=lambda: launcher.stand_by(seat.nproc) if launcher else None,
                    on_leave=lambda offer: launcher.leave(offer) if launcher else offer.close(),
                    on_silence=lambda: launcher.renew() if launcher else None,
                )
            except OSError as e:
                raise EngineError(
                    f"The supervisor can't be started: {e.strerror or e}. See {seat.log}. Nothing was started."
                ) from e
            stack.pop_all()  # they are the channel's now
        if launcher is not None:
            channel.notes, launcher.news = tuple(launcher.news), []
        return channel


def _pipe(stack: contextlib.ExitStack, mode: str) -> tuple[int, BinaryIO]:
    """A pipe: the supervisor's end, and ours as a file."""
    r, w = os.pipe()
    theirs, own = (r, w) if mode == "wb" else (w, r)
    stack.callback(os.close, theirs)
    file: Any = stack.enter_context(open(own, mode))  # noqa: SIM115  the stack closes it
    return theirs, file
