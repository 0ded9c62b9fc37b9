"""Says in the run's folder that a process which is none of its own is the run's, then kills whoever looks after the run.

Runs in: a rank of the tests: ``names_a_decoy.py PID``.
"""

import json
import os
import signal
import sys
import time

from nb_elastic import lifeline, machine

decoy = lifeline.ProcessId.of(int(sys.argv[1]))
run, here = os.environ["NB_ELASTIC_RUN_DIR"], os.path.dirname(os.environ["TORCHELASTIC_ERROR_FILE"])
who = {"pid": decoy.pid, "start_ticks": decoy.start_ticks}
with open(f"{run}/processes.jsonl", "a") as roll:
    roll.write(json.dumps({"machine": machine.here(), "processes": [[decoy.pid, decoy.start_ticks]]}) + "\n")
with open(f"{here}/worker.json") as told:
    words = json.load(told)
with open(f"{here}/worker.json", "w") as told:
    json.dump(words | who, told)
with open(f"{run}/journal.jsonl", "a") as journal:
    at = {"round": 0, "attempt": 0, "rank": 0, "local_rank": 0, "node": 0}
    journal.write(json.dumps({"event": "worker_started", "time_ns": time.time_ns(), **at, **who}) + "\n")
forkserver = os.getppid()
supervisor = int(lifeline.stat_fields(forkserver)[1])
print("named", flush=True)
os.kill(supervisor, signal.SIGKILL)
os.kill(forkserver, signal.SIGKILL)
time.sleep(600)
