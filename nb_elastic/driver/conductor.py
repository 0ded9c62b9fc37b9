"""Decides for one run: who takes part, when it begins, when it must end, and how it ended.

Runs in: the driver, in its main thread.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from nb_elastic import stacks_frames, untrusted
from nb_elastic.driver import log, verdict
from nb_elastic.driver.asking import Asking
from nb_elastic.driver.fleet import Fleet, Node
from nb_elastic.driver.gathering import Gathering
from nb_elastic.driver.job import Job
from nb_elastic.driver.meeting import Meeting
from nb_elastic.driver.pace import Pace
from nb_elastic.driver.post import Delivery
from nb_elastic.driver.relaying import Relaying
from nb_elastic.driver.roster import Roster
from nb_elastic.driver.standstill import Standstill
from nb_elastic.driver.story import Story
from nb_elastic.driver.verdict import Member, Verdict
from nb_elastic.model import FailureCategory
from nb_elastic.supervisor import stopping
from nb_elastic.supervisor.hang_words import BY_HANG

GRACE_S = stopping.GRACE_S


class Conductor:
    """One run.

    Args:
        now: seconds, by the desk's clock.

    Attributes:
        is_over: the run's last word was told.
    """

    def __init__(self, job: Job, story: Story, fleet: Fleet, meeting: Meeting, pace: Pace, *, now: float) -> None:
        self.is_over = False
        self._job, self._story, self._fleet, self._pace = job, story, fleet, pace
        self._options = job.spec.options
        self._gathering = Gathering(job, fleet, meeting, pace, now=now)
        self._roster = Roster(job, story)
        self._members = self._roster.members
        self._asking = Asking(job.folder, self._roster)
        self._relaying = Relaying(job.folder, self._roster, note=lambda text: story.note(text, level="warning"))
        self._standstill = Standstill(
            story, self._roster, self._asking, self._options, texts=lambda: stacks_frames.texts_of(job.folder)
        )
        self._by = ""
        self._until: float | None = None
        self._give_up_at: float | None = None
        self._fail_at: float | None = None
        self._is_failing = False
        self._end: Verdict | None = None
        timeout_s = self._options.timeout
        self._timeout_at = None if timeout_s is None else job.started_at + timeout_s

    @property
    def missing(self) -> int:
        """How many more nodes could take part."""
        if self._is_ending:
            return 0
        there = sum(m.is_active for m in self._members) if self._members else len(self._gathering.fitting())
        return max(0, self._options.max_nodes - there - self._fleet.coming - self._gathering.refused)

    @property
    def _is_ending(self) -> bool:
        """True when no node may begin any more."""
        has_end = self.is_over or self._is_failing or bool(self._by)
        return has_end or any(m.done is not None and not m.has_left for m in self._members)

    # -- what happens -------------------------------------------------------------------------

    def put_off(self, now: float) -> None:
        """The nodes wait in a queue, whose time doesn't count."""
        self._gathering.put_off(now)

    def tick(self, now: float) -> None:
        """See what the time brings."""
        if self._timeout_at is not None and now >= self._timeout_at:
            self._timeout_at = None
            self._end = self._end or verdict.of_timeout(self._options.timeout)
            self.stop(by="timeout", grace_s=GRACE_S, now=now)
        if self._fail_at is not None and now >= self._fail_at and not self._story.is_holding:
            self._fail_at = None
            self._stop_nodes(by="the failure of another node", grace_s=GRACE_S, now=now)
        if self._give_up_at is not None and now >= self._give_up_at:
            self._give_up(now)
        if not self._is_ending:
            self._gather(now)
        self._asking.look()
        self._roster.tell_of_gaps()
        if not (self.is_over or self._is_failing or self._by) and (headline := self._standstill.look(now)):
            self._end = verdict.of_hang(headline, self._options.hang_after)
            self.stop(by=BY_HANG, grace_s=GRACE_S, now=now)
        self._judge(now)

    def fail(self, text: str, *, category: str = FailureCategory.UNKNOWN.value, reasons: Sequence[str] = ()) -> None:
        """The run can't begin."""
        if not self.is_over:
            self._finish(Verdict(state="failed", text=text, category=category, reasons=tuple(reasons)))

    def stop(self, *, by: str, grace_s: float, now: float) -> None:
        """Somebody wants the end. A later wish can only shorten the grace."""
        until = now + max(0.0, grace_s)
        if self.is_over or (self._until is not None and until >= self._until):
            return
        self._until = until
        self._by = self._by or by
        self._story.tell("stop_requested", by=by, grace_s=grace_s)
        self._stop_nodes(by=by, grace_s=grace_s, now=now)
        self._judge(now)

    def on_line(self, node: Node, message: Mapping[str, Any], now: float) -> None:
        """A node said something about its share."""
        member = self._roster.member(node)
        kind = message.get("type")
        if kind == "reached":
            self._gathering.on_reached(node, message)
        elif member is None or message.get("run_id") != self._job.spec.run_id or self.is_over:
            return
        elif kind == "stacks":
            self._asking.take(member, message)
        elif kind == "debug":
            self._relaying.take(member, message)
        elif kind == "event":
            self._hear(member, message.get("event"))
        elif kind == "done" and member.done is None:
            member.done, member.done_at = message, now
            text = untrusted.word(message.get("text"), limit=300)
            log.write(f"{member.name} is done: {member.state} {text}")
            if self._can_leave(member):
                member.has_left = True
                self._story.tell("node_left", node=member.index, text=text)
            self._judge(now)

    def _hear(self, member: Member, event: Any) -> None:
        kind = event.get("event") if isinstance(event, Mapping) else None
        if kind in {"hang_found", "stall_found", "hang_over"}:
            self._standstill.hear(member, event)
        else:
            clock = member.node.clock
            if not member.is_clock_told and (text := clock.words(member.node.where)):
                member.is_clock_told = True
                self._story.note(text, level="warning")
            self._story.retell(member.index, event, behind_ns=clock.behind_ns)

    def on_hello(self, node: Node) -> None:
        """A node is there."""
        if not self.is_over:
            self._gathering.on_hello(node)

    def on_note(self, text: str, *, level: str = "info") -> None:
        """Something that the user is to hear once."""
        if not self.is_over:
            self._story.note(text, level=level)

    def on_lost(self, node: Node, why: str, now: float) -> None:
        """A node can't be heard any more."""
        member = self._roster.member(node)
        if member is None or self.is_over:
            return
        was_active = member.is_active
        if was_active:
            member.lost = why
        self._relaying.hang_up(member)
        if not was_active:
            return
        self._story.tell("node_lost", node=member.index, text=why)
        self._story.lose(member.index, why, time_ns=time.time_ns() - int((now - node.heard_at) * 1e9))
        self._judge(now)

    def on_back(self, node: Node) -> None:
        """A lost node was heard again while its ranks may still run."""
        member = self._roster.member(node)
        if member is not None and member.lost and not self._is_ending:
            member.lost = ""
            self._roster.tell_joined(member, is_back=True)

    def on_unsent(self, delivery: Delivery, error: OSError, now: float) -> None:
        """What nodes need to begin can't be read."""
        for member in self._members:
            if member.node.token in delivery.tokens and delivery.run_id == self._job.spec.run_id:
                member.done = {"state": "failed", "text": f"What the node needs can't be read: {error}"}
        self._judge(now)

    # -- its beginning ------------------------------------------------------------------------

    def _gather(self, now: float) -> None:
        room = self._options.max_nodes - sum(m.is_active for m in self._members)
        chosen = self._gathering.choose(now, taken=self._roster, room=room, is_first=not self._members)
        for text in self._gathering.take_notes():
            self._story.note(text)
        if self._gathering.failure:
            told = self._gathering.failure
            self.fail(told, category=FailureCategory.RENDEZVOUS.value, reasons=(told.partition("\n")[0],))
        elif chosen:
            self._roster.begin(chosen, self._gathering.endpoint)

    # -- its end ------------------------------------------------------------------------------

    def _stop_nodes(self, *, by: str, grace_s: float, now: float) -> None:
        self._story.is_ending = True
        self._roster.stop(by=by, grace_s=grace_s)
        give_up_at = now + grace_s + self._pace.margin
        self._give_up_at = give_up_at if self._give_up_at is None else min(self._give_up_at, give_up_at)

    def _give_up(self, now: float) -> None:
        """Nodes that were told to stop long ago still have not."""
        self._give_up_at = None
        for member in [m for m in self._members if m.is_active]:
            log.write(f"{member.name} does not stop: it is dropped")
            member.done = {"state": "stopped", "text": "it did not stop, and was dropped"}
            self._fleet.drop(member.node)
        self._judge(now)

    def hurry(self, now: float) -> None:
        """Nobody may be waited for any more."""
        self._give_up(now)

    def _judge(self, now: float) -> None:
        """See whether the run is over, or must end."""
        if self.is_over:
            return
        if not self._members:
            if self._by:
                self._finish(self._end or verdict.of_stop((), self._by))
            return
        if not (self._by or self._is_failing) and (self._is_too_small or any(m.is_bad for m in self._members)):
            self._is_failing = True
            self._fail_at = now + self._pace.fail
            if first := next((m for m in self._members if m.is_bad and m.state == "stopped"), None):
                self._story.tell("stop_requested", node=first.index, by=verdict.stopper(first), grace_s=0.0)
        if not any(m.is_active for m in self._members):
            self._finish(self._verdict())

    def _can_leave(self, member: Member) -> bool:
        """True if the run can do without a node whose share has ended, though not well."""
        others = sum(not (m.lost or m.has_left) for m in self._members if m is not member)
        if not member.is_bad or self._by or self._is_failing or others < self._options.min_nodes:
            return False
        has_missed = member.is_late and not self._story.has_ranks(member.index)  # it came when all was about to be over
        return has_missed or member.state == "stopped"

    @property
    def _is_too_small(self) -> bool:
        """So many nodes were lost that the run can't go on."""
        return sum(not (m.lost or m.has_left) for m in self._members) < self._options.min_nodes

    def _verdict(self) -> Verdict:
        members, root = self._members, self._story.root
        if self._end is not None:
            return self._end
        if self._by and not self._is_failing:
            return verdict.of_stop(members, self._by)
        if self._is_too_small and (root is None or root.category in verdict.LOST):
            return verdict.lost(members, self._options.min_nodes, root)
        if any(m.is_bad and m.state != "stopped" for m in members):
            return verdict.of_failure(members, root)
        if any(m.is_bad for m in members):
            return verdict.of_stop(members, self._by)
        if any(m.lost and self._story.has_lost_ranks(m.index) for m in members):
            return verdict.lost(members, self._options.min_nodes, root)
        return Verdict(state="succeeded")

    def _finish(self, end: Verdict) -> None:
        self.is_over = True
        log.write(f"the run is over: {end.state} {end.text.partition(chr(10))[0]}")
        self._relaying.close()
        for node in self._roster.close():
            self._fleet.drop(node)
        self._story.end(end.state, root_rank=end.root_rank, text=end.text, category=end.category, reasons=end.reasons)
        self._job.close()
