"""One srun and the node programs that it started: a link.

Runs in: the driver.

srun ends a whole step when its connection to one node breaks, unless SLURM_PTY_PORT is set in its environment (so says its
source, in ``step_launch_notify_io_failure``). On SIGTERM it ends the job that it made, at once, also one that waits; killed
while that waits, it would leave it in the queue. So SIGTERM is the signal that it gets when the driver dies.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import selectors
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from nb_elastic.engines.slurm_ask import said
from nb_elastic.engines.slurm_stream import SCRIPT, Merged, Task

ALWAYS = (
    "--ntasks-per-node=1", "--input=all", "--label", "--quiet", "--mpi=none", "--no-kill", "--kill-on-bad-exit=0", "--wait=0",
    "--export=ALL", "--cpu-bind=none",
)  # fmt: skip
GUARD = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
    signal.signal(number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Becomes srun, with SIGTERM for the death of its parent, and no signal blocked or ignored: its tasks would inherit that."""

SILENT_S = 20.0
"""A node program that hears nothing ends by itself after 15 s; one that is not heard for so long leaves its node to another."""
LINGER_S = 2.0
"""After its tasks' ends srun may take so long to end; it never does where a node went without a word."""
HELD_LINES = 512
"""Lines that wait to be read, of at most 32 kB each; then srun has to wait."""

_CANCELLED = re.compile(r"^(?:\s*\d+: )?slurmstepd\S*: error: \*\*\* .* CANCELLED AT \S+(?: DUE TO (.+?))? \*\*\*")
_NODE_FAILURE = re.compile(r"^srun: error: Node failure on (\S+)")
_TASKS_OVER = re.compile(r"^srun: error: \S+: tasks? ([\d,-]+): ")
_WHY = {
    None: "cancelled by scancel",
    "TIME LIMIT": "ended by Slurm at its time limit",
    "PREEMPTION": "preempted by another job",
    "NODE FAILURE": "ended by Slurm, because a node of it failed",
}


