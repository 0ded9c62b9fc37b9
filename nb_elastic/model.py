"""The nouns of nb_elastic: entrypoints, launch specifications, states and failures.

Runs in: every process. Everything here is plain data that turns into JSON and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from typing import Any, Literal, TypeVar

from nb_elastic.model_options import LaunchOptions

T = TypeVar("T")


class RunState(str, Enum):
    """State of a run. The last four are final."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    LOST = "lost"

    @property
    def is_final(self) -> bool:
        """True when nothing more will happen to the run."""
        return self in {RunState.SUCCEEDED, RunState.FAILED, RunState.STOPPED, RunState.LOST}


class WorkerState(str, Enum):
    """State of one worker process.

    ``HELD`` is a worker that waits at its exception or breakpoint for somebody to look at it.
    ``ENDED`` is a worker that the agent ended because another one failed or the group re-formed;
    ``STOPPED`` one that ended because somebody stopped the run.
    """

    STARTING = "starting"
    RUNNING = "running"
    HELD = "held"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ENDED = "ended"
    STOPPED = "stopped"

    @property
    def is_final(self) -> bool:
        """True when the process is gone."""
        return self not in {WorkerState.STARTING, WorkerState.RUNNING, WorkerState.HELD}


class FailureCategory(str, Enum):
    """What kind of thing made a rank, or a whole run, fail. ``UNKNOWN`` where the evidence is missing."""

    USER_ERROR = "user error"
    HOST_MEMORY = "out of host memory"
    GPU_MEMORY = "out of GPU memory"
    KILLED = "killed from outside"
    NATIVE_CRASH = "crashed in native code"
    LOST_PEER = "lost a peer"
    LOST_NODE = "lost a node"
    RENDEZVOUS = "rendezvous"
    IMPORT = "import or pickle"
    TIMEOUT = "timeout"
    UNKNOWN = "unknown"


Stream = Literal["stdout", "stderr"]
STREAMS: tuple[Stream, Stream] = ("stdout", "stderr")


