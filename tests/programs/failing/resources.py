"""Programs that find a disk, a table or a limit of the system used up."""

import os
import resource
import tempfile

import torch

RANK = int(os.environ.get("RANK", 0))


def disk_is_full():
    with open(os.path.join(os.environ["NB_DISK"], f"checkpoint-{RANK}"), "wb") as f:
        for _ in range(100):
            f.write(b"x" * 100_000)


def too_many_open_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
    kept = []
    while True:
        kept.append(tempfile.TemporaryFile())


def file_grows_too_large():
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    torch.save(torch.ones(100_000), os.path.join(os.environ["NB_ELASTIC_RUN_DIR"], f"checkpoint-{RANK}"))
