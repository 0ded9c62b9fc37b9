"""Rank 1 raises; then the wall clock is put back by an hour, and rank 0 raises, too. By the clock it was first.

The clock is that of ``tests/chaos/shim.py``, which has to be loaded.
"""

import os
import struct
import time
from pathlib import Path


def main():
    has_failed = Path(os.environ["NB_ELASTIC_RUN_DIR"], "rank_1_fails")
    if os.environ["RANK"] == "1":
        has_failed.touch()
        raise ValueError("the first")
    while not has_failed.exists():
        time.sleep(0.001)
    time.sleep(0.02)
    with open(os.environ["NBE_CHAOS_SHIM"], "r+b") as shim:
        shim.write(struct.pack("=q", -3600 * 10**9))
    raise KeyError("the second")


main()
