"""The benchmarks must not lie: a missed figure is told as missed, and what grows between launches is seen."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nb_elastic import events, rundir
from nb_elastic.rundir import Journal, RunDir
from tests.benchmarks import path, soak
from tests.benchmarks.table import Row, at_most, more_at_most, ratio_at_most, render, take_turns, times_faster
from tests.support import proc
from tests.support.footprint import Footprint
from tests.support.kernel import Cell, Message
from tests.support.until import until

HOLDER = """
import ctypes, os, sys, threading, subprocess
title = os.environ.get("TITLE")
if title:
    import setproctitle
    setproctitle.setproctitle(title)
held = []
print("up", flush=True)
for line in sys.stdin:
    word = line.strip()
    if word == "fd":
        held.append(os.open(os.devnull, os.O_RDONLY))
    elif word == "thread":
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    elif word == "child":
        held.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
    elif word == "memory":
        held.append(bytearray(os.urandom(1 << 20) * 8))
    print("done", flush=True)
os._exit(0)
"""


class Holder:
    """A process that takes what it is told to take."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid
        self._expect("up")

    def take(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        self._expect("done")

    def _expect(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == word + "\n"


@pytest.fixture
def holder() -> Iterator[Holder]:
    """A process of its own, which ends with its stdin."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Holder(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.parametrize(
    ("word", "grown"), [("fd", "kernel fds"), ("thread", "kernel threads"), ("child", "processes"), ("file", "stray files")]
)  # fmt: skip
def test_whatever_a_kernel_keeps_after_a_launch_is_seen(holder: Holder, tmp_path: Path, word: str, grown: str):
    (tmp_path / "tmp").mkdir()
    before = Footprint.of(holder.pid, tmp_path)
    assert Footprint.of(holder.pid, tmp_path).beyond(before) == {}
    if word == "file":
        (tmp_path / "tmp" / "left").touch()
    else:
        holder.take(word)
    now = Footprint.of(holder.pid, tmp_path)
    assert now.beyond(before)[grown] == (before.counts[grown], before.counts[grown] + 1)


def test_memory_that_a_kernel_keeps_is_seen_and_judged(holder: Holder, tmp_path: Path, capsys):
    before = Footprint.of(holder.pid, tmp_path)
    holder.take("memory")
    now = Footprint.of(holder.pid, tmp_path)
    assert now.kernel_bytes - before.kernel_bytes > 7e6
    assert soak.judge([(25, before), (50, before), (75, before)]) == 0
    assert soak.judge([(25, before), (50, before), (75, now)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "50 launches after the first 25: GREW: memory of the kernel"


def test_the_launcher_is_found_by_its_title_among_a_kernels_children(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TITLE", "nb_elastic:launcher")
    code = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {HOLDER!r}]); sys.exit(p.wait())"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        Holder(parent)
        found = proc.launcher_of(parent.pid)
        assert found is not None and proc.title(found).startswith("nb_elastic:launcher")
        assert {role: len(pids) for role, pids in proc.by_role(parent.pid).items()} == {"launcher": 1}
        assert parent.stdin is not None
        parent.stdin.close()
    until(lambda: proc.title(found) == "", 30)


def test_a_figure_is_reached_or_missed_by_medians_of_the_same_run():
    theirs, ours = (
        Row("q", "theirs", samples=[3.0, 9.0, 4.0], is_reference=True),
        Row("q", "ours", samples=[1.0, 2.0, 2.0]),
    )
    at_most(ours, 1.5)
    ratio_at_most(ours, 0.5, theirs, "ours / theirs")
    times_faster(ours, 3, theirs, "theirs / ours")
    more_at_most(ours, -1.0, theirs, "beyond")
    assert [r.verdict for r in ours.reaches] == [
        "reach 1.50, got 2.00: MISSED",
        "ours / theirs: reach 0.50, got 0.50: reached",
        "theirs / ours: reach at least 3.00, got 2.00: MISSED",
        "beyond: reach -1.00, got -2.00: reached",
    ]


def test_what_failed_every_time_is_in_the_table_and_judged_by_nobody():
    ours, theirs = Row("q", "ours", samples=[1.0]), Row("q", "theirs", is_reference=True)
    ratio_at_most(ours, 1.0, theirs, "ours / theirs")

    def fails() -> float:
        raise AssertionError("it hung")

    told: list[str] = []
    take_turns(2, [theirs], [fails], told.append)
    assert told == [f"  {n}/2  q: theirs  failed: it hung" for n in (1, 2)]
    table = render([theirs, ours])
    assert "failed 2 times" in table and "ours / theirs: reach 1.00, not measured" in table


def test_the_path_tells_marks_events_and_ranks_by_their_own_names(tmp_path: Path):
    run = RunDir(tmp_path)
    journal = Journal(run.journal)
    ms = 1_000_000
    for kind, at, data in (
        ("mark", 1, {"name": "brand_new"}), ("worker_started", 3, {"rank": 0}), ("worker_started", 4, {"rank": 1}),
        ("note", 2, {"text": "x"}),
    ):  # fmt: skip
        journal.append(events.make(kind, time_ns=1000 * ms + at * ms, **data))
    journal.close()
    for rank, at in ((0, 6), (1, 5)):
        folder = run.rank(0, rank)
        folder.path.mkdir(parents=True)
        rundir.write_json(folder.worker_json, {"pid": 1, "loaded_ns": 1000 * ms + at * ms})
    line = f"[rank 0] MARK {1007 * ms} 0 6.0\n"
    cell = Cell(
        "id", 0.0, 1000 * ms, messages=[Message(0.009, "stream", {"name": "stdout", "text": line})], seconds=0.01
    )
    rows = path.rows_of([path.moments(cell, run)] * 3)
    assert [(row.who, row.median, row.note) for row in rows] == [
        ("mark brand_new", 1.0, "step     1.00"),
        ("worker_started", 4.0, "step     3.00"),
        ("rank loaded", 6.0, "step     2.00"),
        ("rank prints (the first)", 7.0, "step     1.00"),
        ("FIRST LINE at the front end", 9.0, "step     2.00"),
        ("END of the cell", 10.0, "step     1.00"),
    ]
