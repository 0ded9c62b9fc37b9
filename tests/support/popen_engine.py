"""An engine for tests: each node is a command on this machine, its link the command's two pipes.

Runs in: the tests' kernels (``settle``) and drivers (all else). ``tests/support/popen_engine_dist`` registers it, for whoever
has that folder on PYTHONPATH (see ``environment``).

Settings, as in ``--engine popen=nodes=2``: ``nodes``: machines there are, each for one node program; a file of that name in
``folder`` says another number later. ``path``: folder where the second node's interpreter looks for packages first.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nb_elastic.engines.base import Order, Settled, Wanted
from nb_elastic.engines.seat import with_package
from nb_elastic.errors import EngineError, OptionError
from nb_elastic.lifeline import blocked_signals

ROOT = Path(__file__).parents[2]
DIST = Path(__file__).with_name("popen_engine_dist")
KNOWN = ("nodes", "folder", "path")


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables with which a process finds this engine by its name."""
    paths = [str(ROOT), str(DIST), environ.get("PYTHONPATH", "")]
    return {**environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}


class PopenLink:
    """One node program."""

    nodes = 1

    def __init__(self, process: subprocess.Popen[bytes], place: str) -> None:
        self.process = process
        self.place = place
        self._lock = threading.Lock()

    @property
    def is_alive(self) -> bool:
        """See ``base.Link``."""
        return self.process.poll() is None

    @property
    def why(self) -> str:
        """See ``base.Link``."""
        code = self.process.poll()
        return "" if code is None else f"its process ended with {code}"

    def send(self, frame: bytes) -> None:
        """See ``base.Link``."""
        with self._lock:
            try:
                self.process.stdin.write(frame)  # type: ignore[union-attr]
                self.process.stdin.flush()  # type: ignore[union-attr]
            except (OSError, ValueError):
                return

    def lines(self) -> Iterator[bytes]:
        """See ``base.Link``."""
        yield from self.process.stdout  # type: ignore[misc]
        self.process.wait()

    def close(self, timeout_s: float = 10.0) -> None:
        """See ``base.Link``."""
        try:
            self.process.stdin.close()  # type: ignore[union-attr]
        except OSError:
            pass
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class PopenEngine:
    """Starts node programs on this machine."""

    def __init__(self) -> None:
        self.links: list[PopenLink] = []
        self._count = 0

    def settle(self, wanted: Wanted, environ: Mapping[str, str]) -> Settled:
        """See ``base.Engine``."""
        del environ
        settings = dict(part.partition("=")[::2] for part in wanted.settings.split(",") if part)
        if unknown := sorted(settings.keys() - set(KNOWN)):
            raise OptionError(f"--engine popen: {unknown[0]} is no setting of it. Nothing was started.")
        if not settings.get("nodes", "99").isdecimal():
            raise OptionError(f"--engine popen: nodes={settings['nodes']} is no number. Nothing was started.")
        return Settled(
            label="this machine's pretended cluster", value=settings, notes=("The cluster is a pretended one.",)
        )

    def open(self, order: Order) -> None:
        """See ``base.Engine``."""
        if order.nodes > self._nodes(order):
            raise EngineError(f"{order.nodes} nodes were wanted, and the pretended cluster has {self._nodes(order)}.")
        for _ in range(order.nodes):
            self._start(order)

    def grow(self, order: Order) -> None:
        """See ``base.Engine``."""
        self.links = [link for link in self.links if link.is_alive]
        for _ in range(min(order.nodes, self._nodes(order) - len(self.links))):
            self._start(order)

    def close(self) -> None:
        """See ``base.Engine``."""
        threads = [threading.Thread(target=link.close, args=(5.0,)) for link in self.links]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _nodes(self, order: Order) -> int:
        told = Path(order.settled.value.get("folder", "/nonexistent")) / "nodes"
        return int(told.read_text()) if told.exists() else int(order.settled.value.get("nodes", 99))

    def _start(self, order: Order) -> None:
        place = f"popen-{self._count}"
        self._count += 1
        env: dict[str, Any] = with_package(os.environ)
        env |= {**order.env, "NB_ELASTIC_NODE_ADDRESS": "127.0.0.1", "NB_ELASTIC_NODE_PLACE": place}
        if (path := order.settled.value.get("path")) and self._count == 2:
            env["PYTHONPATH"] = os.pathsep.join([path, env["PYTHONPATH"]])
        command = [sys.executable, *order.arguments]
        with order.log.open("ab") as log, blocked_signals():
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=env, start_new_session=True
            )
        link = PopenLink(process, place)
        self.links.append(link)
        order.on_link(link)
