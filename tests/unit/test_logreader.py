"""Reading logs as they grow: a byte that is lost, a rank that is never read, or a kernel that a flood fills."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from nb_elastic import logreader, rundir
from nb_elastic.logreader import LogFollower
from nb_elastic.rundir import RunDir

MIB = 1 << 20


def followed(path: Path, *, ranks: int = 1, **how: object) -> tuple[LogFollower, list[rundir.RankDir]]:
    """A follower of so many ranks, with their folders."""
    run = RunDir(path)
    follower = LogFollower(run, **how)  # type: ignore[arg-type]
    for rank in range(ranks):
        run.rank(0, rank).path.mkdir(parents=True)
        follower.add(rank=rank, local_rank=rank, round_number=0)
    return follower, [run.rank(0, rank) for rank in range(ranks)]


def test_logs_are_followed_by_offset_and_no_byte_is_lost(tmp_path: Path):
    run = RunDir(tmp_path)
    folder = run.rank(0, 1)
    folder.path.mkdir(parents=True)
    follower = LogFollower(run)
    follower.add(rank=5, local_rank=1, round_number=0)
    sent, got = b"", b""
    for n in range(5):
        piece = os.urandom(70_000 * n)
        with folder.stdout.open("ab") as f:
            f.write(piece)
        sent += piece
        while chunks := follower.read(max_bytes=50_000):
            assert [(c.rank, c.stream, c.offset) for c in chunks] == [(5, "stdout", len(got))]
            got += chunks[0].data
    assert got == sent


def test_a_log_replaced_by_a_link_or_a_pipe_is_not_followed(tmp_path: Path):
    follower, (folder,) = followed(tmp_path)
    folder.stdout.symlink_to("/etc/passwd")
    os.mkfifo(folder.stderr)
    assert follower.read() == []
    assert rundir.read_json(folder.stderr) == {}


def test_what_is_written_while_the_watch_is_set_up_is_read(tmp_path: Path):
    watched: list[Path] = []

    def watch(path: Path) -> None:
        watched.append(path)
        if path.name == "stdout.log" and not path.exists():
            path.write_bytes(b"just before\n")

    follower, (folder,) = followed(tmp_path, watch=watch)
    assert [c.data for c in follower.read()] == [b"just before\n"]
    assert watched == [folder.stdout, folder.stderr]
    assert follower.read() == []


def test_late_words_of_an_earlier_round_are_read(tmp_path: Path):
    follower, (folder,) = followed(tmp_path)
    folder.stdout.write_bytes(b"a\n")
    follower.read()
    follower.add(rank=0, local_rank=0, round_number=1)
    assert follower.read() == []
    with folder.stdout.open("ab") as f:
        f.write(b"late\n")
    assert [(c.round, c.data) for c in follower.read()] == [(0, b"late\n")]


def test_first_bytes_only(tmp_path: Path):
    follower, (one, two) = followed(tmp_path, ranks=2)
    one.stdout.write_bytes(b"a\n")
    follower.read()
    one.stdout.write_bytes(b"a\nb\n")
    two.stderr.write_bytes(b"c\n")
    assert [c.data for c in follower.read(is_first=True)] == [b"c\n"]
    assert [c.data for c in follower.read()] == [b"b\n"]


def test_many_ranks_share_one_look_and_none_is_left_out_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logreader, "LOOK_BYTES", 4_000)
    monkeypatch.setattr(logreader, "LEAST_BYTES", 1_000)
    follower, folders = followed(tmp_path, ranks=10)
    for folder in folders:
        folder.stdout.write_bytes(b"x" * 5_000)
    got = dict.fromkeys(range(10), 0)
    looks = 0
    while chunks := follower.read():
        looks += 1
        assert sum(len(c.data) for c in chunks) <= 4_000
        for chunk in chunks:
            assert chunk.offset == got[chunk.rank]
            got[chunk.rank] += len(chunk.data)
        if looks == 5:
            assert all(got.values())
    assert got == dict.fromkeys(range(10), 5_000)
    assert not follower.has_more


def test_a_look_holds_little_though_64_ranks_wrote_a_gigabyte_each(tmp_path: Path):
    follower, folders = followed(tmp_path, ranks=64)
    for folder in folders:
        with folder.stdout.open("wb") as f:
            f.truncate(1 << 30)  # a sparse file: what is read are zeros
    tracemalloc.start()
    try:
        while follower.read():
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * logreader.LOOK_BYTES


def test_a_reader_far_behind_goes_on_at_the_end_and_says_what_it_passed_over(tmp_path: Path):
    follower, (folder,) = followed(tmp_path)
    size = 3 << 30
    with folder.stdout.open("wb") as f:
        f.write(b"the beginning\n")
        f.truncate(size)
        f.seek(0, os.SEEK_END)
        f.write(b"\nlast but one\nlast\n")
    first = follower.read()
    assert [(c.offset, c.skipped, c.data[:14]) for c in first] == [(0, 0, b"the beginning\n")]
    (chunk,) = follower.read()
    assert (chunk.offset, chunk.skipped, chunk.data) == (size + 1, size + 1 - MIB, b"last but one\nlast\n")
    assert follower.read() == []
    with folder.stdout.open("ab") as f:
        f.write(b"more\n")
    assert [(c.offset, c.skipped, c.data) for c in follower.read()] == [(size + 19, 0, b"more\n")]


def test_a_reader_far_behind_in_one_line_goes_on_too(tmp_path: Path):
    follower, (folder,) = followed(tmp_path)
    with folder.stdout.open("wb") as f:
        f.truncate(1 << 30)
        f.seek(0, os.SEEK_END)
        f.write(b"\n")
    follower.read()
    (chunk,) = follower.read()
    assert (chunk.offset + len(chunk.data), chunk.data) == ((1 << 30) + 1, b"")
    assert follower.read() == []
