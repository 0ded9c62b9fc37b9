"""What a node sends lands in the run folder at its place, and nothing that it may not send lands anywhere.

A user would lose: bytes of logs and results, or, where a node is hostile, files of their own.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from nb_elastic.driver.descriptors import FOR_FILES
from nb_elastic.driver.mirror import Mirror
from nb_elastic.rundir_paths import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """An empty run folder."""
    (tmp_path / "run").mkdir(mode=0o700)
    return RunDir(tmp_path / "run")


def message(kind: str, path: str, data: bytes = b"", offset: int = 0, **more: Any) -> dict[str, Any]:
    """A node's words about a file."""
    return {"type": kind, "path": path, "offset": offset, "data": base64.b64encode(data).decode(), **more}


def test_pieces_of_many_files_land_at_their_offsets(run: RunDir):
    mirror = Mirror(run, 1)
    for n in range(3):
        for rank in range(2 * FOR_FILES):
            mirror.take(message("piece", f"round_0/{rank}/stdout.log", b"%02d." % rank, offset=3 * n))
    mirror.take(message("piece", "round_0/0/stdout.log", b"end", offset=20))
    mirror.take(message("piece", "usage.jsonl", b"{}\n"))
    mirror.close()
    assert run.rank(0, 0, node=1).stdout.read_bytes() == b"00.00.00." + b"\0" * 11 + b"end"
    assert [run.rank(0, r, node=1).stdout.read_bytes() for r in (1, 15)] == [b"01.01.01.", b"15.15.15."]
    assert run.usage(1).read_bytes() == b"{}\n"
    assert run.rank(0, 1, node=1).stdout.stat().st_mode & 0o777 == 0o600


def test_a_file_appears_when_it_is_whole_and_may_be_replaced_or_go(run: RunDir):
    mirror, path = Mirror(run, 0), "round_0/0/result.pkl"
    target = run.rank(0, 0, node=0).result
    mirror.take(message("whole", path, b"abc", size=6, is_last=False))
    assert not target.exists()
    mirror.take(message("whole", path, b"def", offset=3, size=6, is_last=True))
    assert target.read_bytes() == b"abcdef"
    mirror.take(message("whole", path, b"x", size=1, is_last=True))
    assert target.read_bytes() == b"x"
    mirror.take(message("whole", path, b"cut", size=99, is_last=True))
    assert target.read_bytes() == b"x"
    mirror.take(message("gone", path))
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    "path",
    [
        "../../journal.jsonl", "/etc/passwd", "round_0/0/../../x", "journal.jsonl", "run.json", "stop.json", "round_0/0/x.log",
        "round_0/0/stdout.log/x", "node_1/round_0/0/stdout.log", "round_0/0/result.pkl\n", "", "round_-1/0/stdout.log",
        "round_99999999/0/stdout.log",
    ],
)  # fmt: skip
def test_no_other_file_is_written(run: RunDir, path: str):
    mirror = Mirror(run, 0)
    for kind in ("piece", "whole", "gone"):
        mirror.take(message(kind, path, b"evil", size=4, is_last=True))
    mirror.close()
    assert [p for p in run.path.parent.rglob("*") if p.is_file()] == []


def test_no_link_is_followed_and_no_pipe_waited_for(run: RunDir, tmp_path: Path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "stdout.log").write_bytes(b"mine")
    mirror = Mirror(run, 0)
    folder = run.round(0, node=0)
    folder.mkdir()
    (folder / "0").symlink_to(mine)
    (folder / "1").mkdir()
    (folder / "1" / "stdout.log").symlink_to(mine / "stdout.log")
    os.mkfifo(folder / "1" / "stderr.log")
    for name in ("0/stdout.log", "1/stdout.log", "1/stderr.log"):
        mirror.take(message("piece", f"round_0/{name}", b"evil"))
    mirror.close()
    assert (mine / "stdout.log").read_bytes() == b"mine"


@pytest.mark.parametrize("wrong", [{"offset": -1}, {"offset": 1 << 60}, {"offset": "0"}, {"data": "%%%"}, {"path": 7}])
def test_nonsense_is_passed_over(run: RunDir, wrong: dict[str, Any]):
    mirror = Mirror(run, 0)
    mirror.take({**message("piece", "round_0/0/stdout.log", b"abc"), **wrong})
    mirror.take(message("piece", "round_0/0/stderr.log", b"abc"))
    mirror.close()
    assert run.rank(0, 0, node=0).stderr.read_bytes() == b"abc"
    assert not run.rank(0, 0, node=0).stdout.exists() or run.rank(0, 0, node=0).stdout.stat().st_size == 0
