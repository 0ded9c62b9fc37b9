"""A command that the driver starts, as a link: its stdin and stdout are those of one node program, or of several.

Runs in: the driver.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from nb_elastic.engines.outflow import Outflow
from nb_elastic.errors import EngineError
from nb_elastic.lifeline import DEATH_SIGNALS

LAST_S = 2.0


class CommandLink:
    """A running command.

    Start it from a thread that lives as long: Linux tells a process of its parent's death when that thread ends.

    Args:
        command: words.
        env: its whole environment.
        log: file that its stderr is appended to.
        nodes: how many node programs it reaches.

    Raises:
        EngineError: if it can't be started.
    """

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], log: Path, nodes: int = 1) -> None:
        self.nodes = nodes
        try:
            with log.open("ab") as file, _unblocked_signals():
                self.process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=file,
                    env=dict(env),
                    bufsize=0,
                    start_new_session=True,
                )
        except OSError as e:
            raise EngineError(f"{command[0]} can't be started: {e.strerror or e}.") from e
        self._out: Outflow[bytes | None] = Outflow(
            self._write, name=str(self.process.pid), on_end=lambda _why: self._hang_up()
        )
        self._out.start()

    @property
    def is_alive(self) -> bool:
        """True while the command runs."""
        return self.process.poll() is None

    @property
    def why(self) -> str:
        """How it ended; "" while it runs, and where it ended in order."""
        code = self.process.poll()
        if not code:
            return ""
        return f"its process ended with {'signal' if code < 0 else 'status'} {abs(code)}"

    def send(self, frame: bytes) -> None:
        """Send a frame; dropped when the command is gone."""
        self._out.put(frame, len(frame))

    def lines(self) -> Iterator[bytes]:
        """Yield its lines."""
        with _pipe(self.process.stdout) as raw, open(raw.fileno(), "rb", closefd=False) as file:
            for line in file:
                yield line.rstrip(b"\n")

    def close(self, timeout_s: float = 10.0) -> None:
        """Have its stdin end, wait for its end, and by then kill it."""
        self._out.put(None, 0)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._out.end()
        self._out.join(LAST_S)

    def _write(self, frame: bytes | None) -> None:
        if frame is None:
            self._hang_up()
            return
        stdin, rest = _pipe(self.process.stdin), memoryview(frame)
        while rest and not stdin.closed:
            rest = rest[stdin.write(rest) or 0 :]
            self._out.move()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            _pipe(self.process.stdin).close()


@contextlib.contextmanager
def _unblocked_signals() -> Iterator[None]:
    """A driver is born with signals blocked, and what it starts would be deaf to them, too."""
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, DEATH_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _pipe(file: IO[bytes] | None) -> IO[bytes]:
    assert file is not None  # noqa: S101  Popen was asked for it
    return file
