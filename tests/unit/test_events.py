"""The journal's lines: whatever a rank says, one event is one short line that reads back."""

from __future__ import annotations

import json

import pytest

from nb_elastic import events


def test_an_event_reads_back_as_it_was_written():
    event = events.make("worker_exited", node=2, time_ns=17, rank=3, exit_code=-9, signal="SIGKILL")
    assert events.decode(events.encode(event)) == event


def test_a_huge_traceback_is_cut_so_that_no_reader_sees_half_a_line():
    event = events.make(
        "worker_failed", time_ns=1, failure={"traceback": "x" * 1_000_000, "frames": [{"text": "y" * 9000}] * 500}
    )
    line = events.encode(event)
    assert len(line) <= events.MAX_LINE_BYTES and line.endswith(b"\n") and line.count(b"\n") == 1
    back = events.decode(line)
    assert back is not None and "characters cut" in back["failure"]["traceback"]


def _nested(depth: int, width: int):
    return {f"k{i}": _nested(depth - 1, width) for i in range(width)} if depth else "x" * 90


@pytest.mark.parametrize(
    "worker",
    [
        {f"key {i}": i for i in range(200_000)},
        {"k" * 4_000_000: 1},
        {str(i): {str(j): "x" for j in range(40)} for i in range(100)},
        _nested(3, 32),
    ],
    ids=["keys", "long_key", "dicts", "deep"],
)
def test_a_huge_worker_file_makes_a_short_line(worker):
    line = events.encode(events.make("worker_ready", time_ns=1, rank=3, worker=worker))
    back = events.decode(line)
    assert len(line) <= events.MAX_LINE_BYTES and back is not None
    assert (back.kind, back["rank"]) == ("worker_ready", 3)


def test_what_is_nested_too_deep_does_not_end_the_supervisor():
    worker: dict = {"text": "x" * 100_000}
    for _ in range(600):
        worker = {"a": worker}
    line = events.encode(events.make("worker_ready", time_ns=1, rank=3, worker=worker))
    assert len(line) <= events.MAX_LINE_BYTES and events.decode(line) is not None


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"event": 3, "time_ns": 1}',
        b'{"event": "x"}',
        b'{"event": "x", "time_ns": "now"}',
        b"[" * 100_000,
    ],
)
def test_a_torn_or_hostile_line_is_no_event(line: bytes):
    assert events.decode(line) is None


def test_odd_text_survives_as_json():
    text = 'quote " newline \n nul \x00 lone surrogate \ud800 emoji \U0001f525'
    line = events.encode(events.make("note", time_ns=1, text=text))
    assert json.loads(line)["text"] == text
