"""The frames that go into a supervisor's stdin: a JSON message and, where it has one, a blob.

Runs in: whoever drives a run (writes) and the supervisor (reads).
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

_HEAD = struct.Struct(">II")
TAKEN, REFUSED = b"y", b"n"
"""A driver's answers to a launch frame: one byte."""
MAX_JSON_BYTES = 64 << 20


def encode(message: Mapping[str, Any], blob: bytes = b"") -> bytes:
    """Encode one frame: lengths of JSON and blob (4 bytes each, big-endian), JSON, blob."""
    text = json.dumps(message, separators=(",", ":")).encode()
    return _HEAD.pack(len(text), len(blob)) + text + blob


def send(sock: socket.socket, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one frame over a stream socket, with descriptors.

    Raises:
        OSError: if the other end is gone before it has the frame.
    """
    data = encode(message)
    sent = socket.send_fds(sock, [data], fds)
    if sent < len(data):  # never nothing: that fails when the other end has read all and is gone
        sock.sendall(data[sent:])


def read(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """Read one frame; None at the end of the stream.

    Raises:
        ValueError: if what came is not a frame.
    """
    head = _read_exactly(stream, _HEAD.size)
    if head is None:
        return None
    json_bytes, blob_bytes = _HEAD.unpack(head)
    if json_bytes > MAX_JSON_BYTES:
        msg = f"A frame announces {json_bytes} bytes of JSON; more than {MAX_JSON_BYTES} is refused."
        raise ValueError(msg)
    text, blob = _read_exactly(stream, json_bytes), _read_exactly(stream, blob_bytes)
    if text is None or blob is None:
        return None
    message = json.loads(text)
    if not isinstance(message, dict):
        msg = "A frame's JSON is not an object."
        raise ValueError(msg)  # noqa: TRY004
    return message, blob


def _read_exactly(stream: BinaryIO, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        piece = stream.read(size - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)
