"""Runs of several nodes made up from events and files: one is lost, another joins; no process, no clock.

Runs in: the tests. ``labextension/core/golden/*_nodes*.json`` is made from it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nb_elastic import rundir
from nb_elastic.model import LogChunk, Stream
from tests.support.stories import SECOND, Story

HOSTS = ("ada", "babbage", "curie", "dirac")
NPROC = 2
SILENT = "nothing was heard of it for 8 s"
RUN_ID = "20231114-221320-ab12"


class NodeStory(Story):
    """Ranks on nodes; of each round it is said which take part. Ranks are numbered as nodes are."""

    def __init__(self, folder: Path, *, run_id: str = RUN_ID, min_nodes: int = 1, max_nodes: int = 3) -> None:
        super().__init__(
            folder, ranks=NPROC, run_id=run_id, name="digits", min_nodes=min_nodes, max_nodes=max_nodes, max_restarts=3
        )
        self.nodes: list[int] = []
        asked = {
            "run_id": run_id,
            "name": "digits",
            "entry": {"kind": "cell", "target": "Cell In[12]", "argv": []},
            "options": {"nproc_per_node": NPROC, "nnodes": f"{min_nodes}:{max_nodes}", "engine": "ray"},
            "cell": "train()\n",
        }
        rundir.write_json(self.folder.run_json, asked)

    def begin(self) -> None:
        """Two nodes join, and a round starts on them."""
        self.tell("run_created", **self._first)
        self.tell("supervisor_started", pid=4_000_001, start_ticks=1, host="laptop", torch="2.13.0", python="3.11")
        self.join(0)
        self.join(1)
        self.form_on(0, 1)

    def join(self, node: int, *, is_back: bool = False) -> None:
        """A node joins; its folder is there before it is told of."""
        self.folder.node(node).mkdir(exist_ok=True, mode=0o700)
        self.tell(
            "node_joined",
            node=node,
            host=HOSTS[node],
            address=f"10.0.0.{node + 1}",
            place=f"ray-{node}",
            nproc=NPROC,
            gpus=NPROC,
            pid=300 + node,
            is_back=is_back,
        )

    def form_on(self, *nodes: int) -> None:
        """A round starts on these nodes: each tells of its own ranks, in the one journal."""
        self._round += 1
        self.nodes = list(nodes)
        at = {"round": self._round, "attempt": 0}
        self.now_ns += SECOND // 2
        self.tell("rendezvous_started", node=nodes[0], **at, backend="c10d")
        self.now_ns += SECOND
        self.tell("rendezvous_finished", node=nodes[-1], **at, world_size=NPROC * len(nodes))
        for rank, (node, local_rank) in enumerate(self.places()):
            pid = 5_000 + 100 * self._round + rank
            where = {"node": node, "rank": rank, "local_rank": local_rank}
            self.tell("worker_started", **where, **at, pid=pid, start_ticks=1, start_method="warm")
            worker = {"cpus": [2 * local_rank, 2 * local_rank + 1], "device": f"cuda:{local_rank}"}
            self.tell("worker_ready", **where, round=self._round, worker=worker)

    def places(self) -> list[tuple[int, int]]:
        """(node, local rank) of each rank."""
        return [(node, local_rank) for node in self.nodes for local_rank in range(NPROC)]

    def lose(self, node: int) -> None:
        """A node is not heard of any more; then the others' round ends."""
        self.now_ns += 8 * SECOND
        self.tell("node_lost", node=node, text=SILENT)

    def regroup(self, *nodes: int, text: str) -> None:
        """The round ends, and another one is formed."""
        self.tell("round_ended", node=nodes[0], round=self._round, attempt=0, cause="membership", text=text)
        self.form_on(*nodes)

    def chunk(self, rank: int, data: bytes | str, stream: Stream = "stdout") -> LogChunk:
        """A rank writes, into its node's folder."""
        raw = data.encode() if isinstance(data, str) else data
        node, local_rank = self.places()[rank]
        place = self.folder.rank(self._round, local_rank, node=node)
        place.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(place.stream(stream), "ab") as log:
            log.write(raw)
        offset = place.stream(stream).stat().st_size - len(raw)
        sizes = {f"{self._round}/{local_rank}/{stream}": offset + len(raw)}
        self._row(self.folder.growth(node), {"time_ns": self.now_ns, "sizes": sizes})
        return LogChunk(
            rank=rank,
            local_rank=local_rank,
            round=self._round,
            stream=stream,
            offset=offset,
            data=raw,
            node=node,
        )

    def step(self, step: int) -> None:
        """Every rank takes a step: prints, reports, and its node looks at what it uses."""
        self.now_ns += SECOND // 2
        chunks = []
        for rank, (node, local_rank) in enumerate(self.places()):
            chunks.append(self.chunk(rank, f"step {step} on {HOSTS[node]}\n"))
            row = {"time_ns": self.now_ns + rank, "rank": rank, "step": step, "total": 100, "loss": 1 / step}
            self._row(self.folder.rank(self._round, local_rank, node=node).metrics, row)
        for node in self.nodes:
            ranks = [
                {
                    "rank": rank,
                    "local_rank": local_rank,
                    "cpu_percent": 90.0 + rank,
                    "memory_bytes": (900 + rank) << 20,
                    "gpu_percent": 70.0 + rank,
                    "gpu_memory_bytes": 4_000 << 20,
                    "gpu_memory_total_bytes": 81_559 << 20,
                }
                for rank, (own, local_rank) in enumerate(self.places())
                if own == node
            ]
            self._row(self.folder.usage(node), {"time_ns": self.now_ns, "round": self._round, "ranks": ranks})
        if self.renderer is not None:
            self.write(*chunks)

    def fail_on(self, rank: int, **fields: Any) -> None:
        """A rank fails, as its node tells."""
        node, local_rank = self.places()[rank]
        where = {"round": self._round, "rank": rank, "local_rank": local_rank}
        self.tell("worker_failed", node=node, **where, failure={**where, "time_ns": self.now_ns, **fields})
        self.tell("worker_exited", node=node, **where, exit_code=1, state="failed")

    def end_all(self, ranks: Sequence[int], *, state: str = "succeeded", result: str = "") -> None:
        """Ranks end, as their nodes tell."""
        for rank in ranks:
            node, local_rank = self.places()[rank]
            told = {"text": result, "size_bytes": 20, "error": ""} if result else None
            where = {"round": self._round, "rank": rank, "local_rank": local_rank}
            self.tell(
                "worker_exited", node=node, **where, exit_code=0, state=state, has_result=bool(result), result=told
            )

    @staticmethod
    def _row(path: Path, row: dict[str, Any]) -> None:
        with open(path, "ab") as f:
            f.write(json.dumps(row).encode() + b"\n")


