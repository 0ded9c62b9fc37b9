"""A disk of a few hundred kilobytes, to be filled and emptied.

Runs in: the tests.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A file system with little room; ``kind`` is its type."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path
        self.kind = kind
        self._filler = path / "filler"

    def fill(self) -> None:
        """Take all the room there is."""
        fd = os.open(self._filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for size in (4096, 1):
                try:
                    while True:
                        os.write(fd, b"x" * size)
                except OSError:
                    continue
        finally:
            os.close(fd)

    def free(self) -> None:
        """Give it back."""
        self._filler.unlink()


@contextmanager
def small_disk(path: Path, *, size: str = "2m", kind: str = "tmpfs") -> Iterator[SmallDisk]:
    """Mount one; the test is skipped where that can't be.

    Args:
        kind: ``tmpfs``, where a file can be given room ahead, or ``ext2``, where it can't.
    """
    if os.geteuid() != 0:
        pytest.skip("mounts a tiny disk")
    path.mkdir(exist_ok=True)
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "none", str(path)]
    else:
        image = path.with_suffix(".img")
        subprocess.run(["truncate", "-s", size, str(image)], check=True)
        if subprocess.run([f"mkfs.{kind}", "-q", "-m", "0", str(image)], check=False, capture_output=True).returncode:
            pytest.skip(f"no mkfs.{kind}")
        command = ["mount", "-o", "loop", str(image), str(path)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        yield SmallDisk(path, kind)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
