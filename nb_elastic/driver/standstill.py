"""Tells that a run hangs where nothing moves on any of its nodes, or that some of its ranks stand still; and who waits for whom.

Runs in: the driver, in its main thread. A node's own watch sees its own ranks only: what stands still there may wait for ranks of
another node that compute, or may be all of one node's ranks alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from nb_elastic import stacks_frames, stacks_judge, stacks_told, untrusted
from nb_elastic.driver.asking import Asking, Question
from nb_elastic.driver.roster import Roster
from nb_elastic.driver.story import Story
from nb_elastic.driver.verdict import Member
from nb_elastic.model import StackReport, to_json
from nb_elastic.model_options import LaunchOptions
from nb_elastic.stacks_nouns import RankStack
from nb_elastic.supervisor import stalls
from nb_elastic.supervisor.hang_words import BUSY_TIMES, HANG_AFTER_S, MOVING

ANSWER_S = 10.0
"""For so long the nodes are waited for."""


class Standstill:
    """Watches one run.

    Args:
        texts: makes what reads the lines of the notebook's cells.
    """

    def __init__(
        self,
        story: Story,
        roster: Roster,
        asking: Asking,
        options: LaunchOptions,
        *,
        texts: Callable[[], stacks_frames.Texts],
    ) -> None:
        self._story, self._roster, self._asking, self._texts = story, roster, asking, texts
        self._after_s = options.hang_after or HANG_AFTER_S
        self._is_stop = options.on_hang == "stop"
        self._round = -1
        self._still: dict[int, set[int]] = {}
        self._some: dict[int, set[int]] = {}
        self._rest_s = self._after_s
        self._cause = ""
        self._question: Question | None = None
        self._ask_at = 0.0
        self._found: StackReport | None = None
        self._found_at = 0.0
        self._is_told = False
        self._told: set[int] = set()

    def hear(self, member: Member, event: Mapping[str, Any]) -> None:
        """A node tells that its ranks stand still, all or some, or that they move again."""
        kind, number = event.get("event"), untrusted.integer(event.get("round"), -1)
        if number > self._round:
            self._round, self._found, self._question, self._cause, self._is_told = number, None, None, "", False
            self._ask_at, self._rest_s = 0.0, self._after_s
            self._still.clear()
            self._some.clear()
        if number != self._round:
            return
        self._still.pop(member.index, None)
        self._some.pop(member.index, None)
        living = set(self._story.living(member.index))
        if kind == "hang_found":
            report = untrusted.stack_report(event.get("report"))
            told = {r for g in report.groups if g.state not in MOVING for r in g.ranks} if report else living
            self._still[member.index] = living & told
        elif kind == "stall_found":
            self._some[member.index] = living.intersection(untrusted.integers(event.get("ranks")))

    def look(self, now: float) -> str:
        """See whether the run stands still; where it is to be stopped for that, whom all wait for."""
        if not self._still and not self._some and not self._cause:
            return ""
        members = [m for m in self._roster.active if self._story.living(m.index)]
        self._change(self._cause_of(members), now)
        if self._cause and self._question is None and self._is_news(members, now):
            self._question = self._asking.ask(members, until=now + ANSWER_S)
        if self._question is not None and self._question.is_answered(now):
            self._judge(members, self._question, now)
            self._question = None
        return self._found.headline if self._found is not None and self._is_to_stop(self._found, now) else ""

    def _cause_of(self, members: list[Member]) -> str:
        if not members or self._round < self._story.round:
            return ""
        if all(m.index in self._still for m in members):
            return "hang"
        return "stall" if any(m.index in self._still or m.index in self._some for m in members) else ""

    def _is_news(self, members: list[Member], now: float) -> bool:
        """True where the nodes are to be asked: nothing is told yet, or other ranks than those told stand still."""
        if self._cause == "hang":
            return self._found is None and now >= self._ask_at
        standing = self._standing(members)
        if self._found is None:
            return bool(standing) and now >= self._ask_at
        return standing < self._told or (standing != self._told and now >= self._ask_at)

    def _change(self, cause: str, now: float) -> None:
        """Begin anew where all stand still that were some, or some that were all; the first are given time to become all."""
        if cause == self._cause:
            return
        self._cause, self._question = cause, None
        self._ask_at = now if cause == "hang" else max(self._ask_at, now + self._after_s / 2)
        self._found = None
        if cause != "hang":
            self._end_told()

    def _end_told(self) -> None:
        self._found = None
        if self._is_told:
            self._is_told = False
            self._story.tell("hang_over", round=self._round)

    def _judge(self, members: list[Member], question: Question, now: float) -> None:
        stacks = [stack for member in members for stack in self._stacks(member, question)]
        if self._cause == "hang":
            self._ask_at = now + self._after_s / 4
            still, is_so = set[int](), any(s.state not in MOVING for s in stacks)
        else:  # what comes again and again is not told each time
            self._ask_at, self._rest_s = now + self._rest_s, self._rest_s * 2
            self._told = self._standing(members)
            still = stalls.standing_still(stacks, self._told)
            is_held = any(s.state == "held" for s in stacks)  # somebody looks at one, and the others wait
            is_so = bool(still) and not is_held
        if not is_so:
            self._end_told()
            return
        texts = self._texts()
        filled = [texts.fill_gaps(s) for s in sorted(stacks, key=lambda s: s.rank)]
        report = stacks_judge.judge(filled, cause=self._cause, time_ns=time.time_ns(), still=still)
        self._found, self._found_at, self._is_told = report, now, True
        told = to_json(stacks_judge.shortened(report))
        self._story.tell(f"{self._cause}_found", round=self._round, report=told)

    def _standing(self, members: list[Member]) -> set[int]:
        """The ranks that their nodes say stand still."""
        told = [ranks.get(m.index, set()) for m in members for ranks in (self._still, self._some)]
        return set[int]().union(*told)

    def _stacks(self, member: Member, question: Question) -> list[RankStack]:
        """Of a node's own ranks, what it tells, or that it tells nothing."""
        told = {s.rank: s for s in question.answers.get(member.index, ())}
        ranks = self._story.living(member.index)
        return [told.get(rank) or stacks_told.unheard(rank, member.name) for rank in ranks]

    def _is_to_stop(self, found: StackReport, now: float) -> bool:
        if not self._is_stop or found.cause != "hang":
            return False
        is_unsure = any(g.state == "busy" for g in found.groups)
        return now - self._found_at >= self._after_s * ((BUSY_TIMES - 1) if is_unsure else 0)
