"""Frames go out in order, what is urgent between two pieces of what is long, and what was not sent can be taken back.

A user would lose: nodes that end themselves while a large payload is on its way, and a stop that comes before the start.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nb_elastic import wire
from nb_elastic.driver.post import PIECE_BYTES, Delivery, Parcel, Post
from tests.support.until import until


class SlowLink:
    """Takes a frame only when it is let."""

    def __init__(self) -> None:
        self.frames: list[tuple[dict[str, Any], bytes]] = []
        self.lets = threading.Semaphore(0)

    def send(self, frame: bytes) -> None:
        """See ``base.Link``."""
        self.lets.acquire()
        found = wire.read(io.BytesIO(frame))
        assert found is not None
        self.frames.append(found)

    def let(self, count: int) -> None:
        """Let so many frames through, and wait for them."""
        wanted = len(self.frames) + count
        self.lets.release(count)
        until(lambda: len(self.frames) >= wanted)

    @property
    def kinds(self) -> list[str]:
        """Types of the frames."""
        return [message["type"] for message, _ in self.frames]


@pytest.fixture
def link() -> SlowLink:
    """A link."""
    return SlowLink()


@pytest.fixture
def post(link: SlowLink) -> Iterator[Post]:
    """Its post."""
    made = Post(link.send, "test", lambda delivery, error: None)
    yield made
    made.close()
    link.lets.release(1000)


def delivery(folder: Path, *tokens: str, pieces: int = 3) -> Delivery:
    """Something long for some nodes."""
    data = os.urandom(PIECE_BYTES * (pieces - 1) + 1)
    (folder / "payload").write_bytes(data)
    fd = os.open(folder / "payload", os.O_RDONLY)
    frame = wire.encode({"type": "run", "to": tokens})
    return Delivery(run_id="r", tokens=tokens, parcels=[Parcel(name="payload.pkl", fd=fd, size=len(data))], frame=frame)


def test_a_ping_goes_between_two_pieces_and_no_two_pings_wait(link: SlowLink, post: Post, tmp_path: Path):
    post.deliver(delivery(tmp_path, "a"))
    link.let(1)
    for _ in range(5):
        post.ping()
    link.let(4)
    # One piece was in the link's hands already.
    assert link.kinds == ["file", "file", "ping", "file", "run"]
    assert b"".join(blob for _, blob in link.frames) == (tmp_path / "payload").read_bytes()
    assert [m["offset"] for m, _ in link.frames if m["type"] == "file"] == [0, PIECE_BYTES, 2 * PIECE_BYTES]


def test_nodes_that_did_not_get_their_frame_never_hear_of_the_run(link: SlowLink, post: Post, tmp_path: Path):
    post.deliver(delivery(tmp_path, "a", "b", pieces=1))
    link.let(1)  # the file; the frame is in the link's hands
    until(lambda: not post._deliveries)
    post.deliver(delivery(tmp_path, "c", "d", pieces=1))
    assert post.take_back("r") == ["c", "d"]
    post.urge({"type": "stop"})
    link.let(2)
    assert [(m["type"], m.get("to")) for m, _ in link.frames[1:]] == [("run", ["a", "b"]), ("stop", None)]


def test_of_other_runs_nothing_is_taken_back(link: SlowLink, post: Post, tmp_path: Path):
    post.deliver(delivery(tmp_path, "a", pieces=1))
    assert post.take_back("other") == []
    link.let(2)
    assert link.kinds == ["file", "run"]
