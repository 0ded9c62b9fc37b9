"""What a run must do on machines that have a network between them, whatever engine places it: real launches, real faults.

Runs in: the engines' tests. A test module has ``class TestX(HostScenarios)`` with a class's fixture ``net``, pretended machines of
which the first is the notebook's, and a fixture ``place``.

A user would lose: clusters with names as some installer wrote them, a sentence about a machine that was forgotten when all
others were upgraded, and a long run because somebody stumbled over a cable.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from nb_elastic.model import RunState
from tests.engines.opened import Place
from tests.engines.scenarios import WAIT_S, engine_of, launched, logs_say, told
from tests.programs import on_many_nodes as programs
from tests.support.cluster_hosts import STYLES, Host, restyle
from tests.support.until import until

ROOT = Path(__file__).parents[2]


def typed(host: Host, folder: Path, *words: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Type ``nb-elastic run`` on a machine; its status and what it printed."""
    env = {"PYTHONPATH": str(ROOT), "NB_ELASTIC_HOME": str(folder / "home"), **(env or {})}
    command = [sys.executable, "-m", "nb_elastic", "run", *words]
    with host.popen(*command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        out = process.communicate(timeout=WAIT_S)[0].decode(errors="replace")
    return process.returncode, out


class HostScenarios:
    """Runs over one engine; these two words say which machines they are on."""

    def one_to_change(self, net: list[Host]) -> Host:
        """A machine on which one of two nodes will be."""
        return net[2]

    def of_two(self, place: Place, net: list[Host], folder: Path) -> tuple[Place, Host]:
        """A place that has two machines and no third, and the one whose cable is pulled."""
        del folder
        return place, net[2]

    @pytest.mark.parametrize("style", STYLES)
    def test_ranks_meet_whatever_their_machines_are_called(
        self, net: list[Host], place: Place, tmp_path: Path, style: str
    ):
        restyle(net, style)
        words = ("--nnodes", "2", "--nproc", "1", "--engine", engine_of(place))
        code, out = typed(net[0], tmp_path, *words, "tests.programs.on_many_nodes:add_up")
        assert code == 0, out
        assert "ranks 0-1: 3.0" in out, out

    @pytest.mark.parametrize("package", ["torch", "nb_elastic"])
    def test_a_machine_with_another_version_is_refused_in_a_sentence(
        self, net: list[Host], place: Place, tmp_path: Path, package: str
    ):
        words = ("--nnodes", "2", "--nproc", "1", "--engine", engine_of(place))
        with self.one_to_change(net).with_version(package, "99.0"):
            code, out = typed(net[0], tmp_path, *words, "tests.programs.on_many_nodes:add_up")
        assert code == 1, out
        assert f" has {package} 99.0, and the notebook has {package} " in out, out
        assert ": install the same on both." in out
        assert "Traceback" not in out

    def test_a_machine_whose_cable_is_pulled_is_lost_and_comes_back(
        self, net: list[Host], place: Place, tmp_path: Path
    ):
        """Nobody closes a connection here: only the silence tells."""
        two, cut = self.of_two(place, net, tmp_path)
        go = tmp_path / "go"
        options = {"nnodes": "1:2", "nproc_per_node": 1, "max_restarts": 9}
        with net[0].entered(), launched(programs.tick_until, str(go), place=two, **options) as run:
            until(lambda: logs_say(run, "world 2", ranks=2), WAIT_S, "a world of two")
            cut.unplug()
            try:
                until(lambda: logs_say(run, "world 1", ranks=1), WAIT_S, "a world of one")
                # which the others' group may see first
                lost = until(lambda: told(run, "node_lost"), WAIT_S, "the loss")
            finally:
                cut.plug()
            until(lambda: logs_say(run, "world 2", ranks=2), WAIT_S, "a world of two again")
            joined = told(run, "node_joined")
            [before] = {e["place"] for e in joined if e.node in {e.node for e in lost}}
            assert [e["place"] for e in joined].count(before) == 2
            assert before in {cut.name, cut.address}
            go.touch()
            assert run.wait(WAIT_S) is RunState.SUCCEEDED
            assert set(run.results.values()) == {2}
