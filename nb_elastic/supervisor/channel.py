"""The supervisor's ends to the outside: events out (journal first, then stdout) and frames in (stdin).

Runs in: the supervisor.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import stat
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any

from nb_elastic import events, opening, rundir, wire
from nb_elastic.events import Event
from nb_elastic.lifeline import ProcessId

_HEAD = struct.Struct(">II")
MAX_UNWRITTEN = 1_000
"""So many events are kept for a journal that has no room; the oldest go first."""
RETRY_S = 0.1


class FrameDecoder:
    """Turns bytes, as they come, into the JSON messages of ``wire.encode``; blobs are left out."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Add bytes and return the messages that are now complete.

        Raises:
            ValueError: if what came is not a frame.
        """
        self._data += data
        found: list[dict[str, Any]] = []
        while len(self._data) >= _HEAD.size:
            json_bytes, blob_bytes = _HEAD.unpack_from(self._data)
            if json_bytes > wire.MAX_JSON_BYTES:
                raise ValueError(f"A frame announces {json_bytes} bytes of JSON.")
            end = _HEAD.size + json_bytes + blob_bytes
            if len(self._data) < end:
                break
            message = json.loads(bytes(self._data[_HEAD.size : _HEAD.size + json_bytes]))
            del self._data[:end]
            if isinstance(message, dict):
                found.append(message)
        return found


class EventLog:
    """Writes each event to the journal, then the same line to stdout. Any thread may tell.

    Neither a full disk nor a reader of stdout that is gone or asleep stops the run: what can't be written to the one is
    still written to the other, and marked there as ``is_unwritten``. The journal is given it later, when there is room.
    """

    def __init__(self, run: rundir.RunDir, *, node: int, stdout_fd: int = 1) -> None:
        self._journal = rundir.Journal(run.journal)
        self._node = node
        self._lock = threading.Lock()
        self._stdout_fd = stdout_fd
        self._pending: deque[bytes] = deque()
        self._unwritten: deque[Event] = deque(maxlen=MAX_UNWRITTEN)
        self._reserved_bytes = 0
        self.has_failed = self.is_full = False
        mode = os.fstat(stdout_fd).st_mode
        self._is_pipe = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        if self._is_pipe:
            os.set_blocking(stdout_fd, False)

    @property
    def is_unlinked(self) -> bool:
        """True when the journal was deleted: nobody can ever read it."""
        return os.fstat(self._journal.fd).st_nlink == 0

    def tell(self, kind: str, *, node: int | None = None, time_ns: int | None = None, **data: Any) -> None:
        """Tell one event (see ``nb_elastic.events``), of this node where no other is named."""
        event = events.make(kind, node=self._node if node is None else node, time_ns=time_ns, **data)
        with self._lock:
            self._unwritten.append(event)
            if not self._write() or self.is_unlinked:
                event = replace(event, data={**event.data, "is_unwritten": True})
            self._pending.append(events.encode(event))
            self._drain()

    def note(self, text: str, *, level: str = "info") -> None:
        """Tell the user one sentence, once."""
        self.tell("note", level=level, text=text)

    def retry(self, timeout_s: float = 0.0) -> bool:
        """Give the journal what it could not be given before; False if there still is no room after ``timeout_s``."""
        end = time.monotonic() + timeout_s
        while True:
            with self._lock:
                if self.is_unlinked or self._write():
                    return True
            left = end - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, RETRY_S))

    def reserve(self) -> None:
        """Set room for the next events aside on the disk, so that the run's last word is written on a full one, too."""
        with self._lock:
            size = os.fstat(self._journal.fd).st_size
            if self._reserved_bytes - size < opening.RESERVE_BYTES // 2 and opening.reserve(
                self._journal.fd, size, opening.RESERVE_BYTES
            ):
                self._reserved_bytes = size + opening.RESERVE_BYTES

    def release(self) -> None:
        """Give back what is left of that room. Nobody else may write meanwhile."""
        with self._lock, contextlib.suppress(OSError):
            if self._reserved_bytes:
                os.ftruncate(self._journal.fd, os.fstat(self._journal.fd).st_size)

    def touch(self) -> None:
        """Show who can't see this process that it lives: the journal's time of change is now."""
        with contextlib.suppress(OSError):
            os.utime(self._journal.fd)

    def flush(self, timeout_s: float = 0.0) -> None:
        """Write what a slow reader of stdout has not taken yet, for at most ``timeout_s``."""
        end = time.monotonic() + timeout_s
        while True:
            with self._lock:
                self._drain()
                is_done = not self._pending
            left = end - time.monotonic()
            if is_done or left <= 0:
                return
            select.select([], [self._stdout_fd], [], min(left, 0.1))

    def hang_up(self, timeout_s: float) -> None:
        """End stdout after the last word, so that whoever reads it need not wait for this process's end."""
        self.flush(timeout_s)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stdout_fd)
        os.close(null)

    def close(self) -> None:
        """Close the journal; stdout stays."""
        with self._lock:
            self._pending.clear()
            self._journal.close()

    def _write(self) -> bool:
        """Write all that is not written yet, in order; False if there is no room. The lock is held."""
        try:
            while self._unwritten:
                self._journal.append(self._unwritten[0])
                self._unwritten.popleft()
        except OSError as e:
            self.is_full = self.is_full or e.errno in {errno.ENOSPC, errno.EDQUOT}
            if not self.has_failed:
                self.has_failed = True
                with contextlib.suppress(OSError):
                    print(f"nb_elastic: the journal can't be written: {e}", file=sys.stderr, flush=True)  # noqa: T201
            return False
        return True

    def _drain(self) -> None:
        while self._pending:
            line = self._pending[0]
            try:
                written = os.write(self._stdout_fd, line)
            except BlockingIOError:
                return
            except OSError:  # nobody reads any more: the journal is enough
                self._pending.clear()
                return
            if written < len(line):
                self._pending[0] = line[written:]
            else:
                self._pending.popleft()


