"""Leaves children of every kind behind: in the session, in a session of their own, a double fork."""

import os
import signal
import subprocess
import sys
import time

SLEEP = "import time; time.sleep(600)"


def main(how):
    here = subprocess.Popen([sys.executable, "-c", SLEEP])
    own = subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True)
    subprocess.run(
        [
            sys.executable,
            "-c",
            f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True)",
        ]
    )
    print(here.pid, own.pid, flush=True)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "raise":
        raise ValueError("with children")
    if how == "wait":
        time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1])
