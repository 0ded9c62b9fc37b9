"""A hundred nodes and a thousand, with eight ranks each: what the driver, the run folder and the kernel take. No rank is there.

Runs in: the benchmarks (``make bench-engines ARGS=scale``; ``ARGS='scale 300'`` for one size, ``ARGS='scale one 300'`` where one
command carries all nodes).

Driver and folder are real; the nodes are words (``tests/support/fleet_nodes``), said by other processes of this machine, whose
time is not counted. CPU seconds are told for each minute of a run, so that the machine's other work does not tell in them.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nb_elastic
from nb_elastic import snapshot
from nb_elastic.dashboard.cursor import Cursor
from nb_elastic.dashboard.files import RunFiles
from nb_elastic.engines import driven
from nb_elastic.lifeline import ProcessId, descendants
from nb_elastic.logreader import LogFollower
from nb_elastic.run import Run
from nb_elastic.rundir import RunDir
from tests.benchmarks.table import Row
from tests.support import fleet_engine, proc
from tests.support.until import until

SIZES = (100, 300, 1000)
NPROC = 8
LINES = 10
"""Lines of each rank in a second, of about 80 bytes."""
REST_S, LOUD_S = 6.0, 10.0
WAIT_S = 180.0
LEASE_S = 15.0
TICKS = os.sysconf("SC_CLK_TCK")


def pretended() -> None:
    """Never called: no rank is there."""


@dataclass
class Rows:
    """The rows of all sizes, by what they tell; in the order in which they were first filled."""

    found: dict[tuple[str, str], Row] = field(default_factory=dict)

    def add(self, who: str, what: str, value: float, unit: str = "s", note: str = "") -> None:
        """Put down one figure."""
        self.found[what, who] = Row(what, who, unit, [value], note=note)

    def all(self) -> list[Row]:
        """Sorted by what was asked."""
        asked = list(dict.fromkeys(what for what, _ in self.found))
        return [row for what in asked for (of, _), row in self.found.items() if of == what]


class Told:
    """Counts words in a journal as it grows, without folding it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._counts: dict[bytes, int] = {}

    def count(self, *kinds: str) -> int:
        """How many events of these kinds were told until now."""
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
            data = data[: data.rfind(b"\n") + 1]
            self._offset += len(data)
            for line in data.splitlines():
                kind = line[10 : line.index(b'"', 10)]
                self._counts[kind] = self._counts.get(kind, 0) + 1
        return sum(self._counts.get(kind.encode(), 0) for kind in kinds)


@contextlib.contextmanager
def environment(folder: Path) -> Iterator[None]:
    """Find the fleet's engine, here and below."""
    before = dict(os.environ)
    os.environ.update(fleet_engine.environment(os.environ), NB_ELASTIC_HOME=str(folder / "home"))
    sys.path.append(str(fleet_engine.DIST))
    try:
        yield
    finally:
        sys.path.remove(str(fleet_engine.DIST))
        os.environ.clear()
        os.environ.update(before)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process until now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def per_minute(pid: int, seconds: float) -> tuple[float, float]:
    """CPU seconds of a process for each minute, over so many seconds; and how many these were."""
    began, before = time.monotonic(), cpu_s(pid)
    time.sleep(seconds)
    return (cpu_s(pid) - before) / (time.monotonic() - began) * 60, time.monotonic() - began


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def tree(path: Path) -> tuple[int, int, int]:
    """Folders, files, and bytes of the logs in a run folder."""
    folders = files = size = 0
    for at, below, names in os.walk(path):
        folders += len(below)
        files += len(names)
        size += sum((Path(at) / name).stat().st_size for name in names if name == "stdout.log")
    return folders, files, size


