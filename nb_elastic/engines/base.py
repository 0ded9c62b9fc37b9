"""The seam to whoever places nodes: an engine starts one node program a node, and carries its stdin and stdout.

Runs in: the kernel or the command line (``settle``) and the driver (all else). Third parties register a class like
``Engine`` in the entry-point group ``nb_elastic.engines``; ``tests/engines/contract.py`` is what it must pass.

What is sent are frames of ``nb_elastic.wire``, what comes back are JSON lines of at most 32 kB. An engine looks into
neither. Where one command reaches several nodes (``srun``), each frame reaches all of them, and their lines come merged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from nb_elastic.errors import EngineError, OptionError

GROUP = "nb_elastic.engines"
LOCAL = "local"
BUILT_IN = {
    "ray": "nb_elastic.engines.ray:RayEngine",
    "slurm": "nb_elastic.engines.slurm:SlurmEngine",
    "dask": "nb_elastic.engines.dask:DaskEngine",
    "join": "nb_elastic.engines.join:JoinEngine",
}
NODE_PROGRAM = ("-m", "nb_elastic.node")
"""Arguments of the Python interpreter that start a node program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a launch wants of an engine.

    Attributes:
        settings: what stands behind ``--engine NAME=``, as text.
        min_nodes, max_nodes: of ``--nnodes MIN:MAX``.
        nproc: ranks of each node; 0 where each node has as many as it finds GPUs (or CPUs).
        gpus: GPUs to reserve on each node; 0 for none, -1 for all it has.
        prefers_gpus: where ``gpus`` is 0, reserve one GPU a rank on each node all the same if the cluster has any GPUs;
            false where the launch clearly wants none.
    """

    run_id: str
    settings: str = ""
    min_nodes: int = 1
    max_nodes: int = 1
    nproc: int = 1
    gpus: int = 0
    prefers_gpus: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """Where an engine will place nodes, as it was found in the kernel; all that it needs in another process.

    Attributes:
        label: what the user calls the place, for sentences: ``Slurm allocation 42``.
        value: JSON-ready; runs with the same value may use the same nodes, one after another.
        notes: what to tell the user once.
        has_queue: nodes come through a queue, maybe in hours; the time in which they must come counts from ``open``'s end.
    """

    label: str
    value: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    has_queue: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the driver orders of an engine, and how it hears of it.

    Attributes:
        nodes: how many node programs to start at once (``open``), or at most (``grow``).
        arguments: of the Python interpreter on each node.
        env: variables to set there, beyond what the node's own environment has.
        folder: private folder of the driver, for what the engine writes.
        log: file to which the engine may append what its own commands say.
        on_link: called, from any thread, with each link as soon as it is there.
        tell: says one sentence to the user: what is waited for, what was found.
        is_over: set when the nodes are no longer wanted; ``open`` and ``grow`` then return within a second or two.
    """

    settled: Settled
    wanted: Wanted
    nodes: int
    arguments: tuple[str, ...] = NODE_PROGRAM
    env: Mapping[str, str] = field(default_factory=dict)
    folder: Path
    log: Path
    on_link: Callable[[Link], None]
    tell: Callable[[str], None]
    is_over: threading.Event


class Link(Protocol):
    """Stdin and stdout of the node programs that one command started. Safe to use from several threads."""

    @property
    def nodes(self) -> int:
        """How many node programs it reaches: 1, but for a command that starts several."""
        ...

    @property
    def is_alive(self) -> bool:
        """False once the engine knows that none of its node programs can be heard of any more."""
        ...

    @property
    def why(self) -> str:
        """Why it is over, in the engine's words; "" while it isn't, or where nobody knows."""
        ...

    def send(self, frame: bytes) -> None:
        """Send a frame to all its node programs, in order; dropped when they are gone. Never waits for long."""
        ...

    def lines(self) -> Iterator[bytes]:
        """Yield their lines, without their ends; over when all are gone. Called once."""
        ...

    def close(self, timeout_s: float = 10.0) -> None:
        """End the node programs (their stdin ends), wait for them, and by then kill them."""
        ...


class Engine(Protocol):
    """Places nodes. One instance settles in the kernel; another, in the driver, opens, grows and closes."""

    def settle(self, wanted: Wanted, environ: Mapping[str, str]) -> Settled:
        """Find out where nodes can be placed, without placing any. Quick, and leaves nothing behind.

        Raises:
            OptionError: if the settings make no sense.
            EngineError: if what is needed isn't there: a package, a command, a cluster.
        """
        ...

    def open(self, order: Order) -> None:
        """Start ``order.nodes`` node programs on as many machines, each told by ``order.on_link``. May wait for machines.

        Raises:
            EngineError: if that fails; what was started then ends with ``close``.
        """
        ...

    def grow(self, order: Order) -> None:
        """Start node programs on machines that have appeared since, also one that was lost; called every few seconds.

        Raises:
            EngineError: if that fails; it is told once, and tried again.
        """
        ...

    def close(self) -> None:
        """End all that ``open`` and ``grow`` started, and give back what they took."""
        ...


def split(text: str) -> tuple[str, str]:
    """NAME and SETTINGS of ``--engine NAME[=SETTINGS]``."""
    name, _, settings = text.partition("=")
    return name, settings


def names() -> list[str]:
    """Names of all engines that are installed, ``local`` first."""
    from importlib import metadata  # which takes its time

    return [LOCAL, *BUILT_IN, *sorted({entry.name for entry in metadata.entry_points(group=GROUP)} - set(BUILT_IN))]


def load(name: str) -> Engine:
    """Find an engine by the NAME of ``--engine NAME[=SETTINGS]``.

    Raises:
        OptionError: if nobody registered that name in the entry-point group ``nb_elastic.engines``.
        EngineError: if its module can't be imported.
    """
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        built_in: Engine = getattr(import_module(module), attribute)()
        return built_in
    from importlib import metadata

    for entry in metadata.entry_points(group=GROUP, name=name):
        try:
            engine: Engine = entry.load()()
        except Exception as e:  # a third party's module may fail in any way
            raise EngineError(f"--engine {name} can't be loaded: {type(e).__name__}: {e}. Nothing was started.") from e
        return engine
    raise OptionError(
        f"--engine {name}: no engine of that name is installed ({', '.join(names())}). Nothing was started."
    )
