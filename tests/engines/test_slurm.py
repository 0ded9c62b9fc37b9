"""The Slurm engine, over a real Slurm of three nodes on this machine.

A user would lose: nodes of a cluster that a notebook can't use, or that it keeps when it is long gone.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nb_elastic.engines import base
from nb_elastic.engines.slurm_settings import Settings, parse, share
from nb_elastic.engines.slurm_stream import Merged
from nb_elastic.errors import EngineError, OptionError
from tests.engines.contract import Contract
from tests.engines.opened import Opened, Place, opened
from tests.support.slurm_cluster import CAN_RUN, WHY_NOT, SlurmCluster, slurm_cluster
from tests.support.until import until

needs_slurm = pytest.mark.skipif(not CAN_RUN, reason=WHY_NOT)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shared() -> Iterator[SlurmCluster]:
    """One cluster for all tests of this file."""
    with slurm_cluster(nodes=3, gpus=2) as cluster:
        yield cluster


def know(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Slurm's commands speak to this cluster."""
    for name in list(os.environ):
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    monkeypatch.setenv("PATH", cluster.env["PATH"])


@pytest.fixture
def cluster(shared: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """The cluster, known to this process; nothing runs on it, before and after."""
    know(shared, monkeypatch)
    yield shared
    try:
        until(lambda: not shared.queue(), 10, "the queue to be empty")
    finally:
        shared.cancel()


@pytest.fixture
def allocation(cluster: SlurmCluster) -> Iterator[str]:
    """Two nodes that the user has."""
    job = cluster.allocate(nodes=2)
    yield job
    cluster.cancel(job)


@needs_slurm
class TestInAnAllocation(Contract):
    """The notebook runs in the batch script, or in salloc's shell."""

    @pytest.fixture
    def place(self, cluster, allocation, monkeypatch) -> Place:
        monkeypatch.setenv("SLURM_JOB_ID", allocation)
        # What salloc -n 8 sets, and srun would take for its own options.
        for name, value in {
            "SLURM_NTASKS": "8",
            "SLURM_NPROCS": "8",
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_NNODES": "2",
        }.items():
            monkeypatch.setenv(name, value)
        return Place(name="slurm", nodes=2, names=cluster.names)

    @pytest.fixture
    def busy(self, cluster, place) -> Place:
        """In an allocation there is nothing to wait for; a new one has to: its two nodes are not free."""
        return Place(name="slurm", settings="exclusive", nodes=3)


@needs_slurm
class TestMakingAnAllocation(Contract):
    """The notebook runs on a login node."""

    @pytest.fixture
    def place(self, cluster) -> Place:
        return Place(name="slurm", settings="partition=main,time=10", nodes=2, names=cluster.names)

    @pytest.fixture
    def busy(self, cluster, allocation) -> Place:
        return Place(name="slurm", settings="partition=main,exclusive", nodes=2)


@needs_slurm
def test_a_notebook_in_a_step_of_the_allocation_starts_nodes_beside_itself(cluster, allocation, tmp_path):
    """``srun jupyter`` holds all of the allocation: without --overlap, nodes would be waited for, for ever."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import json, os, pathlib\n"
        "from tests.engines.opened import Place, opened\n"
        "assert os.environ['SLURM_STEP_ID']\n"
        "with opened(Place(name='slurm', nodes=2), pathlib.Path(sys.argv[2])) as it:\n"
        "    print(json.dumps([line['place'] for line in it.hellos()]))\n"
    )
    words = ["srun", "--jobid", allocation, "--nodes=2", "--ntasks=1", "--mpi=none", "--quiet"]
    done = subprocess.run(
        [*words, sys.executable, "-c", code, str(ROOT), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert len(set(json.loads(done.stdout.splitlines()[-1]))) == 2


@needs_slurm
def test_a_notebook_in_sallocs_shell_uses_its_allocation(cluster, tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import json, pathlib\n"
        "from tests.engines.opened import Place, opened\n"
        "with opened(Place(name='slurm', nodes=2), pathlib.Path(sys.argv[2])) as it:\n"
        "    print(json.dumps([it.settled.value['job'], *(line['place'] for line in it.hellos())]))\n"
    )
    words = ["salloc", "--nodes=2", "--ntasks-per-node=2", "--quiet"]
    done = subprocess.run(
        [*words, sys.executable, "-c", code, str(ROOT), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    job, *places = json.loads(done.stdout.splitlines()[-1])
    assert job.isdecimal()
    assert len(set(places)) == 2


@needs_slurm
def test_an_allocation_is_used_by_its_number(cluster, allocation, tmp_path):
    with opened(Place(name="slurm", settings=f"job={allocation}", nodes=2), tmp_path) as it:
        assert it.settled.label == f"Slurm allocation {allocation}"
        assert len({line["place"] for line in it.hellos()}) == 2
        assert {line["driver_address"] for line in it.said("hello")} == {""}, "a loopback address leads nowhere else"
    assert cluster.queue() == [allocation], "the user's allocation is the user's to end"


@needs_slurm
@pytest.mark.parametrize("is_own", [True, False])
def test_scancel_ends_the_link_and_says_so(cluster, tmp_path, is_own):
    job = "" if is_own else cluster.allocate(nodes=2)
    settings = "partition=main" if is_own else f"job={job}"
    with opened(Place(name="slurm", settings=settings, nodes=2), tmp_path) as it:
        it.hellos()
        cluster.cancel(*cluster.queue())
        link = it.heard[0].link
        until(lambda: not link.is_alive, 30)
        until(lambda: it.heard[0].is_over, 30)
        assert link.why == "cancelled by scancel"


@needs_slurm
def test_a_job_that_is_cancelled_while_it_waits_is_told(cluster, allocation, tmp_path):
    it = Opened(Place(name="slurm", settings="exclusive", nodes=2), tmp_path)
    thread = threading.Thread(
        target=lambda: (until(lambda: it.told, 30), cluster.cancel(*set(cluster.queue()) - {allocation})), daemon=True
    )
    thread.start()
    try:
        with pytest.raises(EngineError, match="Slurm started no nodes: .*cancel") as caught:
            it.open()
        assert "\n" not in str(caught.value)
        assert len(it.told) == 1
        assert re.fullmatch(r"Slurm job \d+ waits in the queue of partition main \(Resources\)\.", it.told[0])
    finally:
        thread.join(30)
        it.close()


@needs_slurm
def test_a_job_that_waited_starts_when_nodes_are_free(cluster, allocation, tmp_path):
    it = Opened(Place(name="slurm", settings="exclusive", nodes=2), tmp_path)
    thread = threading.Thread(target=lambda: (until(lambda: it.told, 30), cluster.cancel(allocation)), daemon=True)
    thread.start()
    try:
        it.open()
        assert len({line["place"] for line in it.hellos()}) == 2
    finally:
        thread.join(30)
        it.close()


@needs_slurm
def test_a_driver_killed_while_its_job_waits_leaves_no_job(cluster, allocation, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.engines.opened"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    place = {"name": "slurm", "settings": "exclusive", "nodes": 2, "lease_s": 0.0}
    process.stdin.write(json.dumps({"place": place, "folder": str(tmp_path)}) + "\n")
    process.stdin.flush()
    until(lambda: len(cluster.queue()) == 2, 30)
    process.kill()
    process.wait()
    until(lambda: cluster.queue() == [allocation], 20)
    process.stdin.close()
    process.stdout.close()


@needs_slurm
def test_a_node_that_crashes_leaves_the_others(tmp_path, monkeypatch):
    """Its slurmd and all below die at once; a second srun uses the node when it is back."""
    with slurm_cluster(nodes=2) as cluster:
        know(cluster, monkeypatch)
        check_a_crash(cluster, tmp_path)


def check_a_crash(cluster: SlurmCluster, tmp_path: Path) -> None:
    """The test's body."""
    job = cluster.allocate("--no-kill", nodes=2)
    try:
        with opened(Place(name="slurm", settings=f"job={job}", nodes=2), tmp_path) as it:
            lost, kept = sorted(line["place"] for line in it.hellos())
            tokens = {line["place"]: line["from"] for line in it.said("hello")}
            cluster.crash_node(lost)
            until(lambda: len(it.left()) == 1, 30)
            for n in range(3):
                it.send("echo", n=n)
                until(lambda n=n: len(it.said("echo", of=tokens[kept])) == n + 1, 30, "the node that is left")
            assert it.heard[0].link.is_alive
            cluster.start_node(lost)
            gone = next(task for task in it.heard[0].link.tasks if task.node == lost)
            gone.heard_at -= 60  # it has been silent for a minute

            def has_grown() -> bool:
                it.grow()
                it.send("echo", n=5)  # who is not silent keeps its node
                return len(it.said("hello")) == 3

            until(has_grown, 60, f"the node that is back; {it.log}")
            assert it.said("hello")[2]["place"] == lost
            assert len(it.heard) == 2
            it.send("echo", n=9)
            until(lambda: it.said("echo", of=it.tokens()[2]) and it.said("echo", of=tokens[kept])[-1]["n"] == 9, 30)
    finally:
        cluster.cancel(job)


@needs_slurm
def test_an_allocation_of_its_own_grows_when_nodes_become_free(cluster, tmp_path):
    blocker = cluster.allocate("--exclusive", nodes=2)
    wanted = {"min_nodes": 1, "max_nodes": 3}
    with opened(Place(name="slurm", settings="exclusive"), tmp_path, nodes=1, wanted=wanted) as it:
        assert [line["place"] for line in it.hellos(1)] == ["n3"]
        assert it.heard[0].link.nodes == 1
        until(lambda: it.grow(2) or it.told, 30, "that it queues")
        assert len(cluster.queue()) == 3
        it.grow(2)  # one request at a time
        assert len(cluster.queue()) == 3
        cluster.cancel(blocker)

        def has_grown() -> bool:
            if len(it.said("hello")) < 3:
                it.grow(3 - len(it.said("hello")))
            return len(it.said("hello")) == 3

        until(has_grown, 60)
        assert {line["place"] for line in it.said("hello")} == {"n1", "n2", "n3"}
    until(lambda: cluster.queue() == [], 10)


@needs_slurm
def test_growth_that_still_waits_ends_with_the_run(cluster, tmp_path):
    blocker = cluster.allocate("--exclusive", nodes=2)
    wanted = {"min_nodes": 1, "max_nodes": 3}
    with opened(Place(name="slurm", settings="exclusive"), tmp_path, nodes=1, wanted=wanted) as it:
        it.hellos(1)
        until(lambda: it.grow(2) or it.told, 30)
    until(lambda: cluster.queue() == [blocker], 10)
    cluster.cancel(blocker)


@needs_slurm
def test_gpus_are_asked_for_and_seen(cluster, tmp_path):
    """One a rank where the partition has any; all that an allocation has, however the user asked for them."""
    if not cluster.has_gpus:
        pytest.skip("no device nodes can be made here to stand for GPUs")

    def seen(settings: str, **wanted: object) -> list[str]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        with opened(Place(name="slurm", settings=settings), folder, wanted={"prefers_gpus": True, **wanted}) as it:
            it.hellos()
            it.send("env", names=["CUDA_VISIBLE_DEVICES"])
            until(lambda: len(it.said("env")) == 2, 30)
            return [line["values"]["CUDA_VISIBLE_DEVICES"] for line in it.said("env")]

    assert seen("partition=main") == ["0", "0"]
    assert seen("partition=main", nproc=2) == ["0,1", "0,1"]
    assert seen("partition=main", nproc=0) == ["0,1", "0,1"]
    assert seen("partition=main", gpus=-1) == ["0,1", "0,1"]
    assert seen("gres=gpu:1", nproc=2) == ["0", "0"]
    job = cluster.allocate("--gpus=4", "--ntasks-per-node=1", nodes=2)  # where an overlapping step would get one on n1
    assert seen(f"job={job}") == ["0,1", "0,1"]
    with pytest.raises(EngineError, match="has 2 GPUs on each node, and 3 are wanted"):
        seen(f"job={job}", gpus=3)
    cluster.cancel(job)


def refusal(settings: str, tmp_path: Path, **more: object) -> str:
    """What is said of settings for which nothing can be started; one sentence, and that nothing was."""
    with pytest.raises((EngineError, OptionError)) as caught:
        Opened(Place(name="slurm", settings=settings), tmp_path, **more)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("Nothing was started.")
    return str(caught.value)


@needs_slurm
def test_what_slurm_would_not_give_is_refused_before_anything_starts(cluster, allocation, tmp_path, monkeypatch):
    assert refusal("partition=gpuu", tmp_path) == (
        "Slurm partition gpuu would not give nodes for --nodes=2 --partition=gpuu: invalid partition specified: gpuu;"
        " Invalid partition name specified. Nothing was started."
    )
    assert "Requested node configuration is not available" in refusal("partition=small", tmp_path)
    assert "Invalid --time specification" in refusal("time=soon", tmp_path)
    assert "There is no Slurm job 4711 (Invalid job id specified)" in refusal("job=4711", tmp_path)
    assert re.search(r"has 2 nodes \(n\d, n\d\), and --nnodes wants 3", refusal(f"job={allocation}", tmp_path, nodes=3))
    cluster.cancel(allocation)
    monkeypatch.setenv("SLURM_JOB_ID", allocation)
    assert "(SLURM_JOB_ID says that this is it) does not run: it is CANCELLED" in refusal("", tmp_path)


@needs_slurm
def test_a_cluster_that_takes_us_for_a_stranger_is_told(cluster, tmp_path, monkeypatch):
    """Another munge key here than there: Slurm answers nothing."""
    with cluster.with_another_key() as conf, monkeypatch.context() as patch:
        patch.setenv("SLURM_CONF", str(conf))
        assert "sinfo fails (slurm_load_partitions: " in refusal("", tmp_path)


@needs_slurm
def test_a_python_that_is_not_there_is_told(cluster, tmp_path):
    with opened(Place(name="slurm", settings="python=/no/such/python"), tmp_path) as it:
        link = it.heard[0].link
        until(lambda: not link.is_alive, 30)
        until(lambda: it.heard[0].is_over, 30)
        assert "Exited with exit code 127" in link.why
        assert "/no/such/python" in it.log


def test_without_slurm_one_sentence_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no srun on the PATH" in refusal("", tmp_path)


def test_settings_are_sruns_own_options():
    assert parse("") == Settings()
    assert parse("job=12,python=/opt/p").job == "12"
    assert parse("partition=a,b,time=1-00:00,exclusive,gres=gpu:2,tmp:1,cpus_per_task=4").words == [
        "--partition=a,b", "--time=1-00:00", "--exclusive", "--gres=gpu:2,tmp:1", "--cpus-per-task=4",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partion=gpu", "Is partition meant?"),
        ("exclusivee", "Is exclusive meant?"),
        ("time", "time needs a value"),
        ("partition=", "partition needs a value"),
        ("nodes=3", "nodes can't be set here: --nnodes says it"),
        ("time=3,time=4", "time stands there twice"),
        ("job=12,time=3", "job=12 is an allocation that exists already"),
        ("job=me", "a job's id is a number"),
        ("; rm -rf /=1", "neither job=ID"),
    ],
)
def test_settings_that_make_no_sense_are_refused(text, said):
    with pytest.raises(OptionError) as caught:
        parse(text)
    assert said in str(caught.value)
    assert str(caught.value).endswith("Nothing was started.")


