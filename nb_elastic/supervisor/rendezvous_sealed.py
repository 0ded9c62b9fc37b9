"""The state of a c10d rendezvous as sealed JSON: nobody else's bytes are believed, and none are unpickled.

Runs in: the supervisor.

torch keeps the state of its dynamic rendezvous as a pickle in a store that has no authentication, so whoever
reaches the port runs code in every agent. Here the store holds ``<seal>.<nonce>.<JSON>``: the seal is an
HMAC-SHA256 under a key that the nodes share. The JSON alone already takes away the code execution, whatever
the key is worth; the seal keeps strangers from changing who is in the group. What stays open to someone who
reaches the port: reading the state (addresses and pids), putting an old state back, and deleting keys; each at worst
ends the run.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import pickle
import secrets
from datetime import datetime
from typing import Any

from torch.distributed import Store  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import RendezvousConnectionError, RendezvousStateError
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import RendezvousBackend, Token

from nb_elastic.supervisor.rendezvous_moments import Moments

STATE_FIELDS = frozenset(
    {"round", "complete", "deadline", "closed", "participants", "wait_list", "redundancy_list", "last_heartbeats"}
)
LAST_CALL_S = 3.0
_NOTHING_YET = "nb_elastic: no state yet"
_MAX_STATE_CHARS = 4 << 20


def derive_key(rdzv_id: str) -> bytes:
    """Key for nodes that share nothing but ``rdzv_id``: worth as much as the id is hard to guess."""
    return hashlib.scrypt(rdzv_id.encode(), salt=b"nb_elastic rendezvous key", n=2**14, r=8, p=1, dklen=32)


def hidden_name(rdzv_id: str) -> str:
    """Name of the run for keys of the store, which anyone can list: an id that is hard to guess stays unknown."""
    return hmac.digest(derive_key(rdzv_id), b"name", "sha256").hex()[:32]


class SealedBackend(RendezvousBackend):
    """Holds the rendezvous state in a store, sealed; a drop-in for torch's C10dRendezvousBackend.

    Args:
        store: any store with ``compare_set``.
        name: of the run within the store; part of what is sealed.
        key: shared by the nodes of the run.
        last_call_s: how long a group that has nodes enough waits for more, seconds.

    Raises:
        RendezvousConnectionError: if the store can't be reached.
    """

    def __init__(self, store: Store, name: str, key: bytes, *, last_call_s: float = LAST_CALL_S) -> None:
        self._store = store
        self._slot = f"nb_elastic.rendezvous.{name}"
        self._key = key
        self._has_state = False
        self._moments = Moments(last_call_s)
        # A store's get blocks until the key exists; so it always exists.
        self._call("compare_set", self._slot, "", _NOTHING_YET)

    @property
    def name(self) -> str:
        """See base class."""
        return "c10d"

    def get_state(self) -> tuple[bytes, Token] | None:
        """See base class.

        Raises:
            RendezvousStateError: if somebody without the key wrote the state.
        """
        return self._open(self._call("get", self._slot))

    def set_state(self, state: bytes, token: Token | None = None) -> tuple[bytes, Token, bool] | None:
        """See base class. ``state`` is this process's own pickle, made by torch a moment ago.

        Raises:
            RendezvousStateError: if somebody without the key wrote the state.
        """
        said = pickle.loads(state)
        self._moments.restore(said)
        mine = self._seal(encode_state(said))
        found = self._call("compare_set", self._slot, token or _NOTHING_YET, mine)
        opened = self._open(found)
        return None if opened is None else (*opened, found == mine)

    def _seal(self, body: str) -> str:
        """Seal with a fresh nonce, so that no two writes are equal and each node can tell its own."""
        nonce = secrets.token_hex(8)
        return f"{self._mac(nonce, body)}.{nonce}.{body}"

    def _open(self, sealed: str) -> tuple[bytes, Token] | None:
        if sealed == _NOTHING_YET and not self._has_state:
            return None
        seal, _, rest = sealed.partition(".")
        nonce, _, body = rest.partition(".")
        if not hmac.compare_digest(seal.encode(), self._mac(nonce, body).encode()):
            raise RendezvousStateError(
                "The rendezvous state was written by somebody who doesn't have the key of this run: another run with the same "
                "--rdzv-id and another key, or an attack. Nothing of it was used. "
                "Nodes of one run need the same NB_ELASTIC_RDZV_KEY; two runs need two endpoints or ids."
            )
        self._has_state = True
        state = decode_state(body)
        self._moments.localise(state)
        return pickle.dumps(state), sealed

    def _mac(self, nonce: str, body: str) -> str:
        return hmac.new(self._key, f"{self._slot}\n{nonce}\n{body}".encode(), "sha256").hexdigest()

    def _call(self, operation: str, *args: str) -> str:
        try:
            answer: bytes = getattr(self._store, operation)(*args)
        except (ValueError, RuntimeError, TimeoutError) as e:
            raise RendezvousConnectionError(
                f"The rendezvous' store has not answered: the node that hosts it is gone, or out of reach ({e})."
            ) from e
        return answer[:_MAX_STATE_CHARS].decode("utf-8", "replace")


def encode_state(state: Any) -> str:
    """Turn torch's rendezvous state into JSON.

    Raises:
        RendezvousStateError: if this torch keeps something in it that we don't know.
    """
    if set(vars(state)) != STATE_FIELDS:
        odd = ", ".join(sorted(STATE_FIELDS ^ set(vars(state))))
        raise RendezvousStateError(
            f"This torch's rendezvous state differs from the one nb_elastic knows ({odd}): use another --rdzv-backend."
        )
    record = {
        "round": state.round,
        "complete": state.complete,
        "deadline": state.deadline and state.deadline.isoformat(),
        "closed": state.closed,
        "participants": [[*_node(n), rank] for n, rank in state.participants.items()],
        "wait_list": [_node(n) for n in state.wait_list],
        "redundancy_list": [_node(n) for n in state.redundancy_list],
        "last_heartbeats": [[*_node(n), beat.isoformat()] for n, beat in state.last_heartbeats.items()],
    }
    return json.dumps(record, separators=(",", ":"))


def decode_state(body: str) -> Any:
    """Turn JSON back into torch's rendezvous state.

    Raises:
        RendezvousStateError: if the text is no state.
    """
    # Private names of torch, imported late: what doesn't use c10d works without them.
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc, _RendezvousState

    def node(addr: str, pid: int, local_id: int) -> Any:
        return _NodeDesc(str(addr), int(pid), int(local_id))

    try:
        record = json.loads(body)
        state: Any = _RendezvousState()
        state.round = int(record["round"])
        state.complete = bool(record["complete"])
        state.deadline = datetime.fromisoformat(record["deadline"]) if record["deadline"] else None
        state.closed = bool(record["closed"])
        state.participants = {node(*n): int(rank) for *n, rank in record["participants"]}
        state.wait_list = {node(*n) for n in record["wait_list"]}
        state.redundancy_list = {node(*n) for n in record["redundancy_list"]}
        state.last_heartbeats = {node(*n): datetime.fromisoformat(beat) for *n, beat in record["last_heartbeats"]}
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise RendezvousStateError(f"The rendezvous state can't be read: {e}") from e
    return state


def _node(node: Any) -> list[Any]:
    return [node.addr, node.pid, node.local_id]
