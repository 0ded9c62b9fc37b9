"""A process is asked where it stands: it answers whatever it waits in, and is none the worse for it.

A user would lose: the rank itself, if the question hurt it; and the truth, if two who ask mixed up their answers.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nb_elastic import stacks, stacks_proc
from nb_elastic.lifeline import ProcessId
from nb_elastic.rundir import RankDir
from nb_elastic.stacks_frames import Texts
from nb_elastic.stacks_nouns import RankStack, Target
from tests.support.until import until

ROOT = Path(__file__).parents[2]
BEFORE = """
import os, signal, sys, threading, time
from pathlib import Path
sys.path.insert(0, {root!r})
from nb_elastic import rankstacks
from nb_elastic.rundir import RankDir
rankstacks.install(RankDir(Path({folder!r})))
open({folder!r} + "/ready", "w").close()
"""

WAITS = {
    "a lock": ("lock = threading.Lock(); lock.acquire()\nlock.acquire()", "waiting", "lock", "waits for a lock"),
    "sleep": ("time.sleep(600)", "waiting", "sleep", "sleeps"),
    "a queue": ("import queue\nqueue.Queue().get()", "waiting", "queue", "waits at a queue"),
    "a thread": ("t = threading.Thread(target=time.sleep, args=(600,), daemon=True); t.start()\nt.join()", "waiting", "thread", "waits for a thread to end"),
    "a child": ("import subprocess\nsubprocess.run(['sleep', '600'])", "waiting", "child", "waits for a child process"),
    "a pipe": ("r, w = os.pipe()\nos.read(r, 1)", "waiting", "file", "waits to read from a pipe"),
    "a socket": ("import socket; a, b = socket.socketpair()\na.recv(1)", "waiting", "socket", "waits for a socket"),
    "stdin": ("r, w = os.pipe(); sys.stdin = open(r)\nsys.stdin.read()", "waiting", "input", "waits for input"),
    "its own loop": ("while True: pass", "busy", "loop", "computes"),
    "native code": ("import hashlib\nhashlib.pbkdf2_hmac('sha256', b'x', b'y', 1 << 30)", "busy", "native", "computes in native code"),
}  # fmt: skip


class Asked:
    """A process that answers, and its folder."""

    def __init__(self, folder: Path, code: str) -> None:
        self.path = folder / "program.py"
        before = BEFORE.format(root=str(ROOT), folder=str(folder))
        self.path.write_text(f"{before}{code}\n")
        self.line = len(before.splitlines()) + len(code.splitlines())
        self.folder = RankDir(folder)
        self.process = subprocess.Popen([sys.executable, str(self.path)], stdin=subprocess.DEVNULL)
        self.texts = Texts({})
        until(lambda: (folder / "ready").exists())

    def take(self) -> RankStack:
        """Where it stands."""
        identity = ProcessId.of(self.process.pid)
        target = Target(
            rank=0,
            local_rank=0,
            pid=self.process.pid,
            start_ticks=identity.start_ticks if identity else 0,
            folder=self.folder,
        )
        return stacks.take([target], texts=self.texts)[0]

    @property
    def is_alive(self) -> bool:
        """True while it runs."""
        return self.process.poll() is None


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    """Starts programs, and ends them and what they started."""
    started: list[Asked] = []

    def begin(code: str) -> Asked:
        started.append(Asked(tmp_path, code))
        return started[-1]

    yield begin
    for one in started:
        for child in stacks_proc.children(one.process.pid):
            os.kill(child.pid, signal.SIGKILL)
        one.process.kill()
        one.process.wait()


@pytest.mark.parametrize("what", WAITS)
def test_a_process_tells_what_it_waits_for_and_where(start, what: str):
    code, state, kind, doing = WAITS[what]
    one = start(code)

    def told() -> bool:
        found = one.take()
        assert (found.state, found.kind, found.doing) == (state, kind, doing), found
        assert found.user is not None
        assert (found.user.file, found.user.line, found.user.text) == (str(one.path), one.line, code.splitlines()[-1])
        return True

    until(told, 30)
    assert one.is_alive
    assert one.folder.stacks.stat().st_mode & 0o777 == 0o600


def test_asking_again_and_again_leaves_nothing_behind(start):
    one = start("while True: time.sleep(0.001)")
    fds = len(os.listdir(f"/proc/{one.process.pid}/fd"))
    for _ in range(5):
        one.take()
    assert one.is_alive
    assert sorted(p.name for p in one.folder.path.iterdir()) == ["program.py", "ready", "stacks.log"]
    assert len(os.listdir(f"/proc/{one.process.pid}/fd")) == fds
    assert len(os.listdir(f"/proc/{one.process.pid}/task")) == 1


def test_several_who_ask_at_once_all_get_the_whole_answer(start):
    one = start(
        "def deeper(n):\n    lock.acquire() if n == 0 else deeper(n - 1)\nlock = threading.Lock(); lock.acquire()\ndeeper(30)"
    )
    found: list[RankStack] = []
    threads = [threading.Thread(target=lambda: found.append(one.take())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(f.frames) for f in found] == [32] * 6
    assert one.is_alive


@pytest.mark.parametrize(
    ("code", "state"),
    [
        ("os.closerange(3, 4096)\ntime.sleep(600)", "waiting"),  # its number may be another file's by now
        ("os.execvp('sleep', ['sleep', '600'])", "waiting"),  # the signal would kill what has no handler for it
        ("[signal.signal(n, signal.SIG_DFL) for n in range(40, 50)]\ntime.sleep(600)", "waiting"),
        ("os.kill(os.getpid(), signal.SIGSTOP)", "stopped"),
    ],
)
def test_a_process_that_can_t_answer_is_left_in_peace(start, code: str, state: str):
    one = start(code)

    def told() -> bool:
        found = one.take()
        assert (found.state, found.frames) == (state, ())
        return True

    until(told, 30)
    assert one.is_alive


def test_a_process_that_blocks_all_signals_is_not_waited_for_long(start):
    one = start("signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\ntime.sleep(600)")
    until(lambda: stacks_proc.look(one.process.pid).wchan)
    found = one.take()
    assert found.frames == () and found.notes == ("No Python stack: it blocks the signals that ask it.",)


def test_a_child_that_the_user_s_code_forked_answers_for_itself(start):
    one = start("pid = os.fork()\nif pid == 0: time.sleep(600)\nos.waitpid(pid, 0)")

    def told() -> bool:
        found = one.take()
        (child,) = stacks_proc.children(one.process.pid)
        assert found.kind == "child" and found.user and found.user.line == one.line
        note = f"Its child process {child.pid} ({child.name}) sleeps, program.py, line {one.line - 1}."
        assert found.notes == (note,), found
        return True

    until(told, 30)


def test_a_dump_file_that_has_grown_is_emptied(start):
    one = start("lock = threading.Lock(); lock.acquire()\nlock.acquire()")
    until(lambda: one.take().kind == "lock", 30)
    with one.folder.stacks.open("ab") as f:
        f.truncate(5 << 20)
    assert one.take().frames
    assert one.folder.stacks.stat().st_size < 100_000
