"""Asks the nodes of a run where their ranks stand, by way of the run folder and the run's driver.

Runs in: the kernel or command line. ``driver.asking`` is the other side. What a node tells is believed of its own ranks only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Sequence

from nb_elastic import rundir, stacks_told
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import RunSnapshot
from nb_elastic.snapshot_nouns import WorkerSnapshot
from nb_elastic.stacks_frames import Texts
from nb_elastic.stacks_nouns import RankStack

POLL_S = 0.02
GIVE_UP_S = 15.0
"""A rank that must be waited for takes its node six seconds; the rest is the way there and back."""
ANSWER_BYTES = 64 << 20


def found(folder: RunDir, now: RunSnapshot, *, rank: int | None, texts: Texts) -> list[RankStack]:
    """Where the ranks of all nodes stand, by rank.

    Args:
        rank: only this one.
        texts: for lines of the notebook's cells, which the nodes do not have.
    """
    asked = sorted((w for w in now.workers if rank in {None, w.rank}), key=lambda w: w.rank)
    there = {n.node for n in now.nodes if n.is_here}
    nodes = sorted({w.node for w in asked if not w.state.is_final and w.node in there})
    answers = _ask(folder, nodes) if nodes else {}
    stacks = {node: {s.rank: s for s in rows} for node, rows in answers.items()}
    hosts = {n.node: n.host for n in now.nodes}
    told = [stacks.get(w.node, {}).get(w.rank) or _unheard(w, hosts.get(w.node, "")) for w in asked]
    return [texts.fill_gaps(one) for one in told]


def _ask(folder: RunDir, nodes: Sequence[int]) -> dict[int, list[RankStack]]:
    """Put the question into the run folder, and wait for the nodes' answers; without those that give none in time."""
    for path in (folder.asks, question := folder.asks / os.urandom(8).hex()):
        path.mkdir(mode=0o700, exist_ok=True)
    answers: dict[int, list[RankStack]] = {}
    deadline = time.monotonic() + GIVE_UP_S
    try:
        while len(answers) < len(nodes) and time.monotonic() < deadline:
            for node in [n for n in nodes if n not in answers]:
                if told := rundir.read_json(question / f"node_{node}.json", max_bytes=ANSWER_BYTES):
                    answers[node] = stacks_told.read(told.get("stacks"))
            time.sleep(POLL_S)
    finally:
        with contextlib.suppress(OSError):  # under another name nobody puts a late answer into it
            question = question.rename(question.with_name(f".{question.name}"))
        shutil.rmtree(question, ignore_errors=True)
    return answers


def _unheard(worker: WorkerSnapshot, host: str) -> RankStack:
    """What is known of a rank that its node says nothing of."""
    if worker.state.is_final:
        return stacks_told.gone(worker.rank, worker.pid, worker.how or worker.state.value)
    return stacks_told.unheard(worker.rank, f"node {worker.node}{f' ({host})' if host else ''}", pid=worker.pid)
