"""No hang: for eight seconds nothing is printed and no line changes, but one thing tells that the ranks move.

Runs in: a rank of the tests: ``moves_by.py report|collectives|messages|child|reading|heartbeats|slow_words``.
"""

import os
import subprocess
import sys
import threading
import time

import torch
import torch.distributed as dist

import nb_elastic

SECONDS = 8
rank, end = int(os.environ["RANK"]), time.monotonic() + SECONDS


def beat():
    while time.monotonic() < end:
        print("alive", flush=True)
        time.sleep(0.1)


def pass_on(tensor):
    if rank == 0:
        time.sleep(0.05)
        dist.send(tensor, 1)
        return dist.recv(tensor, 1)
    dist.recv(tensor, 0)
    return dist.send(tensor, 0)


def read(megabytes):
    """Native code reads a file in one call."""
    with open("/dev/zero", "rb") as zeros:
        return len(zeros.read(megabytes << 20))


if sys.argv[1] in {"collectives", "messages", "heartbeats", "slow_words"}:
    dist.init_process_group("gloo")
one = torch.ones(1)
print("ready", flush=True)
if sys.argv[1] == "report":
    step = 0
    while step < SECONDS * 5:
        step = step + 1
        nb_elastic.report(step=step, total=SECONDS * 5)
        time.sleep(0.2)
elif sys.argv[1] == "collectives":
    for _ in range(SECONDS * 5):
        time.sleep(0.2 * (rank == 0))
        dist.all_reduce(one)
elif sys.argv[1] == "messages":
    for _ in range(SECONDS * 20):
        pass_on(one)
elif sys.argv[1] == "child":
    subprocess.run(
        [sys.executable, "-c", f"import time\nend = time.monotonic() + {SECONDS}\nwhile time.monotonic() < end: pass"],
        check=True,
    )
elif sys.argv[1] == "reading":
    while time.monotonic() < end:
        read(8)
        time.sleep(0.1)
elif sys.argv[1] == "heartbeats":  # words that prove nothing, beside collectives that do
    threading.Thread(target=beat, daemon=True).start()
    for _ in range(SECONDS * 2):
        time.sleep(0.5 * (rank == 0))
        dist.all_reduce(one)
elif (
    sys.argv[1] == "slow_words"
):  # the others wait for one that says from time to time that it waits for something else
    if rank == 1:
        threading.Thread(target=beat, daemon=True).start()
    while rank == 0 and time.monotonic() < end:
        time.sleep(0.3)
        print("still waiting", flush=True)
    dist.all_reduce(one)
print("done", flush=True)
