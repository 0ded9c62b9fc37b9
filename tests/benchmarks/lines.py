"""Four ranks print 50,000 lines each: how long, how many lines are on disk afterwards, and what one print costs a rank.

Runs in: the benchmarks. ``python -m tests.benchmarks.lines 50000`` has the slow peer print all lines, too (minutes); else it prints
2,000 a rank, and its speed is compared.

Each launcher is measured with the program and with one that prints nothing, in the same turns; the difference is the printing. Python
is as a user's is: PYTHONUNBUFFERED, which would make a redirected rank write each line by itself, is taken out of the environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from nb_elastic.lifeline import descendants
from tests.benchmarks.first_line import forking_cell
from tests.benchmarks.table import Row, render, take_turns
from tests.support.kernel import Kernel

NPROC = 4
LINES = 50_000
PEER_LINES = 2_000
ROUNDS = 5
CHATTY = """
def chatty(lines):
    import os, time
    rank = os.environ.get("RANK", "0")
    began = time.process_time()
    for i in range(lines):
        print(f"rank {rank} step {i} loss {i * 0.001:.6f} some more words to make a usual line of text")
    return time.process_time() - began
"""
TIMED = f"{CHATTY}\nimport sys\ncpu_s = chatty({LINES})\nsys.stderr.write(str(cpu_s))\n"
OURS, TORCHRUN, PEER = "nb_elastic (files and notebook)", "torchrun --redirects 3 (files only)", "notebook_launcher"


def whole_lines(files: Iterable[Path]) -> int:
    """Lines of the program that stand in the files unharmed."""
    return sum(line.endswith(b"usual line of text") for file in files for line in file.read_bytes().splitlines())


class Torchrun:
    """The program under torchrun, its streams in files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.on_disk = 0

    def measure(self, lines: int) -> float:
        """Seconds of one run."""
        logs = Path(tempfile.mkdtemp(dir=self.folder))
        script = self.folder / "chatty.py"
        script.write_text(f"{CHATTY}\nchatty({lines})\n")
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={NPROC}", "--redirects", "3",
            "--log-dir", str(logs), str(script),
        ]  # fmt: skip
        started = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.monotonic() - started
        self.on_disk = max(self.on_disk, whole_lines(logs.rglob("stdout.log")))
        return seconds


