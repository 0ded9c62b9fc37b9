"""Programs that somebody else ends: a helper process, as the system's user, a scheduler or a colleague would."""

import os
import signal
import subprocess
import sys
import time

import torch
import torch.distributed as dist

RANK = int(os.environ.get("RANK", 0))


def _have_it_sent(number, pid):
    code = f"import os, time; time.sleep(0.05); os.kill({pid}, {int(number)})"
    subprocess.Popen([sys.executable, "-S", "-c", code])


def by(name="SIGKILL", which="1"):
    if RANK == int(which):
        _have_it_sent(signal.Signals[name], os.getpid())
    time.sleep(60)


def while_others_wait_in_a_collective(name="SIGKILL", which="1"):
    dist.init_process_group("gloo")
    dist.all_reduce(torch.ones(1))
    if RANK == int(which):
        os.kill(os.getpid(), signal.Signals[name])
        time.sleep(60)
    dist.all_reduce(torch.ones(1))


def others_wrap_what_they_saw(which="1"):
    """The others' exceptions are of their own kind; what they came from tells that they only followed."""
    dist.init_process_group("gloo")
    dist.all_reduce(torch.ones(1))
    if RANK == int(which):
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        dist.all_reduce(torch.ones(1))
    except RuntimeError as e:
        raise ValueError("training step failed") from e


def others_exit_when_they_saw_it(which="1"):
    dist.init_process_group("gloo")
    dist.all_reduce(torch.ones(1))
    if RANK == int(which):
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        dist.all_reduce(torch.ones(1))
    except RuntimeError:
        sys.exit(1)


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        os.kill(os.getpid(), signal.SIGKILL)


def dataloader_worker():
    for _ in torch.utils.data.DataLoader(Rows(), num_workers=1):
        pass


def interrupted_by_somebody():
    _have_it_sent(signal.SIGINT, os.getpid())
    time.sleep(60)


def used_up_its_cpu_time():
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1, 1000))
    while True:
        pass
