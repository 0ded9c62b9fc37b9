"""What is measured on every engine: cells on two nodes, warm and cold; how late lines come; a node that joins, and crashes; a kernel that is killed.

Runs in: the benchmarks.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nb_elastic
from nb_elastic.engines import driven
from nb_elastic.lifeline import ProcessId, descendants
from nb_elastic.run import Run
from tests.benchmarks.engines_places import Place, wait_gone
from tests.engines.scenarios import logs_say, told
from tests.programs import on_many_nodes as programs
from tests.support import detached
from tests.support.kernel import Kernel
from tests.support.until import until

ROOT = Path(__file__).parents[2]
WAIT_S = 120.0
MEET = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
x = torch.ones(1)
dist.all_reduce(x)
print("MARK", x.item(), flush=True)
dist.destroy_process_group()
"""


class Launches:
    """A real kernel whose cells run on two nodes of two ranks.

    Args:
        engine: what ``--engine`` says.
    """

    def __init__(self, place: Place, engine: str) -> None:
        self.place = place
        self.home = Path(tempfile.mkdtemp(prefix="home", dir=place.folder))
        with place.entered():
            self.kernel = Kernel(cwd=ROOT, env={"NB_ELASTIC_HOME": str(self.home)})
        self.kernel.ok("%load_ext nb_elastic\nimport nb_elastic")
        self._line = f"%%elastic_launch --nnodes 2 --nproc 2 --engine {engine}"
        self._driver = 0

    def cell(self) -> float:
        """Seconds from the cell's sending to its first line after the all-reduce; its nodes must be those of the last cell."""
        done = self.kernel.ok(f"{self._line}\n{MEET}", timeout_s=WAIT_S)
        seconds = done.first("MARK")
        assert seconds is not None, done.text
        driver = self._driver_of_newest()
        was, self._driver = self._driver, driver
        assert was in {0, driver}, "the nodes were not warm any more"
        return seconds

    def warm_up(self) -> None:
        """Have nodes again, where the others took longer than ours wait."""
        self._driver = 0
        self.cell()

    def lags(self) -> list[float]:
        """Milliseconds from a line's printing, on any rank, until it lies in the run folder."""
        name = f"stamps-{self.place.name}"
        cell = self.kernel.start(
            f"{self._line} --name {name}\nfrom tests.programs import on_many_nodes as programs\nprograms.print_the_time()"
        )
        waiting = threading.Thread(target=self.kernel.wait, args=(cell,))
        waiting.start()
        folder = detached.run_named(self.home, name).path
        found: list[float] = []
        read: dict[Path, int] = {}
        while waiting.is_alive():
            for path in folder.glob("node_*/round_0/*/stdout.log"):
                whole, _, _ = path.read_bytes()[read.get(path, 0) :].rpartition(b"\n")
                now_ns = time.time_ns()
                found += [(now_ns - int(line)) / 1e6 for line in whole.split()]
                read[path] = read.get(path, 0) + len(whole)
            waiting.join(0.001)
        assert len(found) == 4 * programs.STAMPS, f"{len(found)} lines"
        return found

    def killed(self) -> float:
        """Seconds from the kernel's SIGKILL until nothing is left of its driver, nodes and ranks, on any machine."""
        name = f"doomed-{self.place.name}"
        self.kernel.start(
            f"{self._line} --name {name}\nfrom tests.programs import on_many_nodes as programs\nprograms.save_when_stopped()"
        )
        run = Run(detached.run_named(self.home, name))
        until(
            lambda: len(run.snapshot.workers) == 4 and logs_say(run, "waits", ranks=4), WAIT_S, "four ranks that wait"
        )
        found = family(run)
        self.kernel.kill()
        return wait_gone(found, 60.0)

    def close(self) -> None:
        """End the kernel."""
        self.kernel.close()

    def _driver_of_newest(self) -> int:
        newest = max(self.home.glob("*/journal.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        events = [json.loads(line) for line in newest.read_text().splitlines()]
        return int(next(e["pid"] for e in events if e["event"] == "supervisor_started"))


def family(run: Run) -> list[ProcessId]:
    """The driver, all node programs and what they started, by the names that this machine knows them by."""
    ids = {run.snapshot.supervisor_pid}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if run.id.encode() in (entry / "cmdline").read_bytes():
                ids |= _with_its_node(int(entry.name))
    found = [one for pid in ids if (one := ProcessId.of(pid)) is not None]
    assert len(found) >= 7, f"too few processes of {run.id}: {ids}"
    return found


def _with_its_node(pid: int) -> set[int]:
    """A process, its node program, and all that this started."""
    at = pid
    while at > 1:
        words = Path(f"/proc/{at}/cmdline").read_bytes().split(b"\0")
        if b"nb_elastic.node" in words:
            return {at, *descendants(at)}
        at = int(Path(f"/proc/{at}/stat").read_text().rpartition(")")[2].split()[1])
    return {pid}


@contextlib.contextmanager
def elastic(place: Place) -> Iterator[tuple[Run, Path]]:
    """A run of one to two nodes with a rank each; it ends when the file is there."""
    go = place.folder / "go"
    with place.entered():
        run = nb_elastic.launch(
            programs.tick_until,
            str(go),
            engine=place.elastic,
            nnodes="1:2",
            nproc_per_node=1,
            max_restarts=3,
            detach=True,
        )
    try:
        yield run, go
    finally:
        run.stop(0.0)
        run.wait(WAIT_S)
        driver = run.snapshot.supervisor_pid
        until(lambda: driver == 0 or ProcessId.of(driver) is None, WAIT_S, "the driver's end")
        driven.drivers.close()


def wait_for_world(run: Run, size: int) -> None:
    """Wait until all ranks of the last round say that they are so many."""

    def is_there() -> bool:
        now = run.snapshot
        if now.state.is_final:
            raise RuntimeError(f"the run is {now.state.value}: {now.text}")
        return logs_say(run, f"world {size}", ranks=size)

    until(is_there, WAIT_S, f"a world of {size}")


def joins_and_crashes(place: Place) -> tuple[float, float, float]:
    """Seconds to a world of two since a second machine is there, and since its node said hello; from its crash to a world of one."""
    with elastic(place) as (run, _):
        wait_for_world(run, 1)
        place.add()
        began = time.monotonic()
        wait_for_world(run, 2)
        joined_s = time.monotonic() - began
        greeted_s = time.time() - next(e.time_ns for e in told(run, "node_joined") if e.node == 1) / 1e9
        began = time.monotonic()
        place.crash(run)
        wait_for_world(run, 1)
        crashed_s = time.monotonic() - began
        until(lambda: [e.node for e in told(run, "node_lost")] == [1], WAIT_S, "a word of the lost node")
    return joined_s, greeted_s, crashed_s
