"""Real Ray on pretended machines: the contract of every engine, and what is Ray's own.

A user would lose: a cluster that they have already, with its autoscaler and its GPUs, as a place to launch on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from nb_elastic.engines import base, ray_settings, ray_shape
from nb_elastic.engines.ray import OPEN_TO_ALL
from nb_elastic.errors import EngineError, OptionError
from tests.engines.contract import Contract
from tests.engines.opened import Opened, Place, marked, opened
from tests.support.cluster_hosts import hosts
from tests.support.ray_cluster import RayCluster
from tests.support.until import until

pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder():
    """Short, since Ray puts sockets there."""
    path = Path(tempfile.mkdtemp(prefix="nbr"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def short_path():
    """As a driver's own folder, which is short enough for Ray's sockets."""
    path = Path(tempfile.mkdtemp(prefix="nbr"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def net():
    """Three machines; this process is on the first, as a notebook on the head."""
    with hosts(3) as made, made[0].entered():
        yield made


@pytest.fixture(scope="module")
def cluster(net, folder):
    """Ray on the first two machines; each says that it has two GPUs."""
    it = RayCluster(folder, net[0], "--num-gpus=2", is_for_clients=True)
    it.start(net[1], options=("--num-gpus=2",))
    return it


@pytest.fixture
def place(cluster, net):
    return Place(name="ray", settings=cluster.address, names=(net[0].address, net[1].address))


class TestRay(Contract):
    @pytest.fixture
    def place(self, place):
        return place


def test_a_cluster_without_a_token_is_told_of_and_nodes_say_their_addresses(place, net, tmp_path):
    with opened(place, tmp_path) as it:
        assert {line["place"]: line["host"] for line in it.hellos()} == {net[n].address: net[n].name for n in (0, 1)}
        assert all(line["address"] == line["place"] for line in it.hellos())
        assert OPEN_TO_ALL in it.told


def test_each_rank_has_a_gpu_of_its_node_and_nothing_of_what_ray_sets_for_its_own_tasks(place, tmp_path):
    """Two ranks on one GPU are slow, and a breakpoint() that opens Ray's debugger is nobody's."""
    names = ["CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PYTHONBREAKPOINT"]
    with opened(place, tmp_path, wanted={"nproc": 2, "prefers_gpus": True}) as it:
        it.hellos()
        it.send("env", names=names)
        until(lambda: len(it.said("env")) == 2, 30)
        for line in it.said("env"):
            assert sorted(line["values"].pop("CUDA_VISIBLE_DEVICES").split(",")) == ["0", "1"]
            assert line["values"] == {"OMP_NUM_THREADS": None, "PYTHONBREAKPOINT": None}


def test_the_same_through_ray_client(place, cluster, tmp_path):
    """From a laptop that is no machine of the cluster."""
    with opened(replace(place, settings=cluster.client_address), tmp_path) as it:
        it.hellos()
        for n in range(5):
            it.send("echo", n=n, blob=bytes(300_000))
        it.send("lines", count=2000, size=300)
        until(lambda: len(it.said("line")) == 4000 and len(it.said("echo")) == 10, 60)
        first, other = it.tokens()
        it.send("die", to=[first], code=3)
        until(lambda: not it.link_of(first).is_alive, 30)
        assert it.link_of(first).why.endswith("ended with exit code 3")
        assert it.link_of(other).is_alive


def test_a_node_program_that_cannot_start_says_why(place, tmp_path):
    it = Opened(place, tmp_path)
    slots = {name: getattr(it.order, name) for name in base.Order.__slots__}
    it.order = base.Order(**{**slots, "arguments": ("-m", "nb_elastic.nothing")})
    try:
        it.open()
        until(lambda: all(h.is_over for h in it.heard), 30)
        assert {h.link.why for h in it.heard} == {
            f"the node program on {name} ended with exit code 1" for name in place.names
        }
        until(lambda: "No module named nb_elastic.nothing" in it.log, 10)
    finally:
        it.close()


def test_a_node_that_died_has_a_successor_on_the_same_machine(place, tmp_path):
    """Ray keeps what was reserved there, so nothing else could be placed."""
    with opened(place, tmp_path, wanted={"nproc": 2, "max_nodes": 2}) as it:
        first = it.hellos()[0]
        it.send("die", to=[first["from"]], signal=9)
        until(lambda: not it.link_of(first["from"]).is_alive, 30)
        assert it.link_of(first["from"]).why == f"the node program on {first['place']} ended by signal 9"
        until(lambda: it.grow() or len(it.heard) == 3, 60, "a successor")
        assert it.hellos(3)[-1]["place"] == first["place"]


def test_what_is_sent_while_a_cable_is_pulled_arrives_when_it_is_put_back(place, net, tmp_path):
    with opened(place, tmp_path) as it:
        it.hellos()
        net[1].unplug()
        try:
            for n in range(30):
                it.send("echo", n=n, blob=bytes(10_000))
            it.send("lines", count=100, size=100)
            here = next(line["from"] for line in it.hellos() if line["place"] == net[0].address)
            until(lambda: len(it.said("line", of=here)) == 100, 30, "the node that is still there")
            assert len(it.said("line")) == 100
        finally:
            net[1].plug()
        until(lambda: len(it.said("line")) == 200, 60, "the other one")
        for token in it.tokens():
            assert [line["n"] for line in it.said("echo", of=token)] == list(range(30))


def test_a_cluster_that_is_not_there_is_refused_in_a_sentence(net, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", "/nowhere")
    with pytest.raises(EngineError, match=r"no cluster answers at 10\.77\.0\.1:9: Connection refused\. Is it up"):
        base.load("ray").settle(base.Wanted(run_id="r", settings="10.77.0.1:9"), dict(os.environ))
    with pytest.raises(EngineError, match="RAY_ADDRESS isn't set.* ray=local starts one"):
        base.load("ray").settle(base.Wanted(run_id="r"), dict(os.environ))
    monkeypatch.setenv("RAY_ADDRESS", "10.77.0.1:9")
    with pytest.raises(EngineError, match="no cluster answers at 10"):
        base.load("ray").settle(base.Wanted(run_id="r"), dict(os.environ))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineError, match=r'--engine ray needs Ray: pip install "nb-elastic\[ray\]"'):
        base.load("ray").settle(base.Wanted(run_id="r", settings="local"), dict(os.environ))


@pytest.mark.parametrize(
    "settings",
    ["local,nodes=0", "local,nodes=x", "a:1,nodes=2", "http://a:1", "a:b", "a:70000", "a:1,colour=red", ":1"],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(OptionError, match="Nothing was started"):
        value = ray_settings.parse(settings)
        ray_settings.split_address(value["address"], 1)


def test_settings_are_read():
    assert ray_settings.parse("h:1,cpus=3,ship") == {"address": "h:1", "nodes": 1, "cpus": 3, "ships": True}
    assert ray_settings.parse("local,nodes=2")["nodes"] == 2
    assert ray_settings.split_address("[fe80::1]:7", 1) == ("fe80::1", 7)
    assert ray_settings.split_address("host", 6379) == ("host", 6379)


def _shape(machines: list[tuple[int, int]], *, cpus: int = 0, **wanted: object) -> dict[str, int]:
    wanted = {"min_nodes": 2, "max_nodes": 2, **wanted}
    return ray_shape.shape(
        base.Wanted(run_id="r", **wanted), [{"CPU": float(c), "GPU": float(g)} for c, g in machines], cpus=cpus
    )


def test_a_node_takes_a_cpu_and_a_gpu_a_rank_but_no_more_than_there_is():
    assert _shape([(8, 4), (8, 4)], nproc=2) == {"CPU": 2, "GPU": 2}
    assert _shape([(8, 4), (8, 4)], nproc=2, prefers_gpus=False) == {"CPU": 2}
    assert _shape([(2, 0), (2, 0)], nproc=8) == {"CPU": 2}
    assert _shape([(0, 0), (4, 1), (4, 1)], nproc=4) == {"CPU": 4, "GPU": 1}, "a head that takes no work"
    assert _shape([(8, 4), (8, 2)], nproc=0, gpus=-1) == {"CPU": 2, "GPU": 2}
    assert _shape([(8, 4), (8, 4)], nproc=1, gpus=6) == {"CPU": 1, "GPU": 6}, "waits for an autoscaler"
    assert _shape([], nproc=3) == {"CPU": 3}
    assert _shape([(2, 0), (2, 0)], nproc=1, cpus=16) == {"CPU": 16}


# Last: these change the cluster.


def test_a_machine_that_joins_late_gets_a_node_and_one_that_crashes_ends_its_link(place, cluster, net, tmp_path):
    with opened(place, tmp_path, wanted={"max_nodes": 3}) as it:
        it.hellos()
        it.grow()
        assert len(it.heard) == 2
        cluster.start(net[2], options=("--num-gpus=2",))
        until(lambda: it.grow() or len(it.heard) == 3, 60, "a third node")
        assert {line["place"] for line in it.hellos(3)} == {host.address for host in net}
        lost = next(line["from"] for line in it.hellos() if line["place"] == net[2].address)
        net[2].crash()
        until(lambda: not it.link_of(lost).is_alive, 90, "the link to be over")
        assert "died" in it.link_of(lost).why
        assert "\n" not in it.link_of(lost).why
        it.send("echo", n=1)
        until(lambda: len(it.said("echo")) == 2, 30, "the others")


def test_a_cluster_of_this_machine_lets_nobody_else_in_and_ends_with_its_driver(short_path, monkeypatch):
    def of_ray() -> list[Path]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.fsencode(str(short_path)) in (entry / "cmdline").read_bytes():
                    found.append(entry)
        return found

    place = Place(name="ray", settings="local,nodes=2")
    with Contract().driver(place, short_path) as (process, mark):
        assert len(marked(mark)) == 2
        raylets = [entry for entry in of_ray() if b"/raylet\0" in (entry / "cmdline").read_bytes()]
        assert len(raylets) == 2
        assert all(b"RAY_AUTH_MODE=token" in (entry / "environ").read_bytes() for entry in raylets)
        assert (short_path / "ray_token").stat().st_mode & 0o77 == 0
        words = (raylets[0] / "cmdline").read_bytes().split(b"\0")
        address = next(os.fsdecode(w).partition("=")[2] for w in words if w.startswith(b"--gcs-address="))
        monkeypatch.setattr("ray._private.ray_constants.NUM_REDIS_GET_RETRIES", 1)  # of twenty, each a second or two
        with pytest.raises(EngineError, match="can't be joined: it wants a token: set RAY_AUTH_MODE=token"):
            Opened(Place(name="ray", settings=address), short_path).open()
        process.kill()
        process.wait()
        until(lambda: not marked(mark), 20, "nodes to be gone")
        until(lambda: not of_ray(), 30, "Ray to be gone")
