"""Ranks 1 and then 0 fail a little apart, round after round; each leaves the moment at which it did, in nanoseconds."""

import mmap
import os
import signal
import sys
import time


def main(gap_ms="20", first="1", how="raise"):
    rank, attempt = int(os.environ["RANK"]), os.environ["TORCHELASTIC_RESTART_COUNT"]
    first = (int(attempt) if first == "turn" else int(first)) % 2
    start = os.path.join(os.environ["NB_ELASTIC_RUN_DIR"], f"start-{attempt}")
    with open(f"{start}-{rank}", "wb+") as f:
        f.write(bytes(8))
        f.flush()
        moment = mmap.mmap(f.fileno(), 8)  # the moment is written without a call of the system, which could take time
    while not all(os.path.exists(f"{start}-{r}") and os.stat(f"{start}-{r}").st_size == 8 for r in range(2)):
        time.sleep(0.001)
    at = max(os.stat(f"{start}-{r}").st_mtime for r in range(2)) + 0.03 + (0 if rank == first else float(gap_ms) / 1000)
    while time.time() < at:
        pass
    moment[:] = time.time_ns().to_bytes(8, "little")
    if how == "exit":
        os._exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError(f"rank {rank}, attempt {attempt}")


if __name__ == "__main__":
    main(*sys.argv[1:])
