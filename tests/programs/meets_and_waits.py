"""All ranks meet over gloo, say ready and their umask, and wait until the file GO is there.

Runs in: a rank of the tests: ``meets_and_waits.py GO``. Where the run may restart, the first attempt fails on purpose.
"""

import os
import pathlib
import sys
import time

import torch
import torch.distributed as dist


def main(go):
    dist.init_process_group("gloo")
    group = dist.new_group(backend="gloo")
    x = torch.ones(1)
    dist.all_reduce(x)
    dist.all_reduce(x, group=group)
    dist.broadcast_object_list([x.tolist()])
    if os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0" and os.environ.get("TORCHELASTIC_MAX_RESTARTS") != "0":
        raise SystemExit(3)
    umask = os.umask(0)
    os.umask(umask)
    print(f"ready, umask {umask:04o}", flush=True)
    while not pathlib.Path(go).exists():
        time.sleep(0.02)
    dist.barrier()


if __name__ == "__main__":
    main(sys.argv[1])
