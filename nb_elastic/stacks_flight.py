"""Compares what the ranks' flight recorders tell: which collective each waits in, who is missing, whose differ.

Runs in: the kernel or command line, and the supervisor. What a rank told may be nonsense; it then spoils the verdict on itself only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nb_elastic import untrusted
from nb_elastic.spans import is_one, spans

MAX_ROWS, MAX_GROUP = 200, 100_000
SAME_SHAPES = frozenset({"all_reduce", "broadcast", "reduce", "all_gather", "allgather", "allreduce", "reduce_scatter"})
"""Collectives that all ranks must call with equal shapes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A collective that a rank called and that is not done."""

    group: str
    seq: int
    op: str
    shapes: str
    types: str
    is_p2p: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """What one rank told.

    Attributes:
        ranks: global ranks of each group, by its name.
        counts: how many collectives the rank called in each group, by its name.
        pending: those that are not done, oldest first.
    """

    ranks: Mapping[str, tuple[int, ...]]
    counts: Mapping[str, int]
    pending: tuple[Pending, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the recorders say together.

    Attributes:
        kind: ``missing``, ``mismatch``, ``shapes``, ``together`` (all are in it), or "" where they say nothing.
        odd: the ranks that did something else, or nothing.
        text: one sentence, or "".
    """

    kind: str = ""
    odd: tuple[int, ...] = ()
    text: str = ""


def read(told: Mapping[str, Any]) -> Flight | None:
    """Read a rank's words; None where it told nothing."""
    groups, entries = (untrusted.rows(told.get(key), most=MAX_ROWS) for key in ("groups", "entries"))
    if not groups:
        return None
    ranks: dict[str, tuple[int, ...]] = {}
    counts: dict[str, int] = {}
    for row in groups:
        name = untrusted.text(row.get("name"), limit=200)
        members = row.get("ranks")
        members = members[:MAX_GROUP] if isinstance(members, list) else []
        ranks[name] = tuple(sorted({untrusted.integer(r, -1) for r in members} - {-1}))
        counts[name] = untrusted.integer(row.get("seq"), -1)
    return Flight(ranks=ranks, counts=counts, pending=_pending([e for e in entries if e.get("is_done") is not True]))


def retold(data: Any) -> Flight | None:
    """Read what a node retells of its rank's words; None for what is none."""
    if not isinstance(data, Mapping):
        return None
    ranks, counts = (list(_pairs(data.get(key))) for key in ("ranks", "counts"))
    return Flight(
        ranks={k: tuple(untrusted.integer(r, -1) for r in v[:MAX_GROUP]) for k, v in ranks if isinstance(v, list)},
        counts={k: untrusted.integer(v, -1) for k, v in counts},
        pending=_pending(untrusted.rows(data.get("pending"), most=MAX_ROWS)),
    )


def _pending(rows: Sequence[Mapping[str, Any]]) -> tuple[Pending, ...]:
    found = [
        Pending(
            group=untrusted.text(row.get("group"), limit=200),
            seq=untrusted.integer(row.get("seq")),
            op=untrusted.text(row.get("op"), limit=100),
            shapes=untrusted.text(row.get("shapes"), limit=200),
            types=untrusted.text(row.get("types"), limit=200),
            is_p2p=row.get("is_p2p") is True,
        )
        for row in rows
    ]
    return tuple(sorted(found, key=lambda p: p.seq))


def _pairs(data: Any) -> Iterable[tuple[str, Any]]:
    pairs = list(data.items())[:MAX_ROWS] if isinstance(data, Mapping) else []
    return ((untrusted.text(key, limit=200), value) for key, value in pairs)


def judge(flights: Mapping[int, Flight]) -> Verdict:
    """Compare the flights of the ranks, by rank: the first group in which something is amiss speaks."""
    together = Verdict()
    for group in sorted({p.group for f in flights.values() for p in f.pending if not p.is_p2p}, key=_in_order):
        found = _judge_group(group, flights)
        if found.kind and found.kind != "together":
            return found
        together = together if together.kind else found
    return together


def ranks_text(ranks: Sequence[int]) -> str:
    """Name ranks: ``rank 2``, ``ranks 0, 1, 3``, ``ranks 0-7``."""
    parts = spans(ranks)
    words = [str(a) if a == b else f"{a}, {b}" if b == a + 1 else f"{a}-{b}" for a, b in parts]
    return f"{'rank' if is_one(parts) else 'ranks'} {', '.join(words)}"


def _judge_group(group: str, flights: Mapping[int, Flight]) -> Verdict:
    """Look at the earliest collective of a group that somebody waits in."""
    first = {r: next((p for p in f.pending if p.group == group and not p.is_p2p), None) for r, f in flights.items()}
    waiting = {r: p for r, p in first.items() if p is not None}
    members = next((f.ranks[group] for f in flights.values() if f.ranks.get(group)), tuple(sorted(flights)))
    seq = min(p.seq for p in waiting.values())
    inside = {r: p for r, p in waiting.items() if p.seq == seq}
    name = f"collective #{seq} of {'the default group' if group in {'0', ''} else f'group {group}'}"
    ops: dict[str, list[int]] = {}
    for rank, one in sorted(inside.items()):
        ops.setdefault(one.op, []).append(rank)
    if len(ops) > 1:
        said = "; ".join(f"{op} on {ranks_text(ranks)}" for op, ranks in sorted(ops.items(), key=lambda o: -len(o[1])))
        return Verdict(
            kind="mismatch",
            odd=_fewest(list(ops.values())),
            text=f"{_capital(name)} is not the same everywhere: {said}.",
        )
    op = next(iter(ops), "")
    missing = [r for r in members if r in flights and r not in waiting and _is_behind(flights[r], group, seq)]
    if missing:
        last = min(seq - 1, *(flights[r].counts.get(group, seq) for r in missing))
        text = f"{_capital(ranks_text(missing))} did not call {name}, {op}, in which {ranks_text(list(inside))} wait"
        text += "s" if len(inside) == 1 else ""
        return Verdict(kind="missing", odd=tuple(missing), text=f"{text} (the last one called there was #{last}).")
    shapes: dict[str, list[int]] = {}
    for rank, one in sorted(inside.items()):
        shapes.setdefault(f"{one.shapes} {one.types}".strip(), []).append(rank)
    if op in SAME_SHAPES and len(shapes) > 1:
        said = "; ".join(
            f"{shape} on {ranks_text(ranks)}" for shape, ranks in sorted(shapes.items(), key=lambda s: -len(s[1]))
        )
        text = f"The shapes of {name}, {op}, differ: {said}."
        return Verdict(kind="shapes", odd=_fewest(list(shapes.values())), text=text)
    if set(members) <= set(inside):
        text = f"All ranks called {name}, {op}, alike: the network or the backend does not get it done."
        return Verdict(kind="together", text=text)
    return Verdict()


def _is_behind(flight: Flight, group: str, seq: int) -> bool:
    """True for a rank that did not come to a collective; gloo counts messages between two ranks, too."""
    return flight.counts.get(group, seq) < seq or any(p.is_p2p and p.group == group for p in flight.pending)


def _fewest(parts: list[list[int]]) -> tuple[int, ...]:
    """The ranks in the minority; of equal halves the one without the lowest rank."""
    sized = [(len(ranks), -ranks[0], ranks) for ranks in parts]
    return tuple(min(sized)[2])


def _in_order(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdecimal() and len(name) < 10 else (1 << 30, name)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
