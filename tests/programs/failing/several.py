"""Programs with more than one cause, or a cause in another rank or attempt than one would look at first."""

import os
import signal
import time

RANK = int(os.environ.get("RANK", 0))


def _met(name, count):
    """Wait until ``count`` ranks are here; return when the last one came."""
    start = os.path.join(os.environ["NB_ELASTIC_RUN_DIR"], name)
    open(f"{start}-{RANK}", "w").close()
    while not all(os.path.exists(f"{start}-{r}") for r in range(count)):
        time.sleep(0.001)
    return max(os.stat(f"{start}-{r}").st_mtime for r in range(count))


def _spin_until(at):
    while time.time() < at:
        pass


def two_raise(gap_ms="20"):
    at = _met("two", 2) + 0.05
    _spin_until(at if RANK == 1 else at + float(gap_ms) / 1000)
    raise ValueError(f"rank {RANK}")


def one_is_killed_then_one_raises():
    at = _met("killed", 2) + 0.05
    _spin_until(at if RANK == 1 else at + 0.03)
    if RANK == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError("independent")


def one_exits_then_one_crashes():
    at = _met("exits", 2) + 0.05
    _spin_until(at if RANK == 1 else at + 0.03)
    if RANK == 1:
        os._exit(12)
    os.kill(os.getpid(), signal.SIGSEGV)


def last_of_four_raises():
    if RANK == 3:
        raise ValueError("only in the last rank")
    time.sleep(60)


def another_rank_in_each_attempt():
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if RANK == attempt:
        raise ValueError(f"attempt {attempt}")
    time.sleep(60)


def crashes_in_the_second_attempt():
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        raise ValueError("first attempt")
    if RANK == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def raises_while_it_is_being_ended():
    if RANK == 1:
        raise ValueError("the cause")

    def end(*_):
        raise OSError("could not save")

    signal.signal(signal.SIGTERM, end)
    time.sleep(60)
