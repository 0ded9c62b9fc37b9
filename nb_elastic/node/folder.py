"""The private folder of a node program or driver: made for its life, and swept by the next one where it had no time to.

Runs in: the node program, the driver.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

from nb_elastic import machine, private, reap, rundir
from nb_elastic.lifeline import ProcessId
from nb_elastic.rundir import RunDir

OWNER = "owner.json"
KINDS = ("node-", "d-")
OLD_S = 3600.0
"""A folder without an owner's name may be in the making for so long at most."""


def base() -> Path:
    """Folder of all node programs and drivers of this user on this machine."""
    return Path(tempfile.gettempdir()) / f"nb_elastic-{os.geteuid()}"


def make(name: str) -> Path:
    """Make this program's own folder, for this user alone.

    Args:
        name: ``node-`` or, for a driver, ``d-`` (Ray's sockets need a short one) and something of its own.

    Raises:
        OptionError: if it can't be made, or others could exchange what lies in it.
    """
    private.make(base())
    path = base() / name
    private.make(path)
    own = ProcessId.of(os.getpid())
    owner = {
        "pid": os.getpid(),
        "start_ticks": own.start_ticks if own else 0,
        "machine": machine.here(),
        "host": socket.gethostname(),
    }
    rundir.write_json(path / OWNER, owner)
    return path


def remove(path: Path) -> None:
    """Delete a folder of ``make``, or a run's in it."""
    shutil.rmtree(path, ignore_errors=True)


def sweep() -> None:
    """Delete what dead node programs and drivers left, and end the processes that their runs left."""
    with contextlib.suppress(OSError):
        for path in sorted(path for path in base().iterdir() if path.name.startswith(KINDS)):
            if private.is_ours(path) and _is_left(path):
                for run in path.iterdir():
                    if private.is_ours(run):
                        with contextlib.suppress(OSError):
                            reap.end_left(RunDir(run))
                remove(path)


def _is_left(path: Path) -> bool:
    told = rundir.read_json(path / OWNER)
    pid, ticks, where = told.get("pid"), told.get("start_ticks"), told.get("machine")
    if type(pid) is not int or type(ticks) is not int or not isinstance(where, str):
        return time.time() - path.lstat().st_mtime > OLD_S
    if told.get("host") != socket.gethostname():
        return False  # a TMPDIR that machines share
    if where.partition(" ")[0] != machine.boot_id():
        return True
    return where == machine.here() and not ProcessId(pid, ticks).is_alive
