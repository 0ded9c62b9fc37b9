"""Why ranks failed: each death in words, the root cause among all of them, and the message the user reads.

Runs in: the supervisor.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nb_elastic import rundir, untrusted
from nb_elastic.model import Frame, WorkerFailure
from nb_elastic.rundir import RankDir

TAIL_LINES = 30
TAIL_BYTES = 64_000
MAX_TEXT = 64_000
MAX_PLACES = 16

_LOST_PEER = re.compile(
    r"connection (was )?(closed|reset|refused|aborted) by (remote )?peer|connection reset|connection closed|broken pipe"
    r"|socket (closed|timeout)|recvValue|sendBytes failed|failed to recv|remote process exited|ncclRemoteError"
    r"|NCCL communicator was aborted|ncclSystemError|ncclInternalError|watchdog caught collective operation timeout"
    r"|timed out waiting \d+ms for (recv|send) operation|wait timeout|DistNetworkError|DistStoreError"
    r"|gloo/transport|Application timeout caused pair closure|peer .* (closed|died)|the process group .* aborted",
    re.IGNORECASE,
)
"""How a collective fails when another rank is gone; such a failure can't be a cause while another kind is there."""

_OF_TORCH = re.compile(
    r"gloo|nccl|c10d|torch[./\\]distributed|ProcessGroup|TCPStore|recvValue|sendBytes|remote process exited"
    r"|process group|collective operation|waiting \d+ms for (recv|send)",
    re.IGNORECASE,
)
"""Words that tell a message of torch's transports from one of the user's own sockets and files."""

_OF_SYSTEM = {"BrokenPipeError", "ConnectionResetError", "ConnectionAbortedError", "ConnectionRefusedError", "EOFError"}
_DIST_ERRORS = {"DistBackendError", "DistNetworkError", "DistStoreError", "DistError"}

SKEW_NS = 50_000_000
"""By so much a rank's own exception may be told later than its peers told theirs: it may close its connections first."""

DEATH_SKEW_NS = 2_000_000_000
"""The same for a death without an exception: its exit is seen when the system has torn the whole process down."""

_SHM_HINT = (
    "/dev/shm is probably full: fewer DataLoader workers, or a larger "  # noqa: S108  a hint's words
    "/dev/shm (docker run --shm-size=8g)."
)
_HINTS = (
    (r"CUDA out of memory|OutOfMemoryError", "The GPU's memory is full: a smaller batch, gradient checkpointing, or fewer ranks on that GPU would help. `%elastic doctor` shows who else uses it."),
    (r"DefaultCPUAllocator: can't allocate memory|^MemoryError", "The machine's memory is full: fewer ranks (--nproc-per-node) or smaller data a rank would help."),
    (r"EADDRINUSE|Address already in use", "A port is taken: leave --master-port and --rdzv-endpoint out, and the system chooses a free one."),
    (r"invalid device ordinal", "More ranks than GPUs: lower --nproc-per-node, or use LOCAL_RANK modulo the number of GPUs."),
    (r"Cannot re-initialize CUDA in forked subprocess|poison", "CUDA was used before the ranks were forked: use --start-method spawn, or leave the module that does it out of --preload."),
    (r"ncclUnhandledCudaError|unhandled cuda error|NCCL error", "NCCL failed: run again with --env NCCL_DEBUG=INFO and read the rank's stderr.log."),
    (r"No space left on device|ENOSPC", "A disk is full: free space, or choose another folder with --log-dir."),
    (r"unable to open shared memory object|bus error|unable to write to file </torch_", _SHM_HINT),
    (r"Too many open files", "Too many open files: raise `ulimit -n`, or call torch.multiprocessing.set_sharing_strategy('file_system')."),
    (r"Default process group has not been initialized", "Call torch.distributed.init_process_group() first, in the cell that runs in the ranks."),
    (r"^ModuleNotFoundError", "The ranks use the notebook's Python and sys.path: install the package there."),
)  # fmt: skip

