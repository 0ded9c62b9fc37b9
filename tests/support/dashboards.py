"""One run that has all that a dashboard draws, made up from events and files: no process, no clock.

Runs in: the tests. ``labextension/core/golden`` is made from it.
"""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

from nb_elastic import events, rundir
from nb_elastic.model import Frame, StackGroup, StackReport, to_json
from tests.support.stories import SECOND, START_NS, Story

RUN_ID = "20231114-221320-ab12"
FOLDER = f"/home/ada/.local/state/nb_elastic/{RUN_ID}"
"""What the golden files call the folder."""
CELL = """\
import torch
import nb_elastic

def train():
    for step in range(1, 101):
        loss = 1 / step
        assert labels.max() < 10, f"label {labels.max()} of <b>batch</b> {step}"
        nb_elastic.report(step=step, total=100, loss=loss)

train()
"""
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFElEQVR42mOwsbFJSUnBJBmGlgQAW6E8AeJbU6gAAAAASUVORK5CYII="
HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)"> \u202egnp.exe \x1b]0;title\x07\x1b[2J'
TRACEBACK = """\
Traceback (most recent call last):
  File "Cell In[12]", line 10, in <module>
    train()
  File "Cell In[12]", line 7, in train
    assert labels.max() < 10, f"label {labels.max()} of <b>batch</b> {step}"
AssertionError: label 11 of <b>batch</b> 3
"""
FRAMES = [
    {
        "file": "Cell In[12]",
        "line": 10,
        "name": "<module>",
        "text": "train()",
        "values": {"labels": "tensor([11, 3, 5, 0])"},
    },
    {
        "file": "Cell In[12]",
        "line": 7,
        "name": "train",
        "text": 'assert labels.max() < 10, f"label {labels.max()} of <b>batch</b> {step}"',
        "values": {"step": "3", "loss": "0.3333333333333333", "name": "'<script>alert(1)</script>'"},
    },
]


class DashboardStory(Story):
    """Four ranks on a machine with GPUs; round 0 fails, round 1 goes on to ``ending``.

    That is running, standing (rank 2 is held, the others wait for it), failed, or succeeded.
    """

    def __init__(self, folder: Path, *, ending: str = "running", run_id: str = RUN_ID) -> None:
        super().__init__(folder, ranks=4, run_id=run_id, name="digits <b>ddp</b>", max_restarts=2)
        self._sizes: dict[str, int] = {}
        self._write_run_json()
        self.start()
        self.tell(
            "note", level="warning", text="GPU 3 is used by another process (pid 4242): 1.2 GiB of its memory is gone."
        )
        for step in (1, 2, 3):
            self.step(step)
        self._fail_round()
        self.tell("round_ended", round=0, attempt=0, cause="failure", text="rank 2 failed")
        self.now_ns += SECOND // 2
        self.form()
        for step in range(1, 9):
            self.step(step)
        self.outputs()
        if ending == "failed":
            self._fail_round()
            self.tell("round_ended", round=1, attempt=1, cause="failure", text="rank 2 failed")
            self.tell("run_finished", state="failed", root_rank=2, text="rank 2 failed")
        elif ending == "standing":
            self._stand_still()
        elif ending == "succeeded":
            self.end([0, 1, 2], result="0.98")
            self.end([3], result=HOSTILE)
            self.tell("run_finished", state="succeeded")
        self._journal.close()

    def step(self, step: int) -> None:
        """Every rank takes one step: prints, draws its bar, reports, and is looked at."""
        self.now_ns += SECOND // 4
        for rank in range(4):
            self.now_ns += SECOND // 1000
            bar = f"\r{step}%|{'#' * step:<10}| {step}/100 [00:0{step}<01:39, 4.00it/s]"
            self.put(rank, f"step {step} \x1b[32mloss\x1b[0m {1 / step:.3f}\n", "stdout")
            self.put(rank, bar, "stderr")
            loss = math.nan if (rank, step) == (1, 2) else 1 / step + rank / 100
            row = {"time_ns": self.now_ns, "rank": rank, "step": step, "total": 100, "loss": loss, "lr": 0.001}
            self.line(rank, "metrics.jsonl", row)
        if step == 2:
            self.put(3, HOSTILE + "\n", "stdout")
            self.put(3, b"broken \xff\xfe utf-8\n", "stdout")
        self.use(step)

    def put(self, rank: int, data: bytes | str, stream: Any) -> None:
        """A rank prints, and the supervisor notes how large its log is by now."""
        chunk = self.chunk(rank, data, stream)
        sizes = {f"{self._round}/{rank}/{stream}": chunk.offset + len(chunk.data)}
        self._append(self.folder.path / "growth.jsonl", {"time_ns": self.now_ns, "sizes": sizes})

    def line(self, rank: int, name: str, row: dict[str, Any]) -> None:
        """A rank appends to one of its files."""
        place = self.folder.rank(self._round, rank).path
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._append(place / name, row)

    def use(self, step: int) -> None:
        """The supervisor looks at what the ranks use."""
        ranks = [
            {
                "rank": rank,
                "local_rank": rank,
                "cpu_percent": 80.0 + rank + step,
                "memory_bytes": (900 + 10 * step + rank) << 20,
                "gpu_percent": 70.0 + 5 * rank,
                "gpu_memory_bytes": (4000 + 100 * step) << 20,
                "gpu_memory_total_bytes": 81559 << 20,
            }
            for rank in range(4)
        ]
        self._append(self.folder.path / "usage.jsonl", {"time_ns": self.now_ns, "round": self._round, "ranks": ranks})

    def outputs(self) -> None:
        """Ranks display: a figure, a table, a bar that is updated, and what was too large."""
        self.now_ns += SECOND // 10
        table = {"text/plain": "   loss\n0  0.33", "text/html": f"<table><tr><td>0.33</td></tr></table>{HOSTILE}"}
        self._output(0, "display", "d1", {"text/plain": "<Figure size 640x480 with 1 Axes>", "image/png": PNG})
        self._output(0, "display", "d2", table)
        self._output(1, "display", "bar", {"text/plain": "0/100"})
        self._output(1, "update", "bar", {"text/plain": "8/100"})
        note = "An output of 7,340,032 bytes was left out: one output may have 2,000,000."
        self._output(2, "display", "big", {"text/plain": "<Figure size 6400x4800 with 1 Axes>"}, note)
        self._output(3, "display", "x", {"text/plain": "gone"})
        self._output(3, "clear", "", {})

    def swell(self, size: int) -> None:
        """Rank 0's log grows by so many bytes."""
        with open(self.folder.rank(1, 0).stdout, "ab") as f:
            f.truncate(f.tell() + size)

    def _output(self, rank: int, kind: str, display_id: str, data: dict[str, Any], note: str = "") -> None:
        row = {"time_ns": self.now_ns, "rank": rank, "kind": kind, "display_id": display_id, "data": data}
        self.line(rank, "outputs.jsonl", {**row, "metadata": {}, "note": note})

    def _fail_round(self) -> None:
        self.put(2, TRACEBACK, "stderr")
        self.leave_failure(2, TRACEBACK)
        hint = "Look at the labels: <img src=x onerror=alert(1)>."
        message = "label 11 of <b>batch</b> 3"
        told = {"error_type": "AssertionError", "message": message, "traceback": TRACEBACK, "frames": FRAMES}
        self.fail(2, pid=5_000_002 + 100 * self._round, hint=hint, **told)
        peer = "Connection closed by peer [127.0.0.1]:4242"
        self.fail(1, error_type="RuntimeError", message=peer, followed="its peer died")
        self.fail(
            3, signal="SIGSEGV", exit_code=-11, message="killed by SIGSEGV: it touched memory that is not its own"
        )
        self.end([0], state="ended", signal="SIGTERM")

    def _stand_still(self) -> None:
        at = {"round": 1, "rank": 2, "local_rank": 2}
        self.tell("worker_held", **at, why="breakpoint", text="Cell In[12], line 6, in train")
        self.tell("worker_released", **at)
        place = "AssertionError: label 11 of <b>batch</b> 9"
        self.tell("worker_held", **at, why="failure", text=f"{place}\nCell In[12], line 7, in train")
        self.now_ns += 61 * SECOND
        self.tell("hang_found", round=1, report=to_json(stack_report(self.now_ns)))

    def _write_run_json(self) -> None:
        asked = {
            "run_id": self.folder.run_id,
            "name": "digits <b>ddp</b>",
            "entry": {"kind": "cell", "target": "Cell In[12]", "argv": []},
            "options": {"nproc_per_node": 4, "max_restarts": 2, "hang_after": 60.0},
            "cell": CELL,
        }
        rundir.write_json(self.folder.run_json, asked)

    @staticmethod
    def _append(path: Path, row: dict[str, Any]) -> None:
        with open(path, "ab") as f:
            f.write(json.dumps(row).encode() + b"\n")


