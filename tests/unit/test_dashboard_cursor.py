"""A view's place in the files of a run: every byte once, in order, in bounded pieces, in the order in which it was written."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from nb_elastic.dashboard import cursor as cursors
from nb_elastic.dashboard.cursor import Cursor
from nb_elastic.dashboard.files import RunFiles
from nb_elastic.rundir import RunDir

MB = 1 << 20


class Disk:
    """The files of a run with so many ranks."""

    def __init__(self, folder: Path, *, ranks: int = 2, rounds: int = 1) -> None:
        self.run = RunDir(folder)
        self.files = RunFiles(self.run)
        for number in range(rounds):
            for rank in range(ranks):
                self.run.rank(number, rank).path.mkdir(parents=True)
                self.files.add(rank=rank, local_rank=rank, round_number=number, node=0)
        self.time_ns = 0

    def write(self, key: str, data: bytes, *, is_grown: bool = False) -> None:
        """A file grows, and if asked the supervisor notes it."""
        file = self.files.get(f"0/{key}")
        assert file is not None
        with open(file.path, "ab") as f:
            f.write(data)
            size = f.tell()
        if is_grown:
            self.time_ns += 50_000_000
            with open(self.run.path / "growth.jsonl", "a", encoding="ascii") as f:
                f.write(json.dumps({"time_ns": self.time_ns, "sizes": {key: size}}) + "\n")

    def cursor(self, **have: int) -> Cursor:
        """A new view's cursor; ``have`` by names as ``r0_stdout``."""
        self.files.look()
        named = {f"0/0/{name[1]}/{name[3:]}": n for name, n in have.items()}
        return Cursor(self.files, named)


