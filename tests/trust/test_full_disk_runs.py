"""Runs that end, or go on, over a full disk: what is kept, what is told, and that no cut line swallows others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nb_elastic import snapshot
from nb_elastic.run import Run
from nb_elastic.rundir import JournalReader
from tests.support import supervise
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.supervise import Supervised
from tests.support.until import until

KINDS = ("tmpfs", "ext2")
"""On the first a file can be given room ahead, on the second it can't."""


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", kind=request.param) as made:
        yield made


def reporting(disk: SmallDisk, go: Path, *, is_detached: bool = False) -> Supervised:
    """A run whose ranks report until ``go`` is there."""
    started = supervise.start(
        supervise.entry("tests.programs.reports_until_told:main"),
        nproc=2,
        log_dir=str(disk.path),
        env={"NBE_GO": str(go)},
        is_detached=is_detached,
    )
    started.until_event("worker_ready", count=2)
    return started


def told_full(one: Supervised) -> list[str]:
    return [e["text"] for e in one.of("note") if "is full" in e["text"]]


def valid_lines(path: Path) -> int:
    """How many lines of a file are JSON; those that a full disk cut may be none, but swallow no other."""
    found = 0
    for line in path.read_bytes().splitlines():
        try:
            found += isinstance(json.loads(line), dict)
        except ValueError:
            continue
    return found


def test_a_run_goes_on_over_a_full_disk_and_its_journal_is_whole_afterwards(disk: SmallDisk, tmp_path: Path):
    with reporting(disk, tmp_path / "go") as one:
        disk.fill()
        until(lambda: told_full(one), 60)
        disk.free()
        sizes = [one.run.rank(0, n).metrics for n in (0, 1)]
        before = [p.stat().st_size for p in sizes]
        until(lambda: all(p.stat().st_size > b + 2000 for p, b in zip(sizes, before, strict=True)), 60)
        (tmp_path / "go").touch()
        one.wait()
    run = Run(one.run)
    in_journal = [(e.kind, e.time_ns) for e in JournalReader(one.run.journal).read()]
    assert [(e.kind, e.time_ns) for e in one.events] == in_journal
    assert (run.state.value, len(told_full(one)), set(run.results)) == ("succeeded", 1, {0, 1})
    steps = [[row["step"] for row in run.metrics if row["rank"] == n] for n in (0, 1)]
    assert all(s == sorted(s) and s[-1] == run.results[n] for n, s in enumerate(steps))
    for path in sizes:
        lines = path.read_bytes().splitlines()
        assert len(lines) - valid_lines(path) <= lines.count(b"") + 1, "a cut line swallowed others"


def test_a_run_that_ends_on_a_full_disk_tells_so_at_once(disk: SmallDisk, tmp_path: Path):
    with reporting(disk, tmp_path / "go") as one:
        disk.fill()
        until(lambda: told_full(one), 60)
        (tmp_path / "go").touch()
        one.wait()
        assert one.state == "succeeded"
        is_kept = not one.end.get("is_unwritten")
        assert snapshot.load(one.run).state.value == ("succeeded" if is_kept else "lost")
        assert is_kept == (disk.kind == "tmpfs")


def test_a_detached_runs_last_word_waits_for_room(tmp_path: Path):
    with small_disk(tmp_path / "disk", kind="ext2") as disk:
        with reporting(disk, tmp_path / "go", is_detached=True) as one:
            disk.fill()
            (tmp_path / "go").touch()
            one.until_event("run_finished")
            assert one.end["is_unwritten"]
            assert one.process.poll() is None
            disk.free()
            one.wait()
            assert snapshot.load(one.run).state.value == "succeeded"
