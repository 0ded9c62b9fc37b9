"""The state of a run at a moment, as plain data: its workers, its rounds, its failures.

Runs in: the kernel or command line, and tests; ``snapshot`` makes these.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from nb_elastic.model import RunState, StackReport, WorkerFailure, WorkerState


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSnapshot:
    """One worker of the current round.

    Attributes:
        cpus: the CPUs it may use, read back in the rank, compact (``0-3,8``).
        binding: how that came to be, in words.
        result_text: short text of its return value; "" until it has one.
        result_error: why its return value could not be kept, or "".
        held: why it waits to be looked at (``failure`` or ``breakpoint``), or "".
        held_text: where it waits, in words.
        holds: when it was held: begin and end of each time, 0 while it lasts.
        how: its way to its end, in words ("saved and left by itself"), or "".
    """

    node: int
    local_rank: int
    rank: int = -1
    round: int = 0
    state: WorkerState = WorkerState.STARTING
    pid: int = 0
    start_ticks: int = 0
    device: str = ""
    cpus: str = ""
    binding: str = ""
    start_method: str = ""
    started_ns: int = 0
    ended_ns: int = 0
    exit_code: int | None = None
    signal: str = ""
    has_result: bool = False
    result_text: str = ""
    result_size_bytes: int = 0
    result_error: str = ""
    held: str = ""
    held_text: str = ""
    holds: tuple[tuple[int, int], ...] = ()
    how: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSnapshot:
    """One node of a run that an engine placed on machines; runs of this machine alone have none.

    Attributes:
        node: its index in the order of joining; of a run no two nodes have the same.
        host: the machine's own name.
        address: under which the other nodes reach it.
        place: what the engine calls the machine, or "".
        state: ``joined``, ``lost`` (nothing was heard of it any more) or ``left`` (it went by itself).
        joined_ns: when it joined first.
        lost_ns: when it was last lost, or left; 0 while it is here.
        text: why it was lost, or left; of one that is back, too.
        nproc: ranks that it was asked for: a number, or text such as ``gpu``.
        gpus: how many it has.
        is_back: it was called lost, and then heard again.
        spans: when it was here: begin and end of each time, 0 while it lasts.
    """

    node: int
    host: str = ""
    address: str = ""
    place: str = ""
    state: str = "joined"
    joined_ns: int = 0
    lost_ns: int = 0
    text: str = ""
    nproc: int | str = 0
    gpus: int = 0
    is_back: bool = False
    spans: tuple[tuple[int, int], ...] = ()

    @property
    def is_here(self) -> bool:
        """True while it takes part."""
        return self.state == "joined"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSnapshot:
    """One forming of the group.

    Attributes:
        cause: why it ended, "" while it lasts.
        formed_ns: when the rendezvous was over.
        nodes: whose ranks took part, rising; empty where the run has no nodes to tell apart.
    """

    number: int
    attempt: int = 0
    cause: str = ""
    text: str = ""
    started_ns: int = 0
    formed_ns: int = 0
    ended_ns: int = 0
    world_size: int = 0
    nodes: tuple[int, ...] = ()
    failures: tuple[WorkerFailure, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSnapshot:
    """The state of a run at a moment. Times are nanoseconds since the epoch, 0 where unknown.

    Attributes:
        nproc: workers a node, as asked for: a number, or text such as ``auto``.
        started_ns: when the first worker of the first round started.
        last_ns: time of the latest event.
        workers: of the current round, by node and local rank.
        failures: of the current round: the root cause, other causes by time, then followers by time.
        root_rank: global rank of the root cause in the current round, or None.
        notes: (level, text), each once.
        text: the run's last words.
        boot_id: of the machine that the supervisor runs on; until it reports, of whoever launched.
        pid_namespace: in which the pids mean something (an inode), 0 where unknown.
        stop_by: who asked for a stop, or "".
        category: value of the FailureCategory that made the run fail, or "".
        reasons: the evidence for the category, a sentence each.
        hang: where the ranks stand while nothing moves, or None.
        waits_for: what the launch waits for before its supervisor speaks, or "".
        nodes: all that ever joined, by their index; none in a run of this machine alone.
    """

    run_id: str = ""
    rdzv_id: str = ""
    name: str = ""
    state: RunState = RunState.CREATED
    entry: str = ""
    nproc: int | str = 0
    world_size: int = 0
    min_nodes: int = 1
    max_nodes: int = 1
    attempt: int = 0
    max_restarts: int = 0
    round: int = 0
    is_detached: bool = False
    created_ns: int = 0
    started_ns: int = 0
    finished_ns: int = 0
    workers: tuple[WorkerSnapshot, ...] = ()
    rounds: tuple[RoundSnapshot, ...] = ()
    failures: tuple[WorkerFailure, ...] = ()
    root_rank: int | None = None
    notes: tuple[tuple[str, str], ...] = ()
    last_ns: int = 0
    text: str = ""
    supervisor_pid: int = 0
    supervisor_start_ticks: int = 0
    host: str = ""
    boot_id: str = ""
    pid_namespace: int = 0
    torch: str = ""
    python: str = ""
    stop_by: str = ""
    category: str = ""
    reasons: tuple[str, ...] = ()
    hang: StackReport | None = None
    waits_for: str = ""
    nodes: tuple[NodeSnapshot, ...] = ()

    @property
    def has_nodes(self) -> bool:
        """True where a reader must be told which node a rank is on."""
        return bool(self.nodes) or self.max_nodes > 1

    @property
    def held(self) -> tuple[WorkerSnapshot, ...]:
        """The workers that wait to be looked at."""
        return tuple(w for w in self.workers if w.state is WorkerState.HELD)

    @property
    def root(self) -> WorkerFailure | None:
        """The root cause, or None while no rank of this round has failed."""
        return self.failures[0] if self.failures else None

    def worker(self, rank: int) -> WorkerSnapshot | None:
        """The worker with this global rank in the current round, or None."""
        return next((w for w in self.workers if w.rank == rank), None)

    def node(self, index: int) -> NodeSnapshot | None:
        """The node with this index, or None where nobody told of one."""
        at = bisect_left(self.nodes, index, key=lambda n: n.node)
        return self.nodes[at] if at < len(self.nodes) and self.nodes[at].node == index else None

    def elapsed_s(self, now_ns: int) -> float:
        """Seconds from the run's making to its end, or to ``now_ns`` while it lasts."""
        return max(0, (self.finished_ns or now_ns) - self.created_ns) / 1e9 if self.created_ns else 0.0


EMPTY = RunSnapshot()
