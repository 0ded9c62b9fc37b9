"""The rendezvous of several or elastic nodes: torch's dynamic one, with a new store each round, bound and sealed.

Runs in: the supervisor.

Faults of the stock handler that are cured here (torch 2.9 to 2.15):

* it makes the ranks' store once and reuses it, while ranks no longer prefix their keys by attempt: a
  restarted or grown group meets old keys, fails or hangs (pytorch#135712 again). Here each round has a new one;
* both its stores listen on all interfaces. Here each listens on one address;
* its state is a pickle that anyone may replace. Here it is sealed JSON (``rendezvous_sealed``);
* a node that vanishes is noticed only by a collective's timeout (pytorch#111646). Here the rest of an elastic
  group re-form as soon as its keep-alives stop;
* forming a group takes a second or two (``rendezvous_quick``);
* nodes whose clocks differ by some seconds take each other for dead (``rendezvous_moments``).
"""

from __future__ import annotations

import hmac
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from torch.distributed import FileStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler, RendezvousTimeout

from nb_elastic.errors import OptionError, RendezvousError
from nb_elastic.model_options import LaunchOptions
from nb_elastic.supervisor import addresses, stores
from nb_elastic.supervisor.rendezvous_quick import fresh, quick
from nb_elastic.supervisor.rendezvous_sealed import LAST_CALL_S, SealedBackend, derive_key, hidden_name

DEFAULT_PORT = 29400
DEFAULTS: Mapping[str, int] = {
    "join_timeout": 600,
    "last_call_timeout": int(LAST_CALL_S),
    "keep_alive_interval": 1,
    "keep_alive_max_attempt": 5,
}
"""Seconds, but the last. torch's own (30 s, 5 s x 3) make a group take 47 s to re-form; these take 9 s."""
KNOWN_CONF = frozenset(
    {
        *DEFAULTS,
        "close_timeout",
        "heartbeat_timeout",
        "read_timeout",
        "timeout",
        "is_host",
        "store_type",
        "key",
        "cas_backoff_max_seconds",
    }
)
HARD_TO_GUESS = 20
"""Characters from which on an id is taken for random, and its owner not warned."""
KEY_VARIABLE = "NB_ELASTIC_RDZV_KEY"
UNSHARED_VARIABLE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
PRIVATE_NAMES = (
    "_bootstrap_store_info",
    "_shared_tcp_store_server",
    "_create_tcp_store_server",
    "_state_holder",
    "_heartbeat_lock",
    "_get_world",
    "_get_store",
)
"""Names of torch's handler that the cures touch; a test tells when torch moves them."""

ENDED = "ended"
"""Key of the round's store, there once the ranks of a node are done."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """Where the nodes meet: the store, and this node's own address on the way there."""

    store: Store
    local_addr: str


class GroupIsOverError(RendezvousError):
    """The rendezvous is closed: no group is formed there any more."""


