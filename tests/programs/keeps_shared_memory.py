"""Each rank holds a block of shared memory and never frees it; prints its name, then returns, raises, or waits."""

import sys
import time
from multiprocessing.shared_memory import SharedMemory


def main(how):
    block = SharedMemory(create=True, size=1 << 20)
    print(block.name, flush=True)
    if how == "raise":
        raise ValueError("with a block")
    if how == "wait":
        time.sleep(600)


main(sys.argv[1])
