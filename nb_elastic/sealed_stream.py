"""A TCP connection on which both ends proved to have one key, and each record is sealed.

Runs in: the driver and the command line (``nb-elastic join``). Standard library only.

What it gives: nobody without the key gets a byte of payload or has one taken. A record that was changed, left out,
doubled, put elsewhere, sent back, or taken from another connection ends the connection, and so does an end without a last word.
What it doesn't give: **nothing is encrypted**. Whoever sees the network's traffic reads all but the key.

::

    client                                    server
    greeting, its nonce (32 bytes)      -->
                                        <--   greeting, its nonce, HMAC(key, "server", both nonces)
    HMAC(key, "client", both nonces)    -->
    then records, each way: length of data (4 bytes), kind (1), data, HMAC(the way's key, number, length, kind, data)

Kinds of records: DATA, bytes of the stream; BEAT, a sign of life; START, what to start; END, the last word.
The server proves itself first: a client with a wrong token learns that, and a stranger learns nothing by which the key
could be guessed (it has 128 random bits). The keys of the two ways come from the key and both nonces.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import select
import socket
import struct
import threading
import time

GREETING = b"nb_elastic/join1"
_KIN = GREETING[:-1]
_NONCE_BYTES = 32
_SEAL_BYTES = hashlib.sha256().digest_size
_HEAD = struct.Struct(">IB")
_NUMBER = struct.Struct(">Q")
MAX_DATA_BYTES = 1 << 16
HANDSHAKE_S = 5.0
"""A stranger holds a connection no longer than that."""

DATA, BEAT, START, END = 0, 1, 2, 3
"""Kinds of records: bytes of the stream, a sign of life, how to start the node program, the last word."""


class StreamError(Exception):
    """The connection is of no use, or no more; the text says why, as the end of a sentence."""


class WrongKeyError(StreamError):
    """The other end has not the same key."""


class OtherVersionError(StreamError):
    """The other end speaks a later or earlier version of this."""


class SealedStream:
    """Records to and from an end that proved itself. One thread may send while another receives.

    Args:
        sock: connected; closed with the stream.
        own_key, other_key: seal what is sent, and what is received.
    """

    def __init__(self, sock: socket.socket, *, own_key: bytes, other_key: bytes) -> None:
        self._sock = sock
        self._own_key, self._other_key = own_key, other_key
        self._sent = self._received = 0
        self._lock = threading.Lock()
        self._buffer = bytearray()
        self.last_heard = time.monotonic()

    @property
    def own_address(self) -> str:
        """IP of this end."""
        return str(self._sock.getsockname()[0])

    def send(self, kind: int, data: bytes | memoryview = b"") -> None:
        """Send one record; waits while the network takes nothing.

        Raises:
            OSError: if the connection is gone.
            ValueError: if the data is longer than ``MAX_DATA_BYTES``.
        """
        if len(data) > MAX_DATA_BYTES:
            msg = f"A record holds at most {MAX_DATA_BYTES} bytes."
            raise ValueError(msg)
        head = _HEAD.pack(len(data), kind)
        with self._lock:
            seal = _seal(self._own_key, self._sent, head, data)
            self._sent += 1
            self._sock.sendall(b"".join((head, data, seal)))

    def receive(self, timeout_s: float | None = None) -> tuple[int, bytes] | None:
        """Take the next record, kind and data; None if none came within ``timeout_s``.

        Raises:
            StreamError: if it is not what the other end sent, or the connection ended without a last word.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        if not self._fill(_HEAD.size, deadline):
            return None
        size, kind = _HEAD.unpack_from(self._buffer)
        if size > MAX_DATA_BYTES:
            raise StreamError(f"it announced a record of {size} bytes, and more than {MAX_DATA_BYTES} is refused")
        total = _HEAD.size + size + _SEAL_BYTES
        if not self._fill(total, deadline):
            return None
        head, data, seal = (
            bytes(self._buffer[a:b])
            for a, b in ((0, _HEAD.size), (_HEAD.size, _HEAD.size + size), (_HEAD.size + size, total))
        )
        if not hmac.compare_digest(seal, _seal(self._other_key, self._received, head, data)):
            raise StreamError("something on the way changed what was sent")
        self._received += 1
        del self._buffer[:total]
        self.last_heard = time.monotonic()
        return kind, data

    def is_readable(self) -> bool:
        """True if something came that nobody has received, be it the end."""
        return bool(self._buffer) or _is_ready(self._sock, 0.0)

    def finish(self, timeout_s: float) -> None:
        """Send nothing more, and wait until the other end has taken all and hung up."""
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
            while _is_ready(self._sock, deadline - time.monotonic()) and self._sock.recv(1 << 16):
                pass

    def cut(self) -> None:
        """End the connection at once, whoever sends or receives."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give back the socket; nobody may use the stream any more."""
        self._sock.close()

    def _fill(self, size: int, deadline: float | None) -> bool:
        """Have ``size`` bytes in the buffer; False if they don't come in time, and the rest may come later."""
        while len(self._buffer) < size:
            if deadline is not None and not _is_ready(self._sock, deadline - time.monotonic()):
                return False
            try:
                piece = self._sock.recv(1 << 16)
            except OSError as e:
                raise StreamError(f"the connection broke: {e.strerror or e}") from e
            if not piece:
                raise StreamError("the connection ended without a last word")
            self._buffer += piece
        return True


