"""The store keeper that the node program starts when the driver asks it to host the meeting place.

Runs in: the node program.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from nb_elastic.engines.seat import with_package
from nb_elastic.engines.warm import LAUNCHER_ENV

COMMAND = ("-m", "nb_elastic.node.store")


class Keeper:
    """At most one store keeper; it ends with this process.

    Args:
        say: told ``{"endpoint": ...}`` or ``{"why": ...}``.
    """

    def __init__(self, env: Mapping[str, str], say: Callable[[Mapping[str, Any]], None]) -> None:
        self._env = {**env, **LAUNCHER_ENV}
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._told: Mapping[str, Any] | None = None

    def host(self, address: str) -> None:
        """Start it, or tell again where it is."""
        if self._process is not None and self._process.poll() is None:
            if self._told is not None:
                self._say(self._told)
            return
        try:
            self._process = subprocess.Popen(
                [sys.executable, *COMMAND, address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=with_package(self._env),
                cwd="/",
                start_new_session=True,
            )
        except OSError as e:
            self._say({"why": f"No process can be started: {e.strerror or e}"})
            return
        threading.Thread(target=self._hear, args=(self._process,), name="nb_elastic-node-keeper", daemon=True).start()

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _hear(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is None:
            return
        line = process.stdout.readline()
        try:
            told = json.loads(line)
            found = {key: str(told[key]) for key in ("endpoint", "why") if told.get(key)}
        except (ValueError, AttributeError, TypeError):
            found = {}
        self._told = found or {"why": "The store keeper ended without a word."}
        self._say(self._told)
