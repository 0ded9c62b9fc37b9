"""``--engine join``: nodes are machines on which somebody types ``nb-elastic join TOKEN``.

Runs in: the kernel or the command line (``settle``) and the driver (all else).

Settings, as in ``--engine join=address=10.0.0.5,port=25000,here=no,wait=600``: the address of this machine at which nodes
come in, the port there, whether this machine is a node itself, and how many seconds to wait for those that are needed.
The token stays the same for all runs of a kernel with the same address and port; with a secret in ``NB_ELASTIC_JOIN_KEY``
and a port, for all kernels that have both, so that machines may join once and for all.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import math
import os
import random
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from nb_elastic import tokens
from nb_elastic.engines.base import Order, Settled, Wanted
from nb_elastic.engines.command import CommandLink
from nb_elastic.engines.join_door import Door
from nb_elastic.engines.join_link import LAST_WORDS_S, JoinLink
from nb_elastic.engines.seat import with_package
from nb_elastic.errors import EngineError, OptionError, RendezvousError
from nb_elastic.supervisor import addresses

_YES = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
_PORTS = range(20_000, 30_000)
"""Below those that systems give to outgoing connections, so that a port is free again when the next run wants it."""
KEY_VARIABLE = "NB_ELASTIC_JOIN_KEY"
SHORTEST = 20
LOOK_S = 0.2
CLOSE_S = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What stands behind ``--engine join=``.

    Attributes:
        address: IP of this machine on which to listen; "" for the outward one.
        port: 0 to choose one.
        is_here: this machine is the first node.
        wait_s: give up when needed nodes have not come by then; 0 leaves that to ``--rdzv-conf join_timeout``.
    """

    address: str = ""
    port: int = 0
    is_here: bool = True
    wait_s: float = 0.0


def parse(text: str) -> Settings:
    """Read the settings.

    Raises:
        OptionError: if one is unknown or makes no sense.
    """
    found: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, has_value, value = part.partition("=")
        if name not in {"address", "port", "here", "wait"} or not has_value or name in found:
            raise OptionError(
                f"--engine join={text}: {part!r} is none of address=IP, port=N, here=no and wait=SECONDS, each once. "
                "Nothing was started."
            )
        found[name] = value.strip()
    port, here = found.get("port", "0"), found.get("here", "yes").lower()
    if not port.isdecimal() or int(port) > 65535:
        raise OptionError(f"--engine join=port={port}: a port is a number from 1 to 65535. Nothing was started.")
    if here not in _YES:
        raise OptionError(f"--engine join=here={here}: say yes or no. Nothing was started.")
    return Settings(
        address=found.get("address", ""), port=int(port), is_here=_YES[here], wait_s=_seconds(found.get("wait", "0"))
    )


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise OptionError(f"--engine join=wait={text}: give a number of seconds. Nothing was started.")
    return found


class JoinEngine:
    """Lets machines in, and hands them out as they are needed; those not needed yet wait."""

    def __init__(self) -> None:
        self._door: Door | None = None
        self._token = ""
        self._address = ""
        self._here: CommandLink | None = None
        self._links: list[JoinLink] = []

    def settle(self, wanted: Wanted, environ: Mapping[str, str]) -> Settled:
        """Choose address, port and key. See the protocol.

        Raises:
            OptionError: if the settings make no sense, or nobody could join.
            EngineError: if the address or the port can't be had.
        """
        settings = parse(wanted.settings)
        if wanted.max_nodes < 2 and settings.is_here:
            raise OptionError(
                "--engine join waits for other machines, and --nnodes says that there is one node: "
                "say --nnodes 2, or 1:4 to begin at once and let others join. Nothing was started."
            )
        address = _address(settings.address)
        port, key = _own(address, settings.port)
        if secret := environ.get(KEY_VARIABLE, ""):
            key = _derived(secret)
        value = {
            "address": address,
            "port": port,
            "is_port_given": settings.port > 0,
            "key": key.hex(),
            "here": settings.is_here,
            "wait_s": settings.wait_s,
        }
        where = addresses.join_endpoint(address, port)
        return Settled(label=f"the machines that join at {where}", value=value, notes=_notes(address))

    def open(self, order: Order) -> None:
        """Listen, tell the token, and hand out machines as they come, until there are enough to begin.

        Raises:
            EngineError: if nobody can be let in, or too few came within ``wait``.
        """
        value = order.settled.value
        self._address, key = str(value["address"]), bytes.fromhex(str(value["key"]))
        self._door = _door(self._address, int(value["port"]), key, is_port_given=bool(value["is_port_given"]))
        self._token = tokens.Token(key=key, addresses=(self._address,), port=self._door.port).text
        needed = min(order.wanted.min_nodes, order.nodes)
        count = 0
        if value["here"] and order.nodes:
            count = self._start_here(order)
        self._tell(order, missing=needed - count)
        wait_s = float(value["wait_s"]) or math.inf
        deadline = time.monotonic() + wait_s
        while count < order.nodes and not order.is_over.is_set():
            came = self._hand_out(order, LOOK_S)
            count += came
            if not came and count >= needed:
                return
            if not came and time.monotonic() >= deadline:
                raise EngineError(
                    f"{count} of {needed} nodes came within {wait_s:g} s. On each of the others: nb-elastic join {self._token}"
                )

    def grow(self, order: Order) -> None:
        """Hand out machines that came since; this one, too, if its node program ended.

        Raises:
            EngineError: if this machine's node program can't be started.
        """
        self._links = [link for link in self._links if link.is_alive]
        count = 0
        if order.settled.value["here"] and order.nodes and (self._here is None or not self._here.is_alive):
            count = self._start_here(order)
        while count < order.nodes and not order.is_over.is_set() and self._hand_out(order, 0.0):
            count += 1

    def close(self) -> None:
        """End all nodes and send away who waits."""
        if self._door is not None:
            self._door.close()
        deadline = time.monotonic() + CLOSE_S
        for link in self._links:
            link.part(CLOSE_S - LAST_WORDS_S)
        if self._here is not None:
            self._here.close(CLOSE_S)
        for link in self._links:
            link.wait(deadline - time.monotonic())

    def _start_here(self, order: Order) -> int:
        if self._here is not None:
            self._here.close(0.0)
        env = {
            **with_package(os.environ),
            **order.env,
            "NB_ELASTIC_DRIVER_ADDRESS": self._address,
            "NB_ELASTIC_NODE_ADDRESS": self._address,
            "NB_ELASTIC_NODE_PLACE": socket.gethostname(),
        }
        self._here = CommandLink((sys.executable, *order.arguments), env=env, log=order.log)
        order.on_link(self._here)
        return 1

    def _hand_out(self, order: Order, timeout_s: float) -> int:
        """Have the machine that waits longest be a node, if there is one; returns how many that made."""
        guest = self._door.take(timeout_s) if self._door is not None else None
        if guest is None:
            return 0
        link = JoinLink(guest.stream, name=guest.address)
        env = {**order.env, "NB_ELASTIC_DRIVER_ADDRESS": self._address}
        link.start(order.arguments, env)
        self._links.append(link)
        order.on_link(link)
        return 1

    def _tell(self, order: Order, *, missing: int) -> None:
        most = order.wanted.max_nodes
        if missing > 0:
            first = f"Waiting for {missing} node{'s' if missing > 1 else ''}"
            first += f" (and up to {most} in all)" if most > order.wanted.min_nodes else ""
        else:
            first = f"Nodes may join, up to {most} in all"
        order.tell(f"{first}. On each: nb-elastic join {self._token}")


