"""Failures in words: each death, what to do about frequent ones, and the message the user reads.

Runs in: the supervisor.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from nb_elastic.model import WorkerFailure
from nb_elastic.supervisor.evidence import NOTHING, Evidence

MAX_PLACES = 16

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


def signal_name(exit_code: int | None) -> str:
    """Name of the signal in an exit code of -N; "" for an ordinary exit."""
    if exit_code is None or exit_code >= 0:
        return ""
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"


def death(exit_code: int | None, found: Evidence = NOTHING, *, is_oom: bool = False) -> str:
    """How a process died, in words.

    Args:
        is_oom: the OOM killer did it, as far as one can tell.
    """
    name = signal_name(exit_code)
    if name == "SIGKILL":
        if is_oom:
            return "killed by the kernel's OOM killer (SIGKILL): the memory of this machine or container was full"
        if found.oom_kills == 0 or found.machine_oom_kills == 0:
            return "killed from outside (SIGKILL): no OOM kill was counted"
        return "killed from outside (SIGKILL): by somebody, or by the OOM killer of the machine"
    if name:
        return _SIGNAL_WORDS.get(name, f"ended by {name}")
    if exit_code is None:
        return "vanished together with the process that watched it"
    if found.is_gone:
        return f"exited with code {exit_code}, and its folder was deleted"
    return f"exited with code {exit_code} without a Python exception"


def hint_for(failure: WorkerFailure) -> str:
    """What to do about a frequent failure, or ""."""
    text = f"{failure.error_type}: {failure.message}\n{failure.traceback[-8000:]}"
    if failure.signal == "SIGBUS":
        return _SHM_HINT
    if "OOM killer (SIGKILL)" in failure.message:
        return "Fewer ranks (--nproc-per-node), smaller data a rank, or more memory for the container would help."
    return next((h for pattern, h in _HINTS if re.search(pattern, text, re.MULTILINE)), "")


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
