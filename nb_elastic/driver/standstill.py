"""Tells that a run hangs where nothing moves on any of its nodes, and which ranks the others wait for.

Runs in: the driver, in its main thread. A node's own watch sees its own ranks only: what stands still there may wait for ranks of
another node that compute, or may be all of one node's ranks alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from nb_elastic import stacks_frames, stacks_judge, stacks_told
from nb_elastic.driver.asking import Asking, Question
from nb_elastic.driver.roster import Roster
from nb_elastic.driver.story import Story
from nb_elastic.driver.verdict import Member
from nb_elastic.model import StackReport, to_json
from nb_elastic.model_options import LaunchOptions
from nb_elastic.stacks_nouns import RankStack
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
        self._still: set[int] = set()
        self._question: Question | None = None
        self._ask_at = 0.0
        self._found: StackReport | None = None
        self._found_at = 0.0

    def hear(self, member: Member, number: int, *, is_still: bool) -> None:
        """A node's ranks stand still, or move again.

        Args:
            number: of the round.
        """
        if number > self._round:
            self._round, self._found, self._question = number, None, None
            self._still.clear()
        if number == self._round:
            (self._still.add if is_still else self._still.discard)(member.index)

    def look(self, now: float) -> str:
        """See whether the run hangs; where it is to be stopped for that, whom all wait for."""
        if not self._still and self._found is None:
            return ""
        members = [m for m in self._roster.active if self._story.living(m.index)]
        if not members or any(m.index not in self._still for m in members) or self._round < self._story.round:
            self._question = None
            if self._found is not None:
                self._found = None
                self._story.tell("hang_over", round=self._round)
            return ""
        if self._found is None and self._question is None and now >= self._ask_at:
            self._question = self._asking.ask(members, until=now + ANSWER_S)
        if self._question is not None and self._question.is_answered(now):
            self._judge(members, self._question, now)
            self._question = None
        return self._found.headline if self._found is not None and self._is_to_stop(self._found, now) else ""

    def _judge(self, members: list[Member], question: Question, now: float) -> None:
        stacks = [stack for member in members for stack in self._stacks(member, question)]
        if all(s.state in MOVING for s in stacks):
            self._ask_at = now + self._after_s / 4
            return
        texts = self._texts()
        report = stacks_judge.judge(
            [texts.fill_gaps(s) for s in sorted(stacks, key=lambda s: s.rank)], cause="hang", time_ns=time.time_ns()
        )
        self._found, self._found_at = report, now
        self._story.tell("hang_found", round=self._round, report=to_json(stacks_judge.shortened(report)))

    def _stacks(self, member: Member, question: Question) -> list[RankStack]:
        """Of a node's own ranks, what it tells, or that it tells nothing."""
        told = {s.rank: s for s in question.answers.get(member.index, ())}
        ranks = self._story.living(member.index)
        return [told.get(rank) or stacks_told.unheard(rank, member.name) for rank in ranks]

    def _is_to_stop(self, found: StackReport, now: float) -> bool:
        is_unsure = any(g.state == "busy" for g in found.groups)
        return self._is_stop and now - self._found_at >= self._after_s * ((BUSY_TIMES - 1) if is_unsure else 0)