class FreshStoreRendezvous(DynamicRendezvousHandler):
    """torch's dynamic handler, with a new store for the ranks in each round.

    Use ``FreshStoreRendezvous.from_backend`` with a name in place of the run's id, which keys of the store
    would show to anyone, then set ``rdzv_id``.
    """

    rdzv_id = ""
    _members = 0
    _own_round = 0

    def get_run_id(self) -> str:
        """The run's id as the user knows it: the ranks' TORCHELASTIC_RUN_ID."""
        return self.rdzv_id or str(super().get_run_id())

    def next_rendezvous(self) -> RendezvousInfo:
        """See base class. Forgets the last round's store first.

        Raises:
            RendezvousError: ours: if the group doesn't get complete in time, or the run is over.
        """
        self._bootstrap_store_info = None
        self._shared_tcp_store_server = None
        try:
            with quick(getattr(self, "_state_holder", None), nodes=self.settings.max_nodes):
                info = super().next_rendezvous()
        except RendezvousTimeoutError as e:
            wanted, patience_s = self.settings.min_nodes, self.settings.timeout.join.total_seconds()
            raise RendezvousError(
                f"The group did not get complete: fewer than {wanted} nodes came to the rendezvous {self.rdzv_id!r} within "
                f"{patience_s:g} s. Start every node with the same endpoint and id; --rdzv-conf join_timeout=... waits longer."
            ) from e
        except RendezvousClosedError as e:
            raise GroupIsOverError(
                f"The rendezvous {self.rdzv_id!r} is closed: a node of this run ended it, by failing or because all was done."
            ) from e
        if is_curable(self):
            self._members, self._own_round = info.world_size, self.group_round
        return info

    def num_nodes_waiting(self) -> int:
        """Nodes that want to join; also 1 if a node of this round is lost and enough are left to go on, or all have gone on.

        They go on without a node that they took for lost: one that was stopped for some seconds, say.
        Where ranks of a node are done already nobody joins any more: that node would not be in a new round.
        """
        waiting = int(super().num_nodes_waiting())
        if not self._members or (waiting and not self._get_store().check([ENDED])):
            return waiting
        with self._heartbeat_lock:
            state = self._state_holder.state
            alive, is_left_behind = len(state.participants), state.round > self._own_round
        # Of a closed rendezvous nobody can make a new round: let the ranks end as they do.
        return int(not state.closed and (is_left_behind or self.settings.min_nodes <= alive < self._members))

    def coming_round(self) -> int:
        """Number of the round that a node which comes now will be in, as far as the group has told."""
        state = self._fresh_state()
        return int(state.round) + bool(state.complete)

    def agree(self, attempt: int) -> int:
        """The group's attempt: what its nodes count apart (each its own failures) is one number for all, the highest.

        All nodes of a round must call it, right after ``next_rendezvous``.
        """
        rank, world_size = self._get_world()
        store = self._get_store()
        store.set(f"attempt/{rank}", str(attempt))
        if rank == 0:  # one reads all: of many nodes, all would take long to read all
            told = store.multi_get([f"attempt/{other}" for other in range(world_size)])
            store.set("attempt", str(max(map(int, told))))
        return int(store.get("attempt"))

    def reach(self, point: str) -> Callable[[], bool]:
        """Tell the round's nodes that this one has come to a point; what comes back tells whether all have."""
        rank, world_size = self._get_world()
        store = self._get_store()
        store.set(f"{point}/{rank}", "")
        store.set(point, "")
        keys = [f"{point}/{other}" for other in range(world_size)]
        return lambda: bool(store.check(keys))

    @property
    def hosts_round(self) -> bool:
        """True on the node whose end takes the round's store away from the others."""
        return bool(self._get_world()[0] == 0)

    @property
    def group_round(self) -> int:
        """Number of the present round, the same on all nodes."""
        return int(self._state_holder.state.round)

    def change(self) -> str:
        """What became of the round's group: ``closed`` or too small, a node is ``lost`` or leaves, others are ``waiting``, or ""."""
        state = self._fresh_state()
        alive = len(state.participants)
        if state.closed or alive < self.settings.min_nodes:
            return "closed"
        return "lost" if alive < self._members else "waiting" if state.wait_list else ""

    @property
    def can_lose(self) -> bool:
        """True if the group of this round would go on without one of its nodes."""
        return self._members > self.settings.min_nodes

    @property
    def loss_s(self) -> float:
        """How long it takes until a lost node is missed, seconds."""
        settings = self.settings
        return float((settings.keep_alive_interval * (settings.keep_alive_max_attempt + 1)).total_seconds()) + 0.5

    def _fresh_state(self) -> Any:
        with self._heartbeat_lock, fresh(self._state_holder):
            self._state_holder.sync()
            return self._state_holder.state

    def _create_tcp_store_server(self, master_addr: str, master_port: int) -> TCPStore:
        return stores.serve(master_addr, port=master_port)


