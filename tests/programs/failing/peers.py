"""Programs in which one rank goes, or does not come, and another one fails for it."""

import datetime
import os
import signal
import subprocess
import sys
import time

import torch
import torch.distributed as dist

RANK = int(os.environ.get("RANK", 0))


def _init(timeout_s=60.0):
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=timeout_s))
    dist.all_reduce(torch.ones(1))


def one_returns_early():
    _init()
    if RANK != 1:
        dist.all_reduce(torch.ones(1))


def one_leaves_with_0():
    _init()
    if RANK == 1:
        os._exit(0)
    dist.all_reduce(torch.ones(1))


def one_leaves_with_9():
    _init()
    if RANK == 1:
        os._exit(9)
    dist.all_reduce(torch.ones(1))


def one_leaves_the_group_and_stays():
    _init()
    if RANK == 1:
        dist.destroy_process_group()
        time.sleep(60)
    dist.all_reduce(torch.ones(1))


def one_raises_in_send_and_receive():
    _init()
    if RANK == 1:
        raise LookupError("no gradient to send")
    dist.recv(torch.ones(1), src=1)


def one_crashes():
    import ctypes

    _init()
    if RANK == 1:
        ctypes.string_at(0)
    dist.all_reduce(torch.ones(1))


def several_see_one_go():
    _init()
    if RANK == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        dist.all_reduce(torch.ones(1))
    finally:
        dist.barrier()


def one_is_slow():
    _init(1.0)
    if RANK == 1:
        time.sleep(60)
    dist.all_reduce(torch.ones(1))


def barrier_times_out():
    _init()
    if RANK == 1:
        time.sleep(60)
    dist.monitored_barrier(timeout=datetime.timedelta(seconds=1))


def receive_times_out():
    _init(1.0)
    if RANK == 0:
        time.sleep(60)
    dist.recv(torch.ones(1), src=0)


def key_never_comes():
    _init()
    if RANK == 0:
        dist.PrefixStore("mine", dist.distributed_c10d._get_default_store()).set_timeout(datetime.timedelta(seconds=1))
        store = dist.distributed_c10d._get_default_store()
        store.wait(["weights are ready"], datetime.timedelta(seconds=1))
    time.sleep(60)


def watchdog_of_nccl_ends_one():
    """NCCL's words and its way to end a process, without a GPU."""
    if RANK == 0:
        os.write(
            2,
            b"[rank0]:[E1124 15:00:00.1 ProcessGroupNCCL.cpp:685] [Rank 0] Watchdog caught collective operation timeout: "
            b"WorkNCCL(SeqNum=3, OpType=ALLREDUCE, NumelIn=1, NumelOut=1, Timeout(ms)=600000) ran for 600012 milliseconds before timing out.\n"
            b"terminate called after throwing an instance of 'c10::DistBackendError'\n",
        )
        os.abort()
    time.sleep(60)


def loops_for_ever():
    while True:
        time.sleep(0.01)


def store_goes_away():
    """The program's own store, in a process that is killed."""
    code = "import sys, time, torch.distributed as d; s = d.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False); print(s.port, flush=True); time.sleep(60)"
    if RANK == 0:
        helper = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        store = dist.TCPStore("127.0.0.1", int(helper.stdout.readline()), is_master=False)
        store.set("a", "1")
        helper.kill()
        helper.wait()
        store.get("a")
        store.get("a")
    time.sleep(60)


def port_is_taken():
    first = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    dist.TCPStore("127.0.0.1", first.port, is_master=True, wait_for_workers=False)


def nobody_listens():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        dist.TCPStore("127.0.0.1", s.getsockname()[1], is_master=False, timeout=datetime.timedelta(seconds=1))


def waits_for_more_ranks_than_there_are():
    dist.TCPStore("127.0.0.1", 0, 3, is_master=True, timeout=datetime.timedelta(seconds=1))


def master_address_is_gone():
    del os.environ["MASTER_ADDR"]
    dist.init_process_group("gloo")
