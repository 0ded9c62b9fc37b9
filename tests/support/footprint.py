"""What a kernel holds between launches: processes, descriptors, threads, memory and files, counted when all is at rest.

Runs in: the tests and benchmarks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nb_elastic.lifeline import descendants
from tests.support import proc
from tests.support.proc import Memory
from tests.support.until import until

REST_S = 1.0
"""All is at rest when nothing was counted differently for so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Counts at one moment; sizes in bytes, 0 where there is no launcher.

    Attributes:
        counts: what may not grow, by its name.
        kernel_bytes: pages that the kernel shares with nobody.
        launcher_bytes: the launcher's pages that no file holds, those it shares with its forks included.
    """

    counts: Mapping[str, int]
    kernel_bytes: int
    launcher_bytes: int

    @classmethod
    def of(cls, kernel: int, folder: Path, *, is_alone: bool = False) -> Footprint:
        """Look at a kernel whose runs and temporary files lie in a folder.

        Args:
            is_alone: nobody else works on this machine, so what appears in /dev/shm is this kernel's: count it, too.

        Raises:
            FileNotFoundError, ProcessLookupError: if a process ended while it was looked at.
        """
        launcher = proc.launcher_of(kernel)
        processes = descendants(kernel)
        return cls(
            counts={
                "processes": len(processes),
                "kernel fds": proc.descriptors(kernel),
                "kernel threads": proc.threads(kernel),
                "launcher fds": proc.descriptors(launcher) if launcher else 0,
                "launcher threads": proc.threads(launcher) if launcher else 0,
                "stray files": len(stray_files(folder)),
                **({"shm files": len(list(Path("/dev/shm").glob("*")))} if is_alone else {}),
            },
            kernel_bytes=Memory.of(kernel).own,
            launcher_bytes=proc.family_anonymous(launcher) if launcher else 0,
        )

    def beyond(self, before: Footprint) -> dict[str, tuple[int, int]]:
        """What there is more of than before: (then, now), by its name."""
        return {name: (before.counts[name], now) for name, now in self.counts.items() if now > before.counts[name]}

    @property
    def head(self) -> str:
        """Names of the columns of ``line``."""
        return "  ".join([*self.counts, "kernel MB", "launcher MB"])

    @property
    def line(self) -> str:
        """The counts under ``head``."""
        cells = [f"{count:{len(name)}d}" for name, count in self.counts.items()]
        return "  ".join([*cells, f"{self.kernel_bytes / 1e6:9.2f}", f"{self.launcher_bytes / 1e6:11.2f}"])


def stray_files(folder: Path) -> list[Path]:
    """Files that no run needs: in the kernel's temporary folder, half written, or beside the runs."""
    home = folder / "home"
    beside = [path for path in home.glob("*") if not (path / "run.json").exists()]
    return [*(folder / "tmp").glob("*"), *beside, *home.rglob(".*")]


def look(kernel: int, folder: Path, *, is_alone: bool = False) -> Footprint | None:
    """The counts now; None if a process ended meanwhile."""
    try:
        return Footprint.of(kernel, folder, is_alone=is_alone)
    except (FileNotFoundError, ProcessLookupError):
        return None


def settled(kernel: int, folder: Path, *, rest_s: float = REST_S, is_alone: bool = False) -> Footprint:
    """The counts once they have not changed for ``rest_s``."""
    last: Mapping[str, int] = {}
    since = time.monotonic()

    def at_rest() -> Footprint | None:
        nonlocal last, since
        now = look(kernel, folder, is_alone=is_alone)
        counts = now.counts if now else {}
        if counts != last:
            last, since = counts, time.monotonic()
        return now if time.monotonic() - since >= rest_s else None

    return until(at_rest, 60, "a kernel at rest")
