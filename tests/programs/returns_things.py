"""Functions that return this and that."""

import os
import signal
import threading


def rank():
    return {"rank": int(os.environ["RANK"]), "pid": os.getpid()}


def lock():
    return threading.Lock()


class Odd:
    def __repr__(self):
        raise RuntimeError("no repr")


def odd():
    return Odd()


def nothing():
    pass


def environment():
    import sys

    import torch

    return {
        "env": dict(os.environ),
        "argv": list(sys.argv),
        "cwd": os.getcwd(),
        "threads": torch.get_num_threads(),
        "path": list(sys.path),
        "fds": sorted(int(f) for f in os.listdir("/proc/self/fd")),
        "umask": os.umask(0),
        "sid": os.getsid(0),
        "pid": os.getpid(),
        "stdin": sys.stdin.read(),
        "main": sorted(k for k in vars(sys.modules["__main__"]) if not k.startswith("__")),
        "masked": [int(s) for s in __import__("signal").pthread_sigmask(0, [])],
        "title": open("/proc/self/cmdline", "rb").read().split(b"\0")[0].decode(),
    }


def draws():
    import random

    import numpy
    import torch

    return (random.random(), float(numpy.random.rand()), float(torch.rand(1)))


def allowances():
    import resource

    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], os.nice(0), *os.sched_getaffinity(0))


class Interrupted:
    """An interrupt comes while it is pickled: the work is done, and only the result is still to be written."""

    def __reduce__(self):
        signal.raise_signal(signal.SIGINT)
        return (str, ("kept",))


def interrupted_at_the_end():
    return Interrupted()
