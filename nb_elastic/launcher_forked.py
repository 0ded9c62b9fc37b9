"""What a launcher and its molds have forked, known to all of them; whatever else comes to them was left by a dead supervisor.

Runs in: the launcher and its molds.

The launcher adopts what loses its parents below it. A supervisor and its forkserver each sweep what the other leaves; where
both die at once, the children of their ranks come here.
"""

from __future__ import annotations

import os

from nb_elastic import killing, lifeline
from nb_elastic.lifeline import ProcessId

LOOKS = 20
"""Most looks for strays that fork while they are being killed."""


class Forked:
    """The pids of supervisors and molds, in unnamed memory that forks share."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("nb_elastic-forked", os.MFD_CLOEXEC)

    def add(self, pid: int) -> None:
        """Tell of a child that was just forked."""
        if identity := ProcessId.of(pid):
            os.write(self._fd, b"%d %d\n" % (identity.pid, identity.start_ticks))

    def close(self) -> None:
        """In a supervisor, which has no use for it."""
        os.close(self._fd)

    def end_strays(self) -> int:
        """Kill children of this process that are none of those, with all below them; returns how many that were."""
        count, known = 0, self._known()
        for _ in range(LOOKS):
            strays = [pid for pid in lifeline.children(os.getpid()) if ProcessId.of(pid) not in known]
            if not strays:
                break
            count += killing.kill_pids(p for stray in strays for p in (stray, *lifeline.descendants(stray)))
        return count

    def _known(self) -> set[ProcessId | None]:
        told = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        return {
            ProcessId(int(pid), int(ticks)) for pid, _, ticks in (x.partition(b" ") for x in told.split(b"\n") if x)
        }
