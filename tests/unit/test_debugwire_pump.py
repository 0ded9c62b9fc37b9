"""What a debugger and a rank of another machine say to each other arrives, whole, in order, and to the end.

A user would lose: an answer of pdb that is cut, or a prompt that waits for a rank which is long gone.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nb_elastic.debugwire_pump import MOST_WAITING_BYTES, PIECE_BYTES, Pump
from tests.support.until import until


class Far:
    """What was carried to the other machine."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def __call__(self, data: bytes) -> None:
        self.pieces.append(data)

    @property
    def is_over(self) -> bool:
        """True when the end was carried, once."""
        return self.pieces.count(b"") == 1 and self.pieces[-1] == b""


@contextmanager
def pumped(first: bytes = b"") -> Iterator[tuple[socket.socket, Pump, Far]]:
    """A socket whose other end is pumped."""
    near, other = socket.socketpair()
    far = Far()
    pump = Pump(lambda: (other, first), far)
    pump.start()
    try:
        with near:
            yield near, pump, far
    finally:
        pump.end()
        until(lambda: far.is_over, 30)


def test_what_the_socket_says_is_carried_in_pieces_and_then_its_end():
    data = os.urandom(5 * PIECE_BYTES + 7)
    with pumped(b"read before") as (near, _, far):
        near.sendall(data)
        near.close()
        until(lambda: far.is_over, 30)
    assert b"".join(far.pieces) == b"read before" + data
    assert max(map(len, far.pieces)) <= PIECE_BYTES


def test_what_is_written_arrives_whole_though_the_end_was_asked_for_at_once():
    data = os.urandom(3 << 20)
    with pumped() as (near, pump, far):
        pump.write(data[: 1 << 20])
        pump.write(data[1 << 20 :])
        pump.end()
        found = b""
        while piece := near.recv(1 << 16):
            found += piece
        until(lambda: far.is_over, 30)
    assert found == data


def test_the_last_words_of_who_hung_up_are_carried_though_it_takes_no_more():
    near, other = socket.socketpair()
    near.sendall(b'{"type": "busy"}\n')
    near.close()
    far = Far()
    pump = Pump(lambda: (other, b""), far)
    pump.write(b"a line that nobody reads")
    pump.start()
    until(lambda: far.is_over, 30)
    assert b"".join(far.pieces) == b'{"type": "busy"}\n'


def test_who_takes_nothing_is_hung_up_on():
    with pumped() as (near, pump, far):
        piece = bytes(1 << 20)
        for _ in range((MOST_WAITING_BYTES >> 20) + 2):
            pump.write(piece)
        until(lambda: far.is_over, 30)
        while near.recv(1 << 20):
            pass  # to the end, which comes
    pump.write(b"after the end")


@pytest.mark.parametrize("error", [ConnectionRefusedError("nobody listens"), ValueError("nonsense")])
def test_where_nobody_is_to_be_met_the_end_is_carried(error):
    def connect() -> tuple[socket.socket, bytes]:
        raise error

    far = Far()
    Pump(connect, far).start()
    until(lambda: far.is_over, 30)
    assert far.pieces == [b""]
