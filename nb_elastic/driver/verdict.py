"""How a run of many nodes ended, from how each of its nodes did.

Runs in: the driver.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nb_elastic import untrusted
from nb_elastic.driver.fleet import Node
from nb_elastic.driver.story import Failed
from nb_elastic.model import FailureCategory
from nb_elastic.supervisor.hang_words import HANG_AFTER_S, hang_reason, hang_text
from nb_elastic.supervisor.stopping import timeout_reason, timeout_text

LOST_PEER = FailureCategory.LOST_PEER.value
LOST = (LOST_PEER, FailureCategory.LOST_NODE.value)
"""What a rank's failure is called that only followed from the loss of a node."""


@dataclass(slots=True, eq=False)
class Member:
    """A node that has a share of the run.

    Attributes:
        index: names its folder; never used again in a run.
        done: how its share ended, or None while it lasts.
        lost: why it can't be heard any more, or "".
        is_late: it joined after the run had begun.
        has_left: its share ended, and that is no matter for the run.
        done_at: when its share ended, by the driver's clock.
        is_clock_told: the user knows that its clock is wrong.
    """

    index: int
    node: Node
    done: Mapping[str, Any] | None = None
    lost: str = ""
    is_late: bool = False
    has_left: bool = False
    done_at: float = math.inf
    is_clock_told: bool = False

    @property
    def is_active(self) -> bool:
        """True while its share lasts."""
        return self.done is None and not self.lost

    @property
    def state(self) -> str:
        """How its share ended."""
        return str(self.done.get("state") or "failed") if self.done is not None else "lost" if self.lost else ""

    @property
    def is_bad(self) -> bool:
        """True if its share ended in a way that ends the run."""
        return self.done is not None and not self.has_left and self.state != "succeeded"

    @property
    def name(self) -> str:
        """Index and machine, for sentences."""
        return f"node {self.index} ({self.node.where})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The run's last word."""

    state: str
    text: str = ""
    root_rank: int | None = None
    category: str = ""
    reasons: tuple[str, ...] = ()


def lost(members: Sequence[Member], min_nodes: int, root: Failed | None) -> Verdict:
    """Nodes were lost, and the run can't do without them."""
    gone = [m for m in members if m.lost]
    names = " and ".join(m.name for m in gone[:3]) + (f" and {len(gone) - 3} more" if len(gone) > 3 else "")
    left = len(members) - len(gone)
    words = f"{names} {'was' if len(gone) == 1 else 'were'} lost: {gone[0].lost}."
    text = f"{words[0].upper()}{words[1:]} The run needs at least {min_nodes} node(s), and {left} {'is' if left == 1 else 'are'} left."
    reasons = tuple(f"{m.name[0].upper()}{m.name[1:]} was lost: {m.lost}." for m in gone[:10])
    rank = None if root is None else root.rank
    return Verdict(state="failed", text=text, root_rank=rank, category=LOST_PEER, reasons=reasons)


def of_failure(members: Sequence[Member], root: Failed | None) -> Verdict:
    """A node's share failed: the root cause's own verdict, in that node's words."""
    bad = sorted((m for m in members if m.is_bad and m.state != "stopped"), key=lambda m: m.done_at)
    own = next((m for m in bad if root is not None and m.index == root.node), bad[0])
    told = own.done or {}
    text = untrusted.text(told.get("text"))
    if root is not None:
        return Verdict(state="failed", text=text, root_rank=root.rank, category=root.category, reasons=root.reasons)
    where = "" if len(members) == 1 else f"{own.name[0].upper()}{own.name[1:]}: "
    return Verdict(
        state="failed",
        text=f"{where}{text}",
        category=untrusted.word(told.get("category"), limit=100) or FailureCategory.UNKNOWN.value,
        reasons=untrusted.texts(told.get("reasons")),
    )


def stopper(member: Member) -> str:
    """Who stopped a node's share, though the driver did not ask."""
    told = untrusted.word((member.done or {}).get("text"), limit=300).removeprefix("stopped by ")
    return f"{told or 'somebody'} on {member.name}"


def of_timeout(timeout_s: float | None) -> Verdict:
    """The time that the user gave the run was up."""
    return Verdict(
        state="failed",
        text=timeout_text(timeout_s),
        category=FailureCategory.TIMEOUT.value,
        reasons=(timeout_reason(timeout_s),),
    )


def of_hang(headline: str, hang_after_s: float | None) -> Verdict:
    """Nothing moved on any node, and the user wanted that to end the run."""
    return Verdict(
        state="failed",
        text=hang_text(headline),
        category=FailureCategory.TIMEOUT.value,
        reasons=(hang_reason(hang_after_s or HANG_AFTER_S),),
    )


def of_stop(members: Sequence[Member], by: str) -> Verdict:
    """Somebody stopped the run, or, where nobody asked the driver, one of its nodes."""
    own = min((m for m in members if m.state == "stopped"), key=lambda m: m.done_at, default=None)
    return Verdict(state="stopped", text=f"stopped by {by or (stopper(own) if own is not None else 'somebody')}")
