"""Launches a run, is left without a file descriptor until the run is over, and prints how the launch ended.

Runs in: a test, which gives it a folder, and ``again`` where there are descriptors again once the supervisor is gone.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
from pathlib import Path

import nb_elastic
from nb_elastic import errors, follower
from nb_elastic.lifeline import ProcessId
from tests.support.until import until

PATIENCE_S = 1.0


def train(folder: str) -> str:
    """One rank, which ends when it is told to. Making a folder takes no descriptor."""
    os.mkdir(f"{folder}/begun")
    print("the first line")
    until(lambda: os.path.isdir(f"{folder}/go"))
    print("the last line")
    return "done"


def starve(folder: Path, *, is_given_back: bool) -> None:
    """Take the descriptors away while the rank waits."""
    until((folder / "begun").is_dir)
    until(lambda: nb_elastic.last_run().snapshot.supervisor_pid)
    now = nb_elastic.last_run().snapshot
    supervisor = ProcessId(now.supervisor_pid, now.supervisor_start_ticks).open()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    os.mkdir(folder / "go")
    end = threading.Event()
    _wait_for(supervisor)
    if not is_given_back:
        end.wait(4 * PATIENCE_S)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _wait_for(pidfd: int) -> None:
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll()


def main() -> None:
    """Launch, and tell."""
    folder, is_given_back = Path(sys.argv[1]), sys.argv[2:] == ["again"]
    if not is_given_back:
        follower.BLIND_S = PATIENCE_S
    thread = threading.Thread(target=starve, args=(folder,), kwargs={"is_given_back": is_given_back})
    thread.start()
    try:
        run = nb_elastic.launch(train, str(folder), nproc_per_node=1, render="plain")
        told = f"{run.state.value} {run.results}"
    except BaseException as e:  # noqa: BLE001  what kind it is, is asked here
        told = f"{type(e).__name__} {isinstance(e, errors.ElasticError)}: {e}"
    thread.join()
    print("launch:", told)
    print("attach:", nb_elastic.attach(nb_elastic.last_run().id).state.value)


if __name__ == "__main__":
    main()
