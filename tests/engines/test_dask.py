"""Real Dask clusters: the contract of every engine, and what is Dask's own.

A user would lose: PBS, LSF, SGE, Kubernetes and SSH, which all come through a Dask cluster.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nb_elastic.engines import base, dask_settings
from nb_elastic.engines.dask import DaskEngine, _Path
from nb_elastic.engines.dask_workers import DaskWorker, choose, needs
from nb_elastic.errors import EngineError, OptionError
from tests.engines.contract import Contract
from tests.engines.opened import Opened, Place, marked, opened
from tests.support.dask_cluster import dask_cluster
from tests.support.kernel import Kernel
from tests.support.until import until

distributed = pytest.importorskip("distributed", reason="needs the extra dask")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two hosts: one worker with a nanny, as `dask worker` has it, and one without, which the last tests kill."""
    with dask_cluster(tmp_path_factory.mktemp("dask")) as it:
        it.work("one", "127.0.0.1", "--nanny", "--resources=NODE=1,GPU=2")
        it.work("two", "127.0.0.2", "--resources=NODE=1")
        it.wait("one", "two")
        yield it


@pytest.fixture
def place(cluster):
    return Place(name="dask", settings=cluster.address, names=("one", "two"))


class TestDask(Contract):
    @pytest.fixture
    def place(self, cluster):
        return Place(name="dask", settings=f"scheduler-file={cluster.scheduler_file}", names=("one", "two"))

    def test_a_driver_that_reaches_no_worker_speaks_through_the_scheduler(self, place, tmp_path, monkeypatch):
        """A cluster behind a gateway, or in Kubernetes."""

        async def never(self):
            pass

        monkeypatch.setattr(_Path, "find_shorter", never)
        self._check_lines(place, tmp_path, count=300, size=30_000)


def test_a_node_is_asked_straight_where_that_works(place, tmp_path):
    """Else all output of all nodes would go through one process, the scheduler."""
    with opened(place, tmp_path) as it:
        it.hellos()
        paths = [h.link._ask_relay.__self__ for h in it.heard]
        until(lambda: all(path._is_straight for path in paths), 30)


def test_a_node_leaves_the_workers_threads_to_dask(cluster, place, tmp_path):
    """The workers have one thread each: a held thread would make every other computation of the notebook wait."""
    with opened(place, tmp_path) as it:
        it.hellos()
        with distributed.Client(cluster.address, set_as_default=False) as client:
            futures = [
                client.submit(os.getpid, workers=[address], pure=False)
                for address in client.scheduler_info(n_workers=-1)["workers"]
            ]
            assert len(set(client.gather(futures))) == 2


def test_what_a_nanny_sets_for_tasks_does_not_reach_ranks(place, tmp_path):
    """OMP_NUM_THREADS=1 would slow every rank down, and look as if the user had asked for it."""
    with opened(place, tmp_path, env={"MKL_NUM_THREADS": "1"}) as it:
        it.hellos()
        names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED", "MKL_NUM_THREADS"]
        it.send("env", names=names)
        until(lambda: len(it.said("env")) == 2, 30)
        assert [line["values"] for line in it.said("env")] == [
            dict(zip(names, (None, None, None, "1"), strict=True))
        ] * 2


def test_nodes_have_the_addresses_of_their_workers(place, tmp_path):
    with opened(place, tmp_path) as it:
        assert {line["place"]: line["address"] for line in it.hellos()} == {"one": "127.0.0.1", "two": "127.0.0.2"}


def test_a_node_program_that_cannot_start_says_why(place, tmp_path):
    it = Opened(place, tmp_path)
    it.order = base.Order(
        **{**{n: getattr(it.order, n) for n in base.Order.__slots__}, "arguments": ("-m", "nb_elastic.nothing")}
    )
    try:
        it.open()
        until(lambda: all(h.is_over for h in it.heard), 30)
        for heard in it.heard:
            assert heard.link.why.startswith("nb_elastic isn't installed for Dask's worker ")
            assert heard.link.why.endswith("No module named nb_elastic.nothing")
        assert "No module named nb_elastic.nothing" in it.log
    finally:
        it.close()