class Reader:
    """What a page would hold."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.held: dict[str, bytes] = {}
        self.skipped: dict[str, int] = {}
        self.order: list[str] = []
        self.sizes: list[int] = []
        self.times: list[int] = []

    def all(self) -> Reader:
        """Take until there is nothing more."""
        for _ in range(10_000):
            chunks, pieces = self.cursor.take()
            if not chunks and not self.cursor.is_behind:
                return self
            self.sizes.append(sum(map(len, pieces)))
            data = b"".join(pieces)
            for chunk in chunks:
                key = chunk["file"].removeprefix("0/")
                at = len(self.held.get(key, b"")) + self.skipped.get(key, 0)
                assert chunk["offset"] - chunk["skipped"] == at, chunk
                piece, data = data[: chunk["size"]], data[chunk["size"] :]
                self.held[key] = self.held.get(key, b"") + piece
                self.skipped[key] = self.skipped.get(key, 0) + chunk["skipped"]
                self.order.append(key)
                self.times.append(chunk["time_ns"])
            assert not data
        raise AssertionError("the cursor does not come to an end")


@pytest.mark.parametrize("is_grown", [True, False])
def test_every_byte_comes_once_and_in_order(tmp_path: Path, is_grown: bool) -> None:
    disk, rng = Disk(tmp_path, ranks=3, rounds=2), random.Random(4)
    wanted: dict[str, bytes] = {}
    keys = [f"{n}/{rank}/{kind}" for n in (0, 1) for rank in range(3) for kind in ("stdout", "stderr", "metrics")]
    reader = Reader(disk.cursor())
    for n in range(60):
        key = rng.choice(keys)
        data = bytes([65 + n % 26]) * rng.choice([1, 100, 70_000, 3_000_000])
        wanted[key] = wanted.get(key, b"") + data
        disk.write(key, data, is_grown=is_grown)
        if n % 7 == 0:
            disk.files.look(is_last=True)
            reader.cursor.take(50_000) if n == 100 else reader.all()
    disk.files.look(is_last=True)
    assert {k: len(v) for k, v in reader.all().held.items()} == {k: len(v) for k, v in wanted.items()}
    assert reader.held == wanted
    assert max(reader.sizes) <= MB


def test_a_replay_goes_in_the_order_in_which_the_ranks_wrote(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    turns = [random.Random(1).choice(["0/0/stdout", "0/1/stdout", "0/1/stderr"]) for _ in range(300)]
    for n, key in enumerate(turns):
        disk.write(key, f"{n}\n".encode(), is_grown=True)
    reader = Reader(disk.cursor()).all()
    assert reader.order == turns
    assert reader.times == sorted(reader.times)
    assert reader.times[-1] == disk.time_ns


def test_nodes_are_merged_by_time(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    files = RunFiles(run)
    for node in (0, 1):
        run.rank(0, 0, node=node).path.mkdir(parents=True)
        files.add(rank=node, local_rank=0, round_number=0, node=node)
        run.rank(0, 0, node=node).stdout.write_bytes(b"abc")
        lines = [json.dumps({"time_ns": 10 * n + node, "sizes": {"0/0/stdout": n}}) for n in (1, 2, 3)]
        (tmp_path / f"node_{node}" / "growth.jsonl").write_text("\n".join(lines) + "\n")
    files.look()
    chunks, _ = Cursor(files, {}).take()
    assert [c["file"] for c in chunks] == ["0/0/0/stdout", "1/0/0/stdout"] * 3


def test_a_long_history_of_many_ranks_is_merged_less_finely(tmp_path: Path) -> None:
    """Else names would outweigh bytes."""
    disk = Disk(tmp_path, ranks=8)
    lines = []
    for n in range(1, 20_001):
        sizes = {f"0/{rank}/stdout": 10 * n for rank in range(8)}
        lines.append(json.dumps({"time_ns": n, "sizes": sizes}))
    (tmp_path / "growth.jsonl").write_text("\n".join(lines) + "\n")
    for rank in range(8):
        disk.write(f"0/{rank}/stdout", b"123456789\n" * 20_000)
    reader = Reader(disk.cursor()).all()
    assert {len(v) for v in reader.held.values()} == {200_000}
    assert 5_000 < len(reader.order) < 25_000


def test_growth_that_lies_does_no_harm(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.write("0/0/stdout", b"hello")
    lines = ["no json", '{"time_ns": 1}', '{"time_ns": 2, "sizes": []}', '{"time_ns": "x", "sizes": {}}']
    lines += [
        json.dumps({"time_ns": 3, "sizes": {"0/0/stdout": 10**12, "../x": 5, "0/0/metrics": 4, "0/1/stdout": -1}})
    ]
    (tmp_path / "growth.jsonl").write_text("\n".join(lines))
    assert Reader(disk.cursor()).all().held == {"0/0/stdout": b"hello"}


def test_a_view_goes_on_from_what_it_has(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.write("0/0/stdout", b"0123456789", is_grown=True)
    disk.write("0/1/stdout", b"abc", is_grown=True)
    cursor = disk.cursor(r0_stdout=4, r1_stdout=10**9)
    chunks, pieces = cursor.take()
    assert [(c["file"], c["offset"], c["size"]) for c in chunks] == [("0/0/0/stdout", 4, 6)]
    assert pieces == [b"456789"]


def test_a_large_log_begins_with_its_first_lines_and_goes_on_near_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cursors, "BEHIND_BYTES", 2 * MB)
    disk = Disk(tmp_path)
    whole = b"".join(b"%08d\n" % n for n in range(500_000))
    disk.write("0/0/stdout", whole, is_grown=True)
    disk.write("0/1/stdout", b"short\n", is_grown=True)
    reader = Reader(disk.cursor()).all()
    held, skipped = reader.held["0/0/stdout"], reader.skipped["0/0/stdout"]
    assert held.startswith(whole[: cursors.FIRST_BYTES])
    assert held.endswith(whole[-MB:])
    assert len(held) + skipped == len(whole)
    assert reader.held["0/1/stdout"] == b"short\n"
    assert len(held) <= 2 * MB


def test_a_live_view_that_falls_far_behind_passes_over_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cursors, "BEHIND_BYTES", 4 * MB)
    monkeypatch.setattr(cursors, "KEPT_BYTES", MB)
    disk = Disk(tmp_path)
    reader = Reader(disk.cursor())
    whole = b""
    for n in range(12):
        piece = bytes([65 + n]) * MB
        whole += piece
        disk.write("0/0/stdout", piece)
        disk.files.look()
        if n < 2:
            reader.all()
    reader.all()
    held, skipped = reader.held["0/0/stdout"], reader.skipped["0/0/stdout"]
    assert len(held) + skipped == len(whole)
    assert held[: 2 * MB] == whole[: 2 * MB]
    assert held[-MB:] == whole[-MB:]
    assert 4 * MB < skipped


def test_no_rank_waits_behind_one_that_floods(tmp_path: Path) -> None:
    disk = Disk(tmp_path, ranks=4)
    cursor = disk.cursor()
    disk.write("0/2/stdout", b"x" * (8 * MB))
    for rank in (0, 1, 3):
        disk.write(f"0/{rank}/stdout", b"y")
    disk.files.look()
    chunks, pieces = cursor.take()
    assert {c["rank"] for c in chunks} == {0, 1, 2, 3}
    assert sum(map(len, pieces)) == MB


def test_more_files_than_fit_into_a_message_take_turns(tmp_path: Path) -> None:
    disk = Disk(tmp_path, ranks=100)
    cursor = disk.cursor()
    for rank in range(100):
        disk.write(f"0/{rank}/stdout", b"x" * 200_000)
    disk.files.look()
    seen = [{c["rank"] for c in cursor.take()[0]} for _ in range(3)]
    assert set(itertools.chain(*seen)) == set(range(100))


def test_of_days_of_usage_a_view_gets_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cursors.ENDS_BYTES, "usage", 1_000)
    disk = Disk(tmp_path)
    usage = disk.run.usage()
    usage.write_bytes(b"a" * 5_000 + b"b" * 1_000)
    disk.write("0/1/stdout", b"line\n")
    reader = Reader(disk.cursor())
    reader.all()
    assert (reader.held["usage"], reader.skipped["usage"]) == (b"b" * 1_000, 5_000)
    assert reader.held["0/1/stdout"] == b"line\n"
    usage.write_bytes(b"a" * 5_000 + b"b" * 1_000 + b"c" * 3_000)
    disk.files.look()
    reader.all()
    assert reader.held["usage"] == b"b" * 1_000 + b"c" * 3_000


def test_a_log_that_is_a_link_is_not_read(tmp_path: Path) -> None:
    """A rank may put anything in its folder."""
    disk = Disk(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    disk.run.rank(0, 0).stdout.symlink_to(secret)
    disk.files.look()
    chunks, _ = Cursor(disk.files, {}).take()
    assert chunks == []


def test_workers_that_make_no_sense_are_not_known(tmp_path: Path) -> None:
    files = RunFiles(RunDir(tmp_path))
    files.add(rank=-1, local_rank=0, round_number=0, node=0)
    files.add(rank=0, local_rank=0, round_number=0, node=-3)
    assert len(files) == 0
