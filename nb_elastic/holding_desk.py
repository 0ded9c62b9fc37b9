"""Where a held rank is asked: its socket, who may speak to pdb, and looks at its frames.

Runs in: a worker, in the thread that is held; there is no thread of its own, so that a rank may still fork.
"""

from __future__ import annotations

import contextlib
import io
import os
import reprlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from nb_elastic import debugwire, frames, rundir
from nb_elastic.debugwire import Peer
from nb_elastic.rundir import RankDir

KEPT_CHARS = 200_000
"""Most of what pdb says while nobody listens that is kept for the next who comes."""

VALUE_CHARS = 4_000
MAX_WAITING = 32
"""Of so many who connected and said nothing yet, the first is sent away."""


class Interrupted(BaseException):
    """A stop reached a held rank."""


class Desk(io.TextIOBase):
    """Is pdb's terminal, and answers others while nobody speaks to pdb.

    Attributes:
        on_join: writes where the rank stands, for one who comes later.
        release_line: what pdb is told when the rank is released.
        is_nested: an inner prompt (``interact``) reads: it ends when its reader hangs up.
    """

    def __init__(self, folder: RankDir, *, release_line: str) -> None:
        self._folder = folder
        self._listener: socket.socket | None = None
        self._client: Peer | None = None
        self._releaser: Peer | None = None
        self._waiting: list[Peer] = []
        self._text = self._prompt = ""
        self._number = 0
        self._is_interrupted = False
        self._frame: FrameType | None = None
        self.on_join: Callable[[], None] = lambda: None
        self.release_line = release_line
        self.is_nested = False

    @contextlib.contextmanager
    def open(self, *, why: str, text: str, frame: FrameType | None) -> Iterator[None]:
        """Hold the rank: tell the supervisor, and let others ask, until the block ends.

        Args:
            why: ``failure`` or ``breakpoint``.
            text: where it stands, in words.
            frame: in which expressions are evaluated.
        """
        self._number += 1
        self._frame, self._is_interrupted = frame, False
        self._listener = debugwire.listen(self._folder.debug_socket)
        told = {"why": why, "text": text, "number": self._number, "pid": os.getpid(), "time_ns": time.time_ns()}
        rundir.write_json(self._folder.held_json, told)
        before = self._take_interrupts()
        try:
            yield
        finally:
            self._give_back(before)
            self._frame = None
            for path in (self._folder.held_json, self._folder.debug_socket):
                with contextlib.suppress(OSError):
                    path.unlink()
            self._listener.close()
            for peer in self._waiting:
                peer.close()
            self._waiting.clear()
            if (
                self._releaser is not None
            ):  # what it is told is true by now: nothing here says any more that the rank is held
                _answer(self._releaser, {"type": "end", "how": "released"})
                self._releaser = None

    # -- pdb's terminal ----------------------------------------------------------------------

    def write(self, text: str, /) -> int:
        """Keep text until pdb asks for the next line."""
        self._text += text
        if len(self._text) > 2 * KEPT_CHARS:
            self._text = f"[... cut ...]\n{self._text[-KEPT_CHARS:]}"
        return len(text)

    def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]  # noqa: ARG002  as files have it
        """Send what was written, and wait for the next line, whoever brings it."""
        out, line_end, self._prompt = self._text.rpartition("\n")
        self._text = out + line_end
        while True:
            self._check()
            if self._client is None:
                if self.is_nested:
                    return ""
                if not self._await_client():
                    return f"{self.release_line}\n"
            line = self._ask()
            if line is not None:
                return line
            self._hang_up()

    def end(self, how: str) -> None:
        """Tell whoever speaks to pdb that the conversation is over: ``continue``, ``quit`` or ``left``."""
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.send({"type": "end", "how": how, "text": self._text})
                self._text = ""
        self._hang_up()

    def say_running(self) -> None:
        """Tell whoever speaks to pdb that the rank runs until it stops again."""
        if self._client is not None:
            try:
                self._client.send({"type": "running", "text": self._text})
                self._text = ""
            except OSError:
                self._hang_up()

    def _ask(self) -> str | None:
        """Ask the one who speaks to pdb for a line; None if that one is gone. Others are told that it is taken."""
        client, listener = self._client, self._listener
        if client is None or listener is None:
            return None
        try:
            client.send({"type": "ask", "text": self._text, "prompt": self._prompt})
            self._text = ""
            while True:
                ready = debugwire.readable([client.fileno(), listener.fileno()], 0 if client.has_more else None)
                self._check()
                # This one first: if it has hung up, the other is not sent away.
                message = client.take() if client.has_more or client.fileno() in ready else None
                if message is not None:
                    text = message.get("text")
                    if message.get("type") != "line" or not isinstance(text, str):
                        raise ValueError("no line for pdb")
                    return text.rstrip("\n") + "\n"
                if listener.fileno() in ready and (other := debugwire.accept(listener)):
                    _answer(other, {"type": "busy"})
        except (OSError, ValueError):
            return None

    # -- others ------------------------------------------------------------------------------

    def _await_client(self) -> bool:
        """Serve whoever comes until one wants to speak to pdb; False where one releases the rank instead."""
        listener = self._listener
        if listener is None:
            raise OSError("the desk is closed")
        while True:
            peers = {p.fileno(): p for p in self._waiting}
            ready = debugwire.readable([listener.fileno(), *peers], None)
            self._check()
            for fd in ready & peers.keys():
                done = self._serve(peers[fd])
                if done is not None:
                    return done
            if listener.fileno() in ready and (peer := debugwire.accept(listener)):
                self._waiting.append(peer)
                if len(self._waiting) > MAX_WAITING:
                    self._waiting.pop(0).close()

    def _serve(self, peer: Peer) -> bool | None:
        """Take one request. True: it now speaks to pdb; False: it releases the rank; None: it was answered, or is not whole."""
        try:
            message = peer.take()
        except (OSError, ValueError):
            message = {"type": "nonsense"}
        if message is None:
            return None
        self._waiting.remove(peer)
        kind = message.get("type")
        if kind == "pdb":
            self._client = peer
            if not self._text:
                self.on_join()
            return True
        if kind == "release":
            self._releaser = peer
            return False
        if kind == "eval" and isinstance(message.get("text"), str):
            _answer(peer, self._evaluate(message["text"]))
        else:
            _answer(peer, {"type": "error", "text": "The rank does not understand this request."})
        return None

    def _evaluate(self, expression: str) -> dict[str, Any]:
        """A short text of an expression's value in the held frame, or its exception in one line."""
        frame = self._frame
        names = {} if frame is None else {**frame.f_globals, **frame.f_locals}
        try:
            value = eval(compile(expression.strip(), "<eval>", "eval"), names)  # noqa: S307  what it is for; own user only
            return {"type": "value", "text": short(value)}
        except Interrupted:
            raise
        except BaseException as e:  # noqa: BLE001  the border to the user's expression, which may raise anything
            message = frames.message_of(e).strip().splitlines()
            return {"type": "error", "text": f"{type(e).__name__}: {message[0]}" if message else type(e).__name__}

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    # -- stops -------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._is_interrupted:
            raise Interrupted

    def _take_interrupts(self) -> Any:
        """While it is held, a stop ends the hold: whatever handler the user's code has set comes to its right afterwards."""
        if threading.current_thread() is not threading.main_thread():
            return None
        return signal.signal(signal.SIGINT, self._on_interrupt)

    def _give_back(self, before: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)

    def _on_interrupt(self, *_: object) -> None:
        self._is_interrupted = True  # pdb catches whatever an expression raises: the next readline sees it
        raise Interrupted


def short(value: Any) -> str:
    """The value's repr, cut where it is long."""
    shorter = reprlib.Repr()
    shorter.maxstring = shorter.maxother = VALUE_CHARS
    shorter.maxdict = shorter.maxlist = shorter.maxtuple = shorter.maxset = 50
    return frames.shorten(shorter.repr(value), VALUE_CHARS)


def say(text: str) -> None:
    """Tell the user something in the rank's own log."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
        os.write(2, f"nb_elastic: {text}\n".encode("utf-8", "backslashreplace"))


def _answer(peer: Peer, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        peer.send(message)
    peer.close()