_SIGNAL_WORDS = {
    "SIGKILL": "killed from outside (SIGKILL)",
    "SIGSEGV": "native crash: it touched memory that isn't its own (SIGSEGV)",
    "SIGBUS": "native crash: memory behind a mapping was missing (SIGBUS), most often because /dev/shm or a disk is full",
    "SIGABRT": "native code gave up (SIGABRT): a failed assertion, an uncaught C++ exception or a CUDA error",
    "SIGFPE": "native crash: an impossible arithmetic operation (SIGFPE)",
    "SIGILL": "native crash: an instruction that this CPU lacks (SIGILL); a library was built for another one",
    "SIGTERM": "ended from outside (SIGTERM)",
    "SIGINT": "interrupted from outside (SIGINT)",
    "SIGHUP": "ended from outside: its terminal went away (SIGHUP)",
    "SIGPIPE": "it wrote into a pipe that nobody reads (SIGPIPE)",
    "SIGXCPU": "it used more CPU time than allowed (SIGXCPU)",
    "SIGXFSZ": "it wrote a file larger than allowed (SIGXFSZ)",
}


_FOREIGN = re.compile(r"[/\\](site|dist)-packages[/\\]|[/\\]lib[/\\]python\d|^<frozen ")
_OURS = re.compile(
    r'^  File ".*[/\\]nb_elastic[/\\](worker|payload\w*|cell|entry|rankshell|supervisor[/\\]\w+)\.py", line'
)


def signal_name(exit_code: int | None) -> str:
    """Name of the signal in an exit code of -N; "" for an ordinary exit."""
    if exit_code is None or exit_code >= 0:
        return ""
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"


def read_exception(folder: RankDir, *, rank: int, local_rank: int, round_number: int) -> WorkerFailure | None:
    """What a rank wrote about its own exception; None if nothing (or nothing sane) is there.

    The rank may have been out of its mind: each field is checked.
    """
    data = rundir.read_json(folder.failure_json)
    time_ns = data.get("time_ns")
    if not isinstance(time_ns, int) or not data.get("error_type"):
        return None
    frames = data.get("frames")
    return WorkerFailure(
        rank=rank,
        local_rank=local_rank,
        round=round_number,
        time_ns=time_ns,
        error_type=_text(data.get("error_type")),
        message=_text(data.get("message")),
        traceback=_text(data.get("traceback")),
        frames=tuple(_frame(f) for f in frames if isinstance(f, dict))[:200] if isinstance(frames, list) else (),
    )


def explain(
    folder: RankDir,
    *,
    rank: int,
    local_rank: int,
    round_number: int,
    pid: int,
    exit_code: int | None,
    time_ns: int,
    oom_kills: int = 0,
    is_ended: bool = False,
    node: int = 0,
) -> WorkerFailure:
    """Make a rank's failure from what it wrote, else from how it died.

    Args:
        time_ns: when its exit was seen; its own exception's time goes first.
        is_ended: its signal came from the agent, which tells nothing about its own failure.
        oom_kills: how many processes the OOM killer ended in this control group since the round began.
    """
    found = read_exception(folder, rank=rank, local_rank=local_rank, round_number=round_number)
    if found is None:
        found = _torch_error(
            folder, WorkerFailure(rank=rank, local_rank=local_rank, round=round_number, time_ns=time_ns)
        )
    name = signal_name(exit_code)
    found = replace(found, node=node, pid=pid, exit_code=exit_code, signal=name)
    if not found.error_type and not found.message:
        tail = _tail(folder.stderr)
        words = _death(exit_code, name, oom_kills)
        found = replace(found, message=words, traceback=f"Last lines of stderr:\n{tail}" if tail else "")
    elif name and not is_ended:
        found = replace(found, message=f"{found.message} (then {_death(exit_code, name, oom_kills)})".strip())
    return replace(found, hint=hint_for(found) or _disk_hint(folder))


def _disk_hint(folder: RankDir) -> str:
    """A full disk keeps a rank from telling anything else."""
    try:
        is_full = os.statvfs(folder.path).f_bavail == 0
    except OSError:
        return ""
    return f"The disk of {folder.path} is full: free space, or choose another folder with --log-dir." if is_full else ""


