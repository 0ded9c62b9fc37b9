"""Sets the chaos apart from the machine: processes, mounts, sockets, shared memory and clocks of its own.

Runs in: the chaos test. What is left behind is then all that is there, nobody else's process can be hit, and nothing
outlives the driver. Where namespaces can't be made (no root, no user namespaces) it runs without, and says what it can't see.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

APART = "NBE_CHAOS_APART"
"""Environment variable of the driver that runs in namespaces."""

_SETUP = (
    "ip link set lo up 2>/dev/null || echo 'chaos: no loopback (iproute2 is missing)' >&2; "
    "mount -t tmpfs -o size=2g,mode=1777 tmpfs /dev/shm; "
    '"$@"; exit $?'
)
"""The shell stays as process 1: it takes in orphans and reaps them, as a machine's init does."""


def is_apart() -> bool:
    """True in the driver that runs in namespaces."""
    return os.environ.get(APART) == "1"


def enter(module: str, arguments: Sequence[str], *, boot_s: int) -> int | None:
    """Run ``python -m module`` in namespaces and return its exit code; None where that is not possible.

    Args:
        boot_s: seconds by which the clocks that count from boot are ahead there.
    """
    command = [
        "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--ipc", "--net",
        "--time", "--monotonic", str(boot_s), "--boottime", str(boot_s),
    ]  # fmt: skip
    if os.geteuid() != 0:
        command.insert(1, "--map-root-user")
    can = shutil.which("unshare") and subprocess.run(
        [*command, "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], capture_output=True, check=False
    )
    if not can or can.returncode != 0:
        return None
    inside = [*command, "bash", "-c", _SETUP, "chaos", sys.executable, "-m", module, *arguments]
    return subprocess.run(inside, env={**os.environ, APART: "1"}, check=False).returncode