class FrameReader:
    """A thread that reads frames from stdin and hands each message on; told and joined at the end.

    Args:
        on_message: called in the thread with each message.
        on_end: called in the thread once, when stdin is at its end, or the owner's.
        owner: process that holds stdin's other end; a child that it forked may hold that, too, and outlive it.
        decoder: holds what was read before and is no whole frame yet.
    """

    def __init__(
        self,
        on_message: Callable[[dict[str, Any]], None],
        on_end: Callable[[], None],
        *,
        fd: int = 0,
        decoder: FrameDecoder | None = None,
        owner: ProcessId | None = None,
    ) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._fd = fd
        self._decoder = decoder or FrameDecoder()
        self._owner = owner
        self._wake_r, self._wake_w = os.pipe()
        self._thread = threading.Thread(target=self._run, name="nb_elastic-stdin", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        os.write(self._wake_w, b"x")
        self._thread.join()
        os.close(self._wake_r)
        os.close(self._wake_w)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(self._wake_r, select.POLLIN)
        owner_fd = self._owner.open() if self._owner else -1
        if owner_fd >= 0:
            poll.register(owner_fd, select.POLLIN)
        is_over = owner_fd < 0 and self._owner is not None and not self._owner.may_live
        try:
            while not is_over:
                ready = [fd for fd, _ in poll.poll()]
                if self._wake_r in ready:
                    return
                is_over = owner_fd in ready or not self._read()
        except (OSError, ValueError):
            pass
        finally:
            if owner_fd >= 0:
                os.close(owner_fd)
        self._on_end()

    def _read(self) -> bool:
        """Read once and hand on what came; False at stdin's end."""
        data = os.read(self._fd, 1 << 16)
        for message in self._decoder.feed(data):
            self._on_message(message)
        return bool(data)
