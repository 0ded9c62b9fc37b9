"""Each rank, or a child in a session of its own, holds a block of shared memory and never frees it.

It prints the block's name, then returns, raises, or waits, with "stray" beside a child that left its session and keeps the tracker.
"""

import multiprocessing
import os
import subprocess
import sys
import time
from multiprocessing.shared_memory import SharedMemory


def stray(left):
    os.setsid()
    left.set()
    time.sleep(600)


def main(how):
    if how == "child":
        subprocess.run([sys.executable, __file__, "wait"], start_new_session=True)
        return
    block = SharedMemory(create=True, size=1 << 20)
    if how == "stray":
        spawn = multiprocessing.get_context("spawn")
        left = spawn.Event()
        spawn.Process(target=stray, args=(left,), daemon=True).start()
        left.wait()
    print(block.name, flush=True)
    if how == "raise":
        raise ValueError("with a block")
    if how in {"wait", "stray"}:
        time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1])
