"""How the nodes of a run find each other: one handler for torch's agent, chosen from the options.

Runs in: the supervisor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

from nb_elastic.errors import ElasticError, OptionError, RendezvousError
from nb_elastic.model_options import LaunchOptions
from nb_elastic.supervisor import addresses, rendezvous_c10d, stores
from nb_elastic.supervisor.rendezvous_c10d import (
    UNSHARED_VARIABLE,
    FreshStoreRendezvous,
    is_started_by_hand,
    make_c10d,
    own_address,
)
from nb_elastic.supervisor.rendezvous_static import StaticRendezvous

Note = Callable[[str], None]
"""Tells the user one sentence, once (a ``note`` in the journal)."""

STATIC_PORT = 29500


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerBundle:
    """A rendezvous handler and what the agent and the ranks need beside it.

    Attributes:
        handler: goes into torch's WorkerSpec; ``handler.shutdown()`` ends the rendezvous for all nodes.
        backend: ``loopback``, ``c10d``, ``static`` or the name of a registered backend.
        env: defaults for the ranks' environment (GLOO_SOCKET_IFNAME ...); what the user set goes first.
        local_addr: this node's IP, for WorkerSpec.local_addr; "" where only the handler knows.
        master_addr: for WorkerSpec.master_addr; None leaves it to the handler.
        master_port: for WorkerSpec.master_port; None leaves it to the handler.
        group: the same handler where it can tell what the group's nodes have in common; else None.
    """

    handler: RendezvousHandler
    backend: str
    env: Mapping[str, str] = field(default_factory=dict)
    local_addr: str = addresses.LOOPBACK
    master_addr: str | None = None
    master_port: int | None = None
    group: FreshStoreRendezvous | None = None


def make_handler(
    options: LaunchOptions, *, rdzv_id: str, key: bytes, nproc: int, note: Note, is_driven: bool = False
) -> HandlerBundle:
    """Make the rendezvous that ``options`` ask for.

    Args:
        options: of the launch.
        rdzv_id: names the run among all that share an endpoint; the ranks' TORCHELASTIC_RUN_ID. Nodes started
            by hand without ``--rdzv-id`` all get ``none``, as under torchrun.
        key: secret of the run that all its nodes share, or b"" where nobody gave them one.
        nproc: ranks of this node.
        note: tells the user something once.
        is_driven: a driver hosts the meeting place, or has a node do so, and made the key for this run alone.

    Raises:
        OptionError: if an option's value makes no sense.
        RendezvousError: if the endpoint can't be used or the backend doesn't exist.
    """
    if not options.rdzv_id and not is_driven and is_started_by_hand(options):
        rdzv_id = "none"
    backend = choose_backend(options, is_driven=is_driven)
    if backend == "loopback":
        if os.environ.get(UNSHARED_VARIABLE, "0") == "1":
            note(
                f"{UNSHARED_VARIABLE}=1 is not heeded on one node: each round has a new store, on 127.0.0.1; rank 0's own would "
                "listen on every interface."
            )
        return HandlerBundle(handler=LoopbackRendezvous(rdzv_id), backend=backend, env=rank_env(addresses.LOOPBACK))
    if backend == "c10d":
        handler, local_addr = make_c10d(options, rdzv_id=rdzv_id, key=key, note=note, is_driven=is_driven)
        group = handler if rendezvous_c10d.is_curable(handler) else None
        return HandlerBundle(
            handler=handler, backend=backend, env=rank_env(local_addr), local_addr=local_addr, group=group
        )
    if backend == "static":
        static, local_addr = make_static(options, rdzv_id=rdzv_id)
        return HandlerBundle(handler=static, backend=backend, env=rank_env(local_addr), local_addr=local_addr)
    return make_registered(backend, options, rdzv_id=rdzv_id, nproc=nproc)


def choose_backend(options: LaunchOptions, *, is_driven: bool = False) -> str:
    """Name of the backend: the one asked for, else the simplest that fits."""
    if is_driven:
        return "loopback" if options.is_one_node else "c10d"
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
    name = addresses.interface_of(local_addr) if local_addr else ""
    return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name} if name else {}


def make_static(options: LaunchOptions, *, rdzv_id: str) -> tuple[StaticRendezvous, str]:
    """Make the static handler, and this node's address.

    Raises:
        OptionError: if the options don't describe a fixed group.
        RendezvousError: if node rank 0 can't listen at the address.
    """
    try:
        node_rank = int(options.rdzv_conf.get("rank", options.node_rank))
        timeout_s = float(options.rdzv_conf.get("timeout", 600))
    except ValueError as e:
        raise OptionError(f"--rdzv-conf: {e}. Nothing was started.") from e
    nodes = options.max_nodes
    if options.min_nodes != nodes:
        raise OptionError(
            f"--nnodes {options.nnodes}: a static group has a fixed size; --rdzv-backend c10d has not. Nothing was started."
        )
    if not 0 <= node_rank < nodes:
        raise OptionError(
            f"--node-rank {node_rank} is not from 0 to {nodes - 1} (--nnodes {options.nnodes}). Nothing was started."
        )
    if options.rdzv_endpoint and not options.master_addr:
        host, port = addresses.split_endpoint(options.rdzv_endpoint, default_port=options.master_port or STATIC_PORT)
    else:
        host, port = (
            options.master_addr or addresses.LOOPBACK,
            STATIC_PORT if options.master_port is None else options.master_port,
        )
    if port == 0 and nodes > 1:
        raise OptionError("--master-port 0: several nodes must know the port beforehand. Nothing was started.")
    own = own_address(options.local_addr)
    ip = addresses.resolve(host, own=own)
    if node_rank == 0 and not addresses.is_ours(ip):
        if not own:
            raise RendezvousError(
                f"Node rank 0 hosts the rendezvous, but {host} ({ip}) is no address of this machine. "
                "Give --master-addr an address of this machine, or --local-addr where it is reached through another one."
            )
        ip = own
    local_addr = own or (ip if node_rank == 0 else addresses.source_address(ip))
    if not local_addr:
        raise RendezvousError(
            f"This machine has no route to --master-addr {host} ({ip}). Give its own address with --local-addr."
        )
    return StaticRendezvous(
        rdzv_id, ip=ip, port=port, node_rank=node_rank, nodes=nodes, timeout_s=timeout_s
    ), local_addr


def make_registered(backend: str, options: LaunchOptions, *, rdzv_id: str, nproc: int) -> HandlerBundle:
    """Make the handler of a backend that torch or a plugin registered; its faults, if any, are its own.

    Raises:
        RendezvousError: if there is no such backend, or it can't be set up.
    """
    own = own_address(options.local_addr)
    conf = {"timeout": "900", "nproc_per_node": nproc, **options.rdzv_conf}
    params = RendezvousParameters(
        backend, options.rdzv_endpoint, rdzv_id, options.min_nodes, options.max_nodes, own or None, **conf
    )
    if backend not in registered_backends():
        raise RendezvousError(
            f"There is no rendezvous backend {backend!r}. The installed torch has {', '.join(registered_backends())}. Nothing was started."
        )
    try:
        handler = rendezvous_handler_registry.create_handler(params)
    except ElasticError:
        raise
    except Exception as e:  # a plugin may raise anything; the user is told which one it was
        raise RendezvousError(f"The rendezvous backend {backend!r} can't be set up: {type(e).__name__}: {e}") from e
    return HandlerBundle(handler=handler, backend=backend, env=rank_env(own), local_addr=own)


def registered_backends() -> list[str]:
    """Names of the rendezvous backends that the installed torch knows, plugins included."""
    return sorted(getattr(rendezvous_handler_registry, "_registry", {}))


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
        """True, whatever the user told torch of sharing: rank 0's own store would listen on every interface."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """See base class."""
        self._store = store = stores.serve(addresses.LOOPBACK)
        info = RendezvousStoreInfo(addresses.LOOPBACK, store.port)
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
