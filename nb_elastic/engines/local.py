"""The engine for this machine: one supervisor as a child process.

Runs in: the kernel or the command line.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nb_elastic import wire
from nb_elastic.engines.base import Channel, Placement
from nb_elastic.errors import EngineError
from nb_elastic.lifeline import blocked_signals

COMMAND = ("-m", "nb_elastic.supervisor")


class LocalChannel:
    """A supervisor that is a child of this process."""

    def __init__(self, process: subprocess.Popen[bytes], *, is_detached: bool) -> None:
        self.process = process
        self._is_detached = is_detached

    def send(self, message: Mapping[str, Any], blob: bytes = b"") -> None:
        """Send one frame; dropped when the supervisor is gone."""
        if self.process.stdin is None or self.process.stdin.closed:
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.process.stdin.write(wire.encode(message, blob))
            self.process.stdin.flush()

    def lines(self) -> Iterator[bytes]:
        """Yield the supervisor's JSON lines; nothing for a detached one, whose journal tells all."""
        if self.process.stdout is not None:
            yield from self.process.stdout

    @property
    def is_alive(self) -> bool:
        """True while the supervisor runs; reaps it when it is done."""
        return self.process.poll() is None

    def close(self, timeout_s: float = 10.0) -> None:
        """Close stdin (which ends an attached supervisor) and wait for its end."""
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        if self._is_detached:
            return
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


class LocalEngine:
    """Starts the supervisor with this Python, in a session of its own."""

    def open(self, placement: Placement) -> list[Channel]:
        """Start the one supervisor of this machine.

        Raises:
            EngineError: if the process can't be started.
        """
        package_parent = str(Path(__file__).resolve().parents[2])
        env = dict(placement.env)
        env["PYTHONPATH"] = os.pathsep.join(p for p in (env.get("PYTHONPATH", ""), package_parent) if p)
        try:
            with open(placement.log, "ab", opener=_private) as log, blocked_signals():
                process = subprocess.Popen(
                    [sys.executable, *COMMAND],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL if placement.is_detached else subprocess.PIPE,
                    stderr=log,
                    env=env,
                    cwd=placement.log.parent,
                    pass_fds=placement.pass_fds,
                    start_new_session=True,
                )
        except OSError as e:
            raise EngineError(
                f"The supervisor can't be started: {e.strerror or e}. See {placement.log}. Nothing was started."
            ) from e
        return [LocalChannel(process, is_detached=placement.is_detached)]


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
