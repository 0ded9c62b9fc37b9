"""One rank raises in a function; the others wait for it in a collective."""

import os
import sys

import torch
import torch.distributed as dist


def fail(which):
    if int(os.environ["RANK"]) == which:
        raise ValueError("bad batch")


def main(which="1"):
    dist.init_process_group("gloo")
    print("before", flush=True)
    fail(int(which))
    dist.all_reduce(torch.ones(1))


if __name__ == "__main__":
    main(*sys.argv[1:])
