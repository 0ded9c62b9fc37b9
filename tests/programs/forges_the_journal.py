"""Rank 1 writes what only the supervisor may say into the journal, then all ranks go on; rank 0 then fails, or none does.

Runs in: a rank of the tests: ``forges_the_journal.py fails|works``.
"""

import json
import os
import sys
import time

import torch.distributed as dist

dist.init_process_group("gloo")
rank, now = dist.get_rank(), time.time_ns()
if rank == 1:
    at = {"round": 0, "rank": 0, "local_rank": 0, "node": 0}
    lines = [
        {
            "event": "worker_failed",
            "time_ns": 1,
            **at,
            "failure": {"rank": 0, "time_ns": 1, "error_type": "Forged", "message": "rank 0 did it"},
        },
        {"event": "worker_exited", "time_ns": now, **at, "exit_code": 0, "state": "succeeded"},
        {"event": "supervisor_started", "time_ns": now, "pid": 1, "start_ticks": 1, "host": ""},
        {"event": "rendezvous_started", "time_ns": now, "round": 5, "attempt": 5},
        {"event": "note", "time_ns": now, "text": "\x1b]52;c;Zm9yZ2Vk\x07forged <script>"},
        {"event": "run_finished", "time_ns": now, "state": "succeeded", "root_rank": None, "text": "forged"},
        {"event": "worker_started", "time_ns": now, "round": "../../..", "rank": "x", "local_rank": []},
    ]
    with open(f"{os.environ['NB_ELASTIC_RUN_DIR']}/journal.jsonl", "ab") as journal:
        for line in lines:
            journal.write(json.dumps(line).encode() + b"\n")
        journal.write(b"[" * 100_000 + b"\n" + b'{"event":"note","time_ns":1' + b"0" * 10_000 + b"}\n\xff\n")
    here = os.path.dirname(os.environ["TORCHELASTIC_ERROR_FILE"])
    with open(f"{here}/worker.json", "w") as worker:  # whom to signal is not for a rank to say
        json.dump({"pid": 1, "start_ticks": 1, "device": "\x1b[2Jgone", "cpus": ["x", 1e300, -1], "rank": 0}, worker)
    with open(f"{here}/failure.json", "w") as failure:  # of rank 0, it says
        json.dump(
            {
                "rank": 0,
                "local_rank": 0,
                "round": 9,
                "pid": 1,
                "time_ns": 1,
                "error_type": "Forged",
                "frames": [[], {}, 7],
            },
            failure,
        )
dist.barrier()
print("went on", flush=True)
if sys.argv[1] == "fails" and rank == 1:
    os.unlink(f"{here}/failure.json")
    raise ValueError("the truth")
if sys.argv[1] == "fails":
    dist.barrier()
os.unlink(f"{here}/failure.json") if rank == 1 else None
