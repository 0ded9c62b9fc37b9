"""The warm launcher forks only from a state that is safe to fork, and what stands by goes when nobody wants it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from nb_elastic.engines import warm
from nb_elastic.engines.warm import WarmLauncher
from nb_elastic.lifeline import ProcessId, descendants
from tests.support.supervise import ROOT
from tests.support.until import until


def title(pid: int) -> str:
    """What ps shows of a process; empty for one that is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f.read().split(b"\0")[0].decode()
    except OSError:
        return ""


def held(*modules: str) -> list[str]:
    """What the launcher says of modules, tried in a process of their own."""
    code = (
        "import json, os, signal\nfrom nb_elastic import launcher\nlauncher.starting.import_own()\n"
        f"told = launcher.hold({list(modules)!r})\nprint(json.dumps(told), flush=True)\n"
        "for pid in launcher.lifeline.descendants(os.getpid()):\n    os.kill(pid, signal.SIGKILL)\n"
    )
    env = {**os.environ, **warm.LAUNCHER_ENV}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT, timeout=120, env=env
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("tests.programs.starts_a_thread_when_imported", "imports left 2 threads"),
        ("tests.programs.exits_when_imported", "its import fails (SystemExit: usage: exits_when_imported FILE)"),
        ("tests.programs.leaves_a_child_when_imported", "its import leaves 1 processes"),
        ("no_such_module", "its import fails (ModuleNotFoundError: No module named 'no_such_module')"),
    ],
)
def test_a_module_that_must_not_be_kept_is_named_with_the_reason(module: str, reason: str):
    assert held("json", module, "joblib") == [module, reason]


def test_a_module_of_the_users_own_is_never_kept():
    module, reason = held("joblib", "tests.programs.returns_things")
    assert module == "tests.programs.returns_things"
    assert reason == f"it brings code that may still be edited ({ROOT}/tests/programs/returns_things.py)"


def test_an_installed_module_is_kept():
    assert held("joblib", "sklearn.linear_model") == ["", ""]


