"""Rank 2 sleeps and the others wait for it; a thread of rank 0 goes on to say that it lives."""

import threading
import time

import torch
import torch.distributed as dist


def beat():
    while True:
        print("alive", flush=True)
        time.sleep(0.1)


dist.init_process_group("gloo")
dist.all_reduce(torch.ones(3))
print("ready", flush=True)
if dist.get_rank() == 0:
    threading.Thread(target=beat, name="heartbeat", daemon=True).start()
if dist.get_rank() == 2:
    time.sleep(10_000)
dist.all_reduce(torch.ones(3))
