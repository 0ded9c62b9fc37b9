"""The node program on a machine that joined: started, fed, heard and ended.

Runs in: the command line or the kernel (``nb-elastic join``).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from nb_elastic.engines.seat import with_package
from nb_elastic.errors import EngineError
from nb_elastic.sealed_stream import DATA, END, MAX_DATA_BYTES, SealedStream

AT_ONCE_S = 5.0
"""A node program that fails within that never was of use."""
MAX_LINE_BYTES = 64 << 10
LAST_WORDS_S = 2.0
"""A process that it left behind may hold its pipes for ever."""


class Program:
    """A node program of this machine.

    Args:
        arguments: of the Python interpreter.
        env: variables for it, beyond this process's own.
        stream: where its lines go.
        tell: says one line to the person at this machine.

    Raises:
        EngineError: if it can't be started.
    """

    def __init__(
        self, arguments: Sequence[str], env: Mapping[str, str], stream: SealedStream, *, tell: Callable[[str], None]
    ) -> None:
        self._stream, self._tell = stream, tell
        self._why = ""
        self._own_code: int | None = None
        self._is_ended = False
        self._began = time.monotonic()
        try:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**with_package(os.environ), **env},
                bufsize=0,
                start_new_session=True,
            )
        except OSError as e:
            raise EngineError(f"The node program can't be started: {e.strerror or e}.") from e
        self._threads = [
            threading.Thread(target=self._carry, name="nb-elastic-join-lines", daemon=True),
            threading.Thread(target=self._retell, name="nb-elastic-join-words", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def own_code(self) -> int:
        """Its exit status, where it ended by itself; else 0."""
        return self._own_code or 0

    @property
    def has_left(self) -> bool:
        """True if it ended by itself, in order: it was told to, or heard nothing for too long."""
        return self._own_code == 0

    @property
    def own_end(self) -> str:
        """The same in words."""
        return _end_words(self.own_code)

    @property
    def has_failed_at_once(self) -> bool:
        """True if it ended in error by itself, too soon to have been of any use."""
        return self.own_code > 0 and time.monotonic() - self._began < AT_ONCE_S

    def write(self, data: bytes) -> None:
        """Give it bytes on stdin; dropped when it is gone."""
        rest = memoryview(data)
        with contextlib.suppress(OSError, ValueError):
            while rest:
                rest = rest[_pipe(self._process.stdin).write(rest) or 0 :]

    def leave(self, why: str, timeout_s: float) -> None:
        """End it because somebody at this machine wants that; another interrupt kills it."""
        self._why = why
        try:
            self.end(timeout_s)
            self._threads[0].join(timeout_s)  # the notebook has its last lines, and knows why
        except KeyboardInterrupt:
            self._process.kill()

    def end(self, timeout_s: float) -> None:
        """Close its stdin, wait for its end, and by then kill it."""
        if not self._is_ended:
            self._is_ended, self._own_code = True, self._process.poll()
        with contextlib.suppress(OSError):
            _pipe(self._process.stdin).close()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def hear_out(self) -> None:
        """Wait until all that it said on stderr is told, after it has ended."""
        self._threads[1].join(LAST_WORDS_S)

    def join(self) -> None:
        """Wait for the threads, after it has ended and the connection was cut."""
        for thread in self._threads:
            thread.join(LAST_WORDS_S)

    def _carry(self) -> None:
        """Its lines to the notebook; runs in a thread of its own, until it has ended."""
        gist = Gist()
        fd = _pipe(self._process.stdout).fileno()
        with contextlib.suppress(OSError):
            while data := os.read(fd, MAX_DATA_BYTES):
                self._stream.send(DATA, data)
                for text in gist.feed(data):
                    self._tell(text)
        code = self._process.wait()
        why = self._why or (f"its process ended with {_end_words(code)}" if code else "")
        with contextlib.suppress(OSError):
            self._stream.send(END, json.dumps({"why": why}).encode())
        _pipe(self._process.stdout).close()

    def _retell(self) -> None:
        """What it says on stderr, to the person at this machine; runs in a thread of its own."""
        with _pipe(self._process.stderr) as words:
            for line in open(words.fileno(), "rb", closefd=False):  # noqa: SIM115  words is what is closed
                if text := line.decode("utf-8", "replace").rstrip():
                    self._tell(text)


class Gist:
    """What of a node's lines its own machine's user wants to know: which run it takes part in, and how that ended."""

    def __init__(self) -> None:
        self._rest = b""
        self._runs: set[str] = set()

    def feed(self, data: bytes) -> list[str]:
        """Add bytes of stdout; returns what to tell now."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-MAX_LINE_BYTES:]
        return [text for line in lines if b'"event"' in line or b'"done"' in line for text in self._read(line)]

    def _read(self, line: bytes) -> list[str]:
        try:
            message = json.loads(line)
            kind, run = message["type"], str(message["run_id"])
            if kind == "done" and run in self._runs:
                self._runs.discard(run)
                return [f"Run {run}: over on this machine ({message['state']})."]
            if kind == "event" and run not in self._runs:
                self._runs.add(run)
                return [f"Run {run}: this machine is node {int(message['event']['node'])}."]
        except (ValueError, KeyError, TypeError, RecursionError):
            pass  # not for us
        return []


def _end_words(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"status {code}"


def _pipe(file: IO[bytes] | None) -> IO[bytes]:
    assert file is not None  # noqa: S101  Popen was asked for it
    return file
