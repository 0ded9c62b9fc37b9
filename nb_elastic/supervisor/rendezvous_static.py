"""The rendezvous of a fixed group at --master-addr and --master-port: node rank 0 hosts, on that address alone.

Runs in: the supervisor.

torch's static handler keeps one store for the whole run, so the ranks of a restarted group meet the keys that
the last attempt left. Here node rank 0 replaces the store in each round, behind one listener that stays bound;
the other nodes wait for a round they have not been in, and make themselves heard in the store, so that all
re-form together, whichever of them restarts first.
"""

from __future__ import annotations

import logging
import socket
import time
from datetime import timedelta

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousStoreInfo,
)

from nb_elastic.errors import RendezvousError
from nb_elastic.supervisor import addresses, stores

_POLL_S = 0.1
_HERE = "nb_elastic/here"
_ROUND = "nb_elastic/round"
_WAITING = "nb_elastic/waiting"

_log = logging.getLogger(__name__)


class StaticRendezvous(RendezvousHandler):
    """A fixed group of nodes at one address.

    Args:
        ip: where node rank 0 hosts the store and everybody reaches it.
        port: of the store; ranks see it as MASTER_PORT.
        node_rank: of this node.
        nodes: how many there are.
        timeout_s: how long to wait for the other nodes in each round, seconds.

    Raises:
        RendezvousError: if node rank 0 can't listen there.
    """

    def __init__(self, run_id: str, *, ip: str, port: int, node_rank: int, nodes: int, timeout_s: float = 600) -> None:
        self._run_id = run_id
        self._ip = ip
        self._port = port
        self._node_rank = node_rank
        self._nodes = nodes
        self._timeout_s = timeout_s
        self._round = 0
        self._server: TCPStore | None = None
        self._client: TCPStore | None = None
        self._listener: socket.socket | None = None
        if node_rank == 0:
            self._listener = addresses.try_listen(ip, port)
            if self._listener is None:
                where = addresses.join_endpoint(ip, port)
                raise RendezvousError(
                    f"Node rank 0 can't listen on {where}: the port is in use. Choose another --master-port."
                )
            self._port = self._listener.getsockname()[1]

    def get_backend(self) -> str:
        """See base class."""
        return "static"

    @property
    def use_agent_store(self) -> bool:
        """True: the ranks are clients of node rank 0's store."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """See base class.

        Raises:
            RendezvousError: if the group is not complete in time.
        """
        deadline = time.monotonic() + self._timeout_s
        self._client = None
        if self._listener is not None:
            self._client = client = self._host_round(self._listener)
        else:
            self._client = client = self._await_round(deadline)
        self._check_in(client, deadline)
        store = PrefixStore("agent", client)
        return RendezvousInfo(store, self._node_rank, self._nodes, RendezvousStoreInfo(self._ip, self._port))

    def is_closed(self) -> bool:
        """A fixed group is never closed."""
        return False

    def set_closed(self) -> None:
        """A fixed group is never closed."""

    def num_nodes_waiting(self) -> int:
        """1 when another node wants, or has begun, a new round; else 0."""
        if self._nodes == 1 or self._client is None:
            return 0
        try:
            return int(self._client.check([f"{_WAITING}/{self._round + 1}"]))
        except (RuntimeError, ValueError) as e:
            self._note_loss(e)
        number, _ = self._look(within_s=0)
        return int(number > self._round)

    def has_moved_on(self) -> bool:
        """True if node rank 0 replaced the store of the round that this node is in."""
        if self._node_rank == 0 or self._client is None:
            return False
        try:
            return not self._client.check([_ROUND])
        except (RuntimeError, ValueError) as e:
            self._note_loss(e)
            return True

    def get_run_id(self) -> str:
        """See base class."""
        return self._run_id

    def shutdown(self) -> bool:
        """Close the store and the listener."""
        self._client = self._server = None
        if self._listener is not None:
            self._listener.close()
        return True

    def _host_round(self, listener: socket.socket) -> TCPStore:
        """Replace the store by an empty one.

        The agent is given a client of it, never the server itself: so dropping ours really ends it.
        """
        self._server = None
        self._round += 1
        self._server = stores.serve_on(listener.dup())
        client = self._connect()
        client.set(_ROUND, f"{self._run_id}\n{self._round}")
        return client

    def _await_round(self, deadline: float) -> TCPStore:
        """Connect to the first round that this node has not been in, asking for it until it is there."""
        while (left := deadline - time.monotonic()) > 0:
            number, client = self._look(within_s=left)
            if client is not None and number > self._round:
                self._round = number
                return client
            if client is not None and number > 0:
                self._ask_for_next(client)
            time.sleep(_POLL_S)
        where = addresses.join_endpoint(self._ip, self._port)
        raise RendezvousError(
            f"Node rank 0 began no new round at {where} within {self._timeout_s:g} s. Is it up, and is this its address?"
        )

    def _ask_for_next(self, client: TCPStore) -> None:
        try:
            client.add(f"{_WAITING}/{self._round + 1}", 1)
        except (RuntimeError, ValueError) as e:  # it has begun already, between our look and this word
            self._note_loss(e)

    def _note_loss(self, error: Exception) -> None:
        _log.info("node rank 0 dropped the store of round %d: %s", self._round, error)

    def _look(self, *, within_s: float) -> tuple[int, TCPStore | None]:
        """Round that node rank 0 hosts now, and a client of its store; 0 and None if it hosts none.

        Raises:
            RendezvousError: if another run is there.
        """
        try:
            if not stores.is_up_within(self._ip, self._port, wait_s=within_s):
                return 0, None
            client = self._connect()
            if not client.check([_ROUND]):
                return 0, client
            run_id, _, number = client.get(_ROUND).decode().rpartition("\n")
        except (RuntimeError, ValueError) as e:
            _log.info("looking for a new round of node rank 0: %s", e)
            return 0, None
        if run_id != self._run_id:
            where = addresses.join_endpoint(self._ip, self._port)
            raise RendezvousError(
                f"{where} belongs to the run {run_id!r}, not to {self._run_id!r}. Choose another --master-port or --rdzv-id."
            )
        return int(number), client

    def _connect(self) -> TCPStore:
        return stores.client(self._ip, self._port, timeout=timedelta(seconds=self._timeout_s))

    def _check_in(self, client: TCPStore, deadline: float) -> None:
        """Wait until all nodes are in this round."""
        if client.add(f"{_HERE}/{self._node_rank}", 1) > 1:
            raise RendezvousError(
                f"Two nodes of the run {self._run_id!r} call themselves --node-rank {self._node_rank}."
            )
        names = [f"{_HERE}/{n}" for n in range(self._nodes)]
        while not client.check(names):
            if time.monotonic() > deadline:
                absent = ", ".join(str(n) for n in range(self._nodes) if not client.check([names[n]]))
                raise RendezvousError(
                    f"Node rank {absent} did not come within {self._timeout_s:g} s. Start every node with the same --master-addr."
                )
            time.sleep(_POLL_S)
