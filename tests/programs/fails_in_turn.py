"""Ranks 1 and then 0 fail a little apart, round after round; each leaves the moment at which it did, in nanoseconds."""

import mmap
import os
import signal
import sys
import time

NONE = bytes(8)


def moment_of(start, rank):
    """Where a rank leaves its moment: in memory, since a call of the system could take time."""
    with open(f"{start}-{rank}", "r+b") as f:
        return mmap.mmap(f.fileno(), 8)


def main(gap_ms="20", first="1", how="raise"):
    rank, attempt = int(os.environ["RANK"]), os.environ["TORCHELASTIC_RESTART_COUNT"]
    first = (int(attempt) if first == "turn" else int(first)) % 2
    start = os.path.join(os.environ["NB_ELASTIC_RUN_DIR"], f"start-{attempt}")
    with open(f"{start}-{rank}", "wb") as f:
        f.write(NONE)
    others = [f"{start}-{r}" for r in range(int(os.environ["WORLD_SIZE"])) if r != rank]
    while not all(os.path.exists(path) and os.stat(path).st_size == 8 for path in others):
        time.sleep(0.001)
    mine, of_first = moment_of(start, rank), moment_of(start, first)
    mine[:] = NONE  # the page is there before it is needed
    if rank == first:
        time.sleep(0.05)
    else:
        while of_first[:] == NONE:
            time.sleep(0.0001)
        while time.time_ns() < int.from_bytes(of_first[:], "little") + float(gap_ms) * 1e6:
            time.sleep(0.0001)
    mine[:] = time.time_ns().to_bytes(8, "little")
    if how == "exit":
        os._exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError(f"rank {rank}, attempt {attempt}")


if __name__ == "__main__":
    main(*sys.argv[1:])
