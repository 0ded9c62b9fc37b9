"""The actor that holds one node: starts the node program there and relays its stdin and stdout.

Runs in: a worker process of Ray on each node, where neither this file nor nb_elastic need be: Ray ships the class by
value, so everything it uses is the standard library's. Ray calls its methods in several threads at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Relay:
    """One node program, and what travels to and from it.

    A call of Ray may be lost on the way, or its answer, so both directions are numbered: what is written twice counts
    once, and what was read is kept until the next is asked for.
    """

    PIECE_BYTES = 1 << 20
    """Most that one ``read`` answers."""
    INLINE_BYTES = 90_000
    """So much comes with the answer itself; more takes Ray's object store, which is slower but for much."""
    HELD_BYTES = 4 << 20
    """Most that waits here to be read; the node program then waits, too."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._process: Any = None
        self._fault = ""
        self._code: int | None = None
        # Towards the node program: frames by number, and the number of the last one that is through.
        self._frames: dict[int, bytes] = {}
        self._n_written = 0
        self._is_ending = False
        # From the node program: what waits, and the last piece that was read, with its number.
        self._out, self._err = bytearray(), bytearray()
        self._n_open = 2
        self._n_read = 0
        self._last: tuple[bytes, bytes, int | None] = (b"", b"", None)

    def start(
        self, arguments: Sequence[str], env: Mapping[str, str], look: Callable[[], tuple[str, str, str]]
    ) -> dict[str, Any]:
        """Start the node program; tells where that is.

        Args:
            arguments: of the Python interpreter that runs here.
            env: variables beyond the worker's own.
            look: asks Ray for the node's id, its address, and what to call it.

        Raises:
            OSError: if it can't be started.
        """
        node, address, place = look()
        own = self._environ()
        own.update(NB_ELASTIC_NODE_ADDRESS=address, NB_ELASTIC_NODE_PLACE=place)
        own.update(env)
        # The death signal follows the thread that forks: one of Ray's may end at any time.
        hold = threading.Thread(
            target=self._hold, args=([sys.executable, *arguments], own), name="nb_elastic-hold", daemon=True
        )
        hold.start()
        with self._changed:
            self._changed.wait_for(lambda: self._process is not None or self._fault)
        if self._fault:
            raise OSError(self._fault)
        return {"node": node, "address": address, "place": place, "host": socket.gethostname()}

    def write(self, number: int, data: bytes, wait_s: float = 10.0) -> int:
        """Take a piece for the node program's stdin.

        Args:
            number: pieces count from 1.

        Returns:
            The number of the last piece that the node program has taken; the answer comes when this one is through, or
            after ``wait_s``. With ``data`` empty it only tells.
        """
        with self._changed:
            if data and number > self._n_written and not self._is_ending:
                self._frames.setdefault(number, data)
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._n_written >= number or self._code is not None, wait_s)
            return number if self._code is not None else self._n_written

    def read(self, number: int, wait_s: float = 10.0) -> tuple[bytes, bytes, int | None]:
        """Read what the node program wrote, as soon as there is something; waits for so long.

        Args:
            number: of this piece; the one before has arrived. They count from 1.

        Returns:
            Of stdout; of stderr; and the exit code with the last piece of all, else None.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._out or self._err or self._is_over or self._n_read >= number, wait_s)
            if self._n_read < number:
                is_much = len(self._out) > 8 * self.INLINE_BYTES
                out = bytes(self._out[: self.PIECE_BYTES if is_much else self.INLINE_BYTES])
                del self._out[: len(out)]
                err = bytes(self._err)
                self._err.clear()
                self._last = (out, err, self._code if self._is_over and not self._out else None)
                self._n_read = number
                self._changed.notify_all()
            return self._last

    def end(self, timeout_s: float) -> int | None:
        """Close the node program's stdin, wait for its end, and by then kill it."""
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()
            if self._process is None:
                return None
            self._changed.wait_for(lambda: self._code is not None, timeout_s)
            if self._code is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._changed.wait_for(lambda: self._code is not None, 5.0)
            return self._code

    @property
    def _is_over(self) -> bool:
        return self._code is not None and self._n_open == 0

    def _hold(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        libc, parent = ctypes.CDLL(None), os.getpid()

        def prepare() -> None:
            # Ray's processes have SIGINT blocked: a Ctrl-C in the terminal of `ray start` would end them all.
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            if sys.platform == "linux":
                libc.prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG
                if os.getppid() != parent:
                    os.kill(os.getpid(), signal.SIGTERM)

        try:
            process = subprocess.Popen(
                command,
                env=dict(env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                preexec_fn=prepare,
                start_new_session=True,
            )
        except (OSError, ValueError) as e:
            with self._changed:
                self._fault = f"{command[0]} can't be started: {e}"
                self._changed.notify_all()
            return
        threads = [
            threading.Thread(target=work, args=(process,), name=f"nb_elastic-{work.__name__}", daemon=True)
            for work in (self._feed, self._hear, self._note)
        ]
        for thread in threads:
            thread.start()
        with self._changed:
            self._process = process
            self._changed.notify_all()
        code = process.wait()
        # What it left behind may hold its pipes open for ever: they are its own words only until here.
        deadline = time.monotonic() + 2.0
        with self._changed:
            self._changed.wait_for(lambda: self._n_open == 0, max(0.0, deadline - time.monotonic()))
            self._n_open = 0
            self._code = code
            self._changed.notify_all()

    def _feed(self, process: Any) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._n_written + 1 in self._frames or self._is_ending or self._code is not None
                )
                data = self._frames.pop(self._n_written + 1, None)
            if data is None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
                return
            with contextlib.suppress(OSError):  # it is gone, or has closed its stdin: this is for nobody
                process.stdin.write(data)
                process.stdin.flush()
            with self._changed:
                self._n_written += 1
                self._changed.notify_all()

    def _hear(self, process: Any) -> None:
        fd = process.stdout.fileno()
        while piece := os.read(fd, 1 << 16):
            with self._changed:
                self._out += piece
                self._changed.notify_all()
                self._changed.wait_for(lambda: len(self._out) < self.HELD_BYTES or self._code is not None)
        self._close_one()

    def _note(self, process: Any) -> None:
        fd = process.stderr.fileno()
        while piece := os.read(fd, 1 << 14):
            with self._changed:
                self._err = (self._err + piece)[-(1 << 16) :]
                self._changed.notify_all()
        self._close_one()

    def _close_one(self) -> None:
        with self._changed:
            self._n_open = max(0, self._n_open - 1)
            self._changed.notify_all()

    @staticmethod
    def _environ() -> dict[str, str]:
        """The worker's environment without what Ray set for its own tasks."""
        own = dict(os.environ)
        own.pop("SPT_NOENV", None)  # of setproctitle, which ranks use, too
        if own.get("PYTHONBREAKPOINT", "").startswith("ray."):
            del own["PYTHONBREAKPOINT"]
        with contextlib.suppress(OSError), open("/proc/self/environ", "rb") as f:
            begun_with = {piece.partition(b"=")[0] for piece in f.read().split(b"\0")}
            if b"OMP_NUM_THREADS" not in begun_with:  # Ray's guess, by the CPUs of the actor
                own.pop("OMP_NUM_THREADS", None)
        return own