def greet_as_client(sock: socket.socket, key: bytes, *, timeout_s: float = HANDSHAKE_S) -> SealedStream:
    """Prove to a notebook's end to have the key, after it has proved so itself.

    Raises:
        WrongKeyError: if it has another key.
        OtherVersionError: if it speaks another version.
        StreamError: if it is something else, hangs up or takes too long.
    """
    deadline, own = time.monotonic() + timeout_s, secrets.token_bytes(_NONCE_BYTES)
    _say(sock, GREETING + own)
    _check_greeting(_hear(sock, len(GREETING), deadline))
    other = _hear(sock, _NONCE_BYTES, deadline)
    if not hmac.compare_digest(_hear(sock, _SEAL_BYTES, deadline), _derive(key, b"server", own + other)):
        raise WrongKeyError("it has another key")
    _say(sock, _derive(key, b"client", own + other))
    return _stream(sock, key, own + other, is_server=False)


def greet_as_server(sock: socket.socket, key: bytes, *, timeout_s: float = HANDSHAKE_S) -> SealedStream:
    """Prove to whoever connected to have the key, and have that proved.

    Raises:
        StreamError: if it can't prove it, speaks something else, hangs up or takes too long.
    """
    deadline, own = time.monotonic() + timeout_s, secrets.token_bytes(_NONCE_BYTES)
    try:
        _check_greeting(_hear(sock, len(GREETING), deadline))
    except OtherVersionError:
        _say(sock, GREETING)  # so that it can say which is newer
        raise
    other = _hear(sock, _NONCE_BYTES, deadline)
    _say(sock, GREETING + own + _derive(key, b"server", other + own))
    if not hmac.compare_digest(_hear(sock, _SEAL_BYTES, deadline), _derive(key, b"client", other + own)):
        raise WrongKeyError("it has another key")
    return _stream(sock, key, other + own, is_server=True)


def _check_greeting(found: bytes) -> None:
    if found == GREETING:
        return
    if found.startswith(_KIN):
        raise OtherVersionError("it speaks another version of this")
    raise StreamError("it speaks another language")


def _stream(sock: socket.socket, key: bytes, nonces: bytes, *, is_server: bool) -> SealedStream:
    sock.settimeout(None)
    up, down = _derive(key, b"client to server", nonces), _derive(key, b"server to client", nonces)
    own, other = (down, up) if is_server else (up, down)
    return SealedStream(sock, own_key=own, other_key=other)


def _derive(key: bytes, label: bytes, nonces: bytes) -> bytes:
    return hmac.digest(key, label + b"\0" + nonces, "sha256")


def _seal(key: bytes, number: int, head: bytes, data: bytes | memoryview) -> bytes:
    seal = hmac.new(key, _NUMBER.pack(number) + head, "sha256")
    seal.update(data)
    return seal.digest()


def _say(sock: socket.socket, data: bytes) -> None:
    try:
        sock.sendall(data)
    except OSError as e:
        raise StreamError(f"the connection broke: {e.strerror or e}") from e


def _hear(sock: socket.socket, size: int, deadline: float) -> bytes:
    """Exactly ``size`` bytes, however slowly they drip, but not after the deadline."""
    data = b""
    while len(data) < size:
        try:
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
            piece = sock.recv(size - len(data))
        except TimeoutError as e:
            raise StreamError("it took too long to prove itself") from e
        except OSError as e:
            raise StreamError(f"the connection broke: {e.strerror or e}") from e
        if not piece:
            raise StreamError("it hung up")
        data += piece
    return data


def _is_ready(sock: socket.socket, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(max(0.0, timeout_s) * 1000))
