"""How long the driver waits for what, all in one place.

Runs in: the driver.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds.

    Attributes:
        tick: longest time between two looks at the clock.
        ping: between two pings; a node that hears none for ``lease`` ends itself.
        lost: silence after which a node counts as lost.
        lease: silence after which a lost node can't come back, for it has ended itself.
        join: for the nodes a run needs at least; ``--rdzv-conf join_timeout`` says another.
        tell: until it is told what is waited for.
        settle: more nodes that come within this of the last needed one take part from the beginning.
        grow: between two looks for nodes that have appeared.
        reach: for the answer whether a node reaches the meeting place.
        host: for a store keeper to be there; it imports torch.
        fail: between a node's failure and the stop of all others.
        gone: grace of the ranks where whoever started the run is gone.
        margin: how long after a grace a node that does not end is given up.
        ship: for the last words of a node that has ended, where its link is still there.
        warm: for which the nodes wait for another run.
        close: for the nodes to end.
    """

    tick: float = 0.1
    ping: float = 1.5
    lost: float = 8.0
    lease: float = 15.0
    join: float = 600.0
    tell: float = 5.0
    settle: float = 0.2
    grow: float = 2.0
    reach: float = 4.0
    host: float = 60.0
    fail: float = 3.0
    gone: float = 1.0
    margin: float = 8.0
    ship: float = 5.0
    warm: float = 60.0
    close: float = 3.0


PACE = Pace()
