"""The ways in which a node program ends, each tested alone, with ranks that ignore all that can be ignored.

A user would lose: GPUs of machines that nobody looks after any more, held by ranks whose driver is gone.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile

import pytest

from nb_elastic import rundir
from nb_elastic.lifeline import ProcessId, descendants
from nb_elastic.node import folder
from tests.support.node_driver import ROOT, NodeProgram, folders
from tests.support.until import until

GONE_S = 5.0
"""The promise: by then nothing is left."""
SLACK_S = 5.0
"""For a machine that has more to do than it can; only a hang takes longer."""

IN_ANOTHER = "import subprocess, sys; subprocess.Popen(sys.argv[1:]).wait()"
IN_A_THREAD = """
import subprocess, sys, threading
started = []
thread = threading.Thread(target=lambda: started.append(subprocess.Popen(sys.argv[1:])))
thread.start()
thread.join()
started[0].wait()
"""


@pytest.fixture
def busy(tmp_path):
    """Starts node programs whose ranks will not die; tells which processes there are."""
    pids = tmp_path / "pids"

    def start(**more):
        node = NodeProgram(env={"WILL_NOT_DIE": str(pids), **more.pop("env", {})}, **more)
        try:
            node.wait_for("hello")
            node.run("tests.programs.will_not_die:main", run_id="busy", nproc=1)
            until(lambda: "up" in node.text("busy", "round_0/0/stdout.log"), 120, "the rank to be up")
        except BaseException:
            node.__exit__()
            raise
        return node

    start.pids = lambda: [ProcessId(*map(int, line.split())) for line in pids.read_text().splitlines()]
    return start


def all_gone(busy, also=()):
    """Wait until all that the ranks started is gone, and who else is named."""
    assert busy.pids()
    until(lambda: not [one for one in (*busy.pids(), *also) if one.is_alive], GONE_S + SLACK_S, "all to be gone")


def below(node):
    """The processes of a node program."""
    return [found for pid in descendants(node.process.pid) if (found := ProcessId.of(pid))]


def test_it_ends_with_its_stdin(busy):
    with busy() as node:
        its = below(node)
        node.hang_up()
        all_gone(busy, its)
        assert node.process.wait(GONE_S + SLACK_S) in {0, 1}


def test_it_ends_with_sigterm(busy):
    """As a batch system's cancel does it."""
    with busy() as node:
        its = below(node)
        node.process.terminate()
        all_gone(busy, its)
        assert node.process.wait(GONE_S + SLACK_S) in {0, 1}


def test_it_ends_when_nothing_is_heard_of_the_driver(busy):
    """Its stdin stays open: a cable was pulled, or the driver hangs."""
    with busy(has_pings=False, env={"NB_ELASTIC_NODE_LEASE_S": "20"}) as node:
        its = below(node)
        until(lambda: node.process.poll() is not None, 180, "the lease to end it")
        all_gone(busy, its)
        assert [line["why"] for line in node.of("bye")] in ([], ["nothing was heard of the driver for too long"])


def test_it_ends_though_its_supervisor_hangs(busy):
    with busy() as node:
        its = below(node)
        started = node.events("supervisor_started")[-1]
        assert ProcessId(started["pid"], started["start_ticks"]).signal(signal.SIGSTOP)
        node.hang_up()
        all_gone(busy, its)


def test_its_ranks_end_when_it_is_killed(busy):
    with busy() as node:
        its = below(node)
        node.process.kill()
        all_gone(busy, its)


def test_it_ends_with_its_parent(busy):
    """Whoever started it was killed, and somebody else still holds its stdin."""
    with busy(prefix=(sys.executable, "-c", IN_ANOTHER)) as node:
        its = below(node)
        node.process.kill()
        all_gone(busy, its)


def test_it_lives_on_when_a_thread_of_its_parent_ends():
    """The system's death signal follows threads; an engine may start nodes from one that ends."""
    with NodeProgram(prefix=(sys.executable, "-c", IN_A_THREAD)) as node:
        node.wait_for("hello")
        for n in range(3):
            node.send("reach", endpoint="127.0.0.1:1", nonce=n)
            node.wait_for("reached", count=n + 1)
        assert not node.of("bye")
        node.send("end")
        assert node.wait_for("bye")["why"] == "the driver said so"


def test_it_is_refused():
    with NodeProgram() as node:
        token = node.wait_for("hello")["from"]
        node.send("refuse", text="The driver runs Python 3.12, this node 3.11.")
        assert node.process.wait(30) == 2
        until(lambda: node.err == b"The driver runs Python 3.12, this node 3.11.\n")
        assert f"node-{token}" not in [path.name for path in folders()]


def test_what_is_no_frame_ends_it():
    with NodeProgram() as node:
        node.wait_for("hello")
        node.process.stdin.write(b"GET / HTTP/1.1\r\n\r\n")
        node.process.stdin.flush()
        assert "can't be read" in node.wait_for("bye")["why"]


def test_the_next_one_sweeps_what_a_killed_one_left():
    with NodeProgram() as node:
        node.wait_for("hello")
        pid = node.process.pid
        node.kill()
    (left,) = [path for path in folders() if rundir.read_json(path / "owner.json").get("pid") == pid]
    with NodeProgram() as node:
        until(lambda: not left.exists(), 180, "the folder to be swept")


def test_nobody_sweeps_what_another_machine_has_in_a_folder_that_both_share(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = {"pid": 1 << 22, "start_ticks": 1, "machine": "another-boot 1"}
    for name, host in (("node-1", "elsewhere"), ("d-2", "elsewhere"), ("d-3", socket.gethostname())):
        rundir.write_json(folder.make(name) / "owner.json", {**dead, "host": host})
    folder.sweep()
    assert [path.name for path in sorted(folder.base().iterdir())] == ["d-2", "node-1"]


def test_a_store_keeper_ends_with_its_stdin_and_its_parent():
    command = [sys.executable, "-m", "nb_elastic.node.store", "127.0.0.1"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": env}
    with subprocess.Popen(command, **pipes) as keeper:
        assert b'"endpoint": "127.0.0.1:' in keeper.stdout.readline()
        keeper.stdin.close()
        assert keeper.wait(30) == 0
    with subprocess.Popen([sys.executable, "-c", IN_ANOTHER, *command], **pipes) as parent:
        assert b'"endpoint"' in parent.stdout.readline()
        keepers = [found for pid in descendants(parent.pid) if (found := ProcessId.of(pid))]
        parent.kill()
        until(lambda: not [one for one in keepers if one.is_alive], 10, "the keeper to be gone")


def test_a_store_keeper_says_why_it_can_not_keep_one():
    command = [sys.executable, "-m", "nb_elastic.node.store", "192.0.2.1"]
    done = subprocess.run(
        command, input=b"", capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 1
    assert b'"why": "' in done.stdout
