"""From the ranks' stacks to one verdict: equal ones grouped, the odd one first, who waits for whom.

Runs in: the kernel or command line, and the supervisor.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from nb_elastic import stacks_flight, stacks_frames
from nb_elastic.model import StackGroup, StackReport
from nb_elastic.stacks_flight import Verdict, ranks_text
from nb_elastic.stacks_nouns import RankStack

KINDS = {
    "missing": "Do all ranks take the same way through the code? A collective must be called by every rank of its group.",
    "mismatch": "All ranks must call the same collectives, in the same order and with the same shapes.",
    "dead": "A rank that has ended can't answer: do all ranks take the same number of steps?",
    "lock": "A lock is held by somebody who does not give it back: by this very thread, by another one, or since a fork.",
    "dataloader": "Its workers deliver nothing: see what they do below, or try num_workers=0.",
    "sleep": "It sleeps while the others wait for it.",
    "loop": "It is an endless loop, or a long computation that the others must wait for.",
    "native": "It is a long computation in native code, or one that never ends.",
    "gil": "Native code that keeps Python's lock stops all of the rank's Python threads.",
    "file": "What should be on the other side of the file or pipe is not there.",
    "stopped": "`kill -CONT` with the rank's pid lets it go on.",
    "store": "Nobody sets that key: is it spelled the same on the rank that should?",
    "input": "A rank has nobody to ask: pass the value from the notebook.",
    "queue": "Nobody puts anything into the queue, or takes anything out of it.",
    "child": "See what its child processes do.",
    "thread": "See what its other threads do.",
    "socket": "Nobody answers at the other end.",
    "gpu": "A kernel does not end: most often a collective on the GPU that other ranks did not call.",
    "collective": "All are in it: look at the network (interface names, firewalls) and at the backend.",
    "barrier": "All are in it: look at the network (interface names, firewalls) and at the backend.",
    "p2p": "Each send needs its recv on the other rank.",
    "beginning": "All ranks must call it: is one of them still importing, or gone another way?",
    "stuck": "It hangs in the kernel, most often on a network disk or a GPU.",
    "start": "",
}
"""The known ways to hang, each with what to do about it."""

AWAITED = frozenset({"sleep", "loop"})
"""Kinds whose advice speaks of the others, who wait."""
TOGETHER = frozenset({"collective", "p2p", "barrier", "beginning"})
MAX_GROUPS, MAX_NOTES, MAX_HEADLINE = 100, 10, 5
SHORT_GROUPS, SHORT_FRAMES = 20, 15
STATES = ("stopped", "stuck", "gone", "held", "busy", "waiting", "silent")
"""Of a rank, those first that are told first."""
_PLURAL = {"is": "are", "has": "have"}


@dataclass(slots=True, kw_only=True)
class _Group:
    stacks: list[RankStack]
    is_still: bool = False
    is_odd: bool = False

    @property
    def first(self) -> RankStack:
        return self.stacks[0]

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(s.rank for s in self.stacks)


_G = TypeVar("_G", _Group, StackGroup)


def judge(
    stacks: Sequence[RankStack], *, cause: str, time_ns: int, still: Collection[int] = frozenset()
) -> StackReport:
    """Make a report of what the ranks' stacks tell.

    Args:
        cause: as in ``StackReport``.
        still: of a stall, the ranks that do not move.
    """
    verdict = stacks_flight.judge({s.rank: s.flight for s in stacks if s.flight is not None and s.state != "gone"})
    groups = _grouped(stacks, still)
    verdict = verdict if verdict.kind else _by_names(groups)
    alone = {s.rank for s in stacks if s.rank in still and not s.is_for_others}
    odd = alone or _odd(stacks, groups, verdict)
    for group in groups:
        group.is_odd = bool(odd) and set(group.ranks) <= odd
    groups.sort(
        key=lambda g: (
            (not g.is_odd, STATES.index(g.first.state), len(g.stacks), g.ranks[0])
            if odd
            else (False, -len(g.stacks), 0, g.ranks[0])
        )
    )
    kind = _kind(groups, verdict)
    is_told = cause != "asked" or any(g.is_odd for g in groups)
    if cause == "stall" and kind in AWAITED:
        is_told = any(s.is_for_others for s in stacks)
    return StackReport(
        time_ns=time_ns,
        cause=cause,
        headline=_headline(groups),
        advice=KINDS.get(kind, "") if is_told else "",
        kind=kind,
        groups=tuple(
            _told(g, verdict if i == 0 else Verdict()) for i, g in enumerate(_most_telling(groups, MAX_GROUPS))
        ),
    )


def shortened(report: StackReport) -> StackReport:
    """A report that an event of the journal has room for."""

    def short(group: StackGroup) -> StackGroup:
        return replace(group, frames=group.frames[-SHORT_FRAMES:])

    return replace(report, groups=tuple(map(short, _most_telling(report.groups, SHORT_GROUPS))))


def _most_telling(groups: Sequence[_G], most: int) -> list[_G]:
    """The first ones in their order, but those that stand still before all others."""
    chosen = sorted(range(len(groups)), key=lambda n: (not groups[n].is_still, n))[:most]
    return [groups[n] for n in sorted(chosen)]


def _grouped(stacks: Sequence[RankStack], still: Collection[int]) -> list[_Group]:
    found: dict[object, _Group] = {}
    for one in stacks:
        is_still = one.rank in still
        key = (is_still, one.state, one.doing, one.kind, one.places or tuple((f.file, f.line) for f in one.frames))
        if key in found:
            found[key].stacks.append(one)
        else:
            found[key] = _Group(stacks=[one], is_still=is_still)
    return list(found.values())


def _by_names(groups: Sequence[_Group]) -> Verdict:
    """Where flight recorders tell nothing: by the names of the functions called."""
    talking = [r for g in groups if g.first.kind == "p2p" for r in g.ranks]
    together = [r for g in groups if g.first.kind in {"collective", "barrier"} for r in g.ranks]
    if talking and together:
        waits = "waits" if len(together) == 1 else "wait"
        text = f"{ranks_text(together)} {waits} in a collective, and {ranks_text(talking)} for a single rank's message."
        return Verdict(kind="missing", odd=tuple(talking), text=text[:1].upper() + text[1:])
    named = [g for g in groups if g.first.kind in {"collective", "barrier"}]
    ops = {g.first.doing for g in named}
    if len(ops) < 2 or len(named) != len([g for g in groups if g.first.state != "gone"]):
        return Verdict()
    by_op = {op: [r for g in named if g.first.doing == op for r in g.ranks] for op in ops}
    fewest = min(by_op.values(), key=lambda ranks: (len(ranks), -min(ranks)))
    return Verdict(kind="mismatch", odd=tuple(fewest), text="The ranks are in different collectives.")


def _odd(stacks: Sequence[RankStack], groups: Sequence[_Group], verdict: Verdict) -> set[int]:
    """The ranks that the others wait for, as far as one can tell."""
    gone = {s.rank for s in stacks if s.state == "gone"}
    waiting = {s.rank for s in stacks if s.is_for_others}
    others = {s.rank for s in stacks} - waiting - gone
    if waiting and others:
        return others
    if verdict.odd and set(verdict.odd) < {s.rank for s in stacks}:
        return set(verdict.odd)
    if waiting and gone:
        return gone
    if waiting or len(groups) < 2:
        return set()
    alive = [g for g in groups if g.first.state != "gone"] or list(groups)
    first, *others_by_size = sorted(alive, key=lambda g: len(g.stacks))
    is_alone = bool(others_by_size) and len(first.stacks) < len(others_by_size[0].stacks)
    return set(first.ranks) if is_alone and 2 * len(first.stacks) < len(stacks) else set()


def _kind(groups: Sequence[_Group], verdict: Verdict) -> str:
    first = groups[0].first if groups else None
    if first is None:
        return ""
    if groups[0].is_odd:
        if first.state == "gone":
            return "dead"
        if first.kind in TOGETHER or not first.kind:
            return {"mismatch": "mismatch", "shapes": "mismatch", "missing": "missing"}.get(verdict.kind, first.kind)
        return first.kind
    return "mismatch" if verdict.kind in {"mismatch", "shapes"} else first.kind


def _headline(groups: Sequence[_Group]) -> str:
    """Who waits for whom: first those that wait, then the odd ones."""
    shown = [*[g for g in groups if not g.is_odd], *[g for g in groups if g.is_odd]]
    left = shown[: max(0, len(shown) - MAX_HEADLINE)]
    parts, file = [], ""
    for group in shown[len(left) :]:
        verb, _, rest = group.first.doing.partition(" ")
        if len(group.stacks) > 1:
            verb = _PLURAL.get(verb, verb.removesuffix("s"))
        where = stacks_frames.place(group.first.user, file=file)
        file = group.first.user.file if group.first.user else file
        parts.append(f"{ranks_text(group.ranks)} {f'{verb} {rest}'.rstrip()}{', ' + where if where else ''}")
    if left:
        parts.insert(0, f"{ranks_text([r for g in left for r in g.ranks])} are elsewhere")
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else "No rank is there."


def _told(group: _Group, verdict: Verdict) -> StackGroup:
    first = group.first
    where = stacks_frames.place(first.user)
    notes = dict.fromkeys(filter(None, (verdict.text, *first.notes)))
    for other in group.stacks[1:]:
        notes.update(dict.fromkeys(f"Rank {other.rank}: {n}" for n in other.notes if n not in notes))
    if first.is_busy and first.state != "gone":
        notes["Its main thread uses a CPU all the time."] = None
    return StackGroup(
        ranks=group.ranks,
        state=first.state,
        doing=f"{first.doing}{', ' + where if where else ''}",
        frames=first.frames,
        notes=tuple(notes)[:MAX_NOTES],
        is_odd=group.is_odd,
        is_still=group.is_still,
    )
