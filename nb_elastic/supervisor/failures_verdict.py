"""What kind of thing made a rank fail, and the evidence for it in sentences.

Runs in: the supervisor. Where the evidence is missing, the answer is UNKNOWN.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nb_elastic.frames import OPENING
from nb_elastic.model import FailureCategory, WorkerFailure
from nb_elastic.supervisor import failures_judge
from nb_elastic.supervisor.evidence import NOTHING, SHM, Evidence, gib, memory_words
from nb_elastic.supervisor.failures_judge import DIST_ERRORS, Link

LARGE = 0.25
"""An OOM kill that only the machine counted is a rank's if that used more than this part of the memory, and the most."""

_Told = tuple[FailureCategory, str]

NATIVE = {"SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL", "SIGSYS", "SIGTRAP"}
_OWN_SIGNALS = {"SIGPIPE", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGXFSZ"}
_SHELL_CODES = {128 + n: name for n, name in {1: "SIGHUP", 2: "SIGINT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}.items()}  # fmt: skip

_GPU = re.compile(
    r"(CUDA|HIP|XPU|MPS backend) (error: )?out of memory|CUBLAS_STATUS_ALLOC_FAILED|cudaErrorMemoryAllocation"
    r"|CUDA (driver )?error:? (2\b|out of memory)|Cuda failure (2 )?'out of memory'",
    re.IGNORECASE,
)
_HOST = re.compile(
    r"DefaultCPUAllocator|can't allocate memory|cannot allocate memory|std::bad_alloc|Unable to allocate [\d.]+ \w+ for an array",
    re.IGNORECASE,
)
_SHARED = re.compile(
    r"(unable to|could not|failed to) \w+( \w+)? (shared memory|</torch_|.*\(shm\))|insufficient shared memory"
    r"|unable to write to file </torch_|unable to (resize|allocate|mmap)",
    re.IGNORECASE,
)
_PICKLE = re.compile(
    r"(Can't|cannot|could not) (pickle|get attribute '[^']*' on <module|get local object)", re.IGNORECASE
)
_LOADER = re.compile(r"DataLoader worker \(pid(?:\(s\))? [^)]*\) (?:is killed by signal: ([\w ]+)|exited unexpectedly)")
_LOADER_SIGNAL = re.compile(r"DataLoader worker \(pid \d+\) is killed by signal: ([\w ]+)")
_NATIVE_TEXT = re.compile(
    r"an illegal memory access|misaligned address|an illegal instruction was encountered|unspecified launch failure"
)

_LOADER_SIGNALS = {"Killed": "SIGKILL", "Terminated": "SIGTERM", "Hangup": "SIGHUP", "Interrupt": "SIGINT"}
_IMPORTS = {"ModuleNotFoundError", "ImportError", "PicklingError", "UnpicklingError", "PayloadError"}
_SYNTAX = {"SyntaxError", "IndentationError", "TabError"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Company:
    """What the other ranks of this node did.

    Attributes:
        finished: ranks that had ended well.
        waiting: ranks that ran on until the agent ended them, or still run.
        near: ranks that may as well have died before it, each with the milliseconds between both.
    """

    finished: tuple[int, ...] = ()
    waiting: tuple[int, ...] = ()
    near: tuple[tuple[int, int], ...] = ()


def give(failure: WorkerFailure, found: Evidence = NOTHING, company: Company | None = None) -> WorkerFailure:
    """Add a failure's category and its reasons.

    Args:
        failure: as ``failures_judge.judge`` left it.
    """
    company = company or Company()
    category, reasons = _classify(failure, found, company)
    reasons = [*reasons[:1], _near(failure, company), *reasons[1:]]  # not behind those that a report has no room for
    if category in {FailureCategory.HOST_MEMORY, FailureCategory.KILLED, FailureCategory.UNKNOWN}:
        reasons = [*reasons, *_memory_reasons(failure, found)]
    reasons += [f"{place} is full." for place in found.full if not any(place in r for r in reasons)]
    return replace(failure, category=category.value, reasons=tuple(dict.fromkeys(filter(None, reasons))))


def oom_reason(failure: WorkerFailure, found: Evidence) -> str:
    """Why a SIGKILL was the OOM killer's, or ""."""
    if found.oom_line:
        return f"The kernel's log says: {found.oom_line}"
    if found.oom_kills:
        return f"{_times(found.oom_kills)} in the rank's memory cgroup ({found.group}) since the round began."
    if found.oom_kills is None and found.machine_oom_kills and found.is_largest and _is_large(found):
        return (
            f"{_times(found.machine_oom_kills)} on this machine since the round began, "
            f"and no rank used more memory than rank {failure.rank}."
        )
    return ""


def by_text(text: str) -> _Told | None:
    """The category of a message of the system, torch or CUDA that speaks for itself."""
    if _GPU.search(text):
        return FailureCategory.GPU_MEMORY, "CUDA says that the GPU's memory is full."
    if _SHARED.search(text):
        return FailureCategory.HOST_MEMORY, f"Shared memory could not be had: {SHM} is memory, too."
    if _HOST.search(text):
        return FailureCategory.HOST_MEMORY, "The system gave no more memory."
    return None


def _classify(failure: WorkerFailure, found: Evidence, company: Company) -> tuple[FailureCategory, list[str]]:
    if failures_judge.is_lost_peer(failure):
        return _of_peers(failure, company)
    if failure.error_type:
        category, reasons = _of_exception(failure, found)
    elif failure.signal:
        category, reasons = _of_signal(failure.signal, failure, found)
    else:
        category, reasons = _of_exit(failure, found)
    return category, reasons


def _of_peers(failure: WorkerFailure, company: Company) -> tuple[FailureCategory, list[str]]:
    """A collective, or the store, failed for another one's sake."""
    reasons = [f"It {failure.followed}." if failure.followed else "No rank of this node failed before it."]
    if company.finished and not failure.followed:
        reasons.append(f"{_ranks(company.finished)} had finished, and took no part any more.")
    if failures_judge.is_time_out(failure):
        if company.waiting and not failure.followed:
            reasons.append(f"{_ranks(company.waiting)} still ran when its time was up.")
        return FailureCategory.TIMEOUT, ["A collective or the store waited for longer than its time-out.", *reasons]
    links = failures_judge.chain(failure)
    is_store = any(one.error_type in {"DistNetworkError", "DistStoreError"} for one in links)
    if is_store and not failure.followed and not company.finished:
        return FailureCategory.RENDEZVOUS, ["The store through which the ranks meet went away.", *reasons]
    return FailureCategory.LOST_PEER, ["torch says that the other side went away.", *reasons]


def _of_exception(failure: WorkerFailure, found: Evidence) -> tuple[FailureCategory, list[str]]:
    where = _where(failure)
    links = failures_judge.chain(failure)
    for one in reversed(links):  # its own words first, then those of what it came from
        is_own = one is links[-1]
        if told := _of_link(one, failure, found, is_certain=is_own or one.is_stated):
            whence = "" if is_own else f"It came from {one.error_type}: {_first(one.message)}"
            return told[0], [where, told[1], whence]
    if OPENING in failure.traceback:
        return FailureCategory.IMPORT, [
            where,
            "It was raised before the code's first line: what the rank was to run could not be loaded.",
        ]
    if failure.error_type == "SystemExit":
        thread = re.search(r"^Exception in thread ([^\n:]+)", found.tail, re.MULTILINE)
        more = f"Before, its stderr tells of an exception in thread {thread[1].split(' (')[0]}." if thread else ""
        return FailureCategory.USER_ERROR, ["The program ended itself by SystemExit.", where, more]
    return FailureCategory.USER_ERROR, [
        where,
        "It is the program's own exception: no memory, signal or other rank explains it.",
    ]


def _of_link(one: Link, failure: WorkerFailure, found: Evidence, *, is_certain: bool) -> _Told | None:
    """Category of one exception of a chain; where it was only being handled, memory alone is certain."""
    if one.error_type == "OutOfMemoryError":
        return FailureCategory.GPU_MEMORY, "torch raised OutOfMemoryError: the GPU's memory is full."
    if told := by_text(one.message):
        return told
    if one.error_type.endswith("MemoryError"):
        return FailureCategory.HOST_MEMORY, "Python could get no more memory."
    if match := _LOADER.search(one.message):
        return _of_loader(match[1] or "", failure, found)
    if not is_certain:
        return None
    if failures_judge.is_meeting(one):
        return (
            FailureCategory.RENDEZVOUS,
            "The ranks could not form a group: torch's store could not be made or reached.",
        )
    if one.error_type in _IMPORTS or _PICKLE.search(one.message):
        return FailureCategory.IMPORT, "Something could not be imported, pickled or restored."
    if one.error_type in _SYNTAX and "(<string>, line" not in one.message:
        return FailureCategory.IMPORT, "Python can't read the file: its syntax is wrong."
    if one.error_type == "KeyboardInterrupt" and not _is_raised(failure):
        return (
            FailureCategory.KILLED,
            "It got SIGINT, and nobody had stopped the run; who sent it, the system does not tell.",
        )
    if one.error_type in {"RuntimeError", "AcceleratorError"} and _NATIVE_TEXT.search(one.message):
        return FailureCategory.NATIVE_CRASH, "A kernel crashed on the GPU."
    if one.error_type in DIST_ERRORS and failures_judge.TIMED_OUT.search(one.message):
        return FailureCategory.TIMEOUT, "A collective waited for longer than its time-out."
    return None


def _of_loader(how: str, failure: WorkerFailure, found: Evidence) -> _Told:
    """A DataLoader worker died: as a rank's own child it counts as the rank."""
    if not how and (match := _LOADER_SIGNAL.search(failure.traceback)):  # told by the exception that this one came from
        how = match[1]
    if name := _LOADER_SIGNALS.get(how.strip()):
        category, reasons = _of_signal(name, failure, found)
        return category, f"One of its DataLoader workers died by {name}. {reasons[0]}"
    if how:
        return FailureCategory.NATIVE_CRASH, f"One of its DataLoader workers crashed ({how.strip()})."
    if "Fatal Python error:" in found.tail:
        return (
            FailureCategory.NATIVE_CRASH,
            "One of its DataLoader workers crashed: faulthandler's stack is in its stderr.",
        )
    return FailureCategory.USER_ERROR, "One of its DataLoader workers ended itself without an exception."


def _of_signal(name: str, failure: WorkerFailure, found: Evidence) -> tuple[FailureCategory, list[str]]:
    if name == "SIGKILL":
        return _of_kill(failure, found)
    if name in NATIVE:
        tail = failure.traceback
        if name == "SIGBUS" and SHM in found.full:
            return FailureCategory.HOST_MEMORY, [f"Memory behind a mapping could not be had: {SHM} was full."]
        if name == "SIGABRT" and (told := by_text(_last_words(tail))):
            return told[0], [told[1], "Native code gave up for that (SIGABRT)."]
        stack = "faulthandler's stack is in its stderr." if "Fatal Python error:" in tail else ""
        return FailureCategory.NATIVE_CRASH, [
            f"The process died by {name}, which native code causes.",
            stack,
            _cpp(tail),
        ]
    if name in _OWN_SIGNALS:
        return FailureCategory.USER_ERROR, [f"The process died by {name}, which its own doing causes."]
    if name == "SIGXCPU":
        return FailureCategory.KILLED, ["The kernel ended it: it used more CPU time than its limit (ulimit -t)."]
    return FailureCategory.KILLED, [
        f"It died by {name}, which nb_elastic had not sent; who did, the system does not tell."
    ]


def _of_kill(failure: WorkerFailure, found: Evidence) -> tuple[FailureCategory, list[str]]:
    if reason := oom_reason(failure, found):
        return FailureCategory.HOST_MEMORY, ["The kernel's OOM killer ended it (SIGKILL).", reason]
    by = "It died by SIGKILL, which nb_elastic had not sent; who did, the system does not tell."
    if found.oom_kills == 0:
        return FailureCategory.KILLED, [f"{by} No OOM kill was counted in its memory cgroup."]
    if found.machine_oom_kills == 0:
        return FailureCategory.KILLED, [f"{by} No OOM kill was counted on this machine."]
    if found.machine_oom_kills:
        return FailureCategory.UNKNOWN, [
            "It died by SIGKILL: by somebody, or by the OOM killer.",
            f"{_times(found.machine_oom_kills)} on this machine since the round began; nothing says that it was this rank.",
        ]
    return FailureCategory.UNKNOWN, [
        "It died by SIGKILL: by somebody, or by the OOM killer, whose kills nobody counts here."
    ]


def _of_exit(failure: WorkerFailure, found: Evidence) -> tuple[FailureCategory, list[str]]:
    code = failure.exit_code
    if code is None:
        return FailureCategory.UNKNOWN, ["Nobody saw how it ended."]
    told = failures_judge.told_at_end(failure)
    if told is not None:
        as_if = replace(failure, error_type=told.error_type, message=told.message)
        category, reasons = _of_exception(as_if, found)
        return category, [f"Its stderr ends with {told.error_type}: {_first(told.message)}", *reasons[1:]]
    if name := _SHELL_CODES.get(code):
        category, reasons = _of_signal(name, failure, found)
        return category, [f"Exit code {code} is how a shell tells that what it ran died by {name}.", *reasons]
    if told_too := by_text(_last_words(failure.traceback)):
        return told_too[0], [told_too[1], f"It ended itself with exit code {code}."]
    if found.is_gone:
        return FailureCategory.UNKNOWN, [
            f"It ended itself with exit code {code}.",
            "The run folder was deleted while the run lasted: what a rank tells of its end is gone then, and one that starts can't go on.",
        ]
    return FailureCategory.USER_ERROR, [f"It ended itself with exit code {code}, and told no exception."]


def _near(failure: WorkerFailure, company: Company) -> str:
    """That this one is not known to have been the first."""
    if not company.near:
        return ""
    ms = max(ms for _, ms in company.near)
    ranks = [rank for rank, _ in company.near]
    were = "was" if len(ranks) == 1 else "were"
    order = "the order of the two" if len(ranks) == 1 else "the order of these deaths"
    return f"{_ranks(ranks)} {were} found dead within {ms} ms of rank {failure.rank}, and {order} can't be told."


def _memory_reasons(failure: WorkerFailure, found: Evidence) -> list[str]:
    reasons = [memory_words(failure.rank, found)]
    if 0 <= found.available_bytes < 2**30:
        reasons.append(f"The machine had only {gib(found.available_bytes)} of memory available at its lowest.")
    return reasons


def _where(failure: WorkerFailure) -> str:
    kind = failure.error_type
    if not failure.frames:
        return f"It raised {kind}."
    last = failure.frames[-1]
    return f"It raised {kind} in {last.name}, {last.file}, line {last.line}."


def _is_raised(failure: WorkerFailure) -> bool:
    """True if the program raised the exception by a statement of its own."""
    return bool(failure.frames) and failure.frames[-1].text.startswith("raise")


def _is_large(found: Evidence) -> bool:
    return bool(found.memory) and bool(found.limit_bytes) and found.memory[-1][1] > LARGE * found.limit_bytes


def _last_words(tail: str) -> str:
    return "\n".join(tail.splitlines()[-30:])


def _cpp(tail: str) -> str:
    thrown = re.search(r"terminate called after throwing an instance of '([^']+)'", tail)
    return f"A C++ exception that nobody caught ended it: {thrown[1]}." if thrown else ""


def _first(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:300]


def _times(count: int) -> str:
    return "The kernel counted 1 OOM kill" if count == 1 else f"The kernel counted {count} OOM kills"


def _ranks(ranks: Sequence[int]) -> str:
    return f"Rank {ranks[0]}" if len(ranks) == 1 else f"Ranks {', '.join(map(str, ranks))}"