def _death(exit_code: int | None, name: str, oom_kills: int) -> str:
    if name == "SIGKILL" and oom_kills:
        return "killed by the kernel's OOM killer (SIGKILL): the memory of this machine or container was full"
    if name == "SIGKILL":
        return "killed from outside (SIGKILL): by somebody, or by the OOM killer of the machine"
    if name:
        return _SIGNAL_WORDS.get(name, f"ended by {name}")
    if exit_code is None:
        return "vanished together with the process that watched it"
    return f"exited with code {exit_code} without a Python exception"


def hint_for(failure: WorkerFailure) -> str:
    """What to do about a frequent failure, or ""."""
    text = f"{failure.error_type}: {failure.message}\n{failure.traceback[-8000:]}"
    if failure.signal == "SIGBUS":
        return _SHM_HINT
    if "OOM killer (SIGKILL)" in failure.message:
        return "Fewer ranks (--nproc-per-node), smaller data a rank, or more memory for the container would help."
    return next((h for pattern, h in _HINTS if re.search(pattern, text, re.MULTILINE)), "")


def judge(found: Iterable[WorkerFailure]) -> list[WorkerFailure]:
    """Order failures, the root cause first, and mark those that only followed another one.

    A failure that already says why it followed keeps that. Among the rest, one that tells of a lost peer
    follows if some failure is of another kind: the peer's own, and no later than it can be. Causes come by
    time, then followers by time.
    """
    failures = sorted(found, key=lambda f: (f.time_ns, f.rank))
    open_ones = [f for f in failures if not f.followed]
    own = [f for f in open_ones if not is_lost_peer(f)]
    since_ns = min((f.time_ns - (SKEW_NS if f.error_type else DEATH_SKEW_NS) for f in own), default=0)
    causes = [f for f in open_ones if f in own or f.time_ns < since_ns] if own else open_ones[:1] or failures[:1]
    if not causes:
        return []
    root = causes[0]
    why = f"lost its connection after rank {root.rank} failed"
    followers = [f if f.followed else replace(f, followed=why) for f in failures if f not in causes]
    return [*causes, *followers]


def is_lost_peer(failure: WorkerFailure) -> bool:
    """True if a failure is what a rank sees when another one has gone away.

    The user's own files, pipes and sockets end with the same words: torch must have a part in it.
    """
    innermost = failure.frames[-1].file if failure.frames else _last_file(failure.traceback)
    if failure.error_type in _OF_SYSTEM:
        return "torch/distributed/" in innermost
    if failure.error_type not in {"RuntimeError", "", *_DIST_ERRORS} or not _LOST_PEER.search(failure.message):
        return False
    is_plain = failure.error_type == "RuntimeError"
    return not is_plain or "/torch/" in innermost or bool(_OF_TORCH.search(failure.message))


def _last_file(traceback: str) -> str:
    files = re.findall(r'^ *File "([^"]*)", line', traceback, re.MULTILINE)
    return files[-1] if files else ""


def headline(failure: WorkerFailure) -> str:
    """One line on a failure: ``ValueError: bad batch``, or the death in words."""
    first = next((line.strip() for line in failure.message.splitlines() if line.strip()), "")
    return f"{failure.error_type}: {first}".rstrip(": ") if failure.error_type else first


def text_of(failures: Sequence[WorkerFailure], *, others: Sequence[str] = (), run_dir: str) -> str:
    """The whole message: the root cause with its traceback, then one line for each other rank.

    Args:
        failures: as ``judge`` ordered them.
        others: one line for each rank that did not fail (``rank 3: ended by the agent``).
    """
    if not failures:
        return "\n".join(["The run failed.", *others, f"Everything is in {run_dir}"])
    root = failures[0]
    lines = [f"Rank {root.rank} failed: {headline(root)}"]
    if root.traceback:
        lines += ["", root.traceback.rstrip()]
    if root.hint:
        lines += ["", f"Hint: {root.hint}"]
    rest = [
        f"rank {f.rank}: {headline(f)}" + (f" ({f.followed})" if f.followed else f" ({_after(root, f)})")
        for f in failures[1:]
    ]
    if rest or others:
        lines += ["", *rest, *others]
    lines += ["", f"Logs and tracebacks of all ranks: {run_dir}"]
    return "\n".join(lines)


