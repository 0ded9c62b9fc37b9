"""Tells, as JSON in the file OUT_<rank>_<attempt>.json, all that a user's code can see of its process. The first attempt fails."""

import os
import sys

modules_at_start = set(sys.modules)

import asyncio
import atexit
import ctypes
import gc
import json
import locale
import logging
import multiprocessing
import random
import resource
import secrets
import signal
import tempfile
import threading
import time
import uuid
import warnings

import numpy
import torch
import torch.distributed

libc = ctypes.CDLL(None)
libc.getenv.restype = ctypes.c_char_p


def c_environment():
    environ, found = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ"), {}
    i = 0
    while environ[i]:
        name, _, value = environ[i].partition(b"=")
        found[os.fsdecode(name)] = os.fsdecode(value)
        i += 1
    return found


def prctl(option):
    value = ctypes.c_int()
    libc.prctl(option, ctypes.byref(value), 0, 0, 0)
    return value.value


def draws():
    return {
        "random": random.random(),
        "random.Random": random.Random().random(),
        "random.getrandbits": random.getrandbits(64),
        "random.shuffle": random.sample(range(10**6), 8),
        "numpy": float(numpy.random.rand()),
        "numpy.default_rng": float(numpy.random.default_rng().random()),
        "numpy.RandomState": float(numpy.random.RandomState().rand()),
        "torch": float(torch.rand(1, dtype=torch.float64)),
        "torch.randperm": torch.randperm(10**4)[:8].tolist(),
        "torch.Generator": torch.Generator().seed(),
        "torch.initial_seed": torch.initial_seed(),
        "dropout": torch.nn.functional.dropout(torch.ones(256)).tolist(),
        "uuid1": str(uuid.uuid1()),
        "uuid4": str(uuid.uuid4()),
        "secrets": secrets.token_hex(8),
        "urandom": os.urandom(8).hex(),
        "tempfile": os.path.basename(tempfile.mktemp()),
        "authkey": multiprocessing.current_process().authkey.hex(),
        "semaphore": multiprocessing.get_context("spawn").Lock()._semlock.name,
        "sklearn": sys.modules["sklearn.utils"].check_random_state(None).randint(2**31)
        if "sklearn" in sys.modules
        else secrets.randbits(31),
    }


def streams():
    return {
        name: (
            repr(text),
            text.errors,
            text.line_buffering,
            text.write_through,
            text.name,
            text.mode,
            text.isatty(),
            text is getattr(sys, f"__{name}__"),
        )
        for name, text in (("stdin", sys.stdin), ("stdout", sys.stdout), ("stderr", sys.stderr))
    }


def signals():
    status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
    return {
        "handlers": {
            s.name: str(signal.getsignal(s)) for s in signal.Signals if s not in (signal.SIGKILL, signal.SIGSTOP)
        },
        "blocked": status["SigBlk"].strip(),
        "ignored": status["SigIgn"].strip(),
        "pending": status["ShdPnd"].strip(),
        "wakeup_fd": signal.set_wakeup_fd(-1),
        "timers": [signal.getitimer(which) for which in range(3)],
        "death": prctl(2),
    }


def processes():
    me = multiprocessing.current_process()
    return {
        "current": [me.name, list(me._identity), me.daemon, me.pid == os.getpid(), sorted(me._config)],
        "parent": multiprocessing.parent_process(),
        "children": len(multiprocessing.active_children()),
        "method": multiprocessing.get_start_method(allow_none=True),
        "mp_main": sys.modules["__mp_main__"] is sys.modules["__main__"],
        "original_dir": multiprocessing.process.ORIGINAL_DIR == os.getcwd(),
        "tracker": [
            multiprocessing.resource_tracker._resource_tracker._fd,
            multiprocessing.resource_tracker._resource_tracker._pid,
        ],
        "leads": [os.getpgrp() == os.getpid(), os.getsid(0) == os.getpid()],
        "subreaper": prctl(37),
    }


def threads():
    main = threading.main_thread()
    return {
        "main": [main.name, main is threading.current_thread(), main.ident == threading.get_ident()],
        "native": [main.native_id == os.getpid(), threading.get_native_id() == os.getpid()],
        "all": [t.name for t in threading.enumerate()],
        "hooks": [
            threading.excepthook is threading.__excepthook__,
            threading.gettrace() is None,
            threading.getprofile() is None,
        ],
        "stack_size": threading.stack_size(),
    }


