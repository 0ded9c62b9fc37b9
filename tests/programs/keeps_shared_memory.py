"""Each rank, or a child in a session of its own, holds a block of shared memory and never frees it.

It prints the block's name, then returns, raises, or waits.
"""

import subprocess
import sys
import time
from multiprocessing.shared_memory import SharedMemory


def main(how):
    if how == "child":
        subprocess.run([sys.executable, __file__, "wait"], start_new_session=True)
        return
    block = SharedMemory(create=True, size=1 << 20)
    print(block.name, flush=True)
    if how == "raise":
        raise ValueError("with a block")
    if how == "wait":
        time.sleep(600)


main(sys.argv[1])
