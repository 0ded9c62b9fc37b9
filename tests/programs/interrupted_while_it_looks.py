"""Looks at a run again and again while interrupts come at any moment; prints how many descriptors that left open.

Runs in: a test, which gives it the run's folder.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
from pathlib import Path

from nb_elastic.run import Run
from nb_elastic.rundir import RunDir

INTERRUPTS = 300


def main() -> None:
    """Take so many interrupts, each within a look."""
    run = Run(RunDir(Path(sys.argv[1])))
    run.snapshot  # noqa: B018  what the first look opens for good
    before = len(os.listdir("/proc/self/fd"))
    ready = threading.Semaphore(0)

    def press() -> None:
        for _ in range(INTERRUPTS):
            ready.acquire()
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    for _ in range(INTERRUPTS):
        with contextlib.suppress(KeyboardInterrupt):
            ready.release()
            while True:
                Run(run._folder).snapshot  # noqa: B018
    gc.collect()
    print(len(os.listdir("/proc/self/fd")) - before)


if __name__ == "__main__":
    main()
