"""One journal of all nodes' journals: which of their words are told, and which once.

Runs in: the driver.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nb_elastic import untrusted
from nb_elastic.model import FailureCategory
from nb_elastic.rundir_paths import RunDir
from nb_elastic.supervisor.channel import EventLog
from nb_elastic.supervisor.upkeep import Upkeep

RETRY_S, DETACHED_RETRY_S = 2.0, 30.0
"""How long a last word waits for room in the journal."""

OF_RANKS = frozenset({
    "worker_started", "worker_ready", "worker_held", "worker_released", "worker_exited", "worker_failed", "signal_sent",
})  # fmt: skip
ONCE_A_ROUND = frozenset({"rendezvous_started", "rendezvous_finished", "round_ended"})
MAX_NOTES = 500
LOST_PEER = FailureCategory.LOST_PEER.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A rank's failure, as far as the verdict on the run needs it."""

    node: int
    rank: int
    time_ns: int
    is_follower: bool
    category: str
    reasons: tuple[str, ...]


@dataclass(slots=True)
class Ranks:
    """What is known of one node's ranks.

    Attributes:
        round: the last one that they took part in.
        living: local rank -> (round, rank) of those that have not ended.
    """

    round: int = -1
    living: dict[int, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Ender:
    """What the upkeep of the run folder asks of whoever decides."""

    stop: Callable[[str, float], None]
    heed: Callable[[], None]

    def request(self, *, by: str, grace_s: float) -> None:
        """Ask for the end."""
        self.stop(by, grace_s)


class Story:
    """Writes the run's journal, and remembers what decides how it ended.

    Args:
        stop: asks for the run's end, from any thread: by whom, and with what grace.
        heed: has a stop in the run folder looked for.

    Attributes:
        round: the last one that any node told of.
        is_ending: all nodes are being stopped.
    """

    def __init__(
        self, folder: RunDir, *, stop: Callable[[str, float], None], heed: Callable[[], None], is_detached: bool
    ) -> None:
        self._log = EventLog(folder, node=0)
        self._there = re.compile(rf"/\S*/node-[0-9a-f]{{8}}/{re.escape(folder.run_id)}")
        self._here = str(folder.path)
        self._upkeep = Upkeep(folder, self._log, _Ender(stop, heed), is_alone=True)
        self._upkeep.__enter__()
        self._is_detached = is_detached
        self._told: set[tuple[str, int]] = set()
        self._notes: set[str] = set()
        self._ranks: dict[int, Ranks] = {}
        self._failures: dict[tuple[int, int], Failed] = {}
        self._held: set[tuple[int, int]] = set()
        self._is_hold_over = False
        self.round = -1
        self.is_ending = False

    @property
    def log(self) -> EventLog:
        """The journal's writer."""
        return self._log

    def tell(self, kind: str, *, node: int = 0, **data: Any) -> None:
        """Tell an event of the driver's own."""
        self._log.tell(kind, node=node, **data)

    def note(self, text: str, *, level: str = "info") -> None:
        """Tell the user a sentence, once."""
        if text not in self._notes and len(self._notes) < MAX_NOTES:
            self._notes.add(text)
            self._log.note(text, level=level)

    def retell(self, node: int, record: Any, *, behind_ns: int = 0) -> None:
        """Tell what a node's journal tells, as that node's, if it is anything that a node may tell.

        Args:
            behind_ns: nanoseconds by which its clock is behind ours.
        """
        if not isinstance(record, Mapping) or not isinstance(kind := record.get("event"), str):
            return
        time_ns = untrusted.integer(record.get("time_ns"), -1)
        data = {k: v for k, v in record.items() if isinstance(k, str) and k not in {"event", "time_ns", "node", "seal"}}
        if kind == "note":
            self.note(untrusted.text(data.get("text")), level="warning" if data.get("level") == "warning" else "info")
            return
        number = untrusted.integer(data.get("round"), -1)
        if kind in ONCE_A_ROUND:
            is_own = data.get("cause") == "stopped" and not self.is_ending  # a node leaves; the others' round goes on
            if is_own or (kind, number) in self._told:
                return
            self._told.add((kind, number))
        elif kind not in OF_RANKS:
            return
        if behind_ns:
            time_ns, data = _put_right(time_ns, data, behind_ns)
        if kind == "round_ended":
            data["text"] = self._with_own_folder(untrusted.text(data.get("text")))
        self._remember(node, kind, number, data)
        clean = {k: v for k, v in data.items() if k not in {"kind", "self"}}
        self._log.tell(kind, node=node, time_ns=time_ns if time_ns >= 0 else None, **clean)

    def lose(self, node: int, text: str, *, time_ns: int) -> None:
        """The ranks of a lost node failed, as far as anybody will ever know; who reads ``node_lost`` knows it, too.

        Args:
            time_ns: when it was last heard of.
        """
        ranks = self._ranks.get(node)
        if ranks is None:
            return
        for local_rank, (number, rank) in ranks.living.items():
            if number == self.round:
                self._failures[node, local_rank] = Failed(
                    node=node,
                    rank=rank,
                    time_ns=time_ns,
                    is_follower=False,
                    category=FailureCategory.LOST_NODE.value,
                    reasons=(f"Node {node} was lost: {text}.",),
                )
        ranks.living.clear()
        self._held = {one for one in self._held if one[0] != node}

    @property
    def is_holding(self) -> bool:
        """True while failed ranks wait to be looked at; as on one node, once one of them has gone on that is over for all."""
        return bool(self._held) and not self._is_hold_over

    def has_lost_ranks(self, node: int) -> bool:
        """True if this lost node's ranks belong to the last round that was formed."""
        ranks = self._ranks.get(node)
        return ranks is not None and ranks.round == self.round

    def living(self, node: int) -> list[int]:
        """This node's ranks of the last round that have not ended."""
        ranks = self._ranks.get(node)
        return sorted(rank for number, rank in ranks.living.values() if number == self.round) if ranks else []

    def has_ranks(self, node: int) -> bool:
        """True if any rank of this node was ever started."""
        ranks = self._ranks.get(node)
        return ranks is not None and ranks.round >= 0

    @property
    def root(self) -> Failed | None:
        """The earliest failure of the last round that did not merely follow another one."""
        failures = list(self._failures.values())
        return min(failures, key=lambda f: (_is_follower(f, failures), f.time_ns, f.rank), default=None)

    def end(self, state: str, *, root_rank: int | None, text: str, category: str, reasons: tuple[str, ...]) -> None:
        """Tell the run's last word."""
        self._upkeep.__exit__(None, None, None)
        self._log.tell(
            "run_finished",
            state=state,
            root_rank=root_rank,
            text=self._with_own_folder(text),
            category=category,
            reasons=list(reasons),
        )
        self._log.flush(timeout_s=1.0)
        self._log.retry(DETACHED_RETRY_S if self._is_detached else RETRY_S)
        self._log.release()
        self._log.close()

    def _with_own_folder(self, text: str) -> str:
        """A node names its own folder, which goes with it; everything is in the run's."""
        return self._there.sub(lambda _: self._here, text)

    def _remember(self, node: int, kind: str, number: int, data: Mapping[str, Any]) -> None:
        if number > self.round:
            self.round = number
            self._failures.clear()
        ranks = self._ranks.setdefault(node, Ranks())
        local_rank = untrusted.integer(data.get("local_rank"), -1)
        if kind == "worker_started":
            if number > ranks.round:
                ranks.round = number
                ranks.living.clear()
            ranks.living[local_rank] = (number, untrusted.integer(data.get("rank"), -1))
        elif kind == "worker_held" and data.get("why") == "failure":
            self._held.add((node, local_rank))
        elif kind == "worker_released":
            self._is_hold_over |= (node, local_rank) in self._held
        elif kind == "worker_exited":
            ranks.living.pop(local_rank, None)
            self._is_hold_over |= (node, local_rank) in self._held
        elif kind == "worker_failed" and number == self.round and isinstance(failure := data.get("failure"), Mapping):
            self._failures[node, local_rank] = Failed(
                node=node,
                rank=untrusted.integer(data.get("rank"), untrusted.integer(failure.get("rank"), -1)),
                time_ns=untrusted.integer(failure.get("time_ns")),
                is_follower=bool(failure.get("followed")),
                category=untrusted.word(failure.get("category"), limit=100),
                reasons=untrusted.texts(failure.get("reasons")),
            )


def _put_right(time_ns: int, data: dict[str, Any], behind_ns: int) -> tuple[int, dict[str, Any]]:
    """The times of an event by our clock; it names two if it is a failure."""
    failure = data.get("failure")
    if isinstance(failure, Mapping) and (failed_ns := untrusted.integer(failure.get("time_ns"))) > 0:
        data = {**data, "failure": {**failure, "time_ns": max(0, failed_ns + behind_ns)}}
    return max(0, time_ns + behind_ns) if time_ns >= 0 else time_ns, data


def _is_follower(failure: Failed, failures: list[Failed]) -> bool:
    """As ``snapshot`` sees it: it lost a peer while another node's rank failed by itself."""
    return failure.is_follower or (
        failure.category == LOST_PEER
        and any(f.node != failure.node and not f.is_follower and f.category != LOST_PEER for f in failures)
    )
