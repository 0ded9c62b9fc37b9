"""Where the nodes of a run meet: a store that a process beside the driver keeps, or a node where that can't be reached.

Runs in: the driver.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

from nb_elastic import machine, untrusted
from nb_elastic.driver import log
from nb_elastic.driver.desk import Desk
from nb_elastic.driver.fleet import Node
from nb_elastic.engines.seat import with_package

KEEPER = ("-m", "nb_elastic.node.store")
LOOPBACK = "127.0.0.1"
SOMEWHERE = ("192.0.2.1", "2001:db8::1")
"""Addresses of nobody: nothing is sent there, only asked which way it would go."""


def own_address(towards: str = "") -> str:
    """This machine's address on the way to another one; the loopback where there is no way."""
    for target in (towards,) if towards else SOMEWHERE:
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((target, 9))
            return str(sock.getsockname()[0])
    return LOOPBACK


def address_for(node: Node) -> str:
    """Where a store must listen that this node is to reach."""
    if node.hello is None:
        return own_address()
    address = node.hello.address
    is_here = node.hello.boot_id == machine.boot_id() != ""
    try:
        is_loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        return own_address()
    if is_loopback and is_here:
        return LOOPBACK
    return own_address() if is_loopback else own_address(address)


class Meeting:
    """The store of all runs of this driver.

    Attributes:
        endpoint: where it is, or "" while there is none.
        failure: why there is none, or "" while it may still come.
        host: the node that keeps it, or None.
    """

    def __init__(self, desk: Desk, *, on_change: Callable[[], None]) -> None:
        self.endpoint = self.failure = ""
        self.host: Node | None = None
        self._desk = desk
        self._on_change = on_change
        self._process: subprocess.Popen[bytes] | None = None
        self._address = ""

    @property
    def is_begun(self) -> bool:
        """True once somebody keeps the store, or was asked to."""
        return self._process is not None or self.host is not None

    def look(self) -> None:
        """Forget a keeper that is gone."""
        is_gone = self._process is not None and self._process.poll() is not None
        if is_gone or (self.host is not None and self.host.is_lost):
            log.write("the store keeper is gone")
            self.close()

    def begin(self, node: Node) -> None:
        """Have the store kept beside this process, where this node can reach it."""
        self._address = address_for(node)
        log.write(f"starts the store keeper on {self._address}")
        try:
            self._process = process = subprocess.Popen(
                [sys.executable, *KEEPER, self._address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=with_package(os.environ),
                start_new_session=True,
            )
        except OSError as e:
            self.failure = f"the store keeper can't be started: {e.strerror or e}"
            return
        threading.Thread(target=self._hear, args=(process,), name="nb_elastic-keeper", daemon=True).start()

    def ask(self, node: Node) -> None:
        """Have a node keep the store instead."""
        self.close()
        self.host = node
        log.write(f"asks {node.where} to keep the store")
        node.urge({"type": "host", "address": node.hello.address if node.hello else ""})

    def take(self, node: Node, message: dict[str, object]) -> None:
        """A node answered that it keeps the store, or why not."""
        if node is self.host:
            self._settle(message, f"{node.where} can't keep it")

    def close(self) -> None:
        """Have nobody keep it any more."""
        process, self._process = self._process, None
        self.endpoint = self.failure = ""
        self.host = None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
            if process.poll() is None:
                process.kill()
                process.wait()

    def _hear(self, process: subprocess.Popen[bytes]) -> None:
        """Runs in a thread of its own: the keeper's one word, then its end."""
        if process.stdout is None:
            return
        with process.stdout as words:
            line = words.readline(1 << 16)
            self._desk.call(self._on_word, process, line)
            words.read()

    def _on_word(self, process: subprocess.Popen[bytes], line: bytes) -> None:
        if process is not self._process:
            return
        message: dict[str, object] = {}
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(line)
            message = found if isinstance(found, dict) else {}
        self._settle(message, "the store keeper ended without a word")

    def _settle(self, message: dict[str, object], otherwise: str) -> None:
        self.endpoint = untrusted.word(message.get("endpoint"), limit=200)
        if not self.endpoint:
            self.failure = untrusted.word(message.get("why"), limit=500) or otherwise
            log.write(f"no store: {self.failure}")
        else:
            log.write(f"the nodes meet at {self.endpoint}")
        self._on_change()
