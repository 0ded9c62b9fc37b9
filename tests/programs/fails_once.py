"""The first attempt fails in rank 1; later ones sum over gloo, with ranks out of step."""

import os
import time

import torch
import torch.distributed as dist


def main(skew_s="0.7"):
    rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    print(f"attempt {attempt}", flush=True)
    time.sleep(float(skew_s) * (rank == 0))
    dist.init_process_group("gloo")
    x = torch.ones(1)
    dist.all_reduce(x)
    if attempt == 0 and rank == 1:
        raise ValueError("the first time goes wrong")
    dist.all_reduce(x)
    dist.destroy_process_group()
    return float(x)
