"""Rank 2's DataLoader has a worker that never delivers."""

import time

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset


class Slow(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 1 and dist.get_rank() == 2:
            time.sleep(10_000)
        return torch.ones(1)


dist.init_process_group("gloo")
print("ready", flush=True)
for batch in DataLoader(Slow(), num_workers=1):
    dist.all_reduce(batch)
