"""Where episodes happen: a kernel with the extension loaded, on a small disk of its own, and what it held at rest.

Runs in: the chaos test.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nb_elastic import lifeline
from nb_elastic.rundir import RunDir
from tests.chaos import autopsy, namespaces
from tests.chaos.shim import Shim
from tests.support import leaks, proc
from tests.support.kernel import Cell, Kernel
from tests.support.until import until

ROOT = Path(__file__).parents[2]
DISK_BYTES = 64 << 20
REFERENCE_S = 0.35
"""A plain launch of two ranks takes about so long on two quiet cores."""
MOST_PACE = 30.0

HANDLERS = (
    "import gc, json, re, signal, threading\ngc.collect()\nprint({n.name: getattr(signal.getsignal(n), '__qualname__', str(signal.getsignal(n))) "
    "for n in signal.Signals})\nprint(json.dumps([re.sub(r'[0-9]+', '', t.name) for t in threading.enumerate()]))"
)
PLAIN = "%%elastic_launch --nproc 2 --render none --out plain\nimport os\nint(os.environ['RANK']) + 40"
PLAIN_LOOK = "print(plain.results, plain.state.value)"
PLAIN_SAYS = "{0: 40, 1: 41} succeeded\n"


@dataclass(frozen=True, kw_only=True)
class Rest:
    """What a kernel holds when nothing runs."""

    fds: Mapping[str, int]
    threads: Mapping[str, int]
    children: Mapping[str, int]
    handlers: str

    def beyond(self, before: Rest) -> set[str]:
        """What there is more of than before, in words."""
        more = {
            f"{name} {one}: {there.get(one, 0)} before, {count} now"
            for name, there, here in (
                ("descriptors", before.fds, self.fds),
                ("threads", before.threads, self.threads),
                ("children", before.children, self.children),
            )
            for one, count in here.items()
            if count > there.get(one, 0)
        }
        return more | ({f"signal handlers {self.handlers}"} if self.handlers != before.handlers else set())


@dataclass(kw_only=True)
class World:
    """One kernel and its folders; made anew when the kernel died. Use it as a context manager.

    Attributes:
        launch_pace: how much longer than on a quiet machine a plain launch took when the kernel was new.
        has_shim: the kernel's wall clock and disk can be changed.
    """

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="nbe-chaos-")))
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    has_disk: bool = False
    has_shim: bool = False
    launch_pace: float = 1.0
    trouble: list[str] = field(default_factory=list)

    @property
    def pace(self) -> float:
        """How much longer than on a quiet machine things take here, by a plain launch and by what waits for a CPU now."""
        waiting = os.getloadavg()[0] / (os.cpu_count() or 1)
        return max(self.launch_pace, min(MOST_PACE, waiting))

    def __enter__(self) -> World:
        self.disk, self.tmp, self.work = (self.folder / name for name in ("disk", "tmp", "work"))
        for one in (self.disk, self.tmp, self.work):
            one.mkdir()
        if namespaces.is_apart():
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", self.disk], check=True)
            self.has_disk = True
        self.home = self.disk / "home"
        self.shim = Shim.build(self.folder)
        self.kernel = self._start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.kernel.close()
        if self.has_disk:
            subprocess.run(["umount", "--lazy", self.disk], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def environ(self) -> dict[str, str]:
        """Environment of the kernel and of commands beside it."""
        return {
            **os.environ,
            "NB_ELASTIC_HOME": str(self.home),
            "TMPDIR": str(self.tmp),
            "IPYTHONDIR": str(self.folder / "ipython"),
            "OMP_NUM_THREADS": "1",
            leaks.MARK: self.mark,
            "PYTHONPATH": str(ROOT),
            **(self.shim.env if self.shim and self.has_shim else {}),
        }

    @property
    def is_alive(self) -> bool:
        """True while the kernel's process runs."""
        return lifeline.ProcessId.of(self.kernel.pid) is not None

    def renew(self, *, has_shim: bool | None = None) -> None:
        """A new kernel in the place of one that died, or of one of the other kind; one that is no good is told of, once."""
        self.kernel.close()
        if has_shim is not None:
            self.has_shim = has_shim
        if self.shim:
            self.shim.jump(0)
        try:
            self.kernel = self._start()
        except (AssertionError, RuntimeError) as e:
            self.trouble.append(f"a new kernel is no good: {e}")
            print(*autopsy.lines(self.home), sep="\n    ", flush=True)
            self.kernel.close()
            self.kernel = self._start()

    def take_trouble(self) -> list[str]:
        """What was wrong with new kernels since the last call."""
        found, self.trouble = self.trouble, []
        return found

    def runs(self) -> set[RunDir]:
        """Folders of runs."""
        return {RunDir(p) for p in self.home.glob("*") if p.is_dir()}

    def prune(self, keep: int = 20) -> None:
        """Delete old runs' folders: the disk is small, and an hour is long."""
        folders = sorted((run.path for run in self.runs()), key=lambda path: path.stat().st_mtime_ns)
        for path in folders[:-keep]:
            shutil.rmtree(path, ignore_errors=True)

    def launcher(self) -> int | None:
        """Pid of the kernel's launcher."""
        return proc.launcher_of(self.kernel.pid)

    def command(self, *words: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run ``nb-elastic`` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "nb_elastic", *words],
            env=self.environ, cwd=self.work, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def ask(self, expression: str) -> Any:
        """Value of an expression in the kernel, as JSON has it."""
        cell = self.kernel.ok(f"import json as _json\nprint(_json.dumps({expression}))", 60 * self.pace)
        return json.loads(cell.stdout)

    def rest(self) -> Rest:
        """What the kernel holds now."""
        pid = self.kernel.pid
        cell = self.kernel.ok(HANDLERS, 60 * self.pace)
        handlers, threads = cell.stdout.splitlines()
        return Rest(
            fds=Counter(k for k in map(_kind, Path(f"/proc/{pid}/fd").iterdir()) if "/ipython/" not in k),
            threads=Counter(json.loads(threads)),
            children=Counter(map(proc.role, lifeline.descendants(pid))),
            handlers=handlers,
        )

    def plain_launch(self) -> tuple[str, float]:
        """Launch what any notebook may launch; what its reader gets, and seconds."""
        began = time.monotonic()
        cell = self.kernel.run(PLAIN, 60 * self.pace)
        seconds = time.monotonic() - began
        return (self.kernel.run(PLAIN_LOOK, 60 * self.pace).stdout if cell.is_ok else cell.text), seconds

    def processes(self) -> set[lifeline.ProcessId]:
        """Living processes that a run started, or that started it: all that do not stand by for this kernel."""
        if namespaces.is_apart():
            pids = {int(p.name) for p in Path("/proc").glob("[0-9]*")}
            found = {lifeline.ProcessId.of(p) for p in pids - {1, os.getpid()} if not leaks.stands_by(p)}
            living = {p for p in found if p is not None}
        else:
            living = leaks.processes(self.mark)
        return {p for p in living if p.pid != self.kernel.pid}

    def listeners(self) -> set[str]:
        """Listening sockets, Unix and TCP, that the kernel did not have at rest; nothing where others' are seen, too."""
        return sockets() - self.listening if namespaces.is_apart() else set()

    def shared_memory(self) -> set[Path]:
        """What lies in /dev/shm; nothing where others' lies there, too."""
        return set(Path("/dev/shm").iterdir()) if namespaces.is_apart() else set()

    def half_written(self) -> set[Path]:
        """Files of runs that nobody finished."""
        return set(self.home.rglob(".*")) if self.home.exists() else set()

    def forget(self, found: set[Any]) -> None:
        """Remove what was left, so that one leak breaks one episode and not all that follow."""
        for one in found:
            if isinstance(one, Path):
                shutil.rmtree(one, ignore_errors=True) if one.is_dir() else one.unlink(missing_ok=True)

    def _settled(self) -> Rest:
        """What the kernel holds once that has not changed for a second."""
        last, since = self.rest(), time.monotonic()

        def is_at_rest() -> bool:
            nonlocal last, since
            if (now := self.rest()) != last:
                last, since = now, time.monotonic()
            return time.monotonic() - since > self.pace

        until(is_at_rest, 60, "a kernel at rest")
        return last

    def _start(self) -> Kernel:
        kernel = Kernel(cwd=self.work, env=self.environ)
        self.kernel = kernel
        kernel.ok("%load_ext nb_elastic\nimport nb_elastic, json")
        kernel.ok("print('x' * 300_000)")  # pyzmq has a thread for large messages from the first one on
        took = []
        for _ in range(3):
            kernel.run("%%elastic_launch --nproc 1\nprint('warm-up')\nraise ValueError('warm-up')")
            says, seconds = self.plain_launch()
            if says != PLAIN_SAYS:
                raise RuntimeError(f"a plain launch in a fresh kernel fails: {says}")
            took.append(seconds)
        self.launch_pace = max(1.0, min(10.0, sorted(took)[1] / REFERENCE_S))
        self.at_rest = self._settled()
        self.listening = sockets()
        return kernel


def _kind(fd: Path) -> str:
    """What a descriptor is, without its number."""
    try:
        return re.sub(r"\[?\d+\]?", "", os.readlink(fd))
    except OSError:
        return "gone"


def sockets() -> set[str]:
    """Every listening socket of this network namespace."""
    found = set()
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        words = line.split()
        if int(words[3], 16) & (1 << 16):
            found.add(f"unix {words[7] if len(words) > 7 else '(unnamed)'}")
    for table in ("tcp", "tcp6"):
        rows = [line.split() for line in Path("/proc/net", table).read_text().splitlines()[1:]]
        found |= {f"{table} {row[1]}" for row in rows if row[3] == "0A"}
    return found


def text_of(cell: Cell) -> str:
    """How a cell ended, in a line."""
    return "ok" if cell.is_ok else str(cell.error)[:300]