@pytest.mark.parametrize(
    ("settings", "wanted", "kinds", "words"),
    [
        ("", {"nproc": 4}, [(8, 0)], ["--cpus-per-task=4"]),
        ("", {"nproc": 1}, [(8, 0)], []),
        ("", {"nproc": 0}, [(8, 0)], ["--exclusive"]),
        ("", {"nproc": 2}, [(64, 8)], ["--gpus-per-node=2", "--cpus-per-task=16"]),
        ("", {"nproc": 0}, [(64, 8), (32, 4)], ["--gpus-per-node=4", "--cpus-per-task=32"]),
        ("", {"nproc": 2, "prefers_gpus": False}, [(64, 8)], ["--cpus-per-task=2"]),
        ("", {"nproc": 1, "gpus": 4}, [(64, 8)], ["--gpus-per-node=4", "--cpus-per-task=32"]),
        ("gres=gpu:1", {"nproc": 2}, [(64, 8)], ["--cpus-per-task=2"]),
        ("exclusive,gpus-per-node=8", {"nproc": 8}, [(64, 8)], []),
        ("cpus-per-task=3", {"nproc": 2}, [(64, 8)], ["--gpus-per-node=2"]),
    ],
)
def test_each_node_gets_its_share(settings, wanted, kinds, words):
    """Else ranks would sit on one CPU, and without a GPU: that is what Slurm gives those who ask for nothing."""
    asked = base.Wanted(run_id="r", **wanted)
    assert share(parse(settings), asked, kinds) == words


