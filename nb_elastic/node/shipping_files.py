"""One file of a run as it is shipped: how far it was sent, and its next piece.

Runs in: the node program, in the outbox's thread.

A file is opened with care, as any that a rank may have put there, and stays open only while it has something to send.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import stat
from pathlib import Path
from typing import Protocol

from nb_elastic import opening

PIECE_BYTES = 20_000


class ShippedFile(Protocol):
    """What the shipment asks of a file.

    Attributes:
        is_growing: it is appended to, so its growth can be watched.
        is_unwatched: it is there, and its growth would not be told of now.
        is_busy: it is in the queue of those that have something to send.
    """

    path: Path
    is_growing: bool
    is_unwatched: bool
    is_busy: bool

    def look(self) -> bool:
        """True if there is something to send that wasn't there at the last look."""
        ...

    def next_piece(self, token: str, run_id: str) -> bytes | None:
        """The next line for it; None where all was sent."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class _Opened:
    """What both kinds share: a descriptor while there is something to send."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.is_unwatched = self.is_busy = False
        self._text = str(path)  # a Path costs as much as the look itself
        self._name = json.dumps(name).encode()
        self._fd = -1
        self._offset = 0

    def close(self) -> None:
        """Close what is open."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> bool:
        if self._fd < 0:
            with contextlib.suppress(OSError):
                self._fd = opening.to_read(self.path)
        return self._fd >= 0

    def _status(self) -> os.stat_result | None:
        try:
            found = os.lstat(self._text)
        except OSError:
            return None
        return found if stat.S_ISREG(found.st_mode) else None

    def _line(self, kind: bytes, token: str, run_id: str, data: bytes, more: bytes = b"") -> bytes:
        return b'{"from":"%s","type":"%s","run_id":%s,"path":%s,"offset":%d%s,"data":"%s"}\n' % (
            token.encode(), kind, json.dumps(run_id).encode(), self._name, self._offset, more, base64.b64encode(data),
        )  # fmt: skip


class GrowingFile(_Opened):
    """A file that is only ever appended to: sent by its growth, with byte offsets; holes are passed over."""

    is_growing = True

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(path, name)
        self._size = -1
        self._is_told = False

    def look(self) -> bool:
        """See ``ShippedFile``."""
        found = self._status()
        if found is None or found.st_size <= self._size:
            return False
        self._size = found.st_size
        self.is_unwatched = True
        return True

    def next_piece(self, token: str, run_id: str) -> bytes | None:
        """See ``ShippedFile``. What grows all the while is sent to the size of the last look, so that others get their turn."""
        if self._size == 0 and not self._is_told:  # a log that stays empty is there all the same
            self._is_told = True
            return self._line(b"piece", token, run_id, b"")
        if self._offset >= self._size or not self._open():
            self.close()
            return None
        data = b""
        with contextlib.suppress(OSError):
            data = os.pread(self._fd, min(PIECE_BYTES, self._size - self._offset), self._offset)
        if data and not data.strip(b"\0"):
            return self._after_hole(token, run_id)
        if not data:  # it was cut, or can't be read: wait until it is longer than it was
            self.close()
            return None
        line = self._line(b"piece", token, run_id, data)
        self._offset += len(data)
        return line

    def _after_hole(self, token: str, run_id: str) -> bytes | None:
        """A rank can make a file of a terabyte that holds nothing: go on where there is data, or tell the size alone."""
        start = self._offset
        try:
            self._offset = os.lseek(self._fd, start, os.SEEK_DATA)
        except OSError as e:
            self._offset = self._size if e.errno == errno.ENXIO else start
        self._offset = min(self._offset, self._size)
        data = os.pread(self._fd, min(PIECE_BYTES, self._size - self._offset), self._offset)
        line = self._line(b"piece", token, run_id, data)
        self._offset += len(data)
        return line


class ReplacedFile(_Opened):
    """A file that is written aside and renamed: sent whole, again where it was replaced; told of where it is gone."""

    is_growing = False

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(path, name)
        self._seen: tuple[int, int, int] | None = None
        self._sent: tuple[int, int, int] | None = None
        self._size = 0
        self._is_gone = False

    def look(self) -> bool:
        """See ``ShippedFile``. What is being sent is sent to its end first."""
        if self._fd >= 0:
            return False
        found = self._status()
        now = _mark(found) if found is not None else None
        if now == self._seen:
            return False
        self._is_gone = now is None
        self._seen = now
        return True

    def next_piece(self, token: str, run_id: str) -> bytes | None:
        """See ``ShippedFile``."""
        if self._is_gone:
            self._is_gone, self._sent = False, None
            return b'{"from":"%s","type":"gone","run_id":%s,"path":%s}\n' % (
                token.encode(), json.dumps(run_id).encode(), self._name,
            )  # fmt: skip
        if self._fd < 0 and not self._begin():
            return None
        data = b""
        with contextlib.suppress(OSError):
            data = os.pread(self._fd, min(PIECE_BYTES, self._size - self._offset), self._offset)
        is_last = self._offset + len(data) >= self._size or not data
        more = b',"size":%d,"is_last":%s' % (self._size, b"true" if is_last else b"false")
        line = self._line(b"whole", token, run_id, data, more)
        self._offset += len(data)
        if is_last:
            self.close()
        return line

    def _begin(self) -> bool:
        if self._seen is None or self._sent == self._seen or not self._open():
            return False
        found = os.fstat(self._fd)
        self._seen = self._sent = _mark(found)
        self._size, self._offset = found.st_size, 0
        return True


def _mark(found: os.stat_result) -> tuple[int, int, int]:
    """Tells one content of a file from the next."""
    return found.st_ino, found.st_mtime_ns, found.st_size