@pytest.mark.slow
def test_a_driver_that_is_stopped_lets_its_nodes_go(place, tmp_path):
    """It neither ends nor speaks: only the relay's lease can tell."""
    with Contract().driver(place, tmp_path) as (process, mark):
        os.kill(process.pid, signal.SIGSTOP)
        until(lambda: not marked(mark), 25, "nodes to be gone")


def test_the_notebooks_own_client_with_certificates_in_memory(tmp_path):
    """Of a LocalCluster on a laptop; its two workers share a host."""
    with Kernel(cwd=ROOT) as kernel:
        kernel.ok("import distributed, json\nfrom nb_elastic.engines import base")
        kernel.ok(
            "cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, "
            "security=distributed.Security.temporary())\nclient = cluster.get_client()"
        )
        found = kernel.ok(
            "s = base.load('dask').settle(base.Wanted(run_id='r', settings='per=worker'), {})\n"
            "print(json.dumps([s.label, dict(s.value), s.notes]))"
        )
        label, value, notes = json.loads(found.stdout)
        assert label == f"Dask cluster at {value['address']} (this notebook's client)"
        assert value["address"].startswith("tls://127.0.0.1:")
        assert notes == []
        it = Opened(Place(name="dask", settings=f"{value['address']},per=worker"), tmp_path)
        it.order.settled.value.update(value)
        try:
            it.open()
            assert {line["place"] for line in it.hellos()} == {"0", "1"}
            assert not list(tmp_path.glob("*.pem"))
        finally:
            it.close()
        # Certificates of somebody else, and none at all.
        other = distributed.Security.temporary()
        names = {"ca": other.tls_ca_file, "cert": other.tls_client_cert, "key": other.tls_client_key}
        for name, text in names.items():
            (tmp_path / f"{name}.pem").write_text(text)
        files = ",".join(f"{name}={tmp_path / name}.pem" for name in names)
        for settings in (f"{value['address']},{files}", value["address"]):
            it = Opened(Place(name="dask", settings=settings), tmp_path)
            with pytest.raises(
                EngineError, match=rf"^The Dask scheduler at {value['address']} can't be joined: .*(certificate|TLS)"
            ) as e:
                it.open()
            it.engine.close()
            assert "\n" not in str(e.value)


# Its own: what it submits with is never closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_workers_that_a_job_queue_starts_later(tmp_path, monkeypatch):
    """dask-jobqueue, with a queue that is a shell; PBS, LSF, SGE and HTCondor differ in the command that submits."""
    jobs = pytest.importorskip("dask_jobqueue.local", reason="needs dask-jobqueue")
    monkeypatch.chdir(tmp_path)
    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with jobs.LocalCluster(
        cores=1, memory="1GB", worker_extra_args=["--host=127.0.0.1", "--no-dashboard"], scheduler_options=here
    ) as queue:
        it = Opened(Place(name="dask", settings=queue.scheduler_address), tmp_path, nodes=1)
        thread = threading.Thread(target=it.open)
        thread.start()
        try:
            until(lambda: it.told, 30)
            assert it.told[0].endswith("0 found, of 0 workers. Scale the cluster up, or ask for fewer nodes.")
            queue.scale(1)
            assert it.hellos()[0]["place"].startswith("LocalCluster-0")
        finally:
            it.order.is_over.set()
            thread.join(30)
            it.close()


SETTLE = """
import json, os, sys
from nb_elastic.engines import base
from nb_elastic.errors import ElasticError
try:
    s = base.load("dask").settle(base.Wanted(run_id="r", settings=sys.argv[1]), os.environ)
    print(json.dumps([s.label, dict(s.value), s.notes]))
except ElasticError as e:
    print(json.dumps([type(e).__name__, str(e)]))
assert not {"distributed", "dask", "torch"} & set(sys.modules)
"""


