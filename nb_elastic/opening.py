"""How files of a run are opened where a rank may have put something else in their place.

Runs in: every process. Never through a link, in the file's name or in the folders of its rank; never a pipe, a device or a
folder. What is checked is what was opened, so nothing can be exchanged in between.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from nb_elastic.errors import DescriptorsError
from nb_elastic.lifeline import HeldInterrupts

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
WRITE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
FALLOC_FL_KEEP_SIZE = 1
RESERVE_BYTES = 128 << 10
"""Room for four of the longest events of a journal, or hundreds of ordinary ones."""
MAX_LEVELS = 3
"""``node_<k>/round_<n>/<local_rank>``: the folders within a run's own that a rank can exchange."""


def to_read(path: Path) -> int:
    """Open a regular file for reading.

    Raises:
        OSError: if it is absent, or none (ELOOP or ENOTDIR for a link, EINVAL for a pipe, a device or a folder).
    """
    return _checked(path, _READ)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[int]:
    """The same, and closed whatever comes: an interrupt waits until it is, and only a second one gets through.

    Raises:
        OSError: as ``to_read``.
    """
    failed: OSError | None = None
    with HeldInterrupts(most=1):  # which tells an interrupt only where nothing is raised, and an absent file is no news
        try:
            fd = to_read(path)
            try:
                yield fd
            finally:
                os.close(fd)
        except OSError as e:
            failed = e
    if failed is not None:
        raise failed


def to_append(path: Path) -> int:
    """Open a regular file for appending; make it, 0600, where there is none.

    Raises:
        OSError: as ``to_read``; or if it can't be made.
    """
    return _checked(path, APPEND)


def is_for_want(error: OSError) -> bool:
    """True if something could not be opened because this process, or the machine, has too many files open."""
    return error.errno in {errno.EMFILE, errno.ENFILE}


@contextlib.contextmanager
def wants_told(what: str) -> Iterator[None]:
    """Raise a DescriptorsError in place of an OSError for want of descriptors: what can't be looked at is not absent.

    Args:
        what: as ``DescriptorsError.of`` takes it.
    """
    try:
        yield
    except OSError as e:
        if is_for_want(e):
            raise DescriptorsError.of(what) from e
        raise


def is_there(path: Path) -> bool:
    """True if ``to_read`` would open it."""
    try:
        with reading(path):
            return True
    except OSError:
        return False


def is_gone(path: Path) -> bool:
    """True if nothing is there; a file system that does not answer proves no such thing."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def reserve(fd: int, offset: int, size: int) -> bool:
    """Give a file room beyond its end without making it longer; False where the system can't, or the disk is full."""
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None).fallocate(fd, FALLOC_FL_KEEP_SIZE, ctypes.c_int64(offset), ctypes.c_int64(size)) == 0)


def checked(fd: int, name: str) -> int:
    """The descriptor that was just opened, if it is a regular file's.

    Raises:
        OSError: if it is none; then it is closed.
    """
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _checked(path: Path, flags: int) -> int:
    fd = checked(_open(path, flags), str(path))
    try:
        about = os.fstat(fd)
        if flags == APPEND and stat.S_IMODE(about.st_mode) != 0o600 and about.st_uid == os.geteuid():
            os.fchmod(fd, 0o600)  # it was made under an odd umask, or by somebody before us
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open(path: Path, flags: int) -> int:
    """Open step by step below the run's folder: that one is the user's choice, the rest a rank's."""
    steps = levels(path)
    if not steps:
        return os.open(path, flags, 0o600)
    at = os.open(path.parents[steps], FOLDER)
    try:
        for n in range(steps - 1, -1, -1):
            below = os.open(path.parents[n].name, FOLDER, dir_fd=at)
            os.close(at)
            at = below
        return os.open(path.name, flags, 0o600, dir_fd=at)
    finally:
        os.close(at)


def levels(path: Path) -> int:
    """How many folders of a rank, a round or a node lie between a file and its run's folder."""
    names = [p.name for p in path.parents[:MAX_LEVELS]] if len(path.parents) > MAX_LEVELS else []
    if names and names[0].isdecimal() and len(names) > 1 and _is(names[1], "round_"):
        return 3 if len(names) > 2 and _is(names[2], "node_") else 2
    if names and _is(names[0], "round_"):
        return 2 if len(names) > 1 and _is(names[1], "node_") else 1
    return 1 if names and _is(names[0], "node_") else 0


def _is(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and name[len(prefix) :].isdecimal()
