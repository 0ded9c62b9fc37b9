"""Whether the supervisor of a run may still live, as far as it can be seen from here.

Runs in: the kernel or the command line.

=============================== ================================================================================
the supervisor ran              it is gone when
=============================== ================================================================================
under this kernel, our pids     no process has its pid and start time
under this kernel, a container  no process holds supervisor.log any more (a lock that dies with the last of them)
here, before a restart          another boot, and nobody has touched the journal for ``RESTART_S``
on another machine              nobody has touched the journal for ``SILENT_S``: a guess, which its last word undoes
never reported                  as in a container; where that can't be told, after ``ORPHAN_S``
=============================== ================================================================================
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass

from nb_elastic import machine
from nb_elastic.lifeline import ProcessId
from nb_elastic.rundir_paths import RunDir
from nb_elastic.snapshot_nouns import RunSnapshot

ORPHAN_S = 120.0
FIRST_S = 5.0
"""A run so young may not have got as far as opening supervisor.log."""
RESTART_S = 60.0
SILENT_S = 900.0
"""A supervisor touches its journal every twenty seconds (``supervisor.upkeep``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Why a run reads as lost.

    Attributes:
        is_certain: it was seen that the supervisor is gone; else it only was not heard of for long.
        survivors: how many of its ranks still run.
    """

    text: str
    is_certain: bool = True
    survivors: int = 0


def loss(snapshot: RunSnapshot, folder: RunDir, *, now_ns: int) -> Loss | None:
    """Why the run is lost; None for one that is over, or whose supervisor lives or may live."""
    if snapshot.state.is_final:
        return None
    if not snapshot.supervisor_pid:
        return _unreported(snapshot, folder, now_ns)
    who = f"the supervisor (pid {snapshot.supervisor_pid})"
    if is_under_our_kernel(snapshot):
        if not has_our_pids(snapshot):
            if machine.is_held(folder.supervisor_log) is not False:
                return None
            return Loss(text=f"the container of {who} is gone, and nobody holds its log any more")
        if ProcessId(snapshot.supervisor_pid, snapshot.supervisor_start_ticks).may_live:
            return None
        text = f"{who} vanished without a last word"
        if not folder.path.is_dir():
            text += f"; the run folder {folder.path} was deleted"
        if left := survivors(snapshot):
            text += f". {left} of its ranks may still run: `%elastic reap`, or `nb-elastic reap`, ends what a run left"
        return Loss(text=text, survivors=left)
    silent_s = (now_ns - _touched_ns(folder)) / 1e9
    if snapshot.host == socket.gethostname() and silent_s > RESTART_S:
        return Loss(text=f"the machine was restarted, and {who} went with that")
    if silent_s > SILENT_S:
        text = f"nothing was heard of {who} on {snapshot.host} for {silent_s / 60:.0f} min; it can't be looked for from here"
        return Loss(text=text, is_certain=False)
    return None


def is_under_our_kernel(snapshot: RunSnapshot) -> bool:
    """True if the supervisor runs, or ran, on this machine since it was last started."""
    here = machine.boot_id()
    if here and snapshot.boot_id:
        return snapshot.boot_id == here
    return snapshot.host in {"", socket.gethostname()}


def has_our_pids(snapshot: RunSnapshot) -> bool:
    """True if the run's pids mean the same here as where it runs."""
    return is_under_our_kernel(snapshot) and snapshot.pid_namespace in {0, machine.pid_namespace()}


def survivors(snapshot: RunSnapshot) -> int:
    """How many ranks of the last round still run."""
    ranks = [w for w in snapshot.workers if w.pid and not w.state.is_final]
    return sum(ProcessId(w.pid, w.start_ticks).is_alive for w in ranks) if has_our_pids(snapshot) else 0


def _unreported(snapshot: RunSnapshot, folder: RunDir, now_ns: int) -> Loss | None:
    if not folder.path.is_dir():
        return Loss(text=f"the run folder {folder.path} was deleted before a supervisor reported")
    age_s = (now_ns - (snapshot.created_ns or _made_ns(folder, now_ns))) / 1e9
    is_held = machine.is_held(folder.supervisor_log) if snapshot.boot_id == machine.boot_id() != "" else None
    if age_s < (FIRST_S if is_held is False else ORPHAN_S) or is_held:
        return None
    return Loss(text="no supervisor ever reported: it, or whoever was about to start it, ended before")


def _made_ns(folder: RunDir, now_ns: int) -> int:
    for path in (folder.run_json, folder.path):  # of a folder that was deleted by halves, run.json may be gone
        with contextlib.suppress(OSError):
            return path.stat().st_mtime_ns
    return now_ns


def _touched_ns(folder: RunDir) -> int:
    try:
        return os.lstat(folder.journal).st_mtime_ns
    except OSError:
        return 0
