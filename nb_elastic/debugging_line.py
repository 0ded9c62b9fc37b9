"""The line from a debugger to a held rank, and what can go wrong on it, in words.

Runs in: the kernel or command line.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nb_elastic import debugwire
from nb_elastic.debugwire import Peer
from nb_elastic.errors import ElasticError
from nb_elastic.rundir import RankDir

Ask = Callable[[str], str]


class GoneError(ElasticError):
    """The held rank went away: its run was stopped, or it died."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRank:
    """A rank that waits to be looked at.

    Attributes:
        why: ``failure`` or ``breakpoint``.
        text: where it waits, in words.
        number: rises with each stop of the rank.
        is_root: it is the root cause.
        way: the socket that leads to it, and what is said there first, where it is on another machine.
    """

    rank: int
    why: str
    text: str
    number: int
    folder: RankDir
    is_root: bool = False
    way: tuple[Path, Mapping[str, Any]] | None = None


@contextlib.contextmanager
def connected(held: HeldRank, first: dict[str, Any]) -> Iterator[Peer]:
    """A connection to the rank, which has got its first message.

    Raises:
        ElasticError: if it can't be asked.
    """
    path, *greeting = held.way or (held.folder.debug_socket,)
    with telling(held):
        peer = debugwire.connect(path)
    try:
        with telling(held), contextlib.suppress(BrokenPipeError):  # it was refused before: why is there to be read
            for message in (*greeting, first):
                peer.send(message)
        yield peer
    finally:
        peer.close()


def request(held: HeldRank, message: dict[str, Any], *, timeout_s: float | None) -> dict[str, Any]:
    """The answer to a message that needs one only.

    Raises:
        ElasticError: if there is none.
    """
    with connected(held, message) as peer:
        answer = hear(held, peer, timeout_s)
    if answer is None:
        raise ElasticError(f"Rank {held.rank} does not answer: it is busy. Try again.")
    if answer.get("type") == "busy":
        raise ElasticError(f"Rank {held.rank} is held by another debugger. It must leave first (`leave`).")
    return answer


def hear(held: HeldRank, peer: Peer, timeout_s: float | None) -> dict[str, Any] | None:
    """The rank's next message; None when the time is up.

    Raises:
        GoneError: if the rank went away.
    """
    with telling(held):
        return peer.wait(timeout_s)


@contextlib.contextmanager
def telling(held: HeldRank) -> Iterator[None]:
    """Turn what can go wrong on the line into words."""
    try:
        yield
    except BlockingIOError as e:
        raise ElasticError(f"Rank {held.rank} does not answer: too many ask it. Try again.") from e
    except PermissionError as e:
        raise ElasticError(f"Rank {held.rank} can't be asked: {e.strerror or e}.") from e
    except (OSError, ValueError) as e:
        far = ", or can't be reached" if held.way else ""
        raise GoneError(f"Rank {held.rank} is no longer held{far}: it went on, ended or was stopped.") from e


def ask_user(prompt: str) -> str:
    """``input``; in a terminal with the arrow keys and a history, as pdb has them."""
    if is_terminal(sys.stdin):
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  to have it is all that ``input`` needs
    return input(prompt)


def is_terminal(stream: Any) -> bool:
    """True if somebody may sit there."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def asked(held: HeldRank, peer: Peer, ask: Ask, prompt: str) -> str | None:
    """Ask the user for a line; None at the end of the input. A rank that goes away takes the question back.

    Raises:
        GoneError: if the rank went away.
    """
    watch = _Watch(peer)
    try:
        with watch:
            return ask(prompt)
    except EOFError:
        return None
    except KeyboardInterrupt:
        if watch.is_gone:
            raise GoneError(f"Rank {held.rank} is no longer held: it ended or was stopped.") from None
        raise


class _Watch:
    """While the main thread waits for the user: interrupts it when the rank's line goes dead."""

    def __init__(self, peer: Peer) -> None:
        self.is_gone = False
        self._fd = peer.fileno()
        self._lock = threading.Lock()
        self._is_asking = False
        self._wake_r, self._wake_w = os.pipe()
        self._thread = threading.Thread(target=self._wait, name="nb-elastic-debug", daemon=True)

    def __enter__(self) -> None:
        self._is_asking = True
        self._thread.start()

    def __exit__(self, *_exc: object) -> None:
        with self._lock:
            self._is_asking = False
        os.write(self._wake_w, b"x")
        self._thread.join()
        os.close(self._wake_r)
        os.close(self._wake_w)

    def _wait(self) -> None:
        ready = debugwire.readable([self._fd, self._wake_r], None)
        with self._lock:
            if self._is_asking and self._fd in ready:  # it only speaks when it was spoken to
                self.is_gone = True
                if (ident := threading.main_thread().ident) is not None:
                    signal.pthread_kill(ident, signal.SIGINT)
