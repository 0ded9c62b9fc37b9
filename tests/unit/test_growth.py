"""The logs of many ranks can be merged in time after the fact, however long the run was and whatever a rank did to its files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from nb_elastic.supervisor import growth as module
from nb_elastic.supervisor.appender import Appender
from nb_elastic.supervisor.growth import Growth


class Watched:
    """A growth file of two logs; the clock stands still."""

    def __init__(self, folder: Path) -> None:
        self.logs = {f"0/{n}/stdout": folder / f"{n}.log" for n in range(2)}
        self.watches: list[str] = []
        self.path = folder / "growth.jsonl"
        self.out = Appender(self.path)
        self.growth = Growth(self.logs, watch=lambda p: self.watches.append(p.name), out=self.out, clock=lambda: 10.0)

    def write(self, rank: int, data: bytes) -> None:
        with self.logs[f"0/{rank}/stdout"].open("ab") as f:
            f.write(data)

    def look(self) -> list[str]:
        """Look once; the names of the files that were watched."""
        self.watches.clear()
        self.growth.look()
        return sorted(self.watches)

    @property
    def sizes(self) -> list[dict[str, Any]]:
        return [json.loads(line)["sizes"] for line in self.path.read_bytes().splitlines()]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_only_files_that_grew_are_recorded_and_their_sizes_add_up(watched: Watched) -> None:
    watched.write(0, b"abc")
    watched.look()
    watched.write(0, b"de")
    watched.write(1, b"f")
    watched.look()
    watched.look()
    assert watched.sizes == [{"0/0/stdout": 3}, {"0/0/stdout": 5, "0/1/stdout": 1}]
    assert oct(watched.path.stat().st_mode)[-3:] == "600"


def test_a_file_is_watched_again_before_it_is_read_after_each_growth(watched: Watched) -> None:
    """Else what is written between the two would wake nobody."""
    assert watched.look() == ["0.log", "1.log"]  # neither is there yet
    watched.write(0, b"")
    assert watched.look() == ["0.log", "1.log"]
    assert watched.look() == ["0.log", "1.log"]  # it appeared: its own watch, not its folder's
    assert watched.look() == ["1.log"]
    watched.write(0, b"x")
    assert watched.look() == ["1.log"]
    assert watched.look() == ["0.log", "1.log"]
    watched.growth.rewatch()
    assert watched.look() == ["0.log", "1.log"]


def test_what_a_rank_puts_in_its_log_s_place_is_not_followed(watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"1234567")
    watched.logs["0/0/stdout"].symlink_to(tmp_path / "secret")
    os.mkfifo(watched.logs["0/1/stdout"])
    watched.look()
    assert watched.sizes == []


def test_a_log_that_its_rank_truncates_never_shrinks_in_the_records(watched: Watched) -> None:
    watched.write(0, b"abcdef")
    watched.look()
    watched.logs["0/0/stdout"].write_bytes(b"ab")
    watched.look()
    watched.write(0, b"cdefgh")
    watched.look()
    assert watched.sizes == [{"0/0/stdout": 6}, {"0/0/stdout": 8}]


def test_records_get_sparser_the_longer_a_run_lasts(watched: Watched) -> None:
    """Else a week of a chatty run would fill the disk with records about its logs."""
    pauses = []
    for _ in range(9):
        watched.write(0, b"x")
        watched.look()
        pauses.append(round(watched.growth.due - 10.0, 3))
        watched.out.written_bytes += module.SPARSER_BYTES
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_a_full_disk_or_what_a_rank_put_in_the_file_s_place_harms_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (Path("/dev/full"), tmp_path / "no" / "folder", tmp_path / "pipe", tmp_path / "link"):
        lines = Appender(path)
        lines.append(b"x\n")
        assert lines.written_bytes == 0
        lines.close()
        lines.close()
