"""Machines that join over a network that can be cut: pretended ones, with names as Debian has them.

A user would lose: a long run, because somebody stumbled over a cable.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nb_elastic.run import Run
from nb_elastic.rundir import RunDir
from tests.chaos.shim import Shim
from tests.engines.joiners import Joiner, joiners, token_in
from tests.engines.scenarios import told
from tests.support.cluster_hosts import STYLES, Host, Process, hosts
from tests.support.until import until

ROOT = Path(__file__).parents[2]
END_S = 180.0
pytestmark = pytest.mark.slow


class Notebook:
    """A launch on one machine that waits for others; its words are in a file."""

    def __init__(self, host: Host, folder: Path, *words: str) -> None:
        self.home, self.out = folder / "home", folder / "out"
        env = {"NB_ELASTIC_HOME": str(self.home), "PYTHONPATH": str(ROOT)}
        with self.out.open("wb") as file:
            self.process: Process = host.popen(
                sys.executable, "-m", "nb_elastic", "run", *words, env=env, stdout=file, stderr=subprocess.STDOUT
            )
        self.token = token_in(self.out, END_S)

    @property
    def text(self) -> str:
        """What it printed so far."""
        return self.out.read_text(errors="replace")

    @property
    def run(self) -> Run:
        """Its run."""
        (folder,) = [p for p in self.home.iterdir() if (p / "run.json").exists()]
        return Run(RunDir(folder))

    def says_last(self, words: str) -> None:
        """Wait until the run's newest line has these words."""
        until(lambda: words in self.text[-200:], END_S, f"{words!r} in: {self.text[-3000:]}")


@contextlib.contextmanager
def notebook(host: Host, folder: Path, *words: str) -> Iterator[Notebook]:
    """A launch, ended at the end."""
    found = Notebook(host, folder, *words)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait(30)


def test_a_machine_whose_cable_was_pulled_comes_back(tmp_path):
    go = tmp_path / "go"
    words = ("--nnodes", "1:2", "--nproc", "1", "--max-restarts", "9", "--engine", "join")
    with (
        hosts(2, style="debian") as net,
        joiners() as join,
        notebook(net[0], tmp_path, *words, "tests.programs.on_many_nodes:tick_until", str(go)) as launch,
    ):
        assert "can run code as you, here and on the nodes" in launch.text
        joiner: Joiner = join(launch.token, prefix=net[1].prefix)
        joiner.wait_for(f"Joined the notebook at {net[0].address}:", END_S)
        assert f"as {net[1].address} (node1)" in joiner.text
        launch.says_last("world 2")
        net[1].unplug()
        launch.says_last("world 1")
        lost = until(lambda: told(launch.run, "node_lost"), END_S, "the loss, which the others' group may see first")
        assert [e.node for e in lost] == [1]
        until(lambda: not any("nb_elastic.node" in _words(pid) for pid in net[1].pids()), 60, "the lease's end")
        net[1].plug()
        launch.says_last("world 2")
        go.touch()
        assert launch.process.wait(END_S) == 0, launch.text[-3000:]
        assert launch.run.results == {0: 2, 1: 2}
        assert {w.node for w in launch.run.snapshot.workers} == {0, 2}, "it came back as another node"


@pytest.mark.parametrize("style", STYLES)
def test_ranks_meet_whatever_their_machines_are_called(tmp_path, style):
    words = ("--nnodes", "2", "--nproc", "1", "--engine", "join")
    program = "tests.programs.on_many_nodes:add_up"
    with hosts(2, style=style) as net, joiners() as join, notebook(net[0], tmp_path, *words, program) as launch:
        join(launch.token, prefix=net[1].prefix)
        assert launch.process.wait(END_S) == 0, launch.text[-3000:]
        assert "ranks 0-1: 3.0" in launch.text


def test_a_machine_that_crashes_ends_a_fixed_group_and_the_reason_is_told(tmp_path):
    words = ("--nnodes", "2", "--nproc", "1", "--engine", "join")
    program = ("tests.programs.on_many_nodes:tick_until", str(tmp_path / "never"))
    with hosts(2) as net, joiners() as join, notebook(net[0], tmp_path, *words, *program) as launch:
        join(launch.token, prefix=net[1].prefix)
        launch.says_last("world 2")
        net[1].crash()
        assert launch.process.wait(END_S) == 1
        assert "Node 1 (node1) was lost" in launch.text
        assert launch.run.snapshot.category == "lost a peer"


def test_a_machine_whose_clock_is_wrong_is_not_blamed_for_that(tmp_path):
    """By its own clock it failed an hour before the other one."""
    shim = Shim.build(tmp_path)
    if shim is None:
        pytest.skip("needs a C compiler")
    shim.jump(-3600)
    words = ("--nnodes", "2", "--nproc", "1", "--engine", "join")
    program = "tests.programs.on_many_nodes:fail_one_after_the_other"
    with hosts(2) as net, joiners() as join, notebook(net[0], tmp_path, *words, program) as launch:
        join(launch.token, prefix=(*net[1].prefix, "env", *(f"{name}={value}" for name, value in shim.env.items())))
        assert launch.process.wait(END_S) == 1
        assert "The clock of node1 is 3600 s behind the notebook's machine's." in launch.text
        first, second = launch.run.failures
        assert (first.node, first.message, second.node) == (0, "bad batch of rank 0", 1)
        assert 0 < second.time_ns - first.time_ns < 30e9
        times = [e.time_ns for e in told(launch.run, "worker_started")]
        assert max(times) - min(times) < 60e9


def test_a_machine_with_another_version_is_sent_away_and_told_why(tmp_path):
    go = tmp_path / "go"
    words = ("--nnodes", "1:2", "--nproc", "1", "--engine", "join", "tests.programs.on_many_nodes:tick_until", str(go))
    with hosts(2) as net, joiners() as join, notebook(net[0], tmp_path, *words) as launch:
        with net[1].with_version("nb_elastic", "99.0"):
            joiner = join(launch.token, prefix=net[1].prefix)
            assert joiner.end(END_S) == 1
        assert "node1 has nb_elastic 99.0, and the notebook has nb_elastic" in joiner.text
        assert joiner.lines[-1] == "This machine can't take part: its node program ended with status 2."
        launch.says_last("world 1")
        go.touch()
        assert launch.process.wait(END_S) == 0
        assert "node1 has nb_elastic 99.0" in launch.text
        assert launch.run.results == {0: 1}


def _words(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
