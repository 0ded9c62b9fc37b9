"""Whole supervisors, started by hand as on several machines: they form one group, which grows, shrinks and restarts.

A user would lose: runs over several nodes with nothing but the same command typed on each.
"""

from __future__ import annotations

import contextlib

import pytest

from nb_elastic import rundir
from nb_elastic.lifeline import ProcessId, descendants
from tests.support import listeners, supervise
from tests.support.until import until

PROGRAMS = "tests.programs.out_of_step"
pytestmark = pytest.mark.slow


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts supervisors; each is closed at the end."""
    monkeypatch.setenv("NBE_TEST_FOLDER", str(tmp_path))
    with contextlib.ExitStack() as stack:
        yield lambda program, **more: stack.enter_context(
            supervise.start(supervise.entry(f"{PROGRAMS}:{program}"), **more)
        )


def folders(supervisors):
    """Folder of each worker there was."""
    return [folder for one in supervisors for *_, folder in one.run.ranks() if folder.stdout.exists()]


def rounds(supervisor):
    """(world size, rank of its first worker) of each round."""
    sizes = {e["round"]: e["world_size"] for e in supervisor.of("rendezvous_finished")}
    ranks = {e["round"]: e["rank"] for e in supervisor.of("worker_started") if e["local_rank"] == 0}
    return [(size, ranks.get(number)) for number, size in sizes.items()]


def test_two_supervisors_started_by_hand_form_one_group(start, endpoint):
    both = [start("reduce_once", nproc=2, nnodes="2", rdzv_endpoint=endpoint) for _ in range(2)]
    for one in both:
        one.wait()
    assert [one.state for one in both] == ["succeeded", "succeeded"], both[0].log + both[1].log
    assert sorted(rounds(one)[0] for one in both) == [(4, 0), (4, 2)]
    results = [rundir.read_json(folder.worker_json)["result"]["text"] for folder in folders(both)]
    assert results == ["10.0"] * 4


def test_supervisors_on_loopback_listen_there_only(start, endpoint):
    both = [start("work_for_ever", nproc=1, nnodes="2", rdzv_endpoint=endpoint) for _ in range(2)]
    until(
        lambda: all(b"ready" in folder.stdout.read_bytes() for folder in folders(both)) and len(folders(both)) == 2, 120
    )
    pids = [pid for one in both for pid in (one.process.pid, *descendants(one.process.pid))]
    assert listeners.ips(pids) == {"127.0.0.1"}


def test_a_run_grows_when_a_supervisor_joins_late(start, endpoint):
    first = start("wait_for_company", nproc=1, nnodes="1:2", rdzv_endpoint=endpoint)
    first.until_event("worker_ready")
    second = start("wait_for_company", nproc=1, nnodes="1:2", rdzv_endpoint=endpoint)
    assert [one.wait().state for one in (first, second)] == ["succeeded", "succeeded"], first.log + second.log
    assert [size for size, _ in rounds(first)] == [1, 2]
    assert [e["cause"] for e in first.of("round_ended")] == ["membership", "success"]
    assert [size for size, _ in rounds(second)] == [2]


@pytest.mark.parametrize(
    ("program", "restarts"), [("talk_until_alone", 0), ("talk_until_alone", 1), ("idle_until_alone", 0)]
)
def test_a_run_shrinks_when_a_supervisor_is_lost(program, restarts, start, endpoint, tmp_path):
    options = {"nproc": 1, "nnodes": "1:2", "rdzv_endpoint": endpoint, "max_restarts": restarts}
    first = start(program, **options)
    first.until_event("rendezvous_started")  # it hosts the rendezvous
    second = start(program, **options)
    until(lambda: (tmp_path / "company").exists(), 120, "a group of two")
    for pid in (second.process.pid, *descendants(second.process.pid)):
        if found := ProcessId.of(pid):
            found.signal(9)
    first.wait()
    assert first.state == "succeeded", first.log
    assert [size for size, _ in rounds(first)][-2:] == [2, 1]
    assert [e["cause"] for e in first.of("round_ended")][-2:] == ["membership", "success"]


SLOW = """
import time
from torch.distributed import PrefixStore
get = PrefixStore.get
def late_get(self, key):
    if key.startswith("torchelastic/assigned_ranks/"):
        PrefixStore.get = get
        time.sleep(8)
    return get(self, key)
