"""A run tells what its ranks use while they run, and its logs can be merged in time when it is over."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from nb_elastic.rundir import RunDir
from tests.support import supervise
from tests.support.until import until


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NBE_TEST_FOLDER", str(tmp_path))
    return tmp_path


def rows(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a JSON-lines file."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def last_sizes(run: RunDir, node: int | None = None) -> dict[str, int]:
    """The sizes that the growth file tells in the end."""
    return {name: size for row in rows(run.growth(node)) for name, size in row["sizes"].items()}


def test_a_run_tells_what_its_ranks_and_their_children_use(folder: Path) -> None:
    with supervise.start(supervise.entry("keeps_children_busy.py"), nproc=2) as one:

        def settled() -> dict[int, dict[str, Any]]:
            ranks = {u["rank"]: u for u in rows(one.run.usage())[-1]["ranks"]} if rows(one.run.usage()) else {}
            if len(ranks) == 2 and ranks[1]["cpu_percent"] > ranks[0]["cpu_percent"] + 10:
                more = ranks[1]["memory_bytes"] - ranks[0]["memory_bytes"]
                return ranks if more > 60 << 20 else {}
            return {}

        ranks = until(settled, 60, "the child's use of CPU and memory")
        (folder / "end").touch()
        one.wait()
    assert one.state == "succeeded", one.log
    assert set(ranks[0]) == {"rank", "local_rank", "cpu_percent", "memory_bytes"}  # no GPU here, no word of one
    assert 1 << 20 < ranks[0]["memory_bytes"] < 4 << 30
    found = rows(one.run.usage())
    assert {row["round"] for row in found} == {0}
    assert [row["time_ns"] for row in found] == sorted(row["time_ns"] for row in found)


def test_growth_adds_up_to_the_logs_and_was_told_before_the_run_s_end(folder: Path) -> None:
    with supervise.start(supervise.entry("keeps_children_busy.py"), nproc=2) as one:
        until(lambda: len(rows(one.run.growth())) > 3)
        (folder / "end").touch()
        one.wait()
    grown = rows(one.run.growth())
    sizes = {f"0/{r}/stdout": one.run.rank(0, r).stdout.stat().st_size for r in range(2)}
    assert last_sizes(one.run) == sizes
    assert [row["time_ns"] for row in grown] == sorted(row["time_ns"] for row in grown)
    (ended,) = one.of("round_ended")
    assert grown[-1]["time_ns"] <= ended.time_ns


def test_each_round_is_told_apart(folder: Path) -> None:
    (folder / "end").touch()
    done = supervise.run("keeps_children_busy.py", nproc=2, max_restarts=1)
    assert done.state == "succeeded", done.log
    stdout = {f"{n}/{r}/stdout": done.run.rank(n, r).stdout.stat().st_size for n in range(2) for r in range(2)}
    told = last_sizes(done.run)
    assert {name: told.get(name) for name in stdout} == stdout
    assert done.run.rank(0, 0).stderr.stat().st_size == told["0/0/stderr"] > 0


def test_the_growth_of_a_run_too_short_to_be_watched_is_told() -> None:
    done = supervise.run("all_reduces.py", nproc=2)
    assert last_sizes(done.run) == {f"0/{r}/stdout": len(done.run.rank(0, r).stdout.read_bytes()) for r in range(2)}


def test_a_rank_may_do_to_these_files_what_it_likes(folder: Path) -> None:
    """It can only spoil the picture of its own run."""
    with supervise.start(supervise.entry("keeps_children_busy.py"), nproc=1) as one:
        until(lambda: rows(one.run.growth()))
        for path in (one.run.growth(), one.run.usage(), one.run.rank(0, 0).stdout):
            path.unlink(missing_ok=True)
        (folder / "end").touch()
        one.wait()
    assert one.state == "succeeded", one.log


def test_the_supervisor_s_descriptors_do_not_grow_with_its_rounds(folder: Path) -> None:
    with supervise.start(supervise.entry("keeps_children_busy.py"), nproc=1) as one:
        one.until_event("worker_ready")
        until(lambda: rows(one.run.usage()))
        names = {
            os.path.basename(os.readlink(fd)) for fd in Path(f"/proc/{one.process.pid}/fd").iterdir() if fd.is_symlink()
        }
        (folder / "end").touch()
        one.wait()
    assert {"usage.jsonl", "growth.jsonl"} <= names
    assert not any(name.endswith(".log") and name != "supervisor.log" for name in names)


@pytest.mark.slow
def test_on_several_nodes_each_writes_into_its_own_folder(folder: Path, endpoint: str) -> None:
    (folder / "end").touch()
    entry = supervise.entry("keeps_children_busy.py")
    with (
        supervise.start(entry, nproc=1, nnodes="2", rdzv_endpoint=endpoint) as a,
        supervise.start(entry, nproc=1, nnodes="2", rdzv_endpoint=endpoint) as b,
    ):
        for one in (a, b):
            one.wait()
    for one in (a, b):
        assert one.state == "succeeded", one.log
        assert last_sizes(one.run, 0) == {"0/0/stdout": one.run.rank(0, 0, node=0).stdout.stat().st_size}
        assert not one.run.growth().exists()
