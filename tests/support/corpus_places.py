"""Places where programs run short of something: a control group with little memory, a small /dev/shm, a small disk.

Runs in: the tests and benchmarks, as root; each place is gone when its block ends.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nb_elastic.supervisor import evidence
from tests.support.until import until


class CannotHaveError(Exception):
    """This machine does not let us make such a place."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Words before the command line, and variables for the ranks."""

    prefix: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def place(name: str, folder: Path) -> Iterator[Place]:
    """Make a place by its name; "" is any.

    Raises:
        CannotHaveError: if the system does not let us.
    """
    if name == "memory_limit":
        with _memory_group(1 << 30) as group:
            yield Place(prefix=["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"])
    elif name == "memory_group":
        with _memory_group(96 << 20) as group:
            yield Place(env={"NB_GROUP": str(group)})
    elif name == "small_shm":
        yield Place(prefix=_mounted("4m", "/dev/shm"))
    elif name == "small_disk":
        disk = folder / "disk"
        disk.mkdir(parents=True)
        yield Place(prefix=_mounted("512k", str(disk)), env={"NB_DISK": str(disk)})
    else:
        yield Place()


def _mounted(size: str, where: str) -> list[str]:
    return ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size={size} none {where} && exec "$@"', "sh"]


@contextlib.contextmanager
def _memory_group(size_bytes: int) -> Iterator[Path]:
    """A control group for memory below our own."""
    own = evidence.memory_group(os.getpid())
    if own is None:
        raise CannotHaveError("no memory cgroup is to be seen")
    group = own / f"nbe-{secrets.token_hex(4)}"
    try:
        group.mkdir()
    except OSError as e:
        raise CannotHaveError(f"no cgroup can be made: {e}") from e
    try:
        limit = next((f for n in ("memory.limit_in_bytes", "memory.max") if (f := group / n).exists()), None)
        if limit is None:
            raise CannotHaveError("memory is not counted in cgroups below ours")
        limit.write_text(str(size_bytes))
        for swap in ("memory.memsw.limit_in_bytes", "memory.swap.max"):
            with contextlib.suppress(OSError):
                (group / swap).write_text(str(size_bytes if "memsw" in swap else 0))
        yield group
    finally:
        until(lambda: _is_removed(group), 30, f"{group} to be empty")


def _is_removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return not group.exists()
    return True
