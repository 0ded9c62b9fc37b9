"""Which ends a run may have after what was done to it, as narrow as can be argued.

Runs in: the chaos test.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence

from tests.chaos.programs import End, Program
from tests.chaos.scene import Deed

STOPPED = End(state="stopped")
LOST = End(state="lost")
NO_RUN = End(state="")
"""There is no run: nothing was started."""

LOST_SERVER = End(state="failed", says="The process that starts and watches the ranks died")
NEVER_STARTED = End(state="created")
UNREPORTED = End(state="lost", says="no supervisor ever reported")
"""What becomes of that after a while."""
CATEGORIES = {
    "SIGKILL": {"killed from outside"},
    "SIGTERM": {"killed from outside"},
    "KeyboardInterrupt": {"killed from outside"},
    "SIGINT": {"killed from outside"},
    "exit 130": {"killed from outside"},
    "SIGSEGV": {"crashed in native code", "killed from outside"},
    "SIGABRT": {"crashed in native code", "killed from outside"},
    "RuntimeError": {"killed from outside", "crashed in native code"},  # a DataLoader worker of the rank was
    "ValueError": {"user error"},
    "MemoryError": {"out of host memory"},
    "exit 3": {"user error"},
    "exit 4": {"user error", "unknown"},
}
"""What the verdict may call each death: nothing else explains it."""

FULL = (
    End(state="failed", says="disk"),
    End(state="failed", says="No space left"),
    End(state="failed", says="can't be written"),
)


def allowed(
    program: Program,
    deeds: Sequence[Deed],
    *,
    restarts: int,
    is_detached: bool,
    is_command: bool,
    ranks: Mapping[int, int] | None = None,
) -> set[End]:
    """All ends that would be true.

    Args:
        ranks: pid of every process that became a rank, and which.
    """
    done = [d for d in deeds if d.is_done and not d.was_over]
    found = set(program.ends)
    kills = [d for d in done if d.fault.kind in {"rank", "rank child"}]
    may_fail = len(kills) + program.restarts > restarts or any(e.state == "failed" for e in program.ends)
    for deed in done:
        if deed.fault.kind == "standby" and deed.pid in (ranks or {}):  # it was made one of this run's ranks
            found.add(End(state="failed", root=ranks[deed.pid], how=signal.Signals(deed.fault.number).name))
        found |= _ends_of(deed, program, may_fail=may_fail, is_detached=is_detached, is_command=is_command)
    return found


def _ends_of(deed: Deed, program: Program, *, may_fail: bool, is_detached: bool, is_command: bool) -> set[End]:
    kind = deed.fault.kind
    if kind == "rank":
        return _ends_of_rank(deed, program) if may_fail else set()
    if kind == "rank child":  # one that loads the rank's data is missed
        says = {End(state="failed", root=deed.fault.rank, how="RuntimeError", says="DataLoader worker")}
        return says if may_fail and program.has_loaders else set()
    if kind == "supervisor":
        return {LOST}
    if kind == "forkserver":
        return {LOST_SERVER}
    if (
        kind == "standby"
    ):  # it may have been the supervisor or the forkserver of this very run, an instant before it told
        return {LOST, LOST_SERVER, *program.ends}
    if kind in {"interrupt", "stop"}:
        early = {NO_RUN, NEVER_STARTED, UNREPORTED} if kind == "interrupt" else set()
        return {STOPPED} | (early if not is_detached or is_command else {NO_RUN})
    if kind == "starter":
        if is_detached:
            return {NO_RUN, NEVER_STARTED, UNREPORTED}
        return {STOPPED, NO_RUN, NEVER_STARTED, UNREPORTED}
    if kind == "disk":
        return {*FULL, NO_RUN}
    if kind == "delete":
        return {NO_RUN, STOPPED, LOST, End(state="failed")}
    if kind == "forkserver stops":  # whoever ends the run, its ranks can't be asked how they ended
        return {LOST_SERVER} if deed.fault.again_s < 0 else set()
    if kind in {"limit files", "limit size"}:
        return {NO_RUN, End(state="failed")}
    return set()


def _ends_of_rank(deed: Deed, program: Program) -> set[End]:
    number, rank = deed.fault.number, deed.fault.rank
    if number == signal.SIGINT:
        # Python turns it into an exception only while it runs: at its start and its end a process dies of it.
        ways = ("KeyboardInterrupt", "SIGINT", "exit 130")
        return {End(state="failed", root=rank, how=how) for how in ways} if not program.is_deaf else set()
    if program.is_deaf and number not in {signal.SIGKILL, signal.SIGSTOP}:
        # it may come before the rank ignores it
        return {End(state="failed", root=rank, how=signal.Signals(number).name)}
    return {End(state="failed", root=rank, how=signal.Signals(number).name)}


def stopped_by(deeds: Sequence[Deed]) -> set[str]:
    """Who may have stopped the run, in the journal's words."""
    words = {"interrupt": "interrupt", "stop": "command", "starter": "the end of whoever started it"}
    found = {words[d.fault.kind] for d in deeds if d.is_done and d.fault.kind in words}
    if "command" in found and any(d.fault.kind == "disk" for d in deeds):
        found.add("signal SIGINT")  # there was no room to say by whom
    return found


def may_find_no_run(deeds: Sequence[Deed]) -> bool:
    """True where the run's folder itself was hit."""
    return any(d.fault.kind == "delete" and d.is_done for d in deeds)
