"""A real node program led by a scripted driver: it says what it is, runs a node's share, and sends all that grows there.

A user would lose: logs, results and failures of every node but the notebook's own.
"""

from __future__ import annotations

import json
import os
import platform
import signal

import numpy as np
import pytest

from nb_elastic import cell, payload, rundir
from nb_elastic.lifeline import ProcessId
from nb_elastic.model import Entrypoint
from tests.support.node_driver import NodeProgram, folders
from tests.support.until import until

STEPS = "tests.programs.out_of_step"


@pytest.fixture(scope="module")
def node():
    """A node program that several tests use in turn, as several runs do."""
    with NodeProgram() as one:
        yield one


def path_to(line):
    return line.get("path", "")


def test_it_says_what_it_is_and_that_it_lives(node):
    hello = node.wait_for("hello")
    major, minor, _ = platform.python_version_tuple()
    assert {k: hello[k] for k in ("protocol", "python", "address", "place", "pid")} == {
        "protocol": 1, "python": f"{major}.{minor}", "address": "127.0.0.1", "place": "", "pid": node.process.pid,
    }  # fmt: skip
    assert hello["torch"]
    assert hello["nb_elastic"]
    assert hello["cpus"] > 0
    node.wait_for("alive")


def test_a_run_is_told_and_shipped_and_done(node):
    """Events in order; a rank's files after the word that it started; done after everything."""
    node.run("prints_bytes.py", run_id="bytes", nproc=1)
    done = node.wait_for("done")
    assert (done["run_id"], done["state"], done["code"]) == ("bytes", "succeeded", 0)
    lines = [line for line in node.lines if line.get("run_id") == "bytes"]
    kinds = [line["event"]["event"] for line in lines if line["type"] == "event"]
    wanted = [
        "supervisor_started",
        "rendezvous_finished",
        "worker_started",
        "worker_ready",
        "worker_exited",
        "round_ended",
    ]
    assert [kind for kind in kinds if kind in wanted] == wanted
    assert "run_finished" not in kinds, "the driver alone says the run's"
    started = next(n for n, line in enumerate(lines) if line.get("event", {}).get("event") == "worker_started")
    assert not [line for line in lines[:started] if path_to(line).startswith("round_")]
    assert lines[-1]["type"] == "done"
    text = bytes(node.files["bytes", "round_0/0/stdout.log"])
    assert text == b"invalid \xff\xfe utf-8\nnul \0\0 bytes\n" + b"x" * 50_000_000 + b"\n\rstep 1\rstep 2\ndone\n"
    assert json.loads(node.text("bytes", "round_0/0/worker.json"))["rank"] == 0
    assert max(node.sizes) <= 32_768


def test_a_second_run_is_warm_and_its_folder_goes(node):
    """It is forked from what stands by, and leaves nothing on the node."""
    before = len(node.of("done"))
    for n in range(2):
        node.run(f"{STEPS}:tell_run_id", run_id=f"again-{n}", nproc=1)
        node.wait_for("done", count=before + n + 1)
    started = node.events("worker_started")[-1]
    assert started["start_method"] == "warm"
    token = node.of("hello")[0]["from"]
    home = next(path for path in folders() if path.name == f"node-{token}")
    until(lambda: [path.name for path in home.iterdir()] == ["owner.json"], 20, "the run's folder to go")


def test_a_failure_is_told_with_its_traceback(node):
    before = len(node.of("done"))
    node.run("one_rank_raises.py", run_id="raises", nproc=2)
    done = node.wait_for("done", count=before + 1)
    assert (done["state"], done["code"]) == ("failed", 1)
    failure = next(e for e in node.events("worker_failed") if e["failure"]["rank"] == done["root_rank"])["failure"]
    assert failure["traceback"]
    assert any(run == "raises" and path.endswith("failure.json") for run, path in node.files)


def test_a_run_is_stopped(node):
    before = len(node.of("done"))
    node.run("tests.programs.hard_to_stop:python_code", run_id="stopped", nproc=1)
    until(lambda: "up" in node.text("stopped", "round_0/0/stdout.log"), 180)
    node.send("stop", run_id="stopped", by="the test", grace_s=0.5)
    done = node.wait_for("done", count=before + 1)
    assert (done["state"], done["text"], done["code"]) == ("stopped", "stopped by the test", 2)


