"""Rank 0 ends in an odd way: in attempt n as argument n says; the others end well."""

import ctypes
import os
import signal
import sys
import time


class Unsayable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Unpicklable(Exception):
    def __init__(self):
        super().__init__("holds a lock")
        import threading

        self.lock = threading.Lock()


def recurse():
    return recurse()


def main(*hows):
    if os.environ["RANK"] != "0":
        return
    how = hows[int(os.environ["TORCHELASTIC_RESTART_COUNT"])]
    if how == "os_exit":
        os._exit(3)
    if how == "exit_0":
        raise SystemExit(0)
    if how == "exit_none":
        sys.exit()
    if how == "exit_7":
        sys.exit(7)
    if how == "exit_text":
        raise SystemExit("no data found")
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "unsayable":
        raise Unsayable
    if how == "unpicklable":
        raise Unpicklable
    if how == "group":
        raise eval("ExceptionGroup")("two at once", [ValueError("a"), KeyError("b")])
    if how == "recursion":
        recurse()
    if how == "memory":
        raise MemoryError("too much")
    if how == "syntax":
        import tests.programs.syntax_is_wrong
    if how == "surrogate":
        raise ValueError("a lone \udcff surrogate")
    if how == "long":
        raise ValueError("y" * 3_000_000)
    if how == "segv":
        ctypes.string_at(0)
    if how == "abort":
        os.abort()
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    if how == "hook":
        sys.excepthook = lambda kind, value, tb: print("the hook saw", kind.__name__, file=sys.stderr)
        raise ValueError("hooked")
    if how == "thread_left":
        import threading

        threading.Thread(target=time.sleep, args=(600,)).start()
        raise ValueError("with a thread left")


if __name__ == "__main__":
    main(*sys.argv[1:])