class Ours:
    """The program in a cell of ours."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.on_disk = self.messages = 0
        kernel.ok("%load_ext nb_elastic\nimport nb_elastic")
        kernel.ok(CHATTY)
        kernel.ok(f"%%elastic_launch --nproc {NPROC}\n1")

    def measure(self, lines: int) -> float:
        """Seconds of one cell."""
        cell = self.kernel.ok(f"%%elastic_launch --nproc {NPROC}\nchatty({lines})")
        if lines:
            run_dir = Path(self.kernel.ok("print(nb_elastic.last_run().dir)").stdout.strip())
            self.on_disk, self.messages = whole_lines(run_dir.rglob("stdout.log")), len(cell.messages)
        return cell.seconds

    def cpu_s(self) -> float:
        """CPU seconds that one rank alone takes for all its prints."""
        self.kernel.ok(f"%%elastic_launch --nproc 1\nchatty({LINES})")
        return float(self.kernel.ok("print(nb_elastic.last_run().result())").stdout)


class Peer:
    """The program under accelerate's notebook_launcher, which forks the kernel: lines come as messages, there are no files.

    It hangs now and then; it is then measured once more, in a new kernel.
    """

    def __init__(self) -> None:
        self.arrived = self.hangs = 0
        self._start()

    def measure(self, lines: int) -> float:
        """Seconds of one cell."""
        try:
            return self._measure(lines)
        except AssertionError:
            self.hangs += 1
            self.close()
            self._start()
            return self._measure(lines)

    def close(self) -> None:
        """End the kernel and what it forked."""
        for pid in descendants(self.kernel.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.kernel.close()

    def _start(self) -> None:
        self.kernel = Kernel()
        self.kernel.ok(CHATTY + "\nimport torch\nfrom accelerate import notebook_launcher")

    def _measure(self, lines: int) -> float:
        cell = self.kernel.ok(forking_cell().replace("train, ()", f"chatty, ({lines},)"), timeout_s=60 + lines / 50)
        if lines:
            ends = "some more words to make a usual line of text"
            self.arrived = sum(text.startswith("rank ") and text.endswith(ends) for text in cell.text.splitlines())
        return cell.seconds


def plain_cpu_s(folder: Path, *options: str) -> float:
    """CPU seconds of all prints of one Python whose stdout is a file."""
    script = folder / "plain.py"
    script.write_text(TIMED)
    with (folder / "plain.log").open("wb") as log:
        done = subprocess.run([sys.executable, *options, script], stdout=log, stderr=subprocess.PIPE, check=True)
    return float(done.stderr)


def measure(tell: Callable[[str], None], peer_lines: int = PEER_LINES) -> list[Row]:
    """Fill the rows."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.pop("PYTHONUNBUFFERED", None)
    what, silent = (
        f"{NPROC} ranks x {LINES:,} printed lines, to the end",
        f"{NPROC} ranks that print nothing, to the end",
    )
    rows = [
        Row(what, TORCHRUN, is_reference=True),
        Row(what, OURS),
        Row(silent, TORCHRUN, is_reference=True),
        Row(silent, OURS),
    ]
    less = f"{NPROC} ranks x {peer_lines:,} printed lines, to the end"
    peers = [Row(less, PEER), Row(silent, PEER)]
    one = f"one print of a rank, CPU, of {LINES:,}"
    costs = [
        Row(one, "python script > file", unit="us", is_reference=True), Row(one, "python -u script > file", unit="us"), Row(one, OURS, unit="us"),
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nbe-")))
        theirs, ours = Torchrun(folder), Ours(stack.enter_context(Kernel()))
        turns = [
            lambda: theirs.measure(LINES),
            lambda: ours.measure(LINES),
            lambda: theirs.measure(0),
            lambda: ours.measure(0),
        ]
        take_turns(ROUNDS, rows, turns, tell)
        each = 1e6 / LINES
        prints = [
            lambda: plain_cpu_s(folder) * each,
            lambda: plain_cpu_s(folder, "-u") * each,
            lambda: ours.cpu_s() * each,
        ]
        take_turns(ROUNDS, costs, prints, tell)
        peer = Peer()
        stack.callback(peer.close)
        take_turns(1, peers, [lambda: peer.measure(peer_lines), lambda: peer.measure(0)], tell)
    rows[0].note = f"{theirs.on_disk:,} whole lines on disk"
    rows[1].note = f"{ours.on_disk:,} whole lines on disk; {ours.messages} messages to the notebook"
    peers[0].note = f"{peer.arrived:,} of {NPROC * peer_lines:,} lines arrived whole; hung {peer.hangs} times"
    return [*rows, *peers, *_printing(rows), *_speeds(rows, peers, peer_lines), *costs]


def _printing(rows: list[Row]) -> list[Row]:
    """The difference of each turn: what is left of a run when the launcher's own time is taken off."""
    found = []
    for loud, silent in (rows[:3:2], rows[1::2]):
        samples = [a - b for a, b in zip(loud.samples, silent.samples, strict=True)]
        found.append(
            Row("the same, own start and end taken off", loud.who, samples=samples, is_reference=loud.is_reference)
        )
    return found


def _speeds(rows: list[Row], peers: list[Row], peer_lines: int) -> list[Row]:
    """Lines a second, from the medians: so can one who prints fewer be compared."""
    found = []
    if not all(row.samples for row in peers):
        return []
    for loud, silent, lines in ((rows[1], rows[3], LINES), (peers[0], peers[1], peer_lines)):
        seconds = max(0.001, loud.median - silent.median)
        speed = NPROC * lines / seconds / 1_000
        found.append(
            Row(
                "lines a second, start and end off",
                loud.who,
                unit="k/s",
                samples=[speed],
                is_reference=loud is peers[0],
            )
        )
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="nbe-") as home:
        os.environ["NB_ELASTIC_HOME"] = home
        print(
            render(measure(lambda text: print(text, flush=True), int(sys.argv[1]) if len(sys.argv) > 1 else PEER_LINES))
        )
