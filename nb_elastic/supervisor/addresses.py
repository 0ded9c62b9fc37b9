"""Addresses of this machine: which IP a name means, which interface carries it, and sockets bound to exactly one.

Runs in: the supervisor. Standard library only. Names are never trusted to come out right: Debian maps a
machine's own name to 127.0.1.1, and some names resolve nowhere.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import ipaddress
import re
import socket
import struct
import sys

from nb_elastic.errors import RendezvousError

LOOPBACK = "127.0.0.1"
_SIOCGIFCONF = 0x8912
_IFREQ_BYTES = 40 if sys.maxsize > 2**32 else 32
_FAR_AWAY = ("198.51.100.1", "2001:db8::1")
"""Addresses kept for documentation: nothing is sent there, only the route is asked for."""


def split_endpoint(endpoint: str, *, default_port: int) -> tuple[str, int]:
    """Split ``host``, ``host:port`` or ``[ipv6]:port``.

    Raises:
        RendezvousError: if there is no host, or the port is no number from 0 to 65535.
    """
    text = endpoint.strip()
    host, port = text, str(default_port)
    if match := re.fullmatch(r"\[(.+)\](?::(.*))?", text):
        host, port = match[1], port if match[2] is None else match[2]
    elif text.count(":") == 1:
        host, port = text.split(":")
    if not re.fullmatch(r"[\w.:%-]+", host) or not port.isdecimal() or int(port) > 65535:
        raise RendezvousError(
            f"The rendezvous endpoint {endpoint!r} is not host:port (port 0 to 65535). Nothing was started."
        )
    return host, int(port)


def join_endpoint(ip: str, port: int) -> str:
    """The opposite of ``split_endpoint``."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def is_ip(host: str) -> bool:
    """True for a literal IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(ip: str) -> bool:
    """True for 127.* and ::1."""
    return is_ip(ip) and ipaddress.ip_address(ip).is_loopback


def resolve(host: str, *, own: str = "") -> str:
    """IP that other machines, too, would reach under ``host``.

    A name (not ``localhost``) that this machine maps to its own loopback, as Debian does, or its own
    name that resolves nowhere, means this machine: ``own``, else its outward address.

    Raises:
        RendezvousError: if the name resolves nowhere and isn't this machine's own, or means all addresses.
    """
    if is_ip(host):
        if ipaddress.ip_address(host).is_unspecified:
            raise RendezvousError(f"{host} means every interface. Give the one address that the other nodes reach.")
        return str(ipaddress.ip_address(host))
    if host == "localhost" or host.endswith(".localhost"):
        return LOOPBACK
    try:
        found = [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as e:
        if host.partition(".")[0] == socket.gethostname().partition(".")[0]:
            return own or outward_address() or LOOPBACK
        raise RendezvousError(
            f"The name {host!r} of the rendezvous endpoint doesn't resolve on this machine ({e}). Give the IP address instead."
        ) from e
    outside = [ip for ip in found if not is_loopback(ip)]
    if outside:
        return next((ip for ip in outside if ":" not in ip), outside[0])
    return own or outward_address() or found[0]


def outward_address() -> str:
    """This machine's address on its default route, else its only address that isn't loopback, else ""."""
    for far in _FAR_AWAY:
        if (ip := source_address(far)) and not is_loopback(ip):
            return ip
    outside = sorted(
        {ip for ip, _ in interfaces() if not is_loopback(ip) and not ipaddress.ip_address(ip).is_link_local}
    )
    return outside[0] if len(outside) == 1 else ""


def source_address(target: str) -> str:
    """Address this machine would send from to reach the IP ``target``; "" if there is no route.

    A UDP socket is connected, which asks the routing table and sends nothing.
    """
    if is_loopback(target):
        return target
    with socket.socket(family(target), socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((target, 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def family(ip: str) -> socket.AddressFamily:
    """AF_INET6 for an address with colons, else AF_INET."""
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def is_ours(ip: str) -> bool:
    """True if ``ip`` is an address of this machine: only those can be bound."""
    with socket.socket(family(ip), socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((ip, 0))
        except OSError:
            return False
    return True


def listen(ip: str, port: int = 0) -> socket.socket:
    """Open a listener bound to exactly ``ip``; port 0 lets the system choose.

    Raises:
        OSError: EADDRINUSE where somebody already listens there, EADDRNOTAVAIL for another machine's address.
    """
    listener = socket.socket(family(ip), socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ip, port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


def try_listen(ip: str, port: int) -> socket.socket | None:
    """Open a listener, or None where another process of this machine was first.

    Raises:
        RendezvousError: if the port can't be used for another reason.
    """
    try:
        return listen(ip, port)
    except OSError as e:
        if e.errno == errno.EADDRINUSE:
            return None
        where = join_endpoint(ip, port)
        raise RendezvousError(
            f"The rendezvous can't listen on {where}: {e.strerror or e}. Choose another endpoint."
        ) from e


def interfaces() -> list[tuple[str, str]]:
    """(IP, interface name) of this machine, secondary addresses included; empty where not Linux."""
    found: list[tuple[str, str]] = []
    if sys.platform != "linux":
        return found
    buffer = array.array("B", bytes(_IFREQ_BYTES * 256))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("iL", len(buffer), buffer.buffer_info()[0])
        size: int = struct.unpack("iL", fcntl.ioctl(probe, _SIOCGIFCONF, request))[0]
    raw = buffer.tobytes()[:size]
    for start in range(0, size, _IFREQ_BYTES):
        name = raw[start : start + 16].split(b"\0", 1)[0].decode()
        found.append((socket.inet_ntoa(raw[start + 20 : start + 24]), name))
    with contextlib.suppress(OSError), open("/proc/net/if_inet6", encoding="ascii") as f:
        for line in f:
            digits, *_, name = line.split()
            found.append((str(ipaddress.ip_address(bytes.fromhex(digits))), name))
    return found


def interface_of(ip: str) -> str:
    """Name of the interface that carries ``ip``; "" if none does, or where not Linux."""
    known = dict(interfaces())
    if ip not in known and is_loopback(ip):
        ip = LOOPBACK
    return known.get(ip, "")