def make_c10d(
    options: LaunchOptions, *, rdzv_id: str, key: bytes, note: Callable[[str], None], is_driven: bool = False
) -> tuple[FreshStoreRendezvous, str]:
    """Make the handler, and this node's address.

    Args:
        is_driven: the key is the run's own, and nothing that a user may have set for nodes started by hand goes before it.

    Raises:
        OptionError: if a value of --rdzv-conf makes no sense.
        RendezvousError: if the nodes' meeting point can't be reached or used.
    """
    conf: dict[str, Any] = {**DEFAULTS, **options.rdzv_conf}
    key = key if is_driven else pick_key(options, rdzv_id=rdzv_id, key=key)
    params = RendezvousParameters("c10d", options.rdzv_endpoint, rdzv_id, options.min_nodes, options.max_nodes, **conf)
    if odd := sorted(set(options.rdzv_conf) - KNOWN_CONF):
        note(f"--rdzv-conf {', '.join(odd)}: the c10d rendezvous knows no such setting; it has no effect.")
    try:
        timeouts = RendezvousTimeout(
            *(_seconds(params, f"{k}_timeout") for k in ("join", "last_call", "close", "heartbeat"))
        )
        interval, attempts = int(conf["keep_alive_interval"]), int(conf["keep_alive_max_attempt"])
        meeting = _meet(options, params, note=_silent if is_driven else note)
    except ValueError as e:
        raise OptionError(f"--rdzv-conf: {e} Nothing was started.") from e
    # A driver's store outlives the run, and a user may give two runs one id: the key is new for each.
    name = hmac.digest(key, f"name {rdzv_id}".encode(), "sha256").hex()[:32] if is_driven else hidden_name(rdzv_id)
    backend = SealedBackend(meeting.store, name, key, last_call_s=timeouts.last_call.total_seconds())
    handler = FreshStoreRendezvous.from_backend(
        name,
        meeting.store,
        backend,
        options.min_nodes,
        options.max_nodes,
        meeting.local_addr,
        timeouts,
        keep_alive_interval=interval,
        keep_alive_max_attempt=attempts,
    )
    handler.rdzv_id = rdzv_id
    if not is_curable(handler):
        os.environ[UNSHARED_VARIABLE] = "1"
        note(
            f"This torch has moved what nb_elastic relies on for restarts, so rank 0 hosts the ranks' store ({UNSHARED_VARIABLE}=1)."
        )
    return handler, meeting.local_addr


def _silent(_text: str) -> None:
    """What a user should know who starts nodes by hand is nothing to one whom a driver serves."""


def is_curable(handler: Any) -> bool:
    """True while torch's handler has the private names that the cures touch."""
    return all(hasattr(handler, name) for name in PRIVATE_NAMES)


def is_started_by_hand(options: LaunchOptions) -> bool:
    """True where each node is started by its own command, so that nodes share only what the user typed."""
    return options.max_nodes > 1 and options.engine == "local"


def pick_key(options: LaunchOptions, *, rdzv_id: str, key: bytes) -> bytes:
    """Key that seals the state: the user's own, else the run's, else one derived from the run's id.

    ``--rdzv-conf key=...`` shows in process lists; the environment variable does not. A run's own random
    key is no use to nodes started by hand, which can't know each other's.
    """
    if given := options.rdzv_conf.get("key") or os.environ.get(KEY_VARIABLE):
        return derive_key(given)
    return key if key and not is_started_by_hand(options) else derive_key(rdzv_id)


