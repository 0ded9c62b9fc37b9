"""Ranks that ignore every signal they can, forget whose death would end them, and have children in every corner.

Each process writes its pid and start time into the file that WILL_NOT_DIE names, so that a test knows of all.
"""

import ctypes
import os
import signal
import time

KEPT = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}


def harden():
    for number in signal.valid_signals() - KEPT:
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
    note()


def note():
    with open("/proc/self/stat", "rb") as f:
        ticks = f.read().rpartition(b")")[2].split()[19]
    fd = os.open(os.environ["WILL_NOT_DIE"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, b"%d %s\n" % (os.getpid(), ticks))
    os.close(fd)


def child(*, has_session, is_double):
    if os.fork():
        return
    try:
        if has_session:
            os.setsid()
        if is_double and os.fork():
            os._exit(0)
        harden()
        if os.fork() == 0:
            note()
        while True:
            time.sleep(60)
    finally:
        os._exit(0)


def mover():
    """A process that lives on in its child, and that in its child, in sessions of their own."""
    if os.fork():
        return
    try:
        while True:
            os.setsid()
            note()
            time.sleep(0.05)
            if os.fork():
                os._exit(0)
    finally:
        os._exit(0)


def main():
    harden()
    for has_session in (False, True):
        for is_double in (False, True):
            child(has_session=has_session, is_double=is_double)
    mover()
    print("up", flush=True)
    while True:
        time.sleep(60)
