"""What one node does about the others of its group: meets them, misses one that is lost, and waits for all at the end.

Runs in: the supervisor.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from torch.distributed.elastic.rendezvous import RendezvousError as TorchRendezvousError
from torch.distributed.elastic.rendezvous import RendezvousHandler

from nb_elastic.model import WorkerFailure
from nb_elastic.supervisor import failures_judge
from nb_elastic.supervisor.rendezvous_c10d import ENDED, FreshStoreRendezvous
from nb_elastic.supervisor.rendezvous_static import StaticRendezvous
from nb_elastic.supervisor.stopping import Stopper

POLL_S = 0.05
"""How often the group is looked at while something depends on it."""
LEAVE_S = 3.0
"""How long the others may take to see that all are done."""
SEEN = "seen"

_log = logging.getLogger(__name__)


def meet(handler: RendezvousHandler, form: Callable[[], None]) -> None:
    """Form the group; anew where it failed and went on while this node still looked for its ranks in the store."""
    while True:
        try:
            form()
        except RuntimeError as e:
            if not (isinstance(handler, StaticRendezvous) and handler.has_moved_on()):
                raise
            _log.info("The group is in another round already: %s", e)
        else:
            return


def misses_a_node(group: FreshStoreRendezvous | None, failures: Iterable[WorkerFailure], stopper: Stopper) -> bool:
    """True if ranks failed because a node is gone, and the rest is enough: the group re-forms, at no restart's cost.

    A lost node's keep-alives stop some seconds later than its connections, so that is waited for.
    """
    told = list(failures)
    if group is None or not group.can_lose or not told or not all(map(failures_judge.is_lost_peer, told)):
        return False
    deadline = time.monotonic() + group.loss_s
    while time.monotonic() < deadline:
        if change := group.change():
            return change != "closed"
        with stopper.interruptible():
            time.sleep(POLL_S)
    return False


def wait_for_ends(group: FreshStoreRendezvous) -> None:
    """Wait until the ranks of all nodes are done, or a node is gone; torch's own way takes five minutes to miss it.

    Who hosts what the nodes ask stays until the others have their answer. If it is gone all the same, nobody is
    left to wait for.
    """
    try:
        is_done = group.reach(ENDED)
        while not is_done():
            if group.change() not in {"", "waiting"}:
                return
            time.sleep(POLL_S)
        is_seen = group.reach(SEEN)
        deadline = time.monotonic() + LEAVE_S
        while group.hosts_round and not is_seen() and time.monotonic() < deadline:
            time.sleep(POLL_S)
    except (RuntimeError, TorchRendezvousError) as e:
        _log.info("The node that the others ask has left: %s", e)
