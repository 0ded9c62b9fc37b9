"""The kernel's seam to the one process that it starts for a run: a supervisor, or the driver of many nodes.

Runs in: the kernel or the command line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """What is needed to start that process.

    Attributes:
        log: file for its own stderr.
        pass_fds: descriptors that it inherits; the channel closes them.
        is_detached: it outlives whoever started it.
        env: its environment.
        nproc: ranks of this machine.
        rank_env: environment of the ranks.
    """

    log: Path
    pass_fds: tuple[int, ...] = ()
    is_detached: bool = False
    env: Mapping[str, str]
    nproc: int = 1
    rank_env: Mapping[str, str] = field(default_factory=dict)


def with_package(env: Mapping[str, str]) -> dict[str, str]:
    """An environment in which a new interpreter finds this package, after all that it finds already."""
    root = str(Path(__file__).resolve().parents[2])
    return {**env, "PYTHONPATH": os.pathsep.join(p for p in (env.get("PYTHONPATH", ""), root) if p)}


class Channel(Protocol):
    """The two pipes of that process.

    Attributes:
        notes: what to tell the user, once, of how it is started.
        waits_for: what it does before it is heard of, where that takes long; else "".
    """

    notes: tuple[str, ...]
    waits_for: str

    def send(self, message: Mapping[str, Any], blob: bytes = b"") -> None:
        """Send one frame; silently dropped when the process is gone."""
        ...

    def lines(self) -> Iterator[bytes]:
        """Yield its JSON lines until it is gone."""
        ...

    @property
    def is_alive(self) -> bool:
        """True while the process runs."""
        ...

    def close(self, timeout_s: float = 10.0) -> None:
        """Close the pipes and wait for the process to be gone."""
        ...