class Fleet:
    """A run of so many pretended nodes, looked at from all sides."""

    def __init__(self, nodes: int, links: str, rows: Rows, tell: Callable[[str], None]) -> None:
        self.nodes, self.rows, self._tell = nodes, rows, tell
        self.who = f"{nodes:,} nodes" + (", one link" if links == "one" else "")
        self.folder = Path(tempfile.mkdtemp(prefix="nbe-fleet-"))
        self._engine = f"fleet=links={links},lines={LINES},folder={self.folder}"

    def note(self, what: str, value: float, unit: str = "s", note: str = "") -> None:
        """One figure."""
        self.rows.add(self.who, what, value, unit, note)
        self._tell(f"  {self.who}: {what}  {value:.3f} {unit}  {note}")

    def measure(self) -> None:
        """From launch to stop."""
        began = time.monotonic()
        run = nb_elastic.launch(
            pretended, engine=self._engine, nnodes=str(self.nodes), nproc_per_node=NPROC, detach=True
        )
        told = Told(run.dir / "journal.jsonl")
        pid = 0
        try:
            until(lambda: told.count("worker_started", "run_finished") >= self.nodes * NPROC, WAIT_S, "all ranks")
            self.note("launch to the last worker_started in the journal", time.monotonic() - began)
            until(lambda: told.count("worker_ready") >= self.nodes * NPROC, WAIT_S, "all ranks ready")
            pid = json.loads((run.dir / "journal.jsonl").read_bytes().splitlines()[5])["pid"]
            self._at_rest(pid)
            self._by_the_kernel(run)
            self._under_logs(run, pid)
        finally:
            self._stop(run, told, pid)

    def _at_rest(self, pid: int) -> None:
        self.note("driver's CPU to begin", cpu_s(pid))
        minute_s, _ = per_minute(pid, REST_S)
        self.note("driver's CPU a minute, at rest", minute_s)
        self.note(
            "driver's descriptors",
            proc.descriptors(pid),
            "",
            f"limit {resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]:,}",
        )
        self.note("driver's threads", proc.threads(pid), "")
        self.note("driver's memory (RSS)", proc.Memory.of(pid).resident / 1e6, "MB")

    def _under_logs(self, run: Run, pid: int) -> None:
        _, _, before = tree(run.dir)
        (self.folder / "loud").touch()
        minute_s, took_s = per_minute(pid, LOUD_S)
        folders, files, after = tree(run.dir)
        share = (after - before) / (self.nodes * NPROC * LINES * 81 * took_s)
        self.note(
            "driver's CPU a minute, under logs",
            minute_s,
            note=f"{self.nodes * NPROC * LINES:,} lines/s, {share:.0%} arrived",
        )
        self.note("driver's descriptors under logs", proc.descriptors(pid), "")
        self.note("driver's memory under logs (RSS)", proc.Memory.of(pid).resident / 1e6, "MB")
        self.note("run folder: folders and files", folders + files, "", f"{folders:,} folders, {files:,} files")
        (self.folder / "loud").unlink()

    def _by_the_kernel(self, run: Run) -> None:
        folder = RunDir(run.dir)
        self.note("journal", folder.journal.stat().st_size / 1e6, "MB")
        self.note("kernel: fold of the journal (Run.snapshot)", timed(lambda: Run(folder).snapshot))
        now = snapshot.load(folder)
        self.note("dashboard: snapshot to JSON", timed(lambda: json.dumps(snapshot.to_json(now))))

        def picture() -> None:
            files = RunFiles(folder)
            for worker in now.workers:
                files.add(rank=worker.rank, local_rank=worker.local_rank, round_number=worker.round, node=worker.node)
            files.look()
            Cursor(files, {}).take()

        self.note("dashboard: a first look at all files", timed(picture))
        logs = LogFollower(folder)
        for worker in now.workers:
            logs.add(rank=worker.rank, local_rank=worker.local_rank, round_number=worker.round, node=worker.node)
        self.note(
            "kernel: one look at all logs, nothing new", timed(logs.read), note="up to 20 a second while logs grow"
        )

    def _stop(self, run: Run, told: Told, pid: int) -> None:
        before = cpu_s(pid) if pid else 0.0
        began = time.monotonic()
        (run.dir / "stop.json").write_text(json.dumps({"grace_s": 5.0, "by": "user"}))
        until(lambda: told.count("run_finished"), WAIT_S, "the run's end")
        if pid:
            self.note("stop to the run's last word", time.monotonic() - began)
            with contextlib.suppress(OSError):
                self.note("driver's CPU to stop", cpu_s(pid) - before)
            until(lambda: ProcessId.of(pid) is None, WAIT_S, "the driver's end")
        run.wait(1.0)
        driven.drivers.close()
        seen = [json.loads(path.read_text()) for path in self.folder.glob("seen-*.json")]
        if seen:
            silent_s = max(one["silent_s"] for one in seen)
            self.note("longest silence towards a node", silent_s, note=f"a node ends itself after {LEASE_S:g} s")


def measure(tell: Callable[[str], None], chosen: list[str]) -> list[Row]:
    """Fill the rows."""
    sizes = [int(word) for word in chosen if word.isdecimal()] or SIZES
    links = "one" if "one" in chosen else "many"
    rows = Rows()
    with tempfile.TemporaryDirectory(prefix="nbe-fleet-", ignore_cleanup_errors=True) as home, environment(Path(home)):
        for nodes in sizes:
            try:
                Fleet(nodes, links, rows, tell).measure()
            except (AssertionError, nb_elastic.ElasticError, OSError) as e:
                rows.found["it breaks", f"{nodes:,} nodes"] = Row(
                    "it breaks", f"{nodes:,} nodes", failures=1, note=str(e)[:300]
                )
                tell(f"  {nodes:,} nodes: {type(e).__name__}: {e}")
            finally:
                for pid in descendants(os.getpid()):
                    if found := ProcessId.of(pid):
                        found.signal(9)
    return rows.all()
