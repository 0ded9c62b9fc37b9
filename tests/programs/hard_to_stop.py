"""Ranks that are hard to stop, each in its way; each says ``up`` when it is where it should be stopped, or about to wait there."""

import ctypes
import os
import signal
import subprocess
import sys
import time

SLEEP = "import signal, time\nfor n in (1, 2, 3, 15): signal.signal(n, signal.SIG_IGN)\ntime.sleep(600)"
DOUBLE = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True)"


def up():
    print("up", flush=True)


def up_before_gloo():
    """Say it in the last moment before gloo waits for the other ranks, in native code."""
    from torch.distributed import distributed_c10d as c10d

    gloo = c10d.ProcessGroupGloo

    def make(*args, **kwargs):
        up()
        return gloo(*args, **kwargs)

    c10d.ProcessGroupGloo = make


def python_code():
    up()
    while True:
        sum(range(1000))


def c_call_with_sigint_blocked():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    up()
    time.sleep(600)


def c_call_that_holds_the_gil():
    signal.signal(signal.SIGTERM, lambda *_: None)  # which can't run either
    libc, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(128)
    libc.pthread_mutex_lock(mutex)
    up()
    libc.pthread_mutex_lock(mutex)  # a deadlock with itself; no signal ends the wait


def peer_that_never_comes():
    import torch.distributed as dist

    if os.environ["RANK"] == "0":
        up_before_gloo()
        dist.init_process_group("gloo")
    up()
    time.sleep(600)


def collective_that_waits_for_a_peer():
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    if os.environ["RANK"] == "1":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        up()
        time.sleep(600)
    up()
    dist.all_reduce(torch.ones(1))


def collective_that_waits_for_a_stopped_peer():
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    up()
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGSTOP)
    dist.all_reduce(torch.ones(1)) if os.environ["RANK"] == "0" else time.sleep(600)


def peer_that_has_left():
    import torch.distributed as dist

    if os.environ["RANK"] == "0":
        up_before_gloo()
        dist.init_process_group("gloo")


def stopped():
    up()
    try:
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(600)
    finally:
        print("saved", flush=True)


def saves_for_3_s():
    try:
        up()
        time.sleep(600)
    finally:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            time.sleep(0.05)
        print("saved", flush=True)


def passes_over_everything():
    up()
    while True:
        try:
            time.sleep(0.05)
        except BaseException:
            pass


def ignores_all_signals():
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    up()
    while True:
        time.sleep(60)


def grandchildren():
    subprocess.Popen([sys.executable, "-c", SLEEP])
    subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True)
    subprocess.run([sys.executable, "-c", DOUBLE], check=True)
    up()
    time.sleep(600)


class Slow:
    def __len__(self):
        return 10**6

    def __getitem__(self, index):
        time.sleep(0.01)
        return index


def data_loader():
    from torch.utils.data import DataLoader

    for number, _ in enumerate(DataLoader(Slow(), num_workers=2, batch_size=2)):
        if number == 0:
            up()
