"""Rank 2 waits for a lock that nobody gives back, while a thread of every rank goes on to say that it lives."""

import threading
import time

import torch
import torch.distributed as dist


def beat():
    while True:
        print("alive", flush=True)
        time.sleep(0.1)


lock = threading.Lock()
dist.init_process_group("gloo")
threading.Thread(target=beat, name="heartbeat", daemon=True).start()
dist.all_reduce(torch.ones(3))
print("ready", flush=True)
if dist.get_rank() == 2:
    lock.acquire()
    lock.acquire()
dist.all_reduce(torch.ones(3))