def test_an_import_that_never_ends_is_given_up():
    code = (
        "from nb_elastic import launcher\nlauncher.starting.import_own()\n"
        "print(launcher.hold(['json', 'tests.programs.never_imported'], limit_s=0.5))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.stdout == "('tests.programs.never_imported', 'its import takes more than 0.5 s')\n"


@pytest.fixture
def launcher():
    """A launcher of this process."""
    one = WarmLauncher()
    one.start()
    yield one
    one.close()


def ready(one: WarmLauncher) -> None:
    """Wait until its imports are done."""

    def is_ready() -> bool:
        one.look()
        assert one._molds, "the launcher ended"
        return one._molds[0].is_ready

    until(is_ready, 120)


def test_what_an_import_reads_of_the_environment_is_known(launcher: WarmLauncher):
    ready(launcher)
    read = launcher._molds[0].read
    assert {"TORCH_LOGS", "PYTORCH_JIT"} <= read
    assert not read & {
        "HOME",
        "PATH",
        "PYTEST_CURRENT_TEST",
    }  # somebody copied the environment whole: that asks for nothing


def test_a_launcher_has_one_thread_and_what_it_forks_waits_without_work(launcher: WarmLauncher):
    ready(launcher)
    launcher.stand_by(2)
    sock = launcher._molds[0].standby
    assert sock is not None and launcher._process is not None
    hello = json.loads(sock.recv(4096))
    waiting = [launcher._process.pid, *until(lambda: _found(launcher._process.pid, 4), 60)]
    assert int(hello["pid"]) in waiting
    # a rehearsal has threads for a moment; then all sleep, with one each, and nothing of CUDA is open
    until(lambda: all((_state(pid), len(os.listdir(f"/proc/{pid}/task"))) == ("S", 1) for pid in waiting), 60)
    links = [os.readlink(f"/proc/{pid}/fd/{fd}") for pid in waiting for fd in os.listdir(f"/proc/{pid}/fd")]
    assert not [link for link in links if "nvidia" in link]


def _found(root: int, count: int) -> list[int]:
    below = descendants(root)
    return below if len(below) == count else []


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rpartition(")")[2].split()[0]


def test_what_stands_by_ends_with_the_launcher_however_that_ends(launcher: WarmLauncher):
    ready(launcher)
    launcher.stand_by(2)
    assert launcher._process is not None
    pids = until(lambda: _found(launcher._process.pid, 4), 60)
    waiting = [p for p in map(ProcessId.of, pids) if p is not None]
    launcher._process.send_signal(signal.SIGKILL)
    until(lambda: not any(p.is_alive for p in waiting), 30)
    assert len(waiting) == 4


def test_a_supervisor_that_nobody_wants_any_more_ends_with_its_ranks(launcher: WarmLauncher):
    ready(launcher)
    launcher.stand_by(2)
    assert launcher._process is not None
    until(lambda: _found(launcher._process.pid, 4), 60)
    launcher.stand_by(0)
    launcher._molds[0].standby.close()
    until(lambda: not descendants(launcher._process.pid), 30)
    assert launcher._process.poll() is None


@pytest.mark.parametrize("why", ["IDLE_S", "ROOM_BYTES"])
def test_what_stands_by_goes_when_it_is_idle_or_memory_is_short(why: str):
    """A process of its own plays the launcher, with limits that are reached at once."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    value = {"IDLE_S": "0.2", "ROOM_BYTES": "1 << 60"}[why]
    code = (
        "import os, signal, socket, sys\nfrom nb_elastic.lifeline import blocked_signals\n"
        "from nb_elastic.supervisor import standby, starting\nstarting.import_own()\n"
        f"room = standby.has_room\nstandby.LOOK_S, standby.{why} = 0.05, {value}\n"
        "standby.has_room = lambda spares: True if spares else room(0)\n"
        f"sock = socket.socket(fileno={theirs.fileno()})\n"
        "with blocked_signals(signal.SIGCHLD):\n    pid = os.fork()\n    if pid == 0:\n"
        "        standby.begin(sock, spares=1, is_calm=True, parent=os.getppid(), born={}, leave=lambda: None)\n"
        "sock.close()\nos.waitpid(pid, 0)\nprint('gone')\n"
    )
    env = {**os.environ, **warm.LAUNCHER_ENV}
    with subprocess.Popen(
        [sys.executable, "-c", code], pass_fds=(theirs.fileno(),), stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT
    ) as process:
        theirs.close()
        hello = json.loads(ours.recv(4096))
        assert hello["pid"] in descendants(process.pid)
        assert ours.recv(4096) == b""
        assert process.communicate(timeout=60)[0] == "gone\n"
    ours.close()


@pytest.mark.parametrize("policy", ["SCHED_OTHER", "SCHED_IDLE"])
def test_a_scheduling_that_the_user_has_chosen_is_kept(policy):
    """A notebook under ``chrt --idle`` stays behind everybody else's work, with all its ranks."""
    code = (
        f"import os\nfrom nb_elastic import launcher\nos.sched_setscheduler(0, os.{policy}, os.sched_param(0))\n"
        "with launcher.low_priority():\n    print(os.sched_getscheduler(0) == os.SCHED_OTHER)\n"
        f"print(os.sched_getscheduler(0) == os.{policy})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.stdout.split() == ["False", "True"]


KILLED_SPARES = """
import os, signal
from nb_elastic.supervisor.spares import Spares
spares, taken = Spares(leave=lambda: None, can_fork=True), []
for _ in range(20):
    spares.missing = 2
    spares.fork(is_calm=False)
    spares.fork(is_calm=False)
    killed, living = sorted(spares.pids)
    os.kill(killed, signal.SIGKILL)
    taken.append(spares.take({}, buffers_fd=-1).pid == living)
    spares.dismiss()
print(taken.count(True))
"""

KILLED_FORKSERVER = """
import os, signal
from nb_elastic.supervisor.crew import ForkServer, ForkServerLostError
lost = 0
for _ in range(20):
    server = ForkServer(can_fork=True)
    os.kill(server.pid, signal.SIGKILL)
    try:
        server.adopt(title="x", buffers_fd=-1)
    except ForkServerLostError:
        lost += 1
    server.close()
print(lost)
"""


@pytest.mark.parametrize("code", [KILLED_SPARES, KILLED_FORKSERVER], ids=["rank", "forkserver"])
def test_what_was_killed_a_moment_before_a_launch_is_not_taken_for_it(code: str):
    """Where CPUs are busy it still lives for a while, and the run would die with it."""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.stdout == "20\n"
