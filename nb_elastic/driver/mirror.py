"""A node's files, written again in the run folder: at the same offsets, or whole by a rename.

Runs in: the driver, in the thread that reads the node's link.

What comes from a node is not believed: only names that a node may have, below ``node_<k>``, never through a link.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from nb_elastic import opening
from nb_elastic.driver import descriptors, log
from nb_elastic.rundir_paths import RunDir

RANK_LINES = ("stdout.log", "stderr.log", "metrics.jsonl", "outputs.jsonl", "stacks.log")
ROUND_LINES = ("filtered_stdout.log", "filtered_stderr.log")
NODE_LINES = ("usage.jsonl", "growth.jsonl", "processes.jsonl", "supervisor.log")
WHOLE = ("worker.json", "failure.json", "result.pkl", "pulled.pkl", "held.json")
MAX_BYTES = 1 << 42

_FOLDER = r"round_[0-9]{1,6}/[0-9]{1,5}"


def _pattern(names: tuple[str, ...], folder: str) -> str:
    return folder + "(?:" + "|".join(map(re.escape, names)) + ")"


_GROWING = re.compile(
    "|".join((
        _pattern(RANK_LINES, f"{_FOLDER}/"),
        _pattern(ROUND_LINES, "round_[0-9]{1,6}/"),
        _pattern(NODE_LINES, ""),
    ))
)  # fmt: skip
_RENAMED = re.compile(_pattern(WHOLE, f"{_FOLDER}/"))


class Mirror:
    """The files of one node in one run.

    Args:
        most_open: so many of them are kept open.

    Attributes:
        failure: why a file can't be written, or "".
    """

    def __init__(self, run: RunDir, node: int, *, most_open: int = descriptors.FOR_FILES) -> None:
        self.run_id = run.run_id
        self._path = run.node(node)
        self._open: OrderedDict[str, int] = OrderedDict()
        self._most_open = most_open
        self.failure = ""
        self._is_closed = False
        self._lock = threading.Lock()
        self._path.mkdir(mode=0o700, exist_ok=True)

    def take(self, message: Mapping[str, Any]) -> None:
        """Write what a ``piece`` or ``whole`` carries, or delete what is ``gone``; nonsense is passed over."""
        path = message.get("path")
        with self._lock:
            if isinstance(path, str) and not self._is_closed:
                self._take(path, message)

    def close(self) -> None:
        """Write nothing more."""
        with self._lock:
            self._is_closed = True
            while self._open:
                _, fd = self._open.popitem()
                os.close(fd)

    def _take(self, path: str, message: Mapping[str, Any]) -> None:
        kind = message.get("type")
        try:
            if kind == "piece" and _GROWING.fullmatch(path):
                self._write(self._file(path), message)
            elif kind == "whole" and _RENAMED.fullmatch(path):
                self._take_whole(path, message)
            elif kind == "gone" and _RENAMED.fullmatch(path):
                self._remove(path)
            else:
                log.write(f"{self._path.name} sent a file that it may not: {path[:200]!r}")
        except (OSError, ValueError, binascii.Error) as e:
            if not self.failure:
                self.failure = f"{self._path / path} can't be written: {getattr(e, 'strerror', None) or e}"
                log.write(self.failure)

    def _file(self, path: str) -> int:
        """Descriptor of a file, made where there is none."""
        fd = self._open.get(path, -1)
        if fd < 0:
            folder, name = self._folder(path)
            try:
                fd = _make(name, folder)
            finally:
                os.close(folder)
            self._open[path] = fd
            if len(self._open) > self._most_open:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(path)
        return fd

    def _take_whole(self, path: str, message: Mapping[str, Any]) -> None:
        name = path.rpartition("/")[2]
        aside = f".{name}.aside"
        where = path[: -len(name)] + aside
        fd = self._file(where)
        if message.get("offset") == 0:
            os.ftruncate(fd, 0)
        self._write(fd, message)
        if message.get("is_last") is not True:
            return
        is_whole = os.fstat(fd).st_size == message.get("size")
        os.close(self._open.pop(where))
        folder, _ = self._folder(path)
        try:
            if is_whole:
                os.rename(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
            else:
                os.unlink(aside, dir_fd=folder)
        finally:
            os.close(folder)

    def _remove(self, path: str) -> None:
        folder, name = self._folder(path)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
        finally:
            os.close(folder)

    def _folder(self, path: str) -> tuple[int, str]:
        """Descriptor of a file's folder, made step by step where it isn't there; and the file's own name."""
        *steps, name = path.split("/")
        at = os.open(self._path, opening.FOLDER)
        try:
            for step in steps:
                below = _open_folder(step, at)
                os.close(at)
                at = below
        except BaseException:
            os.close(at)
            raise
        return at, name

    def _write(self, fd: int, message: Mapping[str, Any]) -> None:
        offset = message.get("offset")
        data = base64.b64decode(str(message.get("data") or ""), validate=True)
        if not isinstance(offset, int) or not 0 <= offset <= MAX_BYTES:
            return
        if not data and os.fstat(fd).st_size < offset:  # a hole at its end
            os.ftruncate(fd, offset)
        while data:
            written = os.pwrite(fd, data, offset)
            data, offset = data[written:], offset + written


def _open_folder(name: str, above: int) -> int:
    """Open a folder, made where there is none."""
    with contextlib.suppress(FileNotFoundError):
        return os.open(name, opening.FOLDER, dir_fd=above)
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=above)
    return os.open(name, opening.FOLDER, dir_fd=above)


def _make(name: str, folder: int) -> int:
    """Open a regular file for writing anywhere in it."""
    return opening.checked(os.open(name, opening.WRITE, 0o600, dir_fd=folder), name)