def settled(settings: str, **env: str) -> list[str]:
    """What is found by a process that has not imported Dask."""
    done = subprocess.run(
        [sys.executable, "-c", SETTLE, settings],
        env={**os.environ, **env}, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_the_scheduler_is_found_without_importing_dask(cluster):
    """Its import takes half a second, and starts threads: not in a notebook that didn't ask for it."""
    label, value, notes = settled("", DASK_SCHEDULER_ADDRESS=cluster.address)
    assert (label, value, notes) == (f"Dask cluster at {cluster.address}", {"address": cluster.address}, [])
    assert settled(cluster.address.removeprefix("tcp://"))[1] == {"address": cluster.address}


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ("", EngineError, "this notebook has no Dask client, and DASK_SCHEDULER_ADDRESS isn't set"),
        ("tcp://127.0.0.1:1", EngineError, "No Dask scheduler answers at tcp://127.0.0.1:1: Connection refused."),
        ("nobody.invalid:1", EngineError, "No Dask scheduler answers at tcp://nobody.invalid:1: "),
        ("tcp://127.0.0.1", OptionError, "tcp://127.0.0.1 is no address of a Dask scheduler"),
        ("gateway://a:1", OptionError, "gateway://a:1 is no address of a Dask scheduler"),
        ("host=a", OptionError, "'host' is no setting"),
        ("a:1,b:2", OptionError, "address is given twice"),
        ("a:1,per=core", OptionError, "per is host or worker"),
        ("tls://a:1,ca=/nowhere", OptionError, "ca=/nowhere can't be read"),
        ("scheduler-file=/dev/null", EngineError, "/dev/null isn't a Dask scheduler file"),
        ("scheduler-file=/dev/null,a:1", OptionError, "give either an address or a scheduler-file"),
    ],
)
def test_a_wrong_place_is_refused_in_a_sentence(settings, error, text, monkeypatch):
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    with pytest.raises(error) as e:
        dask_settings.settle(settings, {})
    assert text in str(e.value)
    assert "\n" not in str(e.value)
    assert str(e.value).endswith(dask_settings.NOTHING)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(dask_settings, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r'pip install "nb-elastic\[dask\]"'):
        DaskEngine().settle(base.Wanted(run_id="r"), {})


def test_an_open_cluster_on_the_network_is_told(monkeypatch):
    monkeypatch.setattr(dask_settings, "_reach", lambda *a: None)
    assert dask_settings.settle("tls://10.0.0.1:8786", {}).notes == ()
    [note] = dask_settings.settle("tcp://10.0.0.1:8786", {}).notes
    assert note.startswith("The Dask cluster at tcp://10.0.0.1:8786 asks nobody who they are")


def workers(*resources: dict[str, float]) -> list[DaskWorker]:
    return [
        DaskWorker(address=f"a{n}", name=f"n{n}", host=f"h{n}", key=f"h{n}", resources=r)
        for n, r in enumerate(resources)
    ]


@pytest.mark.parametrize(
    ("wanted", "resources", "chosen", "taken"),
    [
        ({}, [{}, {}], ["n0", "n1"], {}),
        ({}, [{"NODE": 1}, {}], ["n0"], {"NODE": 1}),
        ({"gpus": 4}, [{"GPU": 2}, {"GPU": 4}], ["n1"], {"GPU": 4}),
        ({"gpus": 4}, [{}, {}], ["n0", "n1"], {}),
        ({"gpus": -1}, [{"GPU": 8}, {}], ["n0"], {"GPU": 8}),
        ({"nproc": 2}, [{"GPU": 8}], ["n0"], {"GPU": 2}),
        ({"nproc": 2}, [{"GPU": 1}], ["n0"], {"GPU": 1}),
        ({"nproc": 0}, [{"GPU": 8}], ["n0"], {"GPU": 8}),
        ({"nproc": 2, "prefers_gpus": False}, [{"GPU": 8}, {}], ["n0", "n1"], {}),
    ],
)
def test_workers_are_chosen_by_what_they_announce(wanted, resources, chosen, taken):
    asked = base.Wanted(run_id=secrets.token_hex(2), **wanted)
    found = list(choose(workers(*resources), asked, busy=()))
    assert [worker.name for worker in found] == chosen
    assert needs(asked, found[0]) == taken


