"""What is asked and what is known of one rank's stack, as plain data.

Runs in: the kernel or command line, and the supervisor.
"""

from __future__ import annotations

from dataclasses import dataclass

from nb_elastic.model import Frame
from nb_elastic.rundir import RankDir
from nb_elastic.stacks_flight import Flight


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A rank to ask.

    Attributes:
        ended: the WorkerState in which it ended, or "" while it lives.
        held: where it is held, in words, or "".
    """

    rank: int
    local_rank: int
    pid: int
    start_ticks: int
    folder: RankDir
    node: int = 0
    ended: str = ""
    held: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStack:
    """Where one rank stands.

    Attributes:
        state: as in ``StackGroup``.
        doing: what it does, without the place, beginning with a verb: ``waits in all_reduce``.
        kind: one word of ``stacks_judge.KINDS``, or "".
        user: the innermost frame of the user's code.
        places: (file, line) of all frames of the user's, outermost first: where these change, the rank moves.
        is_for_others: only other ranks can end what it waits for.
        is_busy: its main thread uses a CPU.
    """

    rank: int
    pid: int
    state: str
    doing: str
    kind: str = ""
    frames: tuple[Frame, ...] = ()
    user: Frame | None = None
    places: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    flight: Flight | None = None
    is_for_others: bool = False
    is_busy: bool = False
