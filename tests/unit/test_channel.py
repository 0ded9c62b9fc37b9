"""Events reach the journal whatever happens to stdout, and frames arrive whole, in any pieces."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nb_elastic import wire
from nb_elastic.events import decode
from nb_elastic.lifeline import ProcessId
from nb_elastic.rundir import RunDir
from nb_elastic.supervisor.channel import EventLog, FrameDecoder, FrameReader
from tests.support.until import until


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            continue


def test_the_journal_goes_on_when_nobody_reads_stdout_any_more(tmp_path, pipe):
    """A detached run outlives the kernel that started it."""
    log = EventLog(RunDir(tmp_path), node=3, stdout_fd=pipe[1])
    log.tell("note", text="one")
    os.close(pipe[0])
    log.tell("note", text="two")
    log.note("three")
    lines = (tmp_path / "journal.jsonl").read_bytes().splitlines()
    assert [(e.node, e["text"]) for e in map(decode, lines) if e] == [(3, "one"), (3, "two"), (3, "three")]


def test_a_reader_that_sleeps_stops_nothing_and_gets_every_line_later(tmp_path, pipe):
    log = EventLog(RunDir(tmp_path), node=0, stdout_fd=pipe[1])
    for number in range(200):
        log.tell("note", number=number, text="x" * 2000)
    got = b""
    while got.count(b"\n") < 200:
        got += os.read(pipe[0], 1 << 16)
        log.flush()
    assert [e["number"] for e in map(decode, got.splitlines()) if e] == list(range(200))
    assert got == (tmp_path / "journal.jsonl").read_bytes()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_does_not_silence_stdout(tmp_path, pipe, capfd):
    log = EventLog(RunDir(tmp_path), node=0, stdout_fd=pipe[1])
    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), log._journal.fd)
    log.tell("note", text="still told")
    event = decode(os.read(pipe[0], 4096))
    assert event is not None
    assert event["text"] == "still told"
    assert "No space left on device" in capfd.readouterr().err


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_frames_arrive_whole_in_any_pieces(size):
    messages = [{"type": "stop", "grace_s": 1.5}, {"type": "ping"}, {"text": "\u2603" * 50}]
    data = b"".join(wire.encode(m, b"blob" * n) for n, m in enumerate(messages))
    decoder = FrameDecoder()
    got = [m for i in range(0, len(data), size) for m in decoder.feed(data[i : i + size])]
    assert got == messages


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="announces"):
        FrameDecoder().feed(b"\xff" * 8)


def test_the_end_of_stdin_is_told_once_and_after_all_frames(pipe):
    told: list[object] = []
    with FrameReader(told.append, lambda: told.append("end"), fd=pipe[0]):
        os.write(pipe[1], wire.encode({"n": 1}) + wire.encode({"n": 2}))
        os.close(pipe[1])
        until(lambda: len(told) == 3)
    assert told == [{"n": 1}, {"n": 2}, "end"]


def test_the_reader_can_be_left_while_stdin_is_open(pipe):
    told: list[object] = []
    with FrameReader(told.append, lambda: told.append("end"), fd=pipe[0]):
        pass
    assert told == []


def test_the_end_of_the_owner_is_heard_where_others_hold_stdin_open(pipe):
    """A child that the notebook forked has the kernel's end of the pipe, and lives on."""
    told: list[object] = []
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessId.of(owner.pid)
    with FrameReader(told.append, lambda: told.append("end"), fd=pipe[0], owner=identity):
        os.write(pipe[1], wire.encode({"n": 1}))
        until(lambda: told == [{"n": 1}])
        owner.communicate(b"\n")
        until(lambda: told == [{"n": 1}, "end"])
    with FrameReader(told.append, lambda: told.append("again"), fd=pipe[0], owner=identity):
        until(lambda: told[2:] == ["again"])
