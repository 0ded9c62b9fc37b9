"""Programs that run out of memory, of the machine or of a GPU."""

import ctypes
import mmap
import os
import resource
import time

import torch

RANK = int(os.environ.get("RANK", 0))


def _grow(mib):
    kept = []
    for _ in range(mib // 8):
        kept.append(b"x" * (8 << 20))
        time.sleep(0.004)
    return len(kept)


def fills_the_container(which="1"):
    """One rank takes all memory of the control group that the whole run is in."""
    if RANK == int(which):
        _grow(4096)
    time.sleep(60)


def fills_its_own_group(which="0"):
    """One rank is in a control group of its own, and takes all of its memory."""
    if RANK == int(which):
        with open(os.environ["NB_GROUP"] + "/cgroup.procs", "w") as f:
            f.write(str(os.getpid()))
        time.sleep(0.5)
        _grow(4096)
    time.sleep(60)


class Hungry(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        return _grow(4096)


def dataloader_worker_fills_the_container():
    if RANK == 1:
        for _ in torch.utils.data.DataLoader(Hungry(), num_workers=1):
            pass
    time.sleep(60)


def python_gets_no_memory():
    used = int(open("/proc/self/statm").read().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
    return bytearray(1 << 30)


def numpy_gets_no_memory():
    import numpy as np

    return np.ones((1 << 24, 1 << 24))


def torch_gets_no_memory():
    return torch.empty(1 << 50)


def cannot_fork():
    raise OSError(12, "Cannot allocate memory")


def memory_error_is_wrapped():
    try:
        bytearray(1 << 60)
    except MemoryError as e:
        raise RuntimeError("could not build the vocabulary") from e


def cpp_gets_no_memory():
    ctypes.CDLL("libstdc++.so.6")._ZSt17__throw_bad_allocv()


def shared_memory_is_full():
    torch.ones(8 << 20).share_memory_()


def cuda_out_of_memory():
    """As torch tells it; there is no GPU here."""
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.25 GiB of which 3.12 GiB is free."
    )


def cuda_out_of_memory_in_a_kernel():
    raise RuntimeError(
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call."
    )


def cublas_gets_no_memory():
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def cuda_out_of_memory_is_wrapped():
    try:
        cuda_out_of_memory()
    except torch.OutOfMemoryError:
        raise ValueError("step 17 failed")


def nccl_gets_no_memory():
    raise torch.distributed.DistBackendError(
        "NCCL error in: ProcessGroupNCCL.cpp:3356, unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.27.5\n"
        "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'"
    )
