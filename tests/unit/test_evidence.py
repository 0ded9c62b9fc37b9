"""What the machine knows about a rank's end is read right, and nonsense does no harm.

A user would lose: "the OOM killer, rank 3 was at 61 of 64 GiB" instead of "exit code -9".
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from nb_elastic.rundir import RankDir
from nb_elastic.supervisor import evidence, kernel_log
from nb_elastic.supervisor.evidence import Evidence, Witness
from tests.support.until import until

GIB = 2**30


def _usage(*samples: tuple[int, dict[int, int]]) -> str:
    return "".join(
        json.dumps({"time_ns": at, "round": 1, "ranks": [{"local_rank": r, "memory_bytes": b} for r, b in used.items()]}) + "\n"
        for at, used in samples
    )  # fmt: skip


def test_the_memory_of_each_rank_is_read_from_what_the_pulse_wrote(tmp_path):
    path = tmp_path / "usage.jsonl"
    path.write_text('{"torn\n[]\n{"round": 1}\n' + _usage((10**9, {0: 5, 1: 7}), (2 * 10**9, {0: 6})))
    assert evidence.memory_history(path, 1) == {0: ((10**9, 5), (2 * 10**9, 6)), 1: ((10**9, 7),)}
    assert evidence.memory_history(path, 2) == {}
    assert evidence.memory_history(tmp_path / "none", 1) == {}


def test_a_rise_is_told_with_its_speed_and_the_limit():
    found = Evidence(memory=((0, 1), (20 * 10**9, 57 * GIB), (22 * 10**9, 61 * GIB)), limit_bytes=64 * GIB)
    words = "Rank 3 used 61.0 GiB of 64.0 GiB when it was last looked at, rising 2.0 GiB/s."
    assert evidence.memory_words(3, found) == words
    still = Evidence(memory=((0, GIB), (10**9, GIB)), limit_bytes=0)
    assert evidence.memory_words(0, still) == "Rank 0 used 1.0 GiB when it was last looked at."
    assert evidence.memory_words(0, Evidence()) == ""


@pytest.mark.parametrize(
    ("file", "text"), [("memory.events", "oom 2\noom_kill 2\n"), ("memory.oom_control", "under_oom 0\noom_kill 2\n")]
)
def test_both_kinds_of_control_groups_count_kills(tmp_path, file, text):
    (tmp_path / file).write_text(text)
    assert evidence.oom_kills(tmp_path) == 2
    assert evidence.oom_kills(tmp_path / "gone") is None


def test_a_process_that_ends_is_in_no_group():
    child = subprocess.Popen(["sleep", "60"])
    before = evidence.memory_group(child.pid)
    child.kill()
    until(lambda: evidence.lifeline.stat_fields(child.pid)[0] == "Z")
    assert evidence.memory_group(child.pid) is None
    assert before == evidence.memory_group(os.getpid())
    child.wait()


def test_nothing_is_counted_where_nothing_happened(tmp_path):
    witness = Witness()
    witness.look([os.getpid()])
    folder = RankDir(tmp_path / "round_0" / "0")
    found = witness.evidence(folder, pid=os.getpid(), local_rank=0, round_number=0, tail="last words")
    assert (found.oom_kills or 0, found.machine_oom_kills or 0, found.oom_line, found.memory) == (0, 0, "", ())
    assert found.tail == "last words"
    assert found.limit_bytes > 0


def test_the_kernels_line_names_the_process_and_is_not_an_old_one(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_log.os, "readlink", lambda _path: kernel_log.INIT_PIDS)
    line = "Memory cgroup out of memory: Killed process 77 (python) total-vm:1kB"
    for name, at, pid, expected in (("new", 9, 77, line), ("old", 1, 77, ""), ("other", 9, 78, "")):
        path = tmp_path / name
        path.write_text(f"3,1,{at}000000,-;{line}\n")
        assert kernel_log.oom_line(pid, since_s=5, path=str(path)) == expected


def test_in_a_namespace_of_pids_the_kernels_log_proves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_log.os, "readlink", lambda _path: "pid:[1]")
    (tmp_path / "log").write_text("3,1,9000000,-;Killed process 77 (x)\n")
    assert kernel_log.oom_line(77, since_s=0, path=str(tmp_path / "log")) == ""


def test_full_places_are_seen():
    assert evidence.is_full("/dev/full/nowhere") is False
    assert evidence.is_full(str(Path("/"))) in {True, False}
