"""Looks at the sockets of processes, in /proc: who listens where.

Runs in: the tests.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path

_LISTEN = "0A"


def of(pids: Iterable[int]) -> set[tuple[str, int]]:
    """(IP, port) of every TCP listener of these processes."""
    inodes = {inode for pid in pids for inode in _sockets(pid)}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == _LISTEN and rest[5] in inodes:
                found.add(_address(local))
    return found


def ips(pids: Iterable[int]) -> set[str]:
    """IP of every TCP listener of these processes."""
    return {ip for ip, _ in of(pids)}


def _sockets(pid: int) -> set[str]:
    found = set()
    try:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            target = os.readlink(fd)
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except OSError:
        pass  # the process is gone
    return found


def _address(text: str) -> tuple[str, int]:
    """Read /proc's hexadecimal form: words of four bytes in the machine's order."""
    address, port = text.split(":")
    raw = b"".join(bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8))
    return str(ipaddress.ip_address(raw)), int(port, 16)
