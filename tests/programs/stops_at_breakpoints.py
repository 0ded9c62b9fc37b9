"""Stops in the way that its first argument names, without torch's help but for one way."""

import os
import pdb
import signal
import sys
import time


def count(limit):
    total = 0
    for step in range(limit):
        total += step
    return total


def main(how):
    if how == "saves":
        try:
            breakpoint()
            time.sleep(600)
        except KeyboardInterrupt:
            print("saved", flush=True)
            raise
    elif how == "own_handler":
        signal.signal(signal.SIGINT, lambda *_: sys.exit(print("handled", flush=True) or 4))
        breakpoint()
        time.sleep(600)
    elif how == "everywhere":
        breakpoint()
        total = count(3)
        pdb.set_trace(header="the second stop")
        if os.fork() == 0:
            breakpoint()
            os._exit(0)
        os.wait()
        print("total", total, flush=True)
    elif how == "exits":
        breakpoint()
        sys.exit(3)
    elif how == "torch":
        import torch.distributed as dist

        dist.init_process_group("gloo")
        dist.breakpoint(1)
        print("past", dist.get_rank(), flush=True)


main(*sys.argv[1:])
