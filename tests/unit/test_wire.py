"""Frames into a supervisor's stdin arrive whole or not at all."""

from __future__ import annotations

import io

import pytest

from nb_elastic import wire


def test_frames_arrive_in_order_with_their_blobs():
    stream = io.BytesIO(wire.encode({"type": "launch"}, b"\x00payload") + wire.encode({"type": "stop", "grace_s": 0}))
    assert [wire.read(stream), wire.read(stream), wire.read(stream)] == [
        ({"type": "launch"}, b"\x00payload"),
        ({"type": "stop", "grace_s": 0}, b""),
        None,
    ]


def test_a_sender_that_dies_in_the_middle_reads_as_the_end():
    whole = wire.encode({"type": "launch"}, b"blob")
    assert [wire.read(io.BytesIO(whole[:n])) for n in range(len(whole))] == [None] * len(whole)


@pytest.mark.parametrize(
    "raw", [b"\xff" * 8, b"\x00\x00\x00\x02\x00\x00\x00\x00[]", b"\x00\x00\x00\x01\x00\x00\x00\x00{"]
)
def test_what_is_no_frame_is_refused(raw: bytes):
    with pytest.raises(ValueError, match="."):
        wire.read(io.BytesIO(raw))
