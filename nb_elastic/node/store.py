"""``python -m nb_elastic.node.store ADDRESS``: keeps the store where the nodes of a run meet, and nothing else.

Runs in: the store keeper, a process of its own, off the training ranks: with the driver, or on a chosen node. It ends
when its stdin does, and with its parent.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NoReturn

from nb_elastic import lifeline

READ_BYTES = 4096


def main(argv: list[str]) -> int:
    """Serve until stdin ends; returns the exit code."""
    lifeline.hear_of_parent(os.getppid(), lambda: os._exit(0))
    out = os.dup(1)
    os.dup2(2, 1)  # torch may print
    try:
        from nb_elastic.supervisor import addresses, stores

        ip = addresses.resolve(argv[0] if argv else addresses.LOOPBACK)
        store = stores.serve(ip)
    except Exception as e:  # noqa: BLE001  the border of the process: whoever started it must hear why
        _tell(out, why=f"{type(e).__name__}: {e}")
        return 1
    _tell(out, endpoint=addresses.join_endpoint(ip, store.port))
    while os.read(0, READ_BYTES):
        pass
    return 0


def _tell(fd: int, **data: Any) -> None:
    os.write(fd, json.dumps({"type": "hosting", **data}).encode() + b"\n")


def _exit() -> NoReturn:
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # torch's teardown takes a while, and nobody waits for it


if __name__ == "__main__":
    _exit()
