"""How many descriptors there are for the nodes: of a thousand nodes none may keep another's links and logs from opening.

Runs in: the driver.
"""

from __future__ import annotations

import contextlib
import resource

OF_LINK = 4
"""Of a node's link: pipes, or a socket."""
FOR_FILES = 24
"""Files of a node that are kept open at most: the logs of eight ranks, and its own."""
LEAST = 2
OWN = 256


def allow(nodes: int) -> None:
    """Raise this process's limit to what so many nodes need, as far as the system lets it."""
    wanted = nodes * (OF_LINK + FOR_FILES) + OWN
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))


def of_each(nodes: int) -> int:
    """How many files of each of so many nodes may be kept open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return FOR_FILES
    return max(LEAST, min(FOR_FILES, (soft - OWN) // max(1, nodes) - OF_LINK))