def changing(story: NodeStory, *, until: str = "succeeded") -> None:
    """Two nodes train; the second is lost, the first goes on alone, a third joins, all train on.

    Args:
        until: where the story stops: ``lost``, ``alone``, ``joined``, ``running``, ``failed`` or ``succeeded``.
    """
    story.begin()
    for step in (1, 2, 3):
        story.step(step)
    story.lose(1)
    if until == "lost":
        return
    story.regroup(0, text="node 1 was lost")
    for step in (3, 4):
        story.step(step)
    if until == "alone":
        return
    story.join(2)
    if until == "joined":
        return
    story.regroup(0, 2, text="node 2 joined")
    for step in (4, 5, 6):
        story.step(step)
    if until == "failed":
        story.fail_on(3, error_type="ValueError", message="label 11", category="user error")
        story.end_all([0, 1, 2], state="ended")
        story.tell("round_ended", round=story.snapshot.round, attempt=0, cause="failure", text="rank 3 failed")
        story.finish("failed", root_rank=3, text="rank 3 failed", category="user error")
    elif until == "succeeded":
        story.end_all(range(4), result="0.98")
        story.finish()


def too_few(story: NodeStory) -> None:
    """Two nodes are needed, and one is lost: its ranks' peers fail for it, and the run with them."""
    story.begin()
    for step in (1, 2, 3):
        story.step(step)
    peer = {"error_type": "RuntimeError", "message": "Connection closed by peer", "category": "lost a peer"}
    story.fail_on(0, **peer)
    story.lose(1)
    story.end_all([1], state="ended")
    why = f"Node 1 (babbage) was lost: {SILENT}."
    text = f"{why} The run needs at least 2 node(s), and 1 is left."
    story.finish("failed", root_rank=0, text=text, category="lost a peer", reasons=[why])
