"""Ranks 1 and then 0 fail a little apart, round after round; the clock of the first is shared by a file of the run."""

import os
import sys
import time


def main(gap_ms="20", first="1"):
    rank, attempt = int(os.environ["RANK"]), os.environ["TORCHELASTIC_RESTART_COUNT"]
    first = (int(attempt) if first == "turn" else int(first)) % 2
    start = os.path.join(os.environ["NB_ELASTIC_RUN_DIR"], f"start-{attempt}")
    open(f"{start}-{rank}", "w").close()
    while not all(os.path.exists(f"{start}-{r}") for r in range(2)):
        time.sleep(0.001)
    at = max(os.stat(f"{start}-{r}").st_mtime for r in range(2)) + 0.03 + (0 if rank == first else float(gap_ms) / 1000)
    while time.time() < at:
        pass
    raise ValueError(f"rank {rank}, attempt {attempt}")


if __name__ == "__main__":
    main(*sys.argv[1:])
