"""The connection of a machine that joins: both ends prove the key, and nothing that was tampered with gets through.

A user would lose: a run into which a stranger on the network brings code, or from which he takes results.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from nb_elastic import sealed_stream
from nb_elastic.sealed_stream import (
    BEAT,
    DATA,
    END,
    GREETING,
    MAX_DATA_BYTES,
    OtherVersionError,
    SealedStream,
    StreamError,
    WrongKeyError,
    greet_as_client,
    greet_as_server,
)
from tests.support.until import until

KEY, OTHER = bytes(16), bytes(15) + b"1"
HANDSHAKE_BYTES = {"up": len(GREETING) + 64, "down": len(GREETING) + 64}


class Wire:
    """A connection through which somebody else passes all bytes, and may change them.

    Args:
        change: told the way (``up`` to the server, ``down``) and what came; returns what to pass on.
    """

    def __init__(self, change: Callable[[str, bytes], bytes] = lambda _way, data: data) -> None:
        self.client, a = socket.socketpair()
        b, self.server = socket.socketpair()
        self.seen = {"up": b"", "down": b""}
        self._ends = [self.client, a, b, self.server]
        self._threads = [
            threading.Thread(target=self._pass, args=args, daemon=True)
            for args in (("up", a, b, change), ("down", b, a, change))
        ]
        for thread in self._threads:
            thread.start()

    def _pass(self, way, source, sink, change):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.seen[way] += data
                sink.sendall(change(way, data))
            sink.shutdown(socket.SHUT_WR)

    def close(self):
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for end in self._ends:
            end.close()


@pytest.fixture
def wires() -> Iterator[Callable[..., Wire]]:
    made: list[Wire] = []

    def make(*args) -> Wire:
        made.append(Wire(*args))
        return made[-1]

    yield make
    for wire in made:
        wire.close()


def meet(wire: Wire, *, client_key: bytes = KEY, server_key: bytes = KEY):
    """Shake hands; what each end got: a stream, or its error."""
    got = {}

    def serve():
        try:
            got["server"] = greet_as_server(wire.server, server_key, timeout_s=10)
        except StreamError as e:
            got["server"] = e
            wire.server.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        got["client"] = greet_as_client(wire.client, client_key, timeout_s=10)
    except StreamError as e:
        got["client"] = e
        wire.client.close()
    thread.join(20)
    return got["client"], got["server"]


def test_what_is_sent_arrives_both_ways_whole_and_in_order(wires):
    client, server = meet(wires())
    sent = [os.urandom(n * 331 % MAX_DATA_BYTES) for n in range(60)] + [b"", os.urandom(MAX_DATA_BYTES)]
    for one, other in ((client, server), (server, client)):
        sender = threading.Thread(target=lambda one=one: [one.send(DATA, data) for data in sent])
        sender.start()
        assert [other.receive(20) for _ in sent] == [(DATA, data) for data in sent]
        sender.join(10)
        one.send(END, b"bye")
        assert other.receive(20) == (END, b"bye")


def test_nothing_comes_for_a_while(wires):
    client, server = meet(wires())
    assert client.receive(0.01) is None
    assert not client.is_readable()
    server.send(BEAT)
    until(client.is_readable)
    assert client.receive(10) == (BEAT, b"")


def test_the_key_is_never_on_the_wire(wires):
    key = os.urandom(16)
    wire = wires()
    client, server = meet(wire, client_key=key, server_key=key)
    client.send(DATA, b"in the clear")
    server.receive(10)
    assert key not in wire.seen["up"] + wire.seen["down"]
    assert b"in the clear" in wire.seen["up"], "as the docstring says: authenticated, not encrypted"


def test_a_client_with_a_wrong_token_learns_that_and_gets_nothing(wires):
    client, server = meet(wires(), client_key=OTHER)
    assert isinstance(client, WrongKeyError)
    assert isinstance(server, StreamError)


def test_a_false_server_is_found_out_before_anything_is_sent(wires):
    wire = wires()
    client, _server = meet(wire, server_key=OTHER)
    assert isinstance(client, WrongKeyError)
    assert len(wire.seen["up"]) == len(GREETING) + 32, "no proof that could be used elsewhere"


def test_a_stranger_that_sends_the_servers_own_proof_back_is_refused(wires):
    """Both proofs are made with one key; that of the one end must be worth nothing in the mouth of the other."""
    wire = wires()
    result = []

    def serve():
        try:
            result.append(greet_as_server(wire.server, KEY, timeout_s=10))
        except StreamError as e:
            result.append(e)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    wire.client.sendall(GREETING + bytes(32))
    answer = b""
    while len(answer) < HANDSHAKE_BYTES["down"]:
        answer += wire.client.recv(1000)
    wire.client.sendall(answer[-32:])
    thread.join(20)
    assert isinstance(result[0], WrongKeyError)


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_recorded_session_can_not_be_played_again(wires, way):
    """To a server (up) or to a client (down): its own new nonce makes all of the old one worthless."""
    recorded = wires()
    client, server = meet(recorded)
    one, other = (client, server) if way == "up" else (server, client)
    one.send(DATA, b"pay")
    assert other.receive(10) == (DATA, b"pay")
    wire = wires()
    target, attacker = (wire.server, wire.client) if way == "up" else (wire.client, wire.server)
    attacker.sendall(recorded.seen[way])
    with pytest.raises(WrongKeyError):
        (greet_as_server if way == "up" else greet_as_client)(target, KEY, timeout_s=10)


def record(data: bytes, *, kind: int = DATA, size: int | None = None) -> bytes:
    """A record with a seal of nothing."""
    return struct.pack(">IB", len(data) if size is None else size, kind) + data + bytes(32)


class Meddler:
    """Passes the handshake, and then does something to the records of one way."""

    def __init__(self, do: Callable[[bytes], bytes]) -> None:
        self._do = do
        self._passed = 0
        self.is_on = False

    def __call__(self, way: str, data: bytes) -> bytes:
        return self._do(data) if way == "up" and self.is_on else data


def meddled(wires, do) -> tuple[SealedStream, SealedStream]:
    """Two ends that have met, and somebody between who does something to what goes up."""
    meddler = Meddler(do)
    client, server = meet(wires(meddler))
    meddler.is_on = True
    return client, server


@pytest.mark.parametrize("where", [0, 3, 4, 5, 10, -1])
def test_a_changed_byte_ends_the_connection(wires, where):
    """In the length, the kind, the data or the seal."""

    def flip(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[where] ^= 1
        return bytes(changed)

    client, server = meddled(wires, flip)
    client.send(DATA, bytes(100))
    client.send(DATA, bytes(100))
    with pytest.raises(StreamError):
        while True:
            server.receive(10)


@pytest.mark.parametrize("name", ["left out", "doubled", "swapped"])
def test_a_record_left_out_doubled_or_swapped_ends_the_connection(wires, name):
    size = 5 + 8 + 32
    held: list[bytes] = []

    def shuffle(data: bytes) -> bytes:
        held.append(data)
        whole = b"".join(held)
        if len(whole) < 3 * size:
            return b""
        first, second, third = (whole[n * size : (n + 1) * size] for n in range(3))
        return b"".join({"left out": (first, third), "doubled": (first, first), "swapped": (second, first)}[name])

    client, server = meddled(wires, shuffle)
    for number in range(3):
        client.send(DATA, bytes([number] * 8))
    with pytest.raises(StreamError, match="changed"):
        for _ in range(3):
            server.receive(10)


def test_a_record_sent_back_to_who_sent_it_is_refused(wires):
    wire = wires()
    client, _server = meet(wire)
    client.send(DATA, b"12345678")
    until(lambda: len(wire.seen["up"]) == HANDSHAKE_BYTES["up"] + 45)
    wire.server.sendall(wire.seen["up"][HANDSHAKE_BYTES["up"] :])
    with pytest.raises(StreamError, match="changed"):
        client.receive(10)


def test_an_end_without_a_last_word_is_told(wires):
    client, server = meddled(wires, lambda data: data)
    client.send(DATA, b"half of it")
    client.cut()
    assert server.receive(10) == (DATA, b"half of it")
    with pytest.raises(StreamError, match="without a last word"):
        server.receive(10)


def test_an_end_amid_a_record_is_told(wires):
    client, server = meddled(wires, lambda data: data[:20])
    client.send(DATA, bytes(100))
    client.cut()
    with pytest.raises(StreamError, match="without a last word"):
        server.receive(10)


def test_four_gigabytes_that_are_announced_are_refused_at_once(wires):
    client, server = meddled(wires, lambda _data: record(b"", size=(1 << 32) - 1))
    client.send(DATA, b"x")
    with pytest.raises(StreamError, match="4294967295 bytes"):
        server.receive(10)


def test_a_longer_record_than_allowed_can_not_be_sent(wires):
    client, _server = meet(wires())
    with pytest.raises(ValueError, match="at most"):
        client.send(DATA, bytes(MAX_DATA_BYTES + 1))


@pytest.mark.parametrize(
    "said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + bytes(200), GREETING, GREETING + bytes(20)]
)
def test_a_stranger_is_let_go_in_time(wires, said):
    """A scanner, a browser, somebody who opens connections and says nothing."""
    wire = wires()
    wire.client.sendall(said)
    with pytest.raises(StreamError):
        greet_as_server(wire.server, KEY, timeout_s=0.3)


def test_a_stranger_that_drips_bytes_is_let_go_in_time(wires):
    wire = wires()
    is_over = threading.Event()

    def drip():
        with contextlib.suppress(OSError):
            for byte in GREETING + bytes(10_000):
                wire.client.sendall(bytes([byte]))
                is_over.wait(0.02)

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    began = time.monotonic()
    with pytest.raises(StreamError, match="too long"):
        greet_as_server(wire.server, KEY, timeout_s=0.5)
    is_over.set()
    assert time.monotonic() - began < 20
    wire.close()
    thread.join(10)


@pytest.mark.parametrize("greet", [greet_as_client, greet_as_server])
def test_another_version_is_told_as_such(wires, greet):
    wire = wires()
    mine, other = (wire.client, wire.server) if greet is greet_as_client else (wire.server, wire.client)
    other.sendall(GREETING[:-1] + b"2" + bytes(200))
    with pytest.raises(OtherVersionError):
        greet(mine, KEY, timeout_s=10)
    if greet is greet_as_server:
        assert other.recv(1000) == GREETING, "the other end can tell, too"


def test_nothing_here_unpickles():
    with open(sealed_stream.__file__, encoding="utf-8") as file:
        assert "pickle" not in file.read()
