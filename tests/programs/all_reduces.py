"""Sums the ranks over gloo."""

import sys

import torch
import torch.distributed as dist


def main(*args):
    dist.init_process_group("gloo")
    x = torch.ones(1) * (dist.get_rank() + 1)
    dist.all_reduce(x)
    print(f"rank {dist.get_rank()} of {dist.get_world_size()}: sum {int(x)}, args {args}")
    dist.destroy_process_group()
    return int(x)


if __name__ == "__main__":
    main(*sys.argv[1:])
