"""The driver and real node programs of this machine: every scenario, over an engine that does nothing of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

import nb_elastic
from nb_elastic import rundir
from nb_elastic.engines import driven
from nb_elastic.lifeline import ProcessId
from tests.engines.opened import Place
from tests.engines.scenarios import Scenarios, node
from tests.programs import on_many_nodes as programs
from tests.support import detached, popen_engine
from tests.support.node_driver import folders
from tests.support.until import until

pytestmark = pytest.mark.pretended

ROOT = Path(__file__).parents[2]


def torch_version() -> str:
    """Of this environment."""
    return metadata.version("torch").partition("+")[0]


@pytest.fixture(scope="module", autouse=True)
def _installed() -> Iterator[None]:
    """The engine is installed here, and in what is started here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(popen_engine.DIST))
        patch.setenv("PYTHONPATH", popen_engine.environment(os.environ)["PYTHONPATH"])
        yield


class TestPopen(Scenarios):
    """Scenarios over local commands."""

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls) -> Place:
        """As many nodes as are asked for."""
        return Place(name="popen", nodes=8)

    def elastic(self, place: Place, folder: Path) -> Place:
        """See base class."""
        (folder / "nodes").write_text("1")
        return replace(place, settings=f"folder={folder}")

    def add_machine(self, place: Place) -> None:
        """See base class."""
        (Path(place.settings.partition("=")[2]) / "nodes").write_text("2")

    def remove_machine(self, place: Place) -> None:
        """See base class."""
        (Path(place.settings.partition("=")[2]) / "nodes").write_text("1")