class Step:
    """An srun that runs, or waits for nodes.

    Args:
        words: options of srun, beyond those it always gets.
        command: what runs on each node.
        env: srun's environment, which the node programs get, too.
        log: file to which srun's stderr is appended, and the node programs' with it.
        tell: told, from a thread, that Slurm ends it: the node programs only see a signal.

    Attributes:
        mark: the comment of the job that it makes; "" for a step of a job that is there.
        has_started: set when the first node program has.
        is_over: set when srun is gone.
        was_killed: srun had to be killed: it may have left a job.
        why: why it is over, in Slurm's words; "" while it isn't, or if it was told to end.

    Raises:
        OSError: if srun can't be started.
    """

    def __init__(
        self,
        words: Sequence[str],
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        tell: Callable[[str], None],
        mark: str = "",
    ) -> None:
        guard = [sys.executable, "-I", "-S", "-c", GUARD, str(os.getpid())]
        self._argv = [*guard, "srun", *ALWAYS, *words, "sh", "-c", SCRIPT, *command]
        self._env, self._log, self._tell, self.mark = {**env, "SLURM_PTY_PORT": "0"}, log, tell, mark
        self.has_started, self.is_over, self.was_killed = threading.Event(), threading.Event(), False
        self.why = ""
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._lines: queue.Queue[bytes | None] = queue.Queue(HELD_LINES)
        self._merged = Merged()
        self._said, self._unsaid = deque[str](maxlen=50), b""
        self._end = ""
        self._is_waiting = self._is_closing = self._is_dropping = False
        self._process: subprocess.Popen[bytes] | None = None
        self._failures: list[OSError] = []
        tried = threading.Event()
        # srun's death signal follows the thread that forked it: this one, which stays until srun is over.
        self._writer = threading.Thread(target=self._run, args=(tried,), name="nb-elastic-srun-in", daemon=True)
        self._reader = threading.Thread(target=self._read, name="nb-elastic-srun-out", daemon=True)
        self._writer.start()
        tried.wait()
        if self._failures:
            self._writer.join()
            raise self._failures[0]
        self._reader.start()

    @property
    def tasks(self) -> list[Task]:
        """Node programs that have started."""
        return [task for task in list(self._merged.tasks.values()) if task.node]

    @property
    def job(self) -> str:
        """Id of its job, once a node program has started; else ""."""
        return next((task.job for task in self.tasks), "")

    @property
    def nodes(self) -> int:
        """How many node programs it started."""
        return next((task.nodes for task in self.tasks), 1)

    @property
    def is_starting(self) -> bool:
        """True until all its node programs have started."""
        return not self.is_over.is_set() and len(self.tasks) < self.nodes

    @property
    def is_alive(self) -> bool:
        """False once no node program can be heard of any more."""
        return not self.is_over.is_set() and not self._are_over(is_silence_told=False)

    @property
    def used(self) -> set[str]:
        """Nodes on which one of its node programs runs."""
        tasks = [] if self.is_over.is_set() else self.tasks
        return {task.node for task in tasks if task.code is None and not self._is_silent(task)}

    @property
    def said(self) -> str:
        """What srun said last, in one line."""
        lines = [line for line in self._said if line.startswith("srun: ")]
        return said("\n".join([line for line in lines if ": error: " in line] or lines))

    def send(self, frame: bytes) -> None:
        """Send a frame to all node programs."""
        if not self.is_over.is_set():
            self._frames.put(frame)

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of all node programs."""
        while (line := self._lines.get()) is not None:
            yield line

    def end(self) -> None:
        """Have the node programs' stdin end."""
        self._is_closing = True
        self._frames.put(None)

    def close(self, timeout_s: float = 10.0) -> None:
        """End the node programs and srun, and with it a job that it made."""
        self.end()
        deadline = time.monotonic() + timeout_s
        while self.has_started.is_set() and not self.is_over.wait(0.02) and time.monotonic() < deadline:
            if self._are_over(is_silence_told=True):
                self.is_over.wait(LINGER_S)
                break
        process = self._process
        if process is not None and not self.is_over.is_set():
            process.terminate()
            self._is_dropping = True
            if not self.is_over.wait(LINGER_S):
                process.kill()
                self.was_killed = True
        self._is_dropping = True
        self._writer.join()
        self._reader.join()

    def _are_over(self, *, is_silence_told: bool) -> bool:
        tasks = self.tasks
        return len(tasks) >= self.nodes and all(
            task.code is not None or (is_silence_told and self._is_silent(task)) for task in tasks
        )

    def _is_silent(self, task: Task) -> bool:
        return self._is_waiting and time.monotonic() - task.heard_at > SILENT_S

    def _run(self, tried: threading.Event) -> None:
        """Start srun, feed it, and wait for its end."""
        try:
            process = self._process = subprocess.Popen(
                self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self._env, cwd="/",
                start_new_session=True,
            )  # fmt: skip
        except OSError as e:
            self._failures.append(e)
            return
        finally:
            tried.set()
        if (stdin := process.stdin) is not None:
            with contextlib.suppress(OSError):
                while (frame := self._frames.get()) is not None:
                    stdin.write(frame)
                    stdin.flush()
            with contextlib.suppress(OSError):
                stdin.close()
        process.wait()

    def _read(self) -> None:
        """Hear srun out."""
        process = self._process
        if process is None or process.stdout is None or process.stderr is None:
            return
        out = process.stdout.fileno()
        with (
            process.stdout,
            process.stderr,
            self._log.open("ab", buffering=0) as log,
            selectors.DefaultSelector() as ways,
        ):
            ways.register(out, selectors.EVENT_READ)
            ways.register(process.stderr.fileno(), selectors.EVENT_READ)
            while ways.get_map():
                ready = ways.select(0)
                if not ready:
                    self._is_waiting = True
                    ready = ways.select()
                    self._is_waiting = False
                for key, _events in ready:
                    data = os.read(key.fd, 1 << 17)
                    if not data:
                        ways.unregister(key.fd)
                    elif key.fd == out:
                        self._take(data)
                    else:
                        log.write(data)
                        self._note(data)
            process.wait()
        if not self._is_closing:
            self.why = self._end or (self.said if process.returncode else "")
        self.is_over.set()
        self._frames.put(None)
        self._put(None)

    def _take(self, data: bytes) -> None:
        for line in self._merged.feed(data):
            self._put(line)
        if not self.has_started.is_set() and self.tasks:
            self.has_started.set()

    def _put(self, line: bytes | None) -> None:
        while True:
            try:
                self._lines.put(line, timeout=0.2)
            except queue.Full:
                if not self._is_dropping:
                    continue
                with contextlib.suppress(queue.Empty):
                    self._lines.get_nowait()
            else:
                return

    def _note(self, data: bytes) -> None:
        """Keep what srun said, and learn from it which node programs are over."""
        *lines, self._unsaid = (self._unsaid + data).split(b"\n")
        for line in (piece.decode("utf-8", "replace") for piece in lines):
            self._said.append(line)
            if found := _TASKS_OVER.match(line):
                self._merged.give_up(numbers=_numbers(found[1]))
            elif found := _NODE_FAILURE.match(line):
                self._merged.give_up(node=found[1])
            elif (found := _CANCELLED.match(line)) and not self._end:
                self._end = _WHY.get(found[1], f"ended by Slurm: {found[1]}")
                if not self._is_closing:
                    self._tell(f"Slurm job {self.job} was {self._end}.")


def _numbers(text: str) -> set[int]:
    """Of tasks: 0-2,5 is 0, 1, 2 and 5."""
    found: set[int] = set()
    for first, _, last in (part.partition("-") for part in text.split(",")):
        found |= set(range(int(first), int(last or first) + 1))
    return found
