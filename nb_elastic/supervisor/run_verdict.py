"""What kind of thing made a whole run fail where no rank's own failure says it.

Runs in: the supervisor.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from nb_elastic.errors import RendezvousError
from nb_elastic.model import FailureCategory, WorkerFailure
from nb_elastic.supervisor import failures_verdict
from nb_elastic.supervisor.hang_words import hang_reason
from nb_elastic.supervisor.stopping import timeout_reason

Category = FailureCategory


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A category and the evidence for it, as ``run_finished`` tells them."""

    category: str = ""
    reasons: tuple[str, ...] = ()


NONE = Verdict()


def of_failures(failures: Sequence[WorkerFailure]) -> Verdict:
    """The root cause's own verdict."""
    if not failures:
        return Verdict(category=Category.UNKNOWN.value, reasons=("No rank left a word, an exit code or a signal.",))
    return Verdict(category=failures[0].category, reasons=failures[0].reasons)


def of_timeout(timeout_s: float | None) -> Verdict:
    """The time that the user gave the run was up."""
    return Verdict(category=Category.TIMEOUT.value, reasons=(timeout_reason(timeout_s),))


def of_hang(hang_after_s: float) -> Verdict:
    """Nothing moved for too long, and the user wanted that to end the run."""
    return Verdict(category=Category.TIMEOUT.value, reasons=(hang_reason(hang_after_s),))


def of_error(error: Exception) -> Verdict:
    """Why nothing, or no more, could be started."""
    first = next(iter(str(error).splitlines()), "")
    if isinstance(error, RendezvousError):
        return Verdict(category=Category.RENDEZVOUS.value, reasons=("The nodes could not meet.", first))
    if told := failures_verdict.by_text(str(error)):
        return Verdict(category=told[0].value, reasons=(told[1], first))
    return Verdict(category=Category.UNKNOWN.value, reasons=("The run could not be started.", first))


def of_lost_meeting(error: Exception) -> Verdict:
    """The store through which the nodes meet went away."""
    reasons = (
        "The store through which the nodes meet went away, or could not be used.",
        f"{type(error).__name__}: {error}",
    )
    return Verdict(category=Category.RENDEZVOUS.value, reasons=reasons)


def of_lost_server(pid: int) -> Verdict:
    """The process that starts and watches the ranks died."""
    what = "The process that starts and watches the ranks died"
    try:
        info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        info = None
    if info is None or info.si_code == os.CLD_EXITED:
        return Verdict(category=Category.UNKNOWN.value, reasons=(f"{what}; nobody saw how.",))
    name = signal.Signals(info.si_status).name
    is_crash = name in failures_verdict.NATIVE
    category = Category.NATIVE_CRASH if is_crash else Category.KILLED
    return Verdict(category=category.value, reasons=(f"{what} by {name}, and its ranks with it.",))