@pytest.fixture
def own_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder for temporary files that drivers of other tests don't sweep."""
    with tempfile.TemporaryDirectory(prefix="nbe-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.mark.usefixtures("own_tmp")
def test_the_next_driver_sweeps_what_a_killed_one_left(tmp_path: Path):
    options = {"nnodes": "1", "nproc_per_node": 1, "engine": "popen", "render": "none"}
    run = nb_elastic.launch(programs.tick_until, str(tmp_path / "go"), detach=True, **options)
    until(lambda: run.snapshot.workers, 180, "ranks")
    driver = ProcessId(run.snapshot.supervisor_pid, run.snapshot.supervisor_start_ticks)
    (left,) = [path for path in folders("d") if rundir.read_json(path / "owner.json").get("pid") == driver.pid]
    driver.signal(signal.SIGKILL)
    assert run.wait(180).value == "lost"
    until(lambda: not driver.is_alive, 60)
    assert left.exists()
    assert nb_elastic.launch(programs.add_up, **options).results == {0: 1.0}
    until(lambda: not left.exists(), 60, "the folder to be swept")
    driven.drivers.close()


def test_a_driver_that_cannot_take_the_next_launch_hands_it_to_a_new_one(tmp_path: Path):
    """It ends after a run that lost a node; a launch that came in that moment was dropped without a word."""
    options = {"nnodes": "2", "nproc_per_node": 1, "engine": "popen", "render": "none"}
    with ThreadPoolExecutor(1) as pool:
        end = pool.submit(nb_elastic.launch, programs.tick_until, str(tmp_path / "go"), **options)
        first = nb_elastic.attach(until(rundir.all_runs, 60)[0].run_id)
        until(lambda: len(first.snapshot.workers) == 2 or end.done(), 180, "ranks")
        node(first, 1).signal(signal.SIGKILL)
        with pytest.raises(nb_elastic.WorkerFailedError):
            end.result(180)
    second = nb_elastic.launch(programs.add_up, **options)
    assert second.results == {0: 3.0, 1: 3.0}
    assert second.snapshot.supervisor_pid != first.snapshot.supervisor_pid
    driven.drivers.close()


def test_launches_one_right_after_the_other_are_all_taken_by_one_driver():
    options = {"nnodes": "1", "nproc_per_node": 1, "engine": "popen", "render": "none"}
    runs = [nb_elastic.launch(programs.add_up, **options) for _ in range(12)]
    assert [run.results for run in runs] == [{0: 1.0}] * 12
    assert len({run.snapshot.supervisor_pid for run in runs}) == 1
    driven.drivers.close()


def test_a_rank_alone_on_its_node_is_named_though_a_thread_of_it_talks():
    """Its node sees words, and nobody there who waits for it: only all nodes together tell."""
    options = {"nnodes": "2", "nproc_per_node": 1, "engine": "popen", "render": "none", "hang_after": 2}
    run = nb_elastic.launch(programs.leave_one_out_that_talks, detach=True, **options)
    try:
        report = until(lambda: run.snapshot.hang, 180, "who stands")
        assert report.headline.startswith("Rank 0 waits in all_reduce, on_many_nodes.py, line "), report
        assert "; rank 1 sleeps, line " in report.headline
        assert [(g.ranks, g.is_odd, g.is_still) for g in report.groups] == [((1,), True, False), ((0,), False, True)]
    finally:
        run.stop(0)
        run.wait(60)
        driven.drivers.close()


# -- what is refused, and what is told before anything starts ---------------------------------


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ``nb-elastic`` to its end."""
    return subprocess.run(
        [*detached.COMMAND, *words], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )


def with_torch(folder: Path, version: str) -> Path:
    """A folder for packages in which torch seems to have another version."""
    info = folder / f"torch-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    return folder


def test_a_node_with_another_torch_is_refused_in_one_sentence(tmp_path: Path):
    path = with_torch(tmp_path, "9.9.9")
    with pytest.raises(nb_elastic.WorkerFailedError) as caught:
        nb_elastic.launch(programs.add_up, nnodes="2", nproc_per_node=1, engine=f"popen=path={path}", render="none")
    driven.drivers.close()
    assert f"popen-1 has torch 9.9.9, and the notebook has torch {torch_version()}: install the same on both." in str(
        caught.value
    )
    assert nb_elastic.last_run().snapshot.workers == ()


def test_a_run_that_can_do_without_it_goes_on_without_a_node_that_does_not_fit(tmp_path: Path):
    path = with_torch(tmp_path, "9.9.9")
    run = nb_elastic.launch(
        programs.add_up, nnodes="1:2", nproc_per_node=1, engine=f"popen=nodes=2,path={path}", render="none"
    )
    driven.drivers.close()
    assert run.results == {0: 1.0}
    assert any(text.startswith("A node was refused: popen-1 has torch 9.9.9") for _, text in run.snapshot.notes)


def test_an_engine_that_has_too_few_machines_says_so():
    with pytest.raises(nb_elastic.WorkerFailedError, match="2 nodes were wanted, and the pretended cluster has 1"):
        nb_elastic.launch(programs.add_up, nnodes="2", nproc_per_node=1, engine="popen=nodes=1", render="none")
    driven.drivers.close()


def test_settings_that_make_no_sense_start_nothing(elastic_home: Path):
    for settings, word in (("colour=red", "colour"), ("nodes=many", "nodes=many")):
        with pytest.raises(nb_elastic.OptionError, match=word):
            nb_elastic.launch(programs.add_up, nnodes="2", engine=f"popen={settings}")
    assert list(elastic_home.iterdir()) == []


def test_the_command_line_launches_on_nodes_and_tells_beforehand_where(elastic_home: Path):
    words = ("run", "--nnodes", "2", "--nproc", "1", "--engine", "popen", "--render", "plain")
    dry = command(*words, "--dry-run", "tests.programs.on_many_nodes:add_up")
    assert "Would start 1 rank(s) on each of 2 node(s): import tests.programs.on_many_nodes:add_up" in dry.stdout
    assert "On 2 node(s) of this machine's pretended cluster (engine popen)" in dry.stdout
    assert list(elastic_home.iterdir()) == []
    done = command(*words, "tests.programs.on_many_nodes:add_up")
    assert done.returncode == 0, done.stderr
    assert "added up" in done.stdout