EntryKind = Literal["cell", "function", "import", "script", "module", "program"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint:
    """What every rank runs.

    ``cell`` and ``function`` live in the payload file; ``import`` is ``package.module:function``;
    ``script``, ``module`` and ``program`` take ``argv`` as a fresh process would.

    Attributes:
        argv0: ``sys.argv[0]`` of a script, as the user typed it; "" is ``target``.
    """

    kind: EntryKind
    target: str
    argv: tuple[str, ...] = ()
    argv0: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """All a supervisor needs to run its node's share of a run; travels as one frame.

    Attributes:
        run_id: names the run folder.
        rdzv_id: TORCHELASTIC_RUN_ID of the ranks; equal to run_id unless the user set it.
        run_dir: absolute path of the run folder on this node.
        env: the whole environment of the ranks before the agent's own variables.
        payload: absolute path of the payload file, or "".
        buffers_fd: inherited descriptor with the payload's out-of-band buffers, or -1.
        key_hex: key of the run that seals the rendezvous state.
        rlimits: resource limits of the ranks, name -> (soft, hard), -1 for none; those not named stay as they are.
        niceness: nice value of the ranks; None leaves it alone.
        affinity: logical CPUs that the notebook itself may use; empty leaves it alone.
        machine: ``machine.here`` of whoever launches, where the owner's pid means something.
        owner_pid: process whose end ends an attached run, with ``owner_start_ticks``; 0 where only stdin's end does.
        driven_by: ``driver`` where one leads several nodes: their meeting place, key and this node's number are given; else "".
    """

    run_id: str
    rdzv_id: str
    run_dir: str
    entrypoint: Entrypoint
    options: LaunchOptions
    env: Mapping[str, str]
    cwd: str
    sys_path: tuple[str, ...] = ()
    umask: int = 0o022
    payload: str = ""
    buffers_fd: int = -1
    key_hex: str = ""
    is_detached: bool = False
    node: int = 0
    rlimits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    niceness: int | None = None
    affinity: tuple[int, ...] = ()
    on_breakpoint: str = "pass"
    is_patient: bool = False
    machine: str = ""
    owner_pid: int = 0
    owner_start_ticks: int = 0
    driven_by: str = ""

    @property
    def level(self) -> int | None:
        """Level of this node's folders in the run's own, or None where the run has one node for all its life."""
        return self.node if self.driven_by or not self.options.is_one_node else None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """All one worker process needs; the agent makes one for each rank and round.

    Attributes:
        env: the complete environment of the process.
        cpus: logical CPUs to bind to; empty leaves the affinity alone.
        rlimits: resource limits, name -> (soft, hard), -1 for none; those not named stay as they are.
        niceness: nice value; None leaves it alone.
        affinity: CPUs to be allowed where ``cpus`` names none.
        binding: how ``cpus`` came to be, in words, for ``worker.json``.
        rank_dir: absolute path of the folder with this worker's files.
        argv: full command line for ``program``, else ``sys.argv[1:]``.
        hide_values: tell no values of variables with a failure.
        on_breakpoint: ``ask`` opens pdb where the run was launched, ``wait`` waits for ``debug``, ``pass`` goes on.
        is_patient: ranks may be held (``hold``: at an exception), so the time-outs of process groups must not fire.
    """

    run_id: str
    rank: int
    local_rank: int
    round: int
    attempt: int
    entrypoint: Entrypoint
    rank_dir: str
    env: Mapping[str, str]
    cwd: str
    sys_path: tuple[str, ...] = ()
    umask: int = 0o022
    payload: str = ""
    buffers_fd: int = -1
    pull: tuple[str, ...] = ()
    cpus: tuple[int, ...] = ()
    binding: str = ""
    device: str = ""
    stdout: str = ""
    stderr: str = ""
    is_exec: bool = False
    rlimits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    niceness: int | None = None
    affinity: tuple[int, ...] = ()
    hide_values: bool = False
    hold: bool = False
    on_breakpoint: str = "pass"
    is_patient: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One line of a rank's traceback.

    Attributes:
        file: ``Cell In[12]`` for notebook code.
        values: short texts of the variables in this frame, only of the notebook's innermost frames.
    """

    file: str
    line: int
    name: str
    text: str = ""
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFailure:
    """One worker's failure: data, not an exception.

    Attributes:
        time_ns: when it failed, nanoseconds since the epoch: when the exception was caught in the
            rank, else when its exit was seen.
        exit_code: of the process; -N for death by signal N, None while unknown.
        signal: name of the signal that ended it, or "".
        error_type: the exception's class name, or "".
        message: the exception's text, or the death in words.
        traceback: formatted, with the notebook's lines; empty for a death without an exception.
        followed: why this failure only followed another one, or "" where it may be a cause.
        hint: what to do about it, or "".
        category: value of a FailureCategory, or "" where nobody judged.
        reasons: the evidence for the category, a sentence each.
    """

    rank: int
    local_rank: int
    round: int
    time_ns: int
    node: int = 0
    pid: int = 0
    exit_code: int | None = None
    signal: str = ""
    error_type: str = ""
    message: str = ""
    traceback: str = ""
    frames: tuple[Frame, ...] = ()
    followed: str = ""
    hint: str = ""
    category: str = ""
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StackGroup:
    """Ranks that stand at the same place.

    Attributes:
        ranks: global ranks, rising.
        state: what their main thread does: ``waiting``, ``busy``, ``stopped`` (SIGSTOP), ``stuck`` (in the kernel),
            ``held``, ``gone``, ``silent`` (no stack could be had).
        doing: one line: ``waits in all_reduce, Cell In[12], line 31``.
        frames: of the main thread, outermost first, without this package's own; empty where none could be had.
        notes: what else is known, a sentence each: other threads, the collective's number and shape, the file waited for.
        is_odd: this group, not the others, is what the others wait for, as far as one can tell; or what stands still alone.
        is_still: of a stall, these ranks do not move; the others do.
    """

    ranks: tuple[int, ...]
    state: str
    doing: str
    frames: tuple[Frame, ...] = ()
    notes: tuple[str, ...] = ()
    is_odd: bool = False
    is_still: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StackReport:
    """Where all ranks of a run stand at a moment.

    Attributes:
        time_ns: when the stacks were taken, nanoseconds since the epoch.
        cause: ``asked`` by somebody, ``hang``: nothing moved for too long, or ``stall``: some ranks did not, while others did.
        headline: one sentence that names who waits for whom, or who does what.
        advice: what to do about it, or "".
        kind: which of the known ways to hang this is, in one word of ``stacks_judge.KINDS``, or "" for none.
        groups: the odd one out first.
    """

    time_ns: int
    cause: str
    headline: str
    advice: str = ""
    kind: str = ""
    groups: tuple[StackGroup, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LogChunk:
    """New bytes of one rank's stream.

    Attributes:
        offset: position of ``data`` in the log file, bytes.
        skipped: bytes right before ``offset`` that were not read, because the rank writes faster than anybody reads;
            ``data`` then begins with a line, if there is one.
    """

    rank: int
    local_rank: int
    round: int
    stream: Stream
    offset: int
    data: bytes
    node: int = 0
    skipped: int = 0


def to_json(value: Any) -> dict[str, Any]:
    """Turn one of this module's dataclasses into a JSON-ready dict."""
    return asdict(value)


def from_json(cls: type[T], data: Mapping[str, Any]) -> T:
    """Make a dataclass of this module from its JSON dict.

    Unknown keys are left out, so that an older reader can open a newer folder.

    Raises:
        TypeError: if a field without default is missing.
    """
    nested: dict[str, type[Any]] = {"entrypoint": Entrypoint, "options": LaunchOptions}
    rows: dict[str, type[Any]] = {"frames": Frame, "groups": StackGroup}
    kwargs: dict[str, Any] = {}
    for f in fields(cls):  # type: ignore[arg-type]
        if f.name not in data:
            continue
        value = data[f.name]
        if f.name in nested and isinstance(value, Mapping):
            value = from_json(nested[f.name], value)
        elif f.name in rows:
            value = tuple(from_json(rows[f.name], v) for v in value)
        elif isinstance(value, list):
            value = tuple(value)
        kwargs[f.name] = value
    return cls(**kwargs)