@pytest.mark.parametrize("size", [64, 1024, 1 << 20])
def test_pieces_of_lines_are_put_together_whatever_their_size(size):
    """A Slurm whose pieces are larger must not cost a line."""
    texts = {
        number: [b"~at n%d 7 2 %s~" % (number, b" " * 40_000)]
        + [b"%d:" % number + b"x" * n for n in (0, 1, size - 3, size - 2, size - 1, 2 * size - 2, 20_000) if n < 32_000]
        + [b"", b"~over 3"]
        for number in (0, 1)
    }
    out = b""
    for a, b in zip(texts[0], texts[1], strict=True):
        pieces = [[t[i : i + size] for i in range(0, len(t) + 1, size)] or [b""] for t in (a, b)]
        for i in range(max(map(len, pieces))):
            for number in (0, 1):
                if i < len(pieces[number]):
                    out += b"%d: " % number + pieces[number][i] + b"\n"
    merged = Merged()
    lines = [line for i in range(0, len(out), 777) for line in merged.feed(out[i : i + 777])]
    for number in (0, 1):
        assert [line for line in lines if line.startswith(b"%d:" % number)] == texts[number][1:-2]
        task = merged.tasks[number]
        assert (task.node, task.job, task.nodes, task.code) == (f"n{number}", "7", 2, 3)
