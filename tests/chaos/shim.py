"""A wall clock that jumps and a disk that is slow, for one kernel and all it starts: ``shim.c``, built where there is a compiler.

Runs in: the chaos test.
"""

from __future__ import annotations

import mmap
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")


class Shim:
    """The library, and the file through which it is told what to do.

    Args:
        folder: where both are made.
    """

    def __init__(self, folder: Path) -> None:
        self.library, self._file = folder / "shim.so", folder / "shim"
        subprocess.run(
            ["cc", "-O1", "-shared", "-fPIC", "-o", self.library, SOURCE, "-ldl"], check=True, capture_output=True
        )
        self._file.write_bytes(bytes(mmap.PAGESIZE))
        with self._file.open("r+b") as file:
            self._told = mmap.mmap(file.fileno(), mmap.PAGESIZE)

    @classmethod
    def build(cls, folder: Path) -> Shim | None:
        """Make it; None where there is no C compiler, or none that can."""
        try:
            return cls(folder)
        except (OSError, subprocess.CalledProcessError):
            return None

    @property
    def env(self) -> dict[str, str]:
        """What loads it."""
        return {"LD_PRELOAD": str(self.library), "NBE_CHAOS_SHIM": str(self._file)}

    def jump(self, seconds: float) -> None:
        """Put the wall clock that far ahead of the machine's."""
        self._told[:8] = struct.pack("=q", int(seconds * 1e9))

    def slow(self, seconds: float) -> None:
        """Have the disk take so long each time."""
        self._told[8:16] = struct.pack("=q", int(seconds * 1e6))
