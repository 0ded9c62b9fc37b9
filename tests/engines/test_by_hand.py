"""The same command typed on each machine, as with torchrun: ``nb-elastic run --nnodes 2 --rdzv-endpoint HOST:PORT ...``.

On pretended machines, each with its own network, name, /etc/hosts and folder of runs. A user would lose: a group of
machines without a notebook that reaches them, on names as Debian and containers have them.
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
from tests.support.cluster_hosts import STYLES, Host, Process, hosts
from tests.support.until import until

ROOT = Path(__file__).parents[2]
PROGRAMS = "tests.programs.on_many_nodes"
END_S = 150.0
pytestmark = pytest.mark.slow


class Typed:
    """One such command."""

    def __init__(self, host: Host, folder: Path, words: tuple[str, ...], env: dict[str, str]) -> None:
        folder.mkdir()
        self.home, self.out = folder / "home", folder / "out"
        env = {"NB_ELASTIC_HOME": str(self.home), "PYTHONPATH": str(ROOT), **env}
        with self.out.open("wb") as file:
            self.process: Process = host.popen(
                sys.executable, "-m", "nb_elastic", "run", *words, env=env, stdout=file, stderr=subprocess.STDOUT
            )

    @property
    def text(self) -> str:
        """What it printed so far."""
        return self.out.read_text(errors="replace")

    @property
    def run(self) -> Run:
        """The run in its machine's own folder."""
        (folder,) = [p for p in self.home.iterdir() if (p / "run.json").exists()]
        return Run(RunDir(folder))

    def says(self, words: str, timeout_s: float = END_S) -> None:
        """Wait until it has printed something."""
        until(lambda: words in self.text, timeout_s, f"{words!r} in: {self.text}")

    def end(self, timeout_s: float = END_S) -> int:
        """Its exit status."""
        until(lambda: self.process.poll() is not None, timeout_s, f"the end; so far: {self.text}")
        return int(self.process.returncode)


@contextlib.contextmanager
def typing(net: list[Host], folder: Path) -> Iterator:
    """Type commands on machines; whatever still runs is ended."""
    typed: list[Typed] = []

    def type_on(number: int, *words: str, port: int = 29400, **env: str) -> Typed:
        endpoint = f"{net[0].address}:{port}"
        typed.append(Typed(net[number], folder / str(len(typed)), ("--rdzv-endpoint", endpoint, *words), env))
        return typed[-1]

    try:
        yield type_on
    finally:
        for one in typed:
            one.process.kill()
            one.process.wait(30)


@pytest.fixture(scope="module")
def net() -> Iterator[list[Host]]:
    with hosts(2) as made:
        yield made


@pytest.mark.parametrize("style", STYLES)
def test_two_machines_compute_together_whatever_their_names_mean(style, tmp_path):
    with hosts(2, style=style) as net, typing(net, tmp_path) as type_on:
        both = [type_on(n, "--nnodes", "2", "--nproc", "2", f"{PROGRAMS}:add_up") for n in range(2)]
        assert [one.end() for one in both] == [0, 0], [one.text for one in both]
    assert f"The rendezvous listens on {net[0].address}:29400: start the other nodes with" in both[0].text
    for number, one in enumerate(both):
        ranks = {w.rank for w in one.run.snapshot.workers}
        assert ranks == {2 * number, 2 * number + 1}, "each machine's folder tells of its own ranks"
        assert one.run.snapshot.world_size == 4
        assert one.run.results == dict.fromkeys(ranks, 10.0)
        assert [one.run.logs(rank) for rank in ranks] == ["added up\n"] * 2


def test_a_group_out_of_step_is_started_again(net, tmp_path):
    words = ("--nnodes", "2", "--nproc", "1", "--max-restarts", "1", f"{PROGRAMS}:fail_once_out_of_step")
    with typing(net, tmp_path) as type_on:
        both = [type_on(n, *words, port=29401) for n in range(2)]
        assert [one.end() for one in both] == [0, 0], [one.text for one in both]
    assert [one.run.results for one in both] == [{0: 1}, {1: 1}]


def test_a_machine_that_comes_late_takes_part(net, tmp_path):
    go = tmp_path / "go"
    words = ("--nnodes", "1:2", "--nproc", "1", "--max-restarts", "3", f"{PROGRAMS}:tick_until", str(go))
    with typing(net, tmp_path) as type_on:
        first = type_on(0, *words, port=29402)
        first.says("world 1")
        late = type_on(1, *words, port=29402)
        late.says("world 2")
        go.touch()
        assert [one.end() for one in (first, late)] == [0, 0], [one.text for one in (first, late)]
    assert [one.run.results for one in (first, late)] == [{0: 2}, {1: 2}]


def test_a_machine_with_another_key_is_told_and_kept_out(net, tmp_path):
    words = ("--nnodes", "2", "--nproc", "1", f"{PROGRAMS}:add_up")
    with typing(net, tmp_path) as type_on:
        first = type_on(0, *words, port=29403, NB_ELASTIC_RDZV_KEY="one key")
        first.says("The rendezvous listens on")
        other = type_on(1, *words, port=29403, NB_ELASTIC_RDZV_KEY="another key")
        assert other.end() == 1
        assert "doesn't have the key of this run" in other.text
        assert "NB_ELASTIC_RDZV_KEY" in other.text
        right = type_on(1, *words, port=29403, NB_ELASTIC_RDZV_KEY="one key")
        assert [one.end() for one in (first, right)] == [0, 0], [one.text for one in (first, right)]


def test_a_crash_of_the_machine_that_hosts_the_store_is_told(tmp_path):
    """The run can't go on without it; what must not be is a machine that hangs for ever."""
    words = ("--nnodes", "2", "--nproc", "1", f"{PROGRAMS}:tick_until", str(tmp_path / "never"))
    with hosts(2) as net, typing(net, tmp_path) as type_on:
        both = [type_on(n, *words) for n in range(2)]
        for one in both:
            one.says("world 2")
        net[0].crash()
        assert both[1].end() == 1
    assert both[1].run.snapshot.category in {"lost a peer", "rendezvous"}
    assert "WorkerFailedError" in both[1].text
