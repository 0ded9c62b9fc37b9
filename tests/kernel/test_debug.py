"""Debugging in a notebook: a held group is looked at cell by cell, and a breakpoint asks right under the running cell."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from nb_elastic import rundir, snapshot
from nb_elastic.snapshot import RunSnapshot
from tests.support.kernel import Cell, Kernel
from tests.support.until import until

FAILS = """%%elastic_launch --nproc 2 --hold --render plain
import torch, torch.distributed as dist
dist.init_process_group('gloo')
rank = dist.get_rank()
def work(batch):
    twice = batch * 2
    if rank == 1:
        raise ValueError('no')
    dist.all_reduce(twice)
work(torch.ones(2, 3))"""

AFTER_RANK_1 = """import glob, os, time
while rank == 2 and not glob.glob(os.environ['NB_ELASTIC_RUN_DIR'] + '/**/held.json', recursive=True): time.sleep(0.01)
"""
STOPS = f"""%%elastic_launch --nproc 3 --render plain
import torch, torch.distributed as dist
dist.init_process_group('gloo')
rank = dist.get_rank()
{AFTER_RANK_1}def work(batch):
    print('before', rank)
    if rank > 0: breakpoint()
    dist.all_reduce(batch)
    return batch
try:
    out = work(torch.ones(1) * rank)
except KeyboardInterrupt:
    print('saved', rank)
    raise
int(out)"""


def newest(home: Path) -> RunSnapshot:
    """State of the newest run of a home."""
    folder = max(home.glob("2*"), key=lambda p: p.stat().st_ctime_ns)
    return snapshot.load(rundir.RunDir(folder))


def is_gone(now: RunSnapshot) -> bool:
    """True when no process of a run is left."""
    return not any(Path(f"/proc/{pid}").exists() for pid in (now.supervisor_pid, *(w.pid for w in now.workers)))


def test_a_failed_group_is_held_looked_at_and_ended(notebook: Kernel, notebook_home: Path):
    cell = notebook.run(FAILS)
    held = newest(notebook_home)
    assert cell.error.startswith("WorkerFailedError: ") and "line 8, in work" in cell.text, cell.text
    assert "The group is held: `%elastic debug` opens pdb on rank 1, `%elastic eval EXPR` looks" in cell.text
    assert [(w.rank, w.held) for w in held.held] == [(1, "failure")]

    # another run does not end it, and tells of it
    other = notebook.ok("%%elastic_launch --nproc 1 --render plain\n6 * 7")
    assert f"Run {held.run_id} is still held" in other.text and "42" in other.text

    looks = {
        "twice.sum().item()": "12.0",
        '{\'a\': rank, "b": "it\'s $x {y}"}': "{'a': 1, 'b': \"it's $x {y}\"}",
        "--rank 1 batch.shape": "torch.Size([2, 3])",
        f"{held.run_id} batch.shape": "torch.Size([2, 3])",
        f"--run {held.run_id} --rank=1 rank": "1",
        "--all rank": "[rank 1] 1",
    }
    assert {line: notebook.ok(f"%elastic eval {line}").stdout.strip() for line in looks} == looks
    assert "Rank 1: NameError: name 'nobody' is not defined" in notebook.run("%elastic eval nobody").text
    assert "is not held; rank 1 is." in notebook.run("%elastic eval --rank 0 rank").text
    assert "eval EXPR` looks at rank 1" in notebook.run("%elastic debug").text  # a front end that can't answer

    # an interrupt leaves it held; q ends all of it
    cell = notebook.start("%elastic debug", can_answer=True)
    assert notebook.dialogue(cell, "p twice.shape") == "(rank 1) (Pdb) p twice.shape\n"
    notebook.asked(cell)
    notebook.interrupt()
    assert notebook.wait(cell).is_ok and "Rank 1 stays held" in cell.text, cell.text
    cell = notebook.start(f"%elastic debug {held.run_id} --rank 1", can_answer=True)
    notebook.dialogue(cell, "up", "p rank", "l", "q")
    assert notebook.wait(cell).is_ok, cell.text
    assert "work(torch.ones(2, 3))" in cell.text and f"Run {held.run_id} is failed." in cell.text
    now = snapshot.load(rundir.RunDir(notebook_home / held.run_id))
    assert (now.state.value, now.root_rank, [w.held for w in now.workers]) == ("failed", 1, ["", ""])
    until(lambda: is_gone(now), 15)
    assert "is failed: none of its ranks is held any more" in notebook.run(f"%elastic eval --run {held.run_id} x").text


def test_breakpoints_ask_under_the_cell_one_rank_at_a_time(notebook: Kernel):
    cell = notebook.start(STOPS, can_answer=True)
    first = notebook.dialogue(cell, "p batch", "l", "n")  # which waits for rank 2, so its turn comes
    then = notebook.dialogue(cell, "w", "c", "p batch", "c")
    notebook.wait(cell)
    assert cell.is_ok, cell.text
    assert first.splitlines() == [f"(rank 1) (Pdb) {line}" for line in ("p batch", "l", "n")]
    assert then.splitlines() == ["(rank 2) (Pdb) w", "(rank 2) (Pdb) c", "(rank 1) (Pdb) p batch", "(rank 1) (Pdb) c"]
    assert "Rank 1 is at a breakpoint: Cell In[" in cell.text and "(rank 2: waiting for its turn)" in cell.text
    assert cell.text.index("before 0") < cell.text.index("Rank 1 is at"), "what was printed before stands above"
    assert "-> dist.all_reduce(batch)" in cell.text and "tensor([3.])" in cell.text
    assert "def work(batch):" in cell.text, "l shows the cell's own lines"
    assert "ranks 0-2: 3" in cell.text


@pytest.mark.parametrize("how", ["quit", "interrupt", "stopped elsewhere"])
def test_a_run_that_ends_at_the_prompt_ends_whole(notebook: Kernel, notebook_home: Path, how: str):
    cell = notebook.start(STOPS, can_answer=True)
    assert notebook.asked(cell) == "(rank 1) (Pdb) "
    if how == "quit":
        notebook.answer("q")
    elif how == "interrupt":
        notebook.interrupt()
    else:
        now = newest(notebook_home)
        os.kill(now.supervisor_pid, signal.SIGINT)
    notebook.wait(cell)
    now = newest(notebook_home)
    by = {"quit": "debugger", "interrupt": "interrupt", "stopped elsewhere": "signal SIGINT"}[how]
    assert cell.error.startswith(f"RunStoppedError: Run {now.run_id} was stopped by {by}"), cell.text
    assert "saved 1" in cell.text and "saved 2" in cell.text, "user code saw KeyboardInterrupt"
    assert "holding" not in cell.text, "and none of our frames"
    until(lambda: is_gone(now), 15)
    assert notebook.ok("6 * 7").text == "42"


def test_where_nobody_can_answer_a_breakpoint_is_passed_over(notebook: Kernel):
    cell: Cell = notebook.run(STOPS.replace(AFTER_RANK_1, ""))
    assert cell.is_ok, cell.text
    assert cell.text.count("rank 1 passes over the breakpoint at Cell In[") == 1
    assert "nobody can answer here" in cell.text and "ranks 0-2: 3" in cell.text