def test_one_node_at_a_time_where_workers_say_so(cluster, place, tmp_path):
    """Two notebooks would meet on one GPU: Dask itself knows of neither."""
    (tmp_path / "second").mkdir()
    with opened(place, tmp_path, nodes=1, wanted={"gpus": 2}) as first:
        assert [line["place"] for line in first.hellos()] == ["one"]
        second = Opened(place, tmp_path / "second", nodes=1, wanted={"gpus": 1})
        thread = threading.Thread(target=second.open)
        thread.start()
        try:
            until(lambda: second.told, 30)
            assert second.told[0].startswith(
                f"Dask cluster at {cluster.address}: waiting for 1 hosts with a worker and 1 GPUs free; 0 found, 1 busy, of 2"
            )
            first.close()
            assert [line["place"] for line in second.hellos()] == ["one"]
        finally:
            second.order.is_over.set()
            thread.join(30)
            second.close()


def test_closing_does_not_wait_for_a_worker_that_dies_meanwhile(cluster, place, tmp_path):
    """As it does where a job's time is over, or all of a cluster is ended with the notebook."""
    cluster.work("doomed", "127.0.0.4", "--resources=NODE=1")
    cluster.wait("doomed")
    with opened(place, tmp_path, nodes=3) as it:
        of = {line["place"]: line["from"] for line in it.hellos()}
        it.send("stubborn", to=[of["doomed"]])
        until(lambda: it.said("stubborn"), 10)
        thread = threading.Thread(target=it.engine.close)
        thread.start()
        until((tmp_path / f"{of['doomed']}.eof").exists, 10, "the end of its stdin")
        closing = time.monotonic()
        until(lambda: time.monotonic() > closing + 2, 5)  # who looks no more while it is closed has ceased by then
        cluster.end("doomed", is_kill=True)
        thread.join(5)
        is_waited_for = thread.is_alive()
        for pid in it.left():  # a real node program ends with its parent
            os.kill(pid, signal.SIGKILL)
        thread.join(30)
        assert not is_waited_for


def test_a_lost_worker_ends_its_link_and_others_join(cluster, place, tmp_path):
    """Killed; made anew by its nanny; started on a host that had none."""
    with opened(place, tmp_path) as it:
        of = {line["place"]: line["from"] for line in it.hellos()}
        lost = it.link_of(of["two"])
        cluster.end("two", is_kill=True)
        until(lambda: not lost.is_alive, 10, "the link to be over")
        assert lost.why == "its Dask worker two left the cluster"
        until(lambda: len(it.left()) == 1, 10, "its program to be gone")
        assert it.link_of(of["one"]).is_alive
        it.grow()
        assert len(it.heard) == 2, "a second node on one host"
        cluster.work("three", "127.0.0.2", "--resources=NODE=1")
        cluster.work("four", "127.0.0.3", "--resources=NODE=1")
        cluster.wait("three", "four")
        it.grow(nodes=2)
        assert {line["place"] for line in it.hellos(4)} == {"one", "two", "three", "four"}
        with distributed.Client(cluster.address, set_as_default=False) as client:
            workers = client.scheduler_info(n_workers=-1)["workers"]
            [pid] = client.run(os.getpid, workers=[a for a, said in workers.items() if said["name"] == "one"]).values()
        os.kill(pid, signal.SIGKILL)
        until(lambda: not it.link_of(of["one"]).is_alive, 10)
        until(lambda: it.grow() or len(it.heard) == 5, 30, "its nanny's next one")
        assert it.hellos(5)[4]["place"] == "one"
    cluster.end("one", "three", "four")