def _address(text: str) -> str:
    """The IP to listen on.

    Raises:
        OptionError: if it is none of this machine's.
        EngineError: if this machine has none that others could reach.
    """
    if not text:
        if found := addresses.outward_address():
            return found
        raise EngineError(
            "It can't be told at which address other machines reach this one: it has no default route and more than one "
            "address, or none. Say --engine join=address=IP. Nothing was started."
        )
    try:
        found = addresses.resolve(text)
    except RendezvousError as e:
        raise OptionError(f"--engine join=address={text} is no address of this machine. Nothing was started.") from e
    if not addresses.is_ours(found):
        mine = ", ".join(sorted({ip for ip, _ in addresses.interfaces()}))
        raise OptionError(
            f"--engine join=address={text}: {found} is no address of this machine ({mine}). Nothing was started."
        )
    return found


def _notes(address: str) -> tuple[str, ...]:
    if addresses.is_loopback(address):
        return ()
    text = (
        "Whoever has the token of --engine join can run code as you, here and on the nodes; between them each message is "
        "authenticated, none is encrypted. Use a network that you trust."
    )
    return (text,)


def _derived(secret: str) -> bytes:
    """The key that a user's own secret stands for.

    Raises:
        OptionError: if it is too short to be hard to guess.
    """
    if len(secret) < SHORTEST:
        raise OptionError(
            f"{KEY_VARIABLE} has {len(secret)} characters: whoever guesses it runs code as you, so give it at least {SHORTEST} "
            "random ones (`openssl rand -hex 16`). Nothing was started."
        )
    return hashlib.sha256(b"nb_elastic join " + secret.encode()).digest()[: tokens.KEY_BYTES]


@functools.cache
def _own(address: str, port: int) -> tuple[int, bytes]:
    """Port and key for an address, for as long as this kernel lives: its later runs are joined with the same token.

    Raises:
        EngineError: if the port can't be had.
    """
    if port:
        if (problem := _problem(address, port)) and problem.errno != errno.EADDRINUSE:
            raise EngineError(f"--engine join=port={port}: {problem.strerror}. Nothing was started.")
        return port, tokens.new_key()
    if port := _free_port(address):
        return port, tokens.new_key()
    raise EngineError(
        f"No port was found on which {address} can listen. Say --engine join=address=IP,port=N. Nothing was started."
    )


def _door(address: str, port: int, key: bytes, *, is_port_given: bool) -> Door:
    """Listen at the kernel's port; where another run of it, a detached one, waits there still, at another.

    Raises:
        EngineError: if that can't be.
    """
    door = Door(address, port, key)
    try:
        door.open()
    except EngineError as e:
        if is_port_given or not (port := _free_port(address)):
            raise EngineError(f"{e} Another run may wait there; --engine join=port=N chooses another port.") from e
        door = Door(address, port, key)
        door.open()
    return door


def _free_port(address: str) -> int:
    """A port on which nobody listens; 0 if none was found."""
    for _ in range(50):
        port = random.SystemRandom().choice(_PORTS)
        if _problem(address, port) is None:
            return port
    return 0


def _problem(address: str, port: int) -> OSError | None:
    try:
        addresses.listen(address, port).close()
    except OSError as e:
        return e
    return None