PrefixStore.get = late_get
"""


@pytest.fixture
def slow(tmp_path):
    """What makes a supervisor stop for seconds where torch's agent looks for its ranks."""
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW)
    return {"supervisor_env": {"PYTHONPATH": f"{tmp_path / 'slow'}:{supervise.ROOT}"}}


def test_a_static_node_that_is_slow_while_the_group_restarts_takes_part_in_the_next_round(start, endpoint, slow):
    """Node rank 0 has replaced its store when the other one looks there for its ranks."""
    address, _, port = endpoint.rpartition(":")
    group = {"nproc": 1, "nnodes": "2", "master_addr": address, "master_port": int(port), "max_restarts": 3}
    both = [start("fail_once_alone", node_rank=n, **group, **(slow if n else {})) for n in range(2)]
    assert [one.wait().state for one in both] == ["succeeded", "succeeded"], both[0].log + both[1].log
    assert [e["cause"] for e in both[0].of("round_ended")] == ["failure", "success"]


def test_a_node_that_the_group_left_behind_takes_part_in_the_next_round(start, endpoint, slow):
    """It waited so long for a slow one that this took it for lost; then the slow one's rank failed."""
    group = {"nproc": 1, "nnodes": "2", "rdzv_endpoint": endpoint, "max_restarts": 3}
    first = start("fail_once_alone", **group, **slow)
    first.until_event("rendezvous_started")  # it hosts the rendezvous
    both = [first, start("fail_once_alone", **group)]
    assert [one.wait().state for one in both] == ["succeeded", "succeeded"], both[0].log + both[1].log
    assert [[e["cause"] for e in one.of("round_ended")] for one in both] == [
        ["failure", "success"],
        ["membership", "success"],
    ]


@pytest.mark.parametrize("options", [{}, {"standalone": True}], ids=["loopback", "standalone"])
def test_a_cell_that_fails_at_first_succeeds_on_a_later_attempt(options, start):
    """However far the ranks are out of step; each round's logs are kept, and the journal tells why."""
    one = start("fail_and_fail_again", nproc=2, max_restarts=2, **options).wait()
    assert one.state == "succeeded", one.log
    assert [(e["cause"], e["round"]) for e in one.of("round_ended")] == [("failure", 0), ("failure", 1), ("success", 2)]
    assert [f"failure {n} on purpose" in one.err(0, round_number=n) for n in range(3)] == [True, True, False]


def test_a_node_that_waits_for_others_can_be_stopped(start, endpoint):
    one = start("reduce_once", nproc=1, nnodes="2", rdzv_endpoint=endpoint)
    one.until_event("rendezvous_started")
    one.stop(grace_s=30)
    assert one.wait(60).state == "stopped"


def test_a_node_whose_host_is_not_up_yet_can_be_stopped(start, endpoint):
    """At once, not when its patience or the grace is over."""
    one = start("reduce_once", nproc=1, nnodes="2", rdzv_endpoint=endpoint, rdzv_conf={"is_host": "0"})
    one.until_event("supervisor_started")
    one.stop(grace_s=300)
    assert one.wait(120).state == "stopped"


def test_ranks_of_all_nodes_know_the_run_by_one_id(start, endpoint, tmp_path):
    """As under torchrun, TORCHELASTIC_RUN_ID is the same everywhere, given or not."""
    both = [start("tell_run_id", nproc=1, nnodes="2", rdzv_endpoint=endpoint) for _ in range(2)]
    assert [one.wait().state for one in both] == ["succeeded", "succeeded"], both[0].log + both[1].log
    assert [folder.stdout.read_text() for folder in folders(both)] == ["none\n", "none\n"]
