"""Reads what a node tells of where its ranks stand: nothing of it is believed that makes no sense.

Runs in: the kernel or command line, and the driver.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nb_elastic import stacks_judge, untrusted
from nb_elastic.stacks_flight import Flight, Pending
from nb_elastic.stacks_nouns import RankStack

MAX_RANKS, MAX_FRAMES, MAX_PLACES, MAX_ROWS, MAX_GROUP = 1_000, 200, 200, 200, 100_000


def read(data: Any) -> list[RankStack]:
    """The ranks that a node tells of."""
    return [_stack(row) for row in _rows(data, MAX_RANKS)]


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
        frames=tuple(map(untrusted.frame, _rows(data.get("frames"), MAX_FRAMES))),
        user=untrusted.frame(user) if isinstance(user, dict) else None,
        places=tuple(_places(data.get("places"))),
        notes=untrusted.texts(data.get("notes")),
        flight=_flight(data.get("flight")),
        is_for_others=data.get("is_for_others") is True,
        is_busy=data.get("is_busy") is True,
    )


def _places(data: Any) -> Iterable[tuple[str, int]]:
    for row in data[:MAX_PLACES] if isinstance(data, list) else ():
        if isinstance(row, list) and len(row) == 2:
            yield untrusted.word(row[0], limit=4_000), untrusted.integer(row[1])


def _flight(data: Any) -> Flight | None:
    if not isinstance(data, dict):
        return None
    ranks, counts = (list(_pairs(data.get(key))) for key in ("ranks", "counts"))
    pending = [
        Pending(
            seq=untrusted.integer(row.get("seq")),
            is_p2p=row.get("is_p2p") is True,
            **{key: untrusted.text(row.get(key), limit=200) for key in ("group", "op", "shapes", "types")},
        )
        for row in _rows(data.get("pending"), MAX_ROWS)
    ]
    return Flight(
        ranks={k: tuple(untrusted.integer(r, -1) for r in v[:MAX_GROUP]) for k, v in ranks if isinstance(v, list)},
        counts={k: untrusted.integer(v, -1) for k, v in counts},
        pending=tuple(pending),
    )


def _pairs(data: Any) -> Iterable[tuple[str, Any]]:
    rows = list(data.items())[:MAX_ROWS] if isinstance(data, dict) else []
    return ((untrusted.text(key, limit=200), value) for key, value in rows)


def _rows(data: Any, most: int) -> list[Mapping[str, Any]]:
    return [row for row in data[:most] if isinstance(row, dict)] if isinstance(data, list) else []
