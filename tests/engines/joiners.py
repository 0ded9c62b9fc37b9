"""Commands ``nb-elastic join``, as a person types them on each machine.

Runs in: the engines' tests.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.cluster_hosts import Process
from tests.support.until import until

ROOT = Path(__file__).parents[2]
TOKEN = re.compile(r"nb-elastic join (nbe1-\w+)")


class Joiner:
    """One such command, and what it printed.

    Args:
        prefix: words that start a command on another (pretended) machine.
    """

    def __init__(self, *words: str, prefix: Sequence[str] = ()) -> None:
        self.lines: list[str] = []
        start = Process if prefix else subprocess.Popen  # signals are to reach the command, not what brought it there
        self.process = start(
            [*prefix, sys.executable, "-m", "nb_elastic", "join", *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
        )  # fmt: skip
        self._thread = threading.Thread(target=self._read, name="test-joiner", daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        """All it printed so far."""
        return "\n".join(self.lines)

    def wait_for(self, words: str, timeout_s: float = 60) -> None:
        """Wait until it has printed something."""
        until(lambda: words in self.text, timeout_s, f"{words!r} in what join printed: {self.lines}")

    def end(self, timeout_s: float = 30) -> int:
        """Wait for its end; returns the exit status."""
        code = self.process.wait(timeout_s)
        self._thread.join(10)
        return code

    def leave(self, number: int = signal.SIGINT, timeout_s: float = 30) -> int:
        """Do what Ctrl-C does."""
        self.process.send_signal(number)
        return self.end(timeout_s)

    def close(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
            self.process.kill()
        self.process.wait()
        self._thread.join(10)
        self.process.stdout.close()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))


class Joiners:
    """All of a test."""

    def __init__(self) -> None:
        self.all: list[Joiner] = []

    def __call__(self, *words: str, prefix: Sequence[str] = ()) -> Joiner:
        """Start one more."""
        self.all.append(Joiner(*words, prefix=prefix))
        return self.all[-1]


@contextlib.contextmanager
def joiners() -> Iterator[Joiners]:
    """Start ``nb-elastic join`` as often as needed; all are ended at the end."""
    found = Joiners()
    try:
        yield found
    finally:
        for joiner in found.all:
            joiner.close()


def token_in(path: Path, timeout_s: float = 60) -> str:
    """The token in a file to which what the user is told was written."""
    return until(lambda: path.exists() and (m := TOKEN.search(path.read_text())) and m[1], timeout_s, "a token")