def where_text(told: Sequence[WorkerFailure]) -> str:
    """Where ranks were when they were interrupted: a line for each place, then the lowest rank's traceback."""
    told = sorted(told, key=lambda f: f.rank)
    places: dict[str, list[str]] = {}
    for failure in told:
        places.setdefault(_place(failure), []).append(str(failure.rank))
    lines = ["Where the ranks were:"] if told else []
    for place, ranks in list(places.items())[:MAX_PLACES]:
        names = ", ".join(ranks[:MAX_PLACES]) + (", ..." if len(ranks) > MAX_PLACES else "")
        lines.append(f"  rank{'s' if len(ranks) > 1 else ''} {names}: {place}")
    if told:
        lines += ["", f"Rank {told[0].rank}:", told[0].traceback.rstrip()]
    return "\n".join(lines)


def _place(failure: WorkerFailure) -> str:
    """The innermost line of the user's own code, else the innermost of all."""
    own = [f for f in failure.frames if not _FOREIGN.search(f.file)] or failure.frames
    if not own:
        return "unknown"
    return f"{own[-1].file}, line {own[-1].line}, in {own[-1].name}: {own[-1].text}".rstrip(": ")


def _after(root: WorkerFailure, failure: WorkerFailure) -> str:
    ms = (failure.time_ns - root.time_ns) / 1e6
    return f"{ms:.0f} ms later" if ms < 10_000 else f"{ms / 1000:.0f} s later"


def oom_kill_count() -> int:
    """How often the OOM killer struck in this process's control group; 0 where nobody counts."""
    for path in _oom_files():
        try:
            text = Path(path).read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
        if match := re.search(r"^oom_kill (\d+)", text, re.MULTILINE):
            return int(match[1])
    return 0


def _oom_files() -> list[str]:
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        groups = []
    found: list[str] = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            found += [f"/sys/fs/cgroup{path}/memory.events", "/sys/fs/cgroup/memory.events"]
        elif "memory" in controllers.split(","):
            found += [f"/sys/fs/cgroup/memory{path}/memory.oom_control", "/sys/fs/cgroup/memory/memory.oom_control"]
    return [*found, "/proc/vmstat"]


def _torch_error(folder: RankDir, failure: WorkerFailure) -> WorkerFailure:
    """Add what a program under torch's ``@record`` left in its error file."""
    message = rundir.read_json(folder.path / "error.json").get("message")
    if not isinstance(message, dict):
        return replace(failure, message=_text(message)) if isinstance(message, str) else failure
    kind, _, text = _text(message.get("message")).partition(": ")
    extra = message.get("extraInfo")
    stack = _text(extra.get("py_callstack")) if isinstance(extra, dict) else ""
    is_typed = kind.isidentifier() and bool(text)
    return replace(failure, error_type=kind if is_typed else "", message=text if is_typed else kind, traceback=stack)


def _tail(path: Path) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        size = os.fstat(fd).st_size
        data = os.pread(fd, TAIL_BYTES, max(0, size - TAIL_BYTES))
    except OSError:
        return ""
    finally:
        os.close(fd)
    lines = _without_ours(data.decode("utf-8", "replace").replace("\0", "").splitlines())[-TAIL_LINES:]
    return "\n".join(line[:2000] for line in lines)


def _without_ours(lines: list[str]) -> list[str]:
    """Leave out what faulthandler tells of this package: the frames below (older than) the user's code, and the modules."""
    found: list[str] = []
    is_fatal = is_ours = False
    for line in lines:
        is_fatal = is_fatal or line.startswith("Fatal Python error:")
        is_ours = is_fatal and line.startswith("  File ") and (is_ours or bool(_OURS.match(line)))
        if not is_ours and not (is_fatal and line.startswith("Extension modules: ")):
            found.append(line)
    while is_fatal and found and not found[-1].strip():
        found.pop()
    return found


def _frame(data: dict[str, Any]) -> Frame:
    line = data.get("line")
    return Frame(
        file=_text(data.get("file")),
        line=line if isinstance(line, int) else 0,
        name=_text(data.get("name")),
        text=_text(data.get("text")),
        values=untrusted.values(data.get("values")),
    )


def _text(value: Any) -> str:
    return value[:MAX_TEXT].encode("utf-8", "replace").decode() if isinstance(value, str) else ""
