"""Opens supervisors while its whole process group is interrupted without a pause, as an impatient user does it.

A front end's stop button signals the group: a child that is not in its own session yet gets it, too.
Prints how each supervisor ended: 3 where it lived to see the end of its stdin.
"""

import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

from nb_elastic.engines.seat import Seat
from nb_elastic.engines.local import LocalEngine

LIVES = 40


def main():
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, lambda *_: None)
    group, home = os.getpgrp(), Path(tempfile.mkdtemp())
    go, over = threading.Event(), threading.Event()
    sender = os.fork()
    if sender == 0:
        os.setpgid(0, 0)
        while os.getppid() != 1:
            os.killpg(group, signal.SIGINT)
        os._exit(0)
    ends = []
    seat = Seat(log=home / "log", env=dict(os.environ))
    for _ in range(LIVES):
        channel = LocalEngine().open(seat)
        channel.close()
        ends.append(channel.process.returncode)
    os.kill(sender, signal.SIGKILL)
    os.waitpid(sender, 0)
    sys.stdout.write(" ".join(map(str, ends)) + "\n")


if __name__ == "__main__":
    main()
