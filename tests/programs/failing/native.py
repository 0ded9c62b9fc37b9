"""Programs that crash below Python, each in a real way."""

import ctypes
import mmap
import os
import signal
import sys
import tempfile
import time

import torch

RANK = int(os.environ.get("RANK", 0))


def _run(code):
    """Run machine code (x86-64)."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    ctypes.CFUNCTYPE(ctypes.c_int)(address)()


def reads_address_0():
    ctypes.string_at(0)


def only_in_rank(which="1"):
    if RANK == int(which):
        ctypes.string_at(0)
    time.sleep(60)


def aborts():
    os.abort()


def divides_by_zero():
    _run(b"\x31\xc9\x31\xd2\xb8\x01\x00\x00\x00\xf7\xf1\xc3")


def runs_a_wrong_instruction():
    _run(b"\x0f\x0b")


def overflows_the_stack():
    _run(b"\xe8\xfb\xff\xff\xff")


def reads_a_file_that_shrank():
    with tempfile.TemporaryFile() as f:
        f.truncate(1 << 20)
        page = mmap.mmap(f.fileno(), 1 << 20)
        f.truncate(0)
        return page[5000]


def frees_twice():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    one = libc.malloc(100)
    libc.free(one)
    libc.free(one)
    libc.free(one)


def throws_in_cpp():
    ctypes.CDLL("libstdc++.so.6")._ZSt20__throw_length_errorPKc(b"vector::_M_default_append")


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        ctypes.string_at(0)


def in_a_dataloader_worker():
    for _ in torch.utils.data.DataLoader(Rows(), num_workers=1):
        pass


def in_a_thread():
    import threading

    thread = threading.Thread(target=ctypes.string_at, args=(0,))
    thread.start()
    thread.join()


def on_the_gpu():
    """As torch tells it; there is no GPU here."""
    raise RuntimeError(
        "CUDA error: an illegal memory access was encountered\nCompile with `TORCH_USE_CUDA_DSA` to enable it."
    )


def with_handlers_off():
    """No stack is written: the signal alone must do."""
    import faulthandler

    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)
    sys.exit(0)
