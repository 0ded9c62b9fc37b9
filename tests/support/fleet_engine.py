"""An engine of very many pretended nodes: a few processes (``fleet_nodes``) speak for all of them, and start no rank.

Runs in: a benchmark's process (``settle``) and its drivers (all else). ``fleet_engine_dist`` registers it.

Settings, as in ``--engine fleet=links=many,lines=10``: ``links``: ``many`` where each node has a link of its own (a socket), ``one``
where one command carries all (as ``srun`` does). ``hosts``: how many processes there are. ``lines``: of each rank in a second,
once the file ``loud`` is in ``folder``, where each process leaves what it saw as ``seen-<n>.json``.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from nb_elastic.engines.base import Order, Settled, Wanted
from nb_elastic.engines.seat import with_package
from nb_elastic.errors import OptionError

ROOT = Path(__file__).parents[2]
DIST = Path(__file__).with_name("fleet_engine_dist")
KNOWN = {"links": "many", "hosts": "2", "lines": "10", "folder": ""}
READ_BYTES = 1 << 16


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables with which a process finds this engine by its name."""
    paths = [str(ROOT), str(DIST), environ.get("PYTHONPATH", "")]
    return {**environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}


class FleetLink:
    """A socket to one pretended node, or to all those of a process."""

    def __init__(self, sock: socket.socket, nodes: int) -> None:
        self.nodes = nodes
        self.is_alive = True
        self.why = ""
        self._sock = sock
        self._lock = threading.Lock()

    def send(self, frame: bytes) -> None:
        """See ``base.Link``."""
        with self._lock, contextlib.suppress(OSError):
            self._sock.sendall(frame)

    def lines(self) -> Iterator[bytes]:
        """See ``base.Link``."""
        rest = b""
        with contextlib.suppress(OSError):
            while data := self._sock.recv(READ_BYTES):
                *lines, rest = (rest + data).split(b"\n")
                yield from lines
        self.is_alive = False

    def close(self, timeout_s: float = 10.0) -> None:
        """See ``base.Link``."""
        del timeout_s
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


class FleetEngine:
    """Starts processes that speak for nodes."""

    def __init__(self) -> None:
        self._links: list[FleetLink] = []
        self._hosts: list[subprocess.Popen[bytes]] = []

    def settle(self, wanted: Wanted, environ: Mapping[str, str]) -> Settled:
        """See ``base.Engine``."""
        del environ
        found = KNOWN | dict(part.partition("=")[::2] for part in wanted.settings.split(",") if part)
        if unknown := sorted(found.keys() - KNOWN.keys()):
            raise OptionError(f"--engine fleet: {unknown[0]} is no setting of it. Nothing was started.")
        return Settled(label="a pretended fleet", value=found)

    def open(self, order: Order) -> None:
        """See ``base.Engine``."""
        value = order.settled.value
        count = min(int(value["hosts"]), order.nodes)
        for number in range(count):
            nodes = range(number, order.nodes, count)
            groups = [list(nodes)] if value["links"] == "one" else [[node] for node in nodes]
            pairs = [socket.socketpair() for _ in groups]
            asked = {
                "links": [[theirs.fileno(), group] for (_, theirs), group in zip(pairs, groups, strict=True)],
                "number": number,
                "lines": float(value["lines"]),
                "folder": value["folder"],
            }
            with order.log.open("ab") as log:
                host = subprocess.Popen(
                    [sys.executable, "-m", "tests.support.fleet_nodes"],
                    stdin=subprocess.PIPE, stderr=log, env=with_package(environment(os.environ)), start_new_session=True,
                    pass_fds=[theirs.fileno() for _, theirs in pairs],
                )  # fmt: skip
            self._hosts.append(host)
            with host.stdin as pipe:  # type: ignore[union-attr]
                pipe.write(json.dumps(asked).encode())
            for (ours, theirs), group in zip(pairs, groups, strict=True):
                theirs.close()
                link = FleetLink(ours, len(group))
                self._links.append(link)
                order.on_link(link)

    def grow(self, order: Order) -> None:
        """See ``base.Engine``: there are no more."""

    def close(self) -> None:
        """See ``base.Engine``."""
        for link in self._links:
            link.close()
        for host in self._hosts:
            with contextlib.suppress(subprocess.TimeoutExpired):
                host.wait(5.0)
            host.kill()
            host.wait()
