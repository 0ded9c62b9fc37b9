"""Rank 2 waits for a key that nobody sets."""

import datetime

import torch.distributed as dist

dist.init_process_group("gloo")
store = dist.distributed_c10d._get_default_store()
store.set_timeout(datetime.timedelta(hours=1))
print("ready", flush=True)
if dist.get_rank() == 2:
    store.get("config/rank-1")
dist.barrier()