def stack_report(time_ns: int = START_NS, *, cause: str = "hang") -> StackReport:
    """Rank 2 is held, and the others wait for it in a collective."""
    top = Frame(file="Cell In[12]", line=10, name="<module>", text="train()")
    odd = StackGroup(
        ranks=(2,),
        state="held",
        doing="is held at its exception, Cell In[12], line 7",
        frames=(top, Frame(file="Cell In[12]", line=7, name="train", text="assert labels.max() < 10")),
        notes=("its loader has <b>2</b> workers, both idle",),
        is_odd=True,
    )
    rest = StackGroup(
        ranks=(0, 1, 3),
        state="waiting",
        doing="waits in all_reduce, Cell In[12], line 8",
        frames=(top, Frame(file="Cell In[12]", line=8, name="train", text="nb_elastic.report(step=step)")),
        notes=("all_reduce number 9 of the default group",),
    )
    return StackReport(
        time_ns=time_ns,
        cause=cause,
        headline="Ranks 0, 1, 3 wait in all_reduce, Cell In[12], line 8; rank 2 is held at its exception, line 7.",
        advice="`%elastic debug` looks at rank 2.",
        kind="held",
        groups=(odd, rest),
    )


def fitted(value: Any, folder: Path) -> Any:
    """The value as a golden file has it: the folder by a made-up name."""
    return json.loads(json.dumps(value).replace(str(folder), FOLDER))


def with_buffers(message: dict[str, Any], buffers: list[bytes]) -> dict[str, Any]:
    """A message and its one buffer, for a JSON file."""
    return {"message": message, "buffer_base64": base64.b64encode(b"".join(buffers)).decode()}


def formed(folder: rundir.RunDir) -> dict[int, int]:
    """When each round's group was formed, as the journal tells."""
    found = rundir.JournalReader(folder.journal).read()
    return {e["round"]: e.time_ns for e in found if isinstance(e, events.Event) and e.kind == "rendezvous_finished"}
