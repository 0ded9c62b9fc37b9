"""Where every file of a run lies: one folder a run, in it one for each round and local rank.

Runs in: every process. Nothing here touches the disk, save ``RunDir.level`` and ``RunDir.ranks``, which look at it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nb_elastic import opening
from nb_elastic.model import Stream


@dataclass(frozen=True, slots=True)
class RankDir:
    """The files of one worker: one folder for each round and local rank."""

    path: Path

    @property
    def stdout(self) -> Path:
        """Every byte the rank wrote to fd 1."""
        return self.path / "stdout.log"

    @property
    def stderr(self) -> Path:
        """Every byte the rank wrote to fd 2."""
        return self.path / "stderr.log"

    def stream(self, stream: Stream) -> Path:
        """Log file of a stream by its name."""
        return self.stdout if stream == "stdout" else self.stderr

    @property
    def worker_json(self) -> Path:
        """What the worker really got: pid, device, CPUs, and at its end a summary of its result."""
        return self.path / "worker.json"

    @property
    def failure_json(self) -> Path:
        """The exception that ended the rank, as text."""
        return self.path / "failure.json"

    @property
    def result(self) -> Path:
        """The rank's return value, pickled."""
        return self.path / "result.pkl"

    @property
    def pulled(self) -> Path:
        """Variables asked for with ``--pull``, pickled (rank 0 only)."""
        return self.path / "pulled.pkl"

    @property
    def metrics(self) -> Path:
        """One JSON line for each ``nb_elastic.report``."""
        return self.path / "metrics.jsonl"

    @property
    def outputs(self) -> Path:
        """One JSON line for each thing that the rank displayed."""
        return self.path / "outputs.jsonl"

    @property
    def stacks(self) -> Path:
        """Where the rank's faulthandler writes its main thread's stack when it gets the signal for that."""
        return self.path / "stacks.log"

    def answer(self, pid: int) -> Path:
        """Where a process of the rank tells its threads' stacks when it is asked; whoever asked deletes it."""
        return self.path / f"stacks-{pid}.json"

    @property
    def bell(self) -> Path:
        """Named pipe by which a thread of the rank is asked while the main thread waits in native code."""
        return self.path / "stacks.bell"

    @property
    def held_json(self) -> Path:
        """Why and where the rank waits to be looked at; there while it does."""
        return self.path / "held.json"

    @property
    def debug_socket(self) -> Path:
        """Unix socket at which a held rank is asked and debugged."""
        return self.path / "debug.sock"


@dataclass(frozen=True, slots=True)
class RunDir:
    """One run's folder. Cheap to make; touches the disk only when asked."""

    path: Path

    @property
    def run_id(self) -> str:
        """The run's id is the folder's name."""
        return self.path.name

    @property
    def run_json(self) -> Path:
        """What was asked."""
        return self.path / "run.json"

    @property
    def journal(self) -> Path:
        """What happened."""
        return self.path / "journal.jsonl"

    @property
    def payload(self) -> Path:
        """The function or cell with what it captured."""
        return self.path / "payload.pkl"

    @property
    def supervisor_log(self) -> Path:
        """The supervisor's own stderr: torch's log lines and anything unexpected."""
        return self.path / "supervisor.log"

    @property
    def stop_json(self) -> Path:
        """How the last asker wants the run stopped: grace_s and by."""
        return self.path / "stop.json"

    @property
    def debug_socket(self) -> Path:
        """Unix socket at which the driver of a run on other machines takes debuggers to held ranks."""
        return self.path / "debug.sock"

    @property
    def asks(self) -> Path:
        """A folder for each open question to the nodes of a run; their answers come into it, and whoever asked deletes it."""
        return self.path / "asks"

    def node(self, node: int | None = None) -> Path:
        """Folder of what a node writes: the run's own, or, with ``node``, the level that runs of several nodes have."""
        return self.path if node is None else self.path / f"node_{node}"

    def level(self, node: int) -> int | None:
        """The node's number where the folder has a level for nodes, else None; it is made before the node is told of."""
        return node if (self.path / f"node_{node}").is_dir() else None

    def usage(self, node: int | None = None) -> Path:
        """What each rank of a node used, a JSON line a second."""
        return self.node(node) / "usage.jsonl"

    def processes(self, node: int | None = None) -> Path:
        """Every process of a node that was seen below its supervisor, with its start time: a JSON line for each look that found news."""
        return self.node(node) / "processes.jsonl"

    def growth(self, node: int | None = None) -> Path:
        """How large the log files of a node's ranks were at what time, a JSON line for each look that found news."""
        return self.node(node) / "growth.jsonl"

    def round(self, number: int, *, node: int | None = None) -> Path:
        """Folder of a round; ``node`` adds the level that runs of several nodes have."""
        return self.node(node) / f"round_{number}"

    def rank(self, round_number: int, local_rank: int, *, node: int | None = None) -> RankDir:
        """Folder of one worker of a round."""
        return RankDir(self.round(round_number, node=node) / str(local_rank))

    def ranks(self) -> Iterator[tuple[int | None, int, int, RankDir]]:
        """Yield (node, round, local rank, folder) of every worker there ever was, in order.

        Raises:
            DescriptorsError: if this process has too many files open to look.
        """
        found: list[tuple[int, int, int, Path]] = []
        nodes = _below([self.path], "node_")
        for path in _below(_below([self.path, *nodes], "round_")):
            if not path.name.isdecimal() or path.is_symlink() or not path.is_dir():
                continue
            number = path.parent.name.removeprefix("round_")
            level = path.parent.parent.name
            node = (
                level.removeprefix("node_") if level.startswith("node_") and path.parent.parent != self.path else "-1"
            )
            if number.isdecimal() and node.lstrip("-").isdecimal():
                found.append((int(node), int(number), int(path.name), path))
        for node_number, round_number, local_rank, path in sorted(found):
            yield (None if node_number < 0 else node_number), round_number, local_rank, RankDir(path)


def _below(folders: Sequence[Path], prefix: str = "") -> list[Path]:
    """What lies in these folders under names with this prefix."""
    found: list[Path] = []
    for folder in folders:
        try:
            with opening.wants_told(f"{folder} can't be listed"):
                found += [folder / name for name in os.listdir(folder) if name.startswith(prefix)]
        except OSError:  # no folder, or one that is gone
            continue
    return found
