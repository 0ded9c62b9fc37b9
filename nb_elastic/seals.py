"""Seals on the lines of a journal: what tells the supervisor's words from those of a rank, which can write to the same file.

Runs in: the kernel or command line that launched a run, and its supervisor. They share a key that no file holds; whoever
has it believes only what carries its seal. Who lacks it (another kernel, the command line) takes the journal at its word.

A seal is an HMAC-SHA256 over the line, its writer and the writer's count, so that a true line can't be told twice, either.
It keeps out mistakes and mischief; it can't keep out a rank that reads the memory of a process of the same user.
"""

from __future__ import annotations

import hmac
import os
import re
import threading
from pathlib import Path

MAX_SEAL_BYTES = 96
_MARK = b',"seal":"'
_SEAL = re.compile(rb"([0-9a-f]{8})\.([0-9]{1,12})\.([0-9a-f]{32})\"\}\n?\Z")

_keys: dict[str, bytes] = {}
_lock = threading.Lock()


def know(folder: Path, key: bytes) -> None:
    """Seal and check the journal of this run from now on, in all of this process."""
    with _lock:
        _keys[os.fspath(folder)] = key


def forget(folder: Path) -> None:
    """The run's folder is gone."""
    with _lock:
        _keys.pop(os.fspath(folder), None)


def forget_all() -> None:
    """This process was forked from one that has keys, and is to become ranks."""
    _keys.clear()  # without the lock, which a thread that wasn't forked may hold


def key_of(folder: Path) -> bytes:
    """Key of a run that this process launched or supervises, or b""."""
    return _keys.get(os.fspath(folder), b"")


class Sealer:
    """Seals the lines of one writer."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._writer = os.urandom(4).hex().encode()
        self._count = 0

    def seal(self, line: bytes) -> bytes:
        """The JSON object of a line (which ends in ``}`` and a line feed) with one more member."""
        body = line[:-2]
        self._count += 1
        count = str(self._count).encode()
        mac = _mac(self._key, body, self._writer, count)
        return b'%s%s%s.%s.%s"}\n' % (body, _MARK, self._writer, count, mac)


class Checker:
    """Tells which lines were sealed with the key, each once and in the order of its writer."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._counts: dict[bytes, int] = {}

    def is_genuine(self, line: bytes) -> bool:
        """True for a line that whoever has the key wrote, and that was not seen before."""
        at = line.rfind(_MARK, max(0, len(line) - MAX_SEAL_BYTES))
        found = _SEAL.match(line, at + len(_MARK)) if at > 0 else None
        if found is None:
            return False
        writer, count, mac = found.groups()
        if not hmac.compare_digest(mac, _mac(self._key, line[:at], writer, count)):
            return False
        number = int(count)
        if number <= self._counts.get(writer, 0):
            return False
        self._counts[writer] = number
        return True


def _mac(key: bytes, body: bytes, writer: bytes, count: bytes) -> bytes:
    return hmac.digest(key, b"%s.%s\n%s" % (writer, count, body), "sha256").hex()[:32].encode()