def test_the_stacks_of_its_ranks_are_told(node):
    before = len(node.of("done"))
    node.run("tests.programs.waits_for_a_file:main", run_id="waits", nproc=1)
    until(lambda: "waiting" in node.text("waits", "round_0/0/stdout.log"), 180)
    node.send("stacks", run_id="waits", nonce="n1")
    told = node.wait_for("stacks")
    assert told["nonce"] == "n1"
    assert [(one["rank"], one["user"]["name"]) for one in told["stacks"]] == [(0, "main")]
    node.send("stop", run_id="waits", by="the test", grace_s=0)
    node.wait_for("done", count=before + 1)


def test_who_is_not_named_does_not_heed(node):
    node.send("reach", to=["00000000"], endpoint="127.0.0.1:1", nonce="not for it")
    node.send("reach", to=[node.of("hello")[0]["from"]], endpoint="127.0.0.1:1", nonce="for it")
    told = node.wait_for("reached")
    assert (told["nonce"], told["ok"]) == ("for it", False)
    assert "refused" in told["why"]


def test_what_it_can_not_read_it_says_and_goes_on(node):
    notes, ends = len(node.of("note")), len(node.of("done"))
    node.send("run", run_id="../../etc", node=0)
    node.send("file", b"x", run_id="a", name="../owner.json", offset=0, size=1)
    node.wait_for("note", count=notes + 2)
    node.send("run", run_id="torn", node=0, spec={})
    done = node.wait_for("done", count=ends + 1)
    assert (done["run_id"], done["state"], done["code"]) == ("torn", "failed", 3)


def test_a_burst_arrives_whole_and_in_order(node):
    """4 ranks, 3,000 lines each, as fast as they can."""
    before = len(node.of("done"))
    node.run("prints_a_burst.py", "3000", run_id="burst", nproc=4)
    node.wait_for("done", count=before + 1)
    for rank in range(4):
        assert node.text("burst", f"round_0/{rank}/stdout.log") == "".join(
            f"rank {rank} line {n} {'.' * 50}\n" for n in range(3000)
        )


def test_what_a_run_needs_comes_in_files(node, tmp_path):
    """The payload and its buffers, in pieces, as for a cell that captured a large array."""
    big = np.arange(2_000_000)
    code = cell.analyze("int(big.sum())", label="Cell In[1]")
    packed = payload.dump_cell(code, {"__name__": "__main__", "big": big}, sources={}, labels={})
    fd = payload.write(packed, tmp_path / "payload.pkl")
    try:
        buffers = os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)
    assert len(buffers) >= big.nbytes
    blobs = {"payload.pkl": (tmp_path / "payload.pkl").read_bytes(), "buffers.bin": buffers}
    for name, blob in blobs.items():
        for at in range(0, len(blob), 1 << 20):
            piece = blob[at : at + (1 << 20)]
            node.send("file", piece, run_id="captured", name=name, offset=at, size=len(blob))
    before = len(node.of("done"))
    node.run(Entrypoint(kind="cell", target="Cell In[1]"), run_id="captured", nproc=1, payload="/elsewhere/payload.pkl")
    assert node.wait_for("done", count=before + 1)["state"] == "succeeded", node.text("captured", "supervisor.log")
    assert json.loads(node.text("captured", "round_0/0/worker.json"))["result"]["text"] == str(int(big.sum()))


def test_nodes_form_a_group_and_a_late_one_counts_its_rounds_alike():
    """One hosts the meeting place, the other reaches it. Rounds, folders and events have one number on both nodes."""
    options = {"nproc": 1, "min_nodes": 1, "max_nodes": 2, "run_id": "grows"}
    with NodeProgram() as first, NodeProgram() as late:
        first.send("host", address="127.0.0.1")
        endpoint = first.wait_for("hosting")["endpoint"]
        first.run(f"{STEPS}:wait_for_company", node=0, endpoint=endpoint, **options)
        first.wait_for_event("worker_ready")
        late.send("reach", endpoint=endpoint, nonce="there")
        assert late.wait_for("reached")["ok"]
        late.run(f"{STEPS}:wait_for_company", node=1, endpoint=endpoint, **options)
        assert [one.wait_for("done")["state"] for one in (first, late)] == ["succeeded", "succeeded"]
        assert rounds(first) == [(0, 0, 1, 0), (1, 0, 2, 0)]
        assert rounds(late) == [(1, 0, 2, 1)]
        assert [e["round"] for e in late.events("rendezvous_started")] == [1]
        assert ("grows", "round_1/0/stdout.log") in late.files
        assert not [path for _, path in late.files if path.startswith("round_0")]


