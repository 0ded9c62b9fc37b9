"""Runs made up from events and log bytes, for the tests of snapshots and renderers: no process, no clock.

Runs in: the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nb_elastic import events, rundir, snapshot
from nb_elastic.events import Event
from nb_elastic.model import LogChunk, Stream
from nb_elastic.render.base import Renderer
from nb_elastic.rundir import Journal, RunDir
from nb_elastic.snapshot import EMPTY, RunSnapshot

SECOND = 10**9
START_NS = 1_700_000_000 * SECOND

TRACEBACK = """Traceback (most recent call last):
  Cell In[12], line 7, in train
    raise ValueError("the labels are <b>wrong</b>")
ValueError: the labels are <b>wrong</b>
"""


class Story:
    """Tells a run step by step: to a snapshot, to files, and to a renderer if there is one."""

    def __init__(self, folder: Path, *, ranks: int = 4, run_id: str = "20231114-221320-ab12", **created: Any) -> None:
        self.folder = RunDir(folder / run_id)
        self.folder.path.mkdir(parents=True, mode=0o700)
        self.ranks = ranks
        self.now_ns = START_NS
        self.snapshot: RunSnapshot = EMPTY
        self.renderer: Renderer | None = None
        self._journal = Journal(self.folder.journal)
        self._offsets: dict[tuple[int, int, Stream], int] = {}
        self._round = -1
        self._first = {"run_id": run_id, "nproc": ranks, "max_restarts": 0, "entry": "cell Cell In[12]", **created}

    def clock(self) -> float:
        """Seconds, for renderers."""
        return self.now_ns / SECOND

    def wall_ns(self) -> int:
        """Nanoseconds since the epoch, for renderers."""
        return self.now_ns

    def tell(self, kind: str, **data: Any) -> None:
        """One event happens, 10 ms after what was before."""
        self.now_ns += SECOND // 100
        event: Event = events.make(kind, time_ns=self.now_ns, **data)
        self._journal.append(event)
        self.snapshot = snapshot.fold(self.snapshot, event)
        if self.renderer is not None:
            self.renderer.update(self.snapshot)

    def start(self) -> None:
        """The run is made and its first round starts."""
        self.tell("run_created", **self._first)
        self.tell("supervisor_started", pid=4_000_001, start_ticks=1, host="elsewhere", torch="2.13.0", python="3.11")
        self.form()

    def form(self) -> None:
        """A round starts, all its ranks running."""
        self._round += 1
        at = {"round": self._round, "attempt": self._round}
        self.tell("rendezvous_started", **at)
        self.tell("rendezvous_finished", **at, world_size=self.ranks)
        for rank in range(self.ranks):
            pid = 5_000_000 + 100 * self._round + rank
            self.tell("worker_started", **at, rank=rank, local_rank=rank, pid=pid, start_ticks=1, start_method="warm")
            worker = {"cpus": [2 * rank, 2 * rank + 1], "device": f"cuda:{rank}", "binding": "node 0"}
            self.tell("worker_ready", **at, rank=rank, local_rank=rank, worker=worker)

    def chunk(self, rank: int, data: bytes | str, stream: Stream = "stdout") -> LogChunk:
        """A rank writes; into its file, too."""
        raw = data.encode() if isinstance(data, str) else data
        place = self.folder.rank(self._round, rank)
        place.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(place.stream(stream), "ab") as log:
            log.write(raw)
        offset = self._offsets.get((self._round, rank, stream), 0)
        self._offsets[(self._round, rank, stream)] = offset + len(raw)
        return LogChunk(rank=rank, local_rank=rank, round=self._round, stream=stream, offset=offset, data=raw)

    def write(self, *chunks: LogChunk) -> None:
        """The renderer gets chunks of one look, then enough time passes to have them drawn."""
        assert self.renderer is not None
        self.renderer.append(chunks)
        self.wait()

    def wait(self, seconds: float = 0.5) -> None:
        """Time passes and nothing happens."""
        self.now_ns += int(seconds * SECOND)
        if self.renderer is not None:
            self.renderer.append([])

    def fail(self, rank: int, **fields: Any) -> None:
        """A rank fails."""
        failure = {"rank": rank, "local_rank": rank, "round": self._round, "time_ns": self.now_ns, **fields}
        at = {"round": self._round, "rank": rank, "local_rank": rank}
        self.tell("worker_failed", **at, failure=failure)
        code = fields.get("exit_code", 1)
        self.tell("worker_exited", **at, exit_code=code, signal=fields.get("signal", ""), state="failed")

    def end(self, ranks: Sequence[int], *, state: str = "succeeded", result: str = "", signal: str = "") -> None:
        """Ranks end."""
        for rank in ranks:
            at = {"round": self._round, "rank": rank, "local_rank": rank}
            told = {"text": result, "size_bytes": 20, "error": ""} if result else None
            code = -15 if signal else 0
            self.tell(
                "worker_exited", **at, exit_code=code, signal=signal, state=state, has_result=bool(result), result=told
            )

    def finish(self, state: str = "succeeded", **data: Any) -> None:
        """The run is over and the renderer is closed."""
        self.tell("run_finished", state=state, **data)
        if self.renderer is not None:
            self.renderer.close(self.snapshot)
        self._journal.close()

    def leave_failure(self, rank: int, traceback: str) -> None:
        """Write the file a failing rank leaves."""
        place = self.folder.rank(self._round, rank)
        place.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        rundir.write_json(place.failure_json, {"traceback": traceback})


def succeeding(story: Story) -> None:
    """Four ranks train, print, draw bars, warn, and return."""
    story.start()
    story.tell("note", level="warning", text="fell back to spawn: CUDA was initialised by an import")
    story.write(*[story.chunk(r, "epoch 1\n") for r in range(4)])
    story.write(story.chunk(1, "\r 10%|#   |\r 50%|##  |"), story.chunk(3, "only rank 3\n"))
    story.write(story.chunk(1, "\r100%|####|\n"), story.chunk(0, "Warning: old API\n", "stderr"))
    same = [story.chunk(r, "loss 0.5\nepoch 2\n") for r in range(4)]
    story.write(*same, story.chunk(2, "no newline at the end"))
    story.end([0, 1, 2], result="0.98")
    story.end([3], result="0.97")
    story.finish()


def failing(story: Story) -> None:
    """Rank 2 fails first, rank 1 follows, rank 3 fails by itself a little later, rank 0 is ended."""
    story.start()
    story.write(*[story.chunk(r, "epoch 1\n") for r in range(4)])
    story.leave_failure(2, TRACEBACK)
    story.write(story.chunk(2, TRACEBACK, "stderr"))
    story.fail(
        2,
        error_type="ValueError",
        message="the labels are <b>wrong</b>",
        traceback=TRACEBACK,
        hint="Look at the labels.",
    )
    story.fail(
        1, error_type="RuntimeError", message="Connection closed by peer [127.0.0.1]:4242", followed="its peer died"
    )
    story.fail(3, signal="SIGSEGV", exit_code=-11, message="killed by SIGSEGV: it touched memory that is not its own")
    story.end([0], state="ended", signal="SIGTERM")
    story.tell("round_ended", round=0, attempt=0, cause="failure", text="rank 2 failed")
    story.finish("failed", root_rank=2, text="rank 2 failed")


def restarting(story: Story) -> None:
    """Two ranks; the first attempt fails, the second succeeds."""
    story.start()
    story.write(story.chunk(0, "first attempt\n"))
    story.fail(1, error_type="KeyError", message="'x'")
    story.end([0], state="ended", signal="SIGTERM")
    story.tell("round_ended", round=0, attempt=0, cause="failure", text="rank 1 failed")
    late = [story.chunk(0, "last words of round 0\n")]
    story.form()
    story.write(*late)
    story.write(*[story.chunk(r, "second attempt\n") for r in range(2)])
    story.end([0, 1])
    story.finish()
