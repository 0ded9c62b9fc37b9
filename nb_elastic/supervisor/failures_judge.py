"""Who is to blame: the root cause among all failures, and which of them only followed another one.

Runs in: the supervisor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from nb_elastic.model import WorkerFailure

TIMED_OUT = re.compile(
    r"watchdog caught collective operation timeout|timed out waiting \d+ms for (recv|send) operation|wait timeout"
    r"|monitoredBarrier|Application timeout caused pair closure|(socket|operation) (has )?timed? ?out|Timeout waiting for key",
    re.IGNORECASE,
)
"""How a collective, or a look into the store, says that it waited for too long."""

_LOST_PEER = re.compile(
    r"connection (was )?(likely )?(closed|reset|refused|aborted)( by (remote )?peer)?|broken pipe"
    r"|socket (closed|timeout)|recvValue|sendBytes failed|failed to recv|remote process exited|ncclRemoteError"
    r"|NCCL communicator was aborted|ncclSystemError|ncclInternalError"
    r"|DistNetworkError|DistStoreError|gloo/transport|peer .* (closed|died)|the process group .* aborted",
    re.IGNORECASE,
)
"""How a collective fails when another rank is gone; such a failure can't be a cause while another kind is there."""

_OF_TORCH = re.compile(
    r"gloo|nccl|c10d|torch[./\\]distributed|ProcessGroup|TCPStore|recvValue|sendBytes|remote process exited"
    r"|process group|collective operation|monitoredBarrier|waiting \d+ms for (recv|send)",
    re.IGNORECASE,
)
"""Words that tell a message of torch's transports from one of the user's own sockets and files."""

_MEETING = re.compile(
    r"EADDRINUSE|address already in use|failed to listen|waiting for clients|trying to connect to"
    r"|environment variable (MASTER_ADDR|MASTER_PORT|RANK|WORLD_SIZE) expected|invalid rendezvous|No rendezvous handler",
    re.IGNORECASE,
)
"""How it fails to form a group: no other rank's end explains that."""

_OF_SYSTEM = {"BrokenPipeError", "ConnectionResetError", "ConnectionAbortedError", "ConnectionRefusedError", "EOFError"}
DIST_ERRORS = {"DistBackendError", "DistNetworkError", "DistStoreError", "DistError"}

SKEW_NS = 50_000_000
"""By so much a rank's own exception may be told later than its peers told theirs: it may close its connections first."""

DEATH_SKEW_NS = 2_000_000_000
"""The same for a death without an exception: its exit is seen when the system has torn the whole process down."""

_LINKS = re.compile(
    r"^[ |+-]*(The above exception was the direct cause of the following exception"
    r"|During handling of the above exception, another exception occurred):\s*$",
    re.MULTILINE,
)
_HEAD = re.compile(r"^(?P<type>[A-Za-z_][\w.]*)(?:: (?P<text>.*))?$", re.DOTALL)
_STARTS = "Traceback (most recent call last):"


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One exception of a chain.

    Attributes:
        file: of its innermost frame, or "".
        is_stated: the next one in the chain was raised ``from`` this one.
    """

    error_type: str
    message: str
    file: str = ""
    is_stated: bool = False


def chain(failure: WorkerFailure) -> tuple[Link, ...]:
    """The failure's exceptions as its traceback tells them, the oldest first, its own last."""
    innermost = failure.frames[-1].file if failure.frames else _last_file(failure.traceback)
    own = Link(error_type=failure.error_type, message=failure.message, file=innermost)
    parts = _LINKS.split(failure.traceback)
    found: list[Link] = []
    for text, link in zip(parts[0:-1:2], parts[1::2], strict=True):
        if one := last_exception(text):
            found.append(replace(one, is_stated=link.startswith("The above")))
    return (*found, own)


def last_exception(text: str) -> Link | None:
    """The last exception whose traceback stands in a text, or None."""
    _, mark, rest = text.rpartition(_STARTS)
    lines = rest.splitlines()[1:] if mark else []
    at = next((i for i, line in enumerate(lines) if line and not line[0].isspace()), None)
    match = _HEAD.match("\n".join(lines[at : at + 40]).strip()) if at is not None else None
    if match is None:
        return None
    return Link(error_type=match["type"].rpartition(".")[2], message=match["text"] or "", file=_last_file(rest))


def told_at_end(failure: WorkerFailure) -> Link | None:
    """The exception with which the stderr of a rank ends that told none itself, or None.

    Only the interpreter's own end (code 1) may have more lines after the exception's first: those of its message.
    """
    told = last_exception(failure.traceback)
    is_end = told is not None and (failure.exit_code == 1 or "\n" not in told.message.strip())
    return told if is_end else None


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
    causes = [f for f in open_ones if f in own or f.time_ns < since_ns] if own else _best_guess(open_ones or failures)
    if not causes:
        return []
    followers = [f if f.followed else replace(f, followed=_why(f, causes[0])) for f in failures if f not in causes]
    return [*causes, *followers]


def is_lost_peer(failure: WorkerFailure) -> bool:
    """True if a failure is what a rank sees when another one has gone away, or never comes.

    The user's own files, pipes and sockets end with the same words: torch must have a part in it. An exception that
    was raised from such a one, or while such a one was handled, is one, too.
    """
    if failure.error_type:
        return any(_is_lost(one) for one in chain(failure))
    if failure.signal == "SIGABRT":  # NCCL's watchdog ends the process from a thread of its own
        return bool(TIMED_OUT.search(failure.traceback) and _OF_TORCH.search(failure.traceback))
    told = told_at_end(failure)
    return not failure.signal and told is not None and _is_lost(told)


def is_time_out(failure: WorkerFailure) -> bool:
    """True if a collective or the store waited for too long."""
    if not is_lost_peer(failure):
        return False
    told = told_at_end(failure)
    links = chain(failure) if failure.error_type else (told,) if told else ()
    return any(TIMED_OUT.search(one.message) and _is_lost(one) for one in links) or failure.signal == "SIGABRT"


def is_meeting(one: Link) -> bool:
    """True if torch could not form a group: a port taken, nobody at the address, fewer ranks than expected."""
    is_torch = one.error_type in DIST_ERRORS or "torch/" in one.file or bool(_OF_TORCH.search(one.message))
    return is_torch and bool(_MEETING.search(one.message))


def _is_lost(one: Link) -> bool:
    if one.error_type in _OF_SYSTEM:
        return "torch/distributed/" in one.file
    if one.error_type not in {"RuntimeError", "", *DIST_ERRORS} or is_meeting(one):
        return False
    if not (_LOST_PEER.search(one.message) or TIMED_OUT.search(one.message)):
        return False
    is_plain = one.error_type == "RuntimeError"
    return not is_plain or "/torch/" in one.file or bool(_OF_TORCH.search(one.message))


def _best_guess(failures: list[WorkerFailure]) -> list[WorkerFailure]:
    """All lost a peer, and no peer failed: the first; whose time was up goes before those that it left."""
    near = [f for f in failures if f.time_ns - failures[0].time_ns <= SKEW_NS]
    return [f for f in near if is_time_out(f)][:1] or failures[:1]


def _why(failure: WorkerFailure, root: WorkerFailure) -> str:
    if is_time_out(failure) and is_time_out(root):
        return f"waited for too long, too, as rank {root.rank} did"
    return f"lost its connection after rank {root.rank} failed"


def _last_file(traceback: str) -> str:
    files = re.findall(r'^ *(?:File "([^"]*)"|(Cell In\[[^,]*)), line', traceback, re.MULTILINE)
    return (files[-1][0] or files[-1][1]) if files else ""
