"""Asks the nodes of a run where their ranks stand, by way of the run folder and the run's driver.

Runs in: the kernel or command line. ``driver.asking`` is the other side. What a node tells is believed of its own ranks only.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nb_elastic import rundir, stacks_judge, untrusted
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import RunSnapshot
from nb_elastic.snapshot_nouns import WorkerSnapshot
from nb_elastic.stacks_flight import Flight, Pending
from nb_elastic.stacks_frames import Texts
from nb_elastic.stacks_nouns import RankStack

POLL_S = 0.02
GIVE_UP_S = 15.0
"""A rank that must be waited for takes its node six seconds; the rest is the way there and back."""
ANSWER_BYTES = 64 << 20
MAX_RANKS, MAX_FRAMES, MAX_PLACES, MAX_ROWS, MAX_GROUP = 1_000, 200, 200, 200, 100_000
GONE = "gone"


def found(folder: RunDir, now: RunSnapshot, *, rank: int | None, texts: Texts) -> list[RankStack]:
    """Where the ranks of all nodes stand, by rank.

    Args:
        rank: only this one.
        texts: for lines of the notebook's cells, which the nodes do not have.
    """
    asked = sorted((w for w in now.workers if rank in {None, w.rank}), key=lambda w: w.rank)
    there = {n.node for n in now.nodes if n.is_here}
    nodes = sorted({w.node for w in asked if not w.state.is_final and w.node in there})
    told = _ask(folder, nodes) if nodes else {}
    stacks = {node: {s.rank: s for s in map(_stack, rows)} for node, rows in told.items()}
    hosts = {n.node: n.host for n in now.nodes}
    return [_with_texts(stacks.get(w.node, {}).get(w.rank) or _unheard(w, hosts.get(w.node, "")), texts) for w in asked]


def _ask(folder: RunDir, nodes: Sequence[int]) -> dict[int, list[Mapping[str, Any]]]:
    """Put the question into the run folder, and wait for the nodes' answers; without those that give none in time."""
    for path in (folder.asks, question := folder.asks / os.urandom(8).hex()):
        path.mkdir(mode=0o700, exist_ok=True)
    answers: dict[int, list[Mapping[str, Any]]] = {}
    deadline = time.monotonic() + GIVE_UP_S
    try:
        while len(answers) < len(nodes) and time.monotonic() < deadline:
            for node in [n for n in nodes if n not in answers]:
                if told := rundir.read_json(question / f"node_{node}.json", max_bytes=ANSWER_BYTES):
                    answers[node] = _rows(told.get("stacks"), MAX_RANKS)
            time.sleep(POLL_S)
    finally:
        shutil.rmtree(question, ignore_errors=True)
    return answers


def _unheard(worker: WorkerSnapshot, host: str) -> RankStack:
    """What is known of a rank that its node says nothing of."""
    if worker.state.is_final:
        return RankStack(
            rank=worker.rank, pid=worker.pid, state=GONE, doing=f"is gone ({worker.how or worker.state.value})"
        )
    name = f"node {worker.node}{f' ({host})' if host else ''}"
    return RankStack(rank=worker.rank, pid=worker.pid, state="silent", doing=f"is on {name}, which does not answer")


def _with_texts(one: RankStack, texts: Texts) -> RankStack:
    return replace(one, frames=tuple(f if f.text else replace(f, text=texts.line(f)) for f in one.frames))


def _stack(data: Mapping[str, Any]) -> RankStack:
    """Read what a node tells of a rank."""
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