def _meet(options: LaunchOptions, params: RendezvousParameters, *, note: Callable[[str], None]) -> Meeting:
    store_type = str(params.get("store_type", "tcp")).strip().lower()
    if store_type == "file":
        return _meet_in_file(options)
    if store_type != "tcp":
        raise OptionError(f"--rdzv-conf store_type={store_type}: only tcp and file exist. Nothing was started.")
    own = own_address(options.local_addr)
    host, port = _endpoint(options)
    ip = addresses.resolve(host, own=own)
    read_timeout = timedelta(seconds=params.get_as_int("read_timeout") or 60)
    is_host = params.get_as_bool("is_host")
    if is_host is False and port == 0:
        raise OptionError("--rdzv-conf is_host=0 needs --rdzv-endpoint with the host's port. Nothing was started.")
    listener = None
    if is_host or (is_host is None and addresses.is_ours(ip)):
        listener = addresses.try_listen(ip, port)
        if listener is None and is_host:
            raise RendezvousError(
                f"The rendezvous can't listen on {addresses.join_endpoint(ip, port)}: the port is in use."
            )
    if listener is not None:
        store: TCPStore = stores.serve_on(listener, timeout=read_timeout)
        port = store.port
    else:
        store = stores.connect(ip, port, wait_s=params.get_as_int("join_timeout") or 600, timeout=read_timeout)
    _tell(options, ip=ip, port=port, is_host=listener is not None, note=note)
    local_addr = own or (ip if listener is not None else addresses.source_address(ip))
    if not local_addr:
        raise RendezvousError(
            f"This machine has no route to the rendezvous endpoint {ip}. Give its own address with --local-addr."
        )
    return Meeting(store=store, local_addr=local_addr)


def _endpoint(options: LaunchOptions) -> tuple[str, int]:
    """Host and port to meet at; one node without an endpoint of its own meets itself on a free loopback port."""
    if options.standalone or (options.max_nodes == 1 and not options.rdzv_endpoint):
        return addresses.LOOPBACK, 0
    return addresses.split_endpoint(options.rdzv_endpoint or addresses.LOOPBACK, default_port=DEFAULT_PORT)


def _meet_in_file(options: LaunchOptions) -> Meeting:
    if not options.rdzv_endpoint:
        raise OptionError("--rdzv-conf store_type=file needs a file's path as --rdzv-endpoint. Nothing was started.")
    own = own_address(options.local_addr)
    if not own:
        own = addresses.LOOPBACK if options.max_nodes == 1 else addresses.outward_address() or addresses.LOOPBACK
    try:
        return Meeting(store=FileStore(options.rdzv_endpoint), local_addr=own)
    except RuntimeError as e:
        raise RendezvousError(f"The rendezvous file {options.rdzv_endpoint} can't be used: {e}") from e


def own_address(local_addr: str | None) -> str:
    """This node's IP as the user gave it (a name is resolved); "" if not given.

    Raises:
        OptionError: if it is no address of this machine.
    """
    if not local_addr:
        return ""
    ip = addresses.resolve(local_addr)
    if not addresses.is_ours(ip):
        mine = ", ".join(sorted({i for i, _ in addresses.interfaces()}))
        raise OptionError(
            f"--local-addr {local_addr}: {ip} is no address of this machine ({mine}). Nothing was started."
        )
    return ip


def _tell(options: LaunchOptions, *, ip: str, port: int, is_host: bool, note: Callable[[str], None]) -> None:
    """Say what a user has to know about this endpoint."""
    where = addresses.join_endpoint(ip, port)
    _log.info("rendezvous at %s, %s", where, "hosted here" if is_host else "as a client")
    if options.max_nodes == 1 or not is_started_by_hand(options):
        return
    if is_host:
        note(f"The rendezvous listens on {where}: start the other nodes with --rdzv-endpoint {where}.")
    if options.node_rank:
        note(
            f"--node-rank {options.node_rank} has no effect here: ranks follow the nodes' addresses. With --master-addr it has."
        )
    has_key = bool(options.rdzv_conf.get("key") or os.environ.get(KEY_VARIABLE))
    if not has_key and len(options.rdzv_id) < HARD_TO_GUESS and not addresses.is_loopback(ip):
        note(
            f"The rendezvous at {where} is sealed only by --rdzv-id: whoever guesses it and reaches the port can break up the group "
            f"(not run code). Give all nodes the same {KEY_VARIABLE}, or a long random id."
        )


def _seconds(params: RendezvousParameters, name: str) -> timedelta | None:
    value = params.get_as_int(name)
    return None if value is None else timedelta(seconds=value)
