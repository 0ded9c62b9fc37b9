"""How the nodes of a run find each other: one handler for torch's agent, chosen from the options.

Runs in: the supervisor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from torch.distributed import PrefixStore, TCPStore
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

from nb_elastic.errors import RendezvousError
from nb_elastic.model import LaunchOptions
from nb_elastic.supervisor import addresses

Note = Callable[[str], None]
"""Tells the user one sentence, once (a ``note`` in the journal)."""

STORE_TIMEOUT = timedelta(seconds=300)


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerBundle:
    """A rendezvous handler and what the agent and the ranks need beside it.

    Attributes:
        handler: goes into torch's WorkerSpec; ``handler.shutdown()`` ends the rendezvous for all nodes.
        backend: ``loopback``, ``c10d``, ``static`` or the name of a registered backend.
        env: defaults for the ranks' environment (GLOO_SOCKET_IFNAME ...); what the user set goes first.
        local_addr: this node's IP, for WorkerSpec.local_addr.
        master_addr: for WorkerSpec.master_addr; None leaves it to the handler.
        master_port: for WorkerSpec.master_port; None leaves it to the handler.
    """

    handler: RendezvousHandler
    backend: str
    env: Mapping[str, str] = field(default_factory=dict)
    local_addr: str = addresses.LOOPBACK
    master_addr: str | None = None
    master_port: int | None = None


def make_handler(options: LaunchOptions, *, rdzv_id: str, key: bytes, nproc: int, note: Note) -> HandlerBundle:
    """Make the rendezvous that ``options`` ask for.

    Args:
        rdzv_id: names the run among all that share an endpoint; the ranks' TORCHELASTIC_RUN_ID.
        key: secret of the run that all its nodes share, or b"" where nobody gave them one.
        nproc: ranks of this node.
        note: tells the user something once.

    Raises:
        RendezvousError: if the endpoint can't be used or the backend doesn't exist.
    """
    backend = choose_backend(options)
    if backend == "loopback":
        return HandlerBundle(handler=LoopbackRendezvous(rdzv_id), backend=backend, env=rank_env(addresses.LOOPBACK))
    raise RendezvousError(f"The rendezvous backend {backend!r} isn't built yet.")


def choose_backend(options: LaunchOptions) -> str:
    """Name of the backend: the one asked for, else the simplest that fits."""
    if options.rdzv_backend:
        return options.rdzv_backend
    if options.standalone:
        return "c10d"
    if options.master_addr or options.master_port is not None:
        return "static"
    if options.is_one_node:
        return "static" if options.rdzv_endpoint else "loopback"
    return "c10d"


def rank_env(local_addr: str) -> dict[str, str]:
    """Variables that keep gloo and NCCL on the interface of ``local_addr``; none where it is unknown."""
    name = addresses.interface_of(local_addr)
    return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name} if name else {}


def serve(ip: str, *, port: int = 0, timeout: timedelta = STORE_TIMEOUT) -> TCPStore:
    """Start a store that listens on ``ip`` alone, on a listener bound before: no race for a free port.

    Raises:
        OSError: if the address can't be bound.
    """
    listener = addresses.listen(ip, port)
    port = listener.getsockname()[1]
    return TCPStore(
        ip, port, is_master=True, wait_for_workers=False, timeout=timeout, master_listen_fd=listener.detach()
    )


class LoopbackRendezvous(RendezvousHandler):
    """Rendezvous of one fixed node with itself: a new store on 127.0.0.1 for each round, in about a millisecond.

    A new store each round, because ranks of a restarted group would else meet the keys that the last
    attempt left (pytorch#135712).
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._store: TCPStore | None = None
        self._is_closed = False

    def get_backend(self) -> str:
        """See base class."""
        return "loopback"

    @property
    def use_agent_store(self) -> bool:
        """True: ranks are clients of this handler's store, unless the user told torch not to share it."""
        return os.environ.get("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "0") != "1"

    def next_rendezvous(self) -> RendezvousInfo:
        """See base class."""
        self._store = store = serve(addresses.LOOPBACK)
        port = store.port
        if not self.use_agent_store:  # rank 0 opens its own store, elsewhere
            with addresses.listen(addresses.LOOPBACK) as free:
                port = free.getsockname()[1]
        info = RendezvousStoreInfo(addresses.LOOPBACK, port)
        return RendezvousInfo(PrefixStore("agent", store), 0, 1, info)

    def is_closed(self) -> bool:
        """See base class."""
        return self._is_closed

    def set_closed(self) -> None:
        """See base class."""
        self._is_closed = True

    def num_nodes_waiting(self) -> int:
        """Nobody can join a fixed node."""
        return 0

    def get_run_id(self) -> str:
        """See base class."""
        return self._run_id

    def shutdown(self) -> bool:
        """Close the store."""
        self._is_closed = True
        self._store = None
        return True