def interpreter():
    names = ("excepthook", "displayhook", "breakpointhook", "unraisablehook")
    return {
        "flags": repr(sys.flags),
        "warnoptions": sys.warnoptions,
        "settings": [
            sys.dont_write_bytecode,
            sys.getswitchinterval(),
            sys.getrecursionlimit(),
            sys.getdlopenflags(),
            sys.pycache_prefix,
        ],
        "traced": [sys.gettrace(), sys.getprofile()],
        "hooks": [getattr(sys, n) is getattr(sys, f"__{n}__") for n in names],
        "gc": [gc.isenabled(), gc.get_threshold(), gc.get_debug(), len(gc.callbacks), len(gc.garbage)],
        "executable": [sys.executable, sys.prefix, sys.base_prefix],
        "path": sys.path,
        "builtins": [type(__builtins__).__name__, sorted(vars(__builtins__))],
        "exit functions": atexit._ncallbacks(),
        "exit runs": len(multiprocessing.util._finalizer_registry),
        "filters": [repr(f) for f in warnings.filters],
        "showwarning": warnings.showwarning is warnings._showwarning_orig,
        "loops": asyncio._get_running_loop(),
        "policy": type(asyncio.get_event_loop_policy()).__name__,
    }


def loggers():
    found = [(n, one) for n, one in logging.root.manager.loggerDict.items() if isinstance(one, logging.Logger)]
    silent = [logging.NullHandler]  # libraries give themselves one at their import, which changes nothing
    return {
        "root": [repr(logging.root.handlers), logging.root.level, logging.root.disabled, logging.root.manager.disable],
        "classes": [repr(logging.getLoggerClass()), repr(logging.getLogRecordFactory())],
        "set": {
            n: [repr(one.handlers), one.level, one.propagate]
            for n, one in found
            if ([type(h) for h in one.handlers] not in ([], silent) or one.level)
            and not n.startswith("torch.distributed.elastic")
        },
        "astray": [
            repr(h)
            for h in (r() for r in logging._handlerList)
            if getattr(h, "stream", sys.stderr) not in (sys.stderr, None)
        ],
    }


def place():
    return {
        "limits": {n: resource.getrlimit(getattr(resource, n)) for n in dir(resource) if n.startswith("RLIMIT_")},
        "scheduling": [os.nice(0), os.sched_getscheduler(0), sorted(os.sched_getaffinity(0)), libc.syscall(252, 1, 0)],
        "kernel": {
            n: open(f"/proc/self/{n}").read().strip()
            for n in ("oom_score_adj", "coredump_filter", "timerslack_ns", "personality")
        },
        "dumpable": libc.prctl(3, 0, 0, 0, 0),
        "umask": os.umask(0o022),
        "user": [os.getuid(), os.geteuid(), os.getgid(), os.getegid(), os.getgroups()],
        "tempdir": tempfile.gettempdir(),
        "zone": [time.tzname, time.timezone, time.altzone, time.daylight, time.strftime("%H %Z", time.localtime(0))],
        "locale": [
            locale.setlocale(getattr(locale, c))
            for c in ("LC_CTYPE", "LC_COLLATE", "LC_NUMERIC", "LC_TIME", "LC_MESSAGES")
        ],
        "encoding": [locale.getpreferredencoding(False).lower(), sys.getfilesystemencoding()],
        "numbers": [
            torch.get_default_dtype().itemsize,
            torch.is_grad_enabled(),
            torch.get_num_interop_threads(),
            repr(numpy.geterr()),
        ],
        "debug level": str(torch.distributed.get_debug_level()),
        "cpu": time.process_time() < 60,
    }


def main():
    rank, attempt = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
    told = {
        "streams": streams(),
        "signals": signals(),
        "processes": processes(),  # before a draw starts the resource tracker
        "threads": threads(),
        "interpreter": interpreter(),
        "loggers": loggers(),
        "place": place(),
        "draws": draws(),
        "environment": {"python": dict(os.environ), "c": c_environment()},
        "modules": sorted(modules_at_start),
        "main": {
            k: repr(v)
            for k, v in vars(sys.modules["__main__"]).items()
            if k in ("__name__", "__doc__", "__package__", "__spec__", "__file__", "__annotations__", "__cached__")
        },
        "argv": [sys.argv, sys.orig_argv[1:]],
    }
    with open(f".OUT_{rank}_{attempt}", "w") as f:
        json.dump(told, f, default=repr)
    os.rename(f.name, f"OUT_{rank}_{attempt}.json")
    logging.getLogger("torch").warning("torch's own logger speaks")
    if attempt == "0":
        while not all(os.path.exists(f"OUT_{other}_0.json") for other in range(int(os.environ["WORLD_SIZE"]))):
            time.sleep(0.01)  # who fails first ends the others, which on a busy machine may not have begun
        sys.exit(1)


if __name__ == "__main__":
    main()
