"""Reads what processes hold, from /proc: memory, descriptors, threads, and which part of ours each is.

Runs in: the tests and benchmarks.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from nb_elastic.lifeline import descendants

LAUNCHER = "nb_elastic:launcher"
"""How the title of a kernel's launcher begins in ps."""


def title(pid: int) -> str:
    """What ps shows; empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def role(pid: int) -> str:
    """Which part of ours a process is: launcher, supervisor, forkserver, rank ...; "other" for anything else."""
    words = title(pid).split()
    if not words or not words[0].startswith("nb_elastic:"):
        return "other"
    if words[0].startswith(LAUNCHER):
        return "launcher"
    return re.sub(r"\d+$", "", words[0].rpartition(":")[2]) or "other"


def by_role(root: int) -> dict[str, list[int]]:
    """Living descendants of a process, by what they are; in the order in which they descend."""
    found: dict[str, list[int]] = {}
    for pid in descendants(root):
        found.setdefault(role(pid), []).append(pid)
    return found


def launcher_of(kernel_pid: int) -> int | None:
    """Pid of a kernel's launcher; None where it has none."""
    return next(iter(by_role(kernel_pid).get("launcher", [])), None)


def descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    """How many threads a process has."""
    return len(os.listdir(f"/proc/{pid}/task"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of a process, in bytes.

    Attributes:
        own: pages that no other process maps (USS).
        anonymous: its share (PSS) of pages that no file holds; over a process and all its forks the shares add up
            to what the family takes, whatever else runs.
        files: mapped pages of files that are in memory, shared or not.
        resident: all its pages in memory, shared or not (RSS).
    """

    own: int
    anonymous: int
    files: int
    resident: int

    @classmethod
    def of(cls, pid: int) -> Memory:
        """Look at a living process.

        Raises:
            ProcessLookupError: if it is gone, or has just ended.
        """
        try:
            rollup = _kilobytes(Path(f"/proc/{pid}/smaps_rollup").read_text())
            status = _kilobytes(Path(f"/proc/{pid}/status").read_text())
        except FileNotFoundError:
            rollup, status = {}, {}
        if "Pss_Anon" not in rollup or "RssFile" not in status:
            raise ProcessLookupError(f"no process {pid}")
        return cls(
            own=rollup["Private_Clean"] + rollup["Private_Dirty"],
            anonymous=rollup["Pss_Anon"],
            files=status["RssFile"],
            resident=rollup["Rss"],
        )


def family_anonymous(pid: int) -> int:
    """Bytes of pages that no file holds, of a process and all below it; a page that they share counts once."""
    return sum(Memory.of(p).anonymous for p in (pid, *descendants(pid)))


def _kilobytes(text: str) -> dict[str, int]:
    return {name: int(size) * 1024 for name, size in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
