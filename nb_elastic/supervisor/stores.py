"""Stores that listen where they are told, and nowhere else; and patient, interruptible ways to reach one.

Runs in: the supervisor.
"""

from __future__ import annotations

import contextlib
import socket
import time
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from nb_elastic.errors import RendezvousError
from nb_elastic.supervisor import addresses

STORE_TIMEOUT = timedelta(seconds=300)
_CONNECT_TIMEOUT = timedelta(seconds=20)
_PROBE_S = 0.2


def serve(ip: str, *, port: int = 0, timeout: timedelta = STORE_TIMEOUT) -> TCPStore:
    """Start a store on ``ip`` alone; its listener is bound before, so there is no race for a free port.

    Raises:
        OSError: if the address can't be bound.
    """
    return serve_on(addresses.listen(ip, port), timeout=timeout)


def serve_on(listener: socket.socket, *, timeout: timedelta = STORE_TIMEOUT) -> TCPStore:
    """Start a store on a bound listener, which it takes over."""
    ip, port = listener.getsockname()[:2]
    return TCPStore(
        ip, port, is_master=True, wait_for_workers=False, timeout=timeout, master_listen_fd=listener.detach()
    )


def connect(ip: str, port: int, *, wait_s: float, timeout: timedelta = STORE_TIMEOUT) -> TCPStore:
    """Connect to a store that may not listen yet.

    torch's own wait can't be interrupted; this one tries a plain socket first, so signals get through.

    Args:
        ip: of the store's host.
        port: of the store.
        wait_s: how long to wait for a listener, seconds.
        timeout: of every later operation on the store.

    Raises:
        RendezvousError: if nobody listens in time, or what listens is no store.
    """
    where = addresses.join_endpoint(ip, port)
    if not is_up_within(ip, port, wait_s=wait_s):
        raise RendezvousError(
            f"Nobody answered at the rendezvous endpoint {where} for {wait_s:g} s. Is the first node up, and is this its address?"
        )
    try:
        return client(ip, port, timeout=timeout)
    except (RuntimeError, ValueError) as e:
        raise RendezvousError(
            f"What listens at the rendezvous endpoint {where} is not a store of torch. Choose another port."
        ) from e


def client(ip: str, port: int, *, timeout: timedelta = STORE_TIMEOUT) -> TCPStore:
    """Connect to a store that listens.

    Raises:
        RuntimeError: if it doesn't, or is no store.
    """
    store = TCPStore(ip, port, is_master=False, wait_for_workers=False, timeout=_CONNECT_TIMEOUT)
    store.set_timeout(timeout)
    return store


def is_up_within(ip: str, port: int, *, wait_s: float) -> bool:
    """True as soon as somebody listens at ``ip``; False if nobody does within ``wait_s`` seconds."""
    deadline = time.monotonic() + wait_s
    while True:
        with contextlib.suppress(OSError), socket.create_connection((ip, port), timeout=5):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_PROBE_S)
