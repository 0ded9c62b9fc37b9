"""Rank 2 is stopped, as by Ctrl-Z or a debugger that was left."""

import os
import signal

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
print("ready", flush=True)
if dist.get_rank() == 2:
    os.kill(os.getpid(), signal.SIGSTOP)
dist.all_reduce(torch.ones(3))
