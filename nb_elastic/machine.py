"""Which machine this is, as far as pids go: one boot of one kernel, one namespace of pids.

Runs in: every process.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
from pathlib import Path

from nb_elastic.lifeline import HeldInterrupts


@functools.lru_cache(maxsize=1)
def boot_id() -> str:
    """Names this boot of this machine's kernel, containers included; "" where it can't be told.

    Signal handlers ask for it, also in the midst of an import: no codec may have to be looked up.
    """
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().decode("ascii", "replace").strip()
    return ""


@functools.lru_cache(maxsize=1)
def pid_namespace() -> int:
    """Tells the pids of one container from those of another (an inode); 0 where it can't be told."""
    with contextlib.suppress(OSError):
        return os.stat("/proc/self/ns/pid").st_ino
    return 0


def here() -> str:
    """Where pids and start times mean what they mean in this process; "" where that can't be told."""
    return label(boot_id(), pid_namespace())


def label(boot: str, namespace: int) -> str:
    """The same for a process of which these two are known."""
    return f"{boot} {namespace}" if boot and namespace else ""


def hold(fd: int) -> None:
    """Mark an open file as held: for as long as any process has this descriptor, or one made from it."""
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)


def is_held(path: Path) -> bool | None:
    """True while a process of this kernel, of whatever container, holds a file; None where that can't be told."""
    with HeldInterrupts(most=1):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return None
        finally:
            os.close(fd)
    return False
