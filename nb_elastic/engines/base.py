"""The seam between a run and whoever places its supervisors: start one command a node, carry its stdin and stdout.

Runs in: the kernel or the command line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Protocol

from nb_elastic.errors import EngineError, OptionError

GROUP = "nb_elastic.engines"
BUILT_IN = {"local": "nb_elastic.engines.local:LocalEngine"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What an engine needs to know to start the supervisors of a run.

    Attributes:
        log: file for the supervisors' own stderr.
        pass_fds: descriptors that a supervisor on this machine inherits; the channel closes them.
        is_detached: the supervisors outlive whoever started them.
        env: environment of the supervisors.
        nproc: ranks of a node.
        rank_env: environment of the ranks.
    """

    nodes: int
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
    """The two pipes of one supervisor.

    Attributes:
        notes: what to tell the user, once, of how it is started.
        waits_for: what it does before it is heard of, where that takes long; else "".
    """

    notes: tuple[str, ...]
    waits_for: str

    def send(self, message: Mapping[str, Any], blob: bytes = b"") -> None:
        """Send one frame; silently dropped when the supervisor is gone."""
        ...

    def lines(self) -> Iterator[bytes]:
        """Yield the supervisor's JSON lines until it is gone."""
        ...

    @property
    def is_alive(self) -> bool:
        """True while the supervisor runs."""
        ...

    def close(self, timeout_s: float = 10.0) -> None:
        """Close the pipes and wait for the supervisor to be gone."""
        ...


class Engine(Protocol):
    """Places supervisors."""

    def open(self, placement: Placement) -> list[Channel]:
        """Start one supervisor a node.

        Raises:
            EngineError: if that fails; nothing is left running then.
        """
        ...


def load(name: str) -> Engine:
    """Find an engine by the NAME of ``--engine NAME[=SETTINGS]``.

    Raises:
        OptionError: if nobody registered that name in the entry-point group ``nb_elastic.engines``.
        EngineError: if its module can't be imported.
    """
    short = name.partition("=")[0]
    if short in BUILT_IN:
        module, _, name = BUILT_IN[short].partition(":")
        built_in: Engine = getattr(import_module(module), name)()
        return built_in
    found = metadata.entry_points(group=GROUP, name=short)
    for entry in found:
        try:
            engine: Engine = entry.load()()
        except Exception as e:  # a third party's module may fail in any way
            raise EngineError(f"--engine {short} can't be loaded: {type(e).__name__}: {e}. Nothing was started.") from e
        return engine
    raise OptionError(
        f"--engine {name}: no engine of that name is installed (this version brings `local`). Nothing was started."
    )
