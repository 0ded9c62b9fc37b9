"""Reads what a node tells of where its ranks stand: nothing of it is believed that makes no sense.

Runs in: the kernel or command line, and the driver.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nb_elastic import stacks_flight, stacks_judge, untrusted
from nb_elastic.stacks_nouns import RankStack

MAX_RANKS, MAX_PLACES = 1_000, 200


def read(data: Any) -> list[RankStack]:
    """The ranks that a node tells of."""
    return [_stack(row) for row in untrusted.rows(data, most=MAX_RANKS)]


def gone(rank: int, pid: int, how: str) -> RankStack:
    """A rank that has ended.

    Args:
        how: in words, or "".
    """
    return RankStack(rank=rank, pid=pid, state="gone", doing=f"is gone ({how})" if how else "is gone")


def unheard(rank: int, node: str, *, pid: int = 0) -> RankStack:
    """A rank whose node does not answer.

    Args:
        node: its name, in a sentence.
    """
    return RankStack(rank=rank, pid=pid, state="silent", doing=f"is on {node}, which does not answer")


def _stack(data: Mapping[str, Any]) -> RankStack:
    state, kind, user = untrusted.word(data.get("state")), untrusted.word(data.get("kind")), data.get("user")
    return RankStack(
        rank=untrusted.integer(data.get("rank"), -1),
        pid=untrusted.integer(data.get("pid")),
        state=state if state in stacks_judge.STATES else "silent",
        doing=untrusted.word(data.get("doing"), limit=1_000) or "is there",
        kind=kind if kind in stacks_judge.KINDS else "",
        frames=tuple(map(untrusted.frame, untrusted.rows(data.get("frames"), most=untrusted.MAX_FRAMES))),
        user=untrusted.frame(user) if isinstance(user, dict) else None,
        places=tuple(_places(data.get("places"))),
        notes=untrusted.texts(data.get("notes")),
        flight=stacks_flight.retold(data.get("flight")),
        is_for_others=data.get("is_for_others") is True,
        is_busy=data.get("is_busy") is True,
    )


def _places(data: Any) -> Iterable[tuple[str, int]]:
    for row in data[:MAX_PLACES] if isinstance(data, list) else ():
        if isinstance(row, list) and len(row) == 2:
            yield untrusted.word(row[0], limit=4_000), untrusted.integer(row[1])
