"""Every rank leaves daemons (setsid, and a double fork); rank 1 dies when told to, rank 0 goes on.

Prints ``own pid`` and ``double pid``; waits for the file ``die`` (rank 1) or ``go`` (rank 0) in the run's folder.
"""

import os
import signal
import subprocess
import sys
import time

SLEEP = "import time; time.sleep(600)"
DOUBLE = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True, stdout=subprocess.DEVNULL).pid)"


def main():
    own = subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True)
    double = subprocess.run([sys.executable, "-c", DOUBLE], stdout=subprocess.PIPE, text=True).stdout
    print(own.pid, int(double), flush=True)
    rank = os.environ["RANK"]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while not os.path.exists(os.path.join(os.environ["NB_ELASTIC_RUN_DIR"], f"go{rank}")):
        time.sleep(0.02)
    if rank == "1":
        os.kill(os.getpid(), signal.SIGKILL)