def rounds(node):
    """Round, attempt, size of the group and node's number, as often as it was formed."""
    return [(e["round"], e["attempt"], e["group_world_size"], e["node"]) for e in node.events("rendezvous_finished")]


def test_a_node_that_comes_when_all_is_over_has_nothing_to_do():
    """Nor does it make the run fail."""
    options = {"nproc": 1, "min_nodes": 1, "max_nodes": 2, "run_id": "over"}
    with NodeProgram() as first, NodeProgram() as late:
        first.send("host", address="127.0.0.1")
        endpoint = first.wait_for("hosting")["endpoint"]
        for number, one in enumerate((first, late)):
            one.run(f"{STEPS}:tell_run_id", node=number, endpoint=endpoint, **options)
            done = one.wait_for("done")
            assert done["state"] == "succeeded", done
        assert done["text"] == "The run was over before this node could take part."
        assert not late.events("worker_started")


def test_a_restart_counts_on_all_nodes(tmp_path):
    """The ranks of a node that was fine are told the same attempt as those that failed, and the next failure is the last."""
    options = {"nproc": 1, "min_nodes": 2, "max_nodes": 2, "run_id": "restarts", "max_restarts": 1}
    env = {"NBE_TEST_FOLDER": str(tmp_path)}
    with NodeProgram(env=env) as first, NodeProgram(env=env) as second:
        first.send("host", address="127.0.0.1")
        endpoint = first.wait_for("hosting")["endpoint"]
        for number, one in enumerate((first, second)):
            one.run(f"{STEPS}:fail_once_alone", node=number, endpoint=endpoint, **options)
        assert [one.wait_for("done")["state"] for one in (first, second)] == ["succeeded", "succeeded"]
        assert rounds(first) == [(0, 0, 2, 0), (1, 1, 2, 0)]
        assert rounds(second) == [(0, 0, 2, 1), (1, 1, 2, 1)]
        told = [bytes(text) for one in (first, second) for (_, path), text in one.files.items() if "stdout" in path]
        assert sorted(told) == [b"attempt 0\n", b"attempt 0\n", b"attempt 1\n", b"attempt 1\n"]


def test_a_slow_reader_costs_no_memory_and_words_go_first():
    """Nothing is read that can't be sent; and when it is, a word waits for no log."""
    with NodeProgram(is_read=False) as one:
        one.run("prints_bytes.py", run_id="bytes", nproc=2)
        home = until(
            lambda: [p for p in folders() if rundir.read_json(p / "owner.json").get("pid") == one.process.pid]
        )[0]
        logs = home / "bytes" / "node_0" / "round_0"
        until(lambda: sum(p.stat().st_size for p in logs.glob("*/stdout.log")) > 100_000_000, 180, "the ranks to print")
        assert resident_bytes(one.process.pid) < 100_000_000
        one.send("reach", endpoint="127.0.0.1:1", nonce="word")
        one.read()
        one.wait_for("done")
        reached = next(n for n, line in enumerate(one.lines) if line["type"] == "reached")
        pieces = [n for n, line in enumerate(one.lines) if line["type"] == "piece"]
        assert reached < pieces[len(pieces) // 2]


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_supervisor_that_is_killed_is_lost_and_leaves_nothing(node, tmp_path):
    before = len(node.of("done"))
    pids = tmp_path / "pids"
    node.run("tests.programs.will_not_die:main", run_id="lost", nproc=1, env={"WILL_NOT_DIE": str(pids)})
    until(lambda: "up" in node.text("lost", "round_0/0/stdout.log"), 180)
    started = node.events("supervisor_started")[-1]
    assert ProcessId(started["pid"], started["start_ticks"]).signal(signal.SIGKILL)
    done = node.wait_for("done", count=before + 1)
    assert (done["state"], done["code"]) == ("lost", 3)
    assert done["text"].startswith("The supervisor of this node ended without a word")
    until(lambda: not living(pids), 5, "the ranks to be gone")


def living(pids):
    """Of the processes that wrote themselves down, those that live."""
    told = [ProcessId(*map(int, line.split())) for line in pids.read_text().splitlines()]
    assert told
    return [one for one in told if one.is_alive]
