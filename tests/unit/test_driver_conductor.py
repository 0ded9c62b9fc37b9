"""What the driver decides: who begins, where they meet, who is waited for, and how a run ends when nodes do odd things.

A user would lose: runs behind a firewall, runs that wait for ever, and the reason why a run ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from nb_elastic import rundir
from nb_elastic.driver import meeting, standstill
from tests.support.scripted_nodes import QUICK, Scene, ScriptedNode, obliging

KEEPER = 'import sys; print(\'{"type":"hosting","endpoint":"127.0.0.1:1"}\', flush=True); sys.stdin.read()'
Make = Callable[..., Scene]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes scenes; their store keeper is one without torch."""
    monkeypatch.setattr(meeting, "KEEPER", ("-c", KEEPER))
    scenes: list[tuple[Scene, list[ScriptedNode]]] = []

    def make_one(*nodes: ScriptedNode, **options: Any) -> Scene:
        folder = tmp_path / f"run{len(scenes)}"
        folder.mkdir()
        scene = Scene(folder, **options)
        scenes.append((scene, list(nodes)))
        scene.add(*nodes)
        return scene

    yield make_one
    for scene, nodes in scenes:
        scene.close()
        for node in nodes:
            node.leave()
    for thread in threading.enumerate():
        if thread.name.startswith("nb_elastic-"):
            thread.join(5)


def busy(node: ScriptedNode, message: Mapping[str, Any]) -> None:
    """Begins, and ends only when it is told."""
    if message["type"] != "run":
        obliging(node, message)


def far(node: ScriptedNode, message: Mapping[str, Any]) -> None:
    """Reaches only what a node keeps; can keep it itself."""
    if message["type"] == "reach":
        node.say("reached", nonce=message["nonce"], ok=message["endpoint"] != "127.0.0.1:1", why="No route to host")
    elif message["type"] == "host":
        node.say("hosting", endpoint="10.0.0.1:2")
    else:
        obliging(node, message)


def test_two_nodes_begin_together_with_what_each_must_know(make: Make):
    nodes = [ScriptedNode(n, obliging) for n in range(2)]
    scene = make(*nodes, nnodes="2", env={"A": "b"})
    assert scene.end()["state"] == "succeeded"
    shares = [{**node.of("run")[0], **node.of("run")[0]["each"][node.token]} for node in nodes]
    assert [(s["node"], s["endpoint"], s["min_nodes"], s["max_nodes"]) for s in shares] == [
        (0, "127.0.0.1:1", 2, 2),
        (1, "127.0.0.1:1", 2, 2),
    ]
    assert shares[0]["key_hex"] == shares[1]["key_hex"] != ""
    assert shares[0]["spec"]["env"] == {} and shares[0]["env"] == {"A": "b"}


def test_a_store_that_a_node_does_not_reach_is_kept_by_a_node(make: Make):
    nodes = [ScriptedNode(0, far), ScriptedNode(1, far)]
    scene = make(*nodes, nnodes="2")
    assert scene.end()["state"] == "succeeded"
    assert {node.of("run")[0]["endpoint"] for node in nodes} == {"10.0.0.1:2"}
    assert [len(node.of("host")) for node in nodes] == [1, 0]


def test_nodes_that_reach_nothing_fail_the_run_and_say_what(make: Make):
    def lonely(node: ScriptedNode, message: Mapping[str, Any]) -> None:
        if message["type"] == "reach":
            node.say("reached", nonce=message["nonce"], ok=False, why="No route to host")
        else:
            far(node, message)

    end = make(ScriptedNode(0, far), ScriptedNode(1, lonely), nnodes="2").end()
    assert (end["state"], end["category"]) == ("failed", "rendezvous")
    assert end["text"].startswith("host1 can't reach 10.0.0.1:2, where the nodes of the run meet")


def test_nodes_that_do_not_come_are_not_waited_for_for_ever(make: Make):
    scene = make(ScriptedNode(0, obliging), nnodes="2", rdzv_conf={"join_timeout": "0.6"})
    end = scene.end()
    assert "2 node(s) of a script were wanted, and 1 came within 0.6 s" in end["text"]
    assert [e["text"] for e in scene.events() if e.kind == "note"] == ["Waiting for 2 node(s) of a script: 1 is there."]


def test_a_stop_before_the_beginning_is_the_end(make: Make):
    scene = make(ScriptedNode(0, obliging), nnodes="2")
    scene.work()
    scene.conductor.stop(by="somebody", grace_s=5, now=scene.desk.clock())
    assert (scene.end()["state"], scene.end()["text"]) == ("stopped", "stopped by somebody")


def test_a_node_that_does_not_stop_is_dropped(make: Make):
    def deaf(node: ScriptedNode, message: Mapping[str, Any]) -> None:
        if message["type"] != "stop":
            busy(node, message)

    nodes = [ScriptedNode(0, busy), ScriptedNode(1, deaf)]
    scene = make(*nodes, nnodes="2")
    scene.until(lambda: all(node.of("run") for node in nodes))
    scene.conductor.stop(by="somebody", grace_s=0, now=scene.desk.clock())
    assert scene.end()["state"] == "stopped"


def test_the_first_failure_stops_the_others_after_a_moment(make: Make):
    nodes = [ScriptedNode(0, busy), ScriptedNode(1, busy)]
    scene = make(*nodes, nnodes="2")
    scene.until(lambda: all(node.of("run") for node in nodes))
    nodes[1].say("done", run_id="run0", state="failed", text="it broke", category="user error", reasons=["so"])
    end = scene.end()
    assert nodes[0].of("stop")[0]["by"] == "the failure of another node"
    assert (end["state"], end["text"], end["category"]) == ("failed", "Node 1 (host1): it broke", "user error")


def test_a_node_that_stops_by_itself_is_missed_only_where_it_is_needed(make: Make):
    for nnodes, state in (("1:2", "succeeded"), ("2", "stopped")):
        nodes = [ScriptedNode(0, busy), ScriptedNode(1, busy)]
        scene = make(*nodes, nnodes=nnodes)
        scene.until(lambda nodes=nodes: all(node.of("run") for node in nodes))
        run_id = scene.run.run_id
        nodes[1].say("done", run_id=run_id, state="stopped", text="stopped by signal SIGTERM")
        scene.until(lambda scene=scene: any(e.kind in {"node_left", "stop_requested"} for e in scene.events()))
        if nnodes == "1:2":
            nodes[0].say("done", run_id=run_id, state="succeeded")
        end = scene.end()
        assert end["state"] == state
        assert end["text"] == ("" if state == "succeeded" else "stopped by signal SIGTERM on node 1 (host1)")


def test_a_held_group_keeps_its_frames_though_another_node_fails(make: Make):
    nodes = [ScriptedNode(n, busy) for n in range(3)]
    scene = make(*nodes, nnodes="3", hold=True)
    scene.until(lambda: all(node.of("run") for node in nodes))
    place = {"round": 0, "rank": 0, "local_rank": 0}
    for node in nodes[:2]:
        node.say(
            "event", run_id=scene.run.run_id, event={"event": "worker_held", "time_ns": 1, "why": "failure", **place}
        )
    nodes[2].say("done", run_id=scene.run.run_id, state="failed", text="killed")
    scene.until(lambda: [e for e in scene.events() if e.kind == "worker_held"][1:])
    over_at = scene.desk.clock() + 3 * QUICK.fail
    scene.until(lambda: scene.desk.clock() > over_at)
    assert [node.of("stop") for node in nodes] == [[], [], []]
    nodes[0].say("event", run_id=scene.run.run_id, event={"event": "worker_released", "time_ns": 2, **place})
    scene.until(lambda: nodes[0].of("stop") and nodes[1].of("stop"))


def test_what_could_not_be_written_of_a_node_is_told_once(make: Make):
    nodes = [ScriptedNode(n, busy) for n in range(2)]
    scene = make(*nodes, nnodes="2")
    scene.until(lambda: all(node.of("run") for node in nodes))
    (scene.run.round(0, node=1)).touch()  # in the way of a folder, as a full disk would be
    for path in ("round_0/0/stdout.log", "round_0/1/stdout.log"):
        nodes[1].say("piece", run_id=scene.run.run_id, path=path, offset=0, data="YWJj")
    for node in nodes:
        node.say("done", run_id=scene.run.run_id, state="succeeded")
    assert scene.end()["state"] == "succeeded"
    (note,) = [e for e in scene.events() if e.kind == "note" and "gaps" in e["text"]]
    assert note["text"].startswith("Logs, metrics or results of node 1 (")
    assert note["text"].endswith("round_0/0/stdout.log can't be written: Not a directory.")


def test_a_lost_node_that_is_heard_again_in_time_takes_part_again(make: Make):
    def mute(node: ScriptedNode, message: Mapping[str, Any]) -> None:
        if message["type"] != "ping":
            busy(node, message)

    nodes = [ScriptedNode(0, busy), ScriptedNode(1, mute)]
    scene = make(*nodes, nnodes="1:2")

    def kinds() -> list[str]:
        return [e.kind for e in scene.events() if e.kind.startswith("node_")]

    scene.until(lambda: kinds()[2:] == ["node_lost"])
    nodes[1].say("alive")
    scene.until(lambda: kinds()[2:] == ["node_lost", "node_joined"])
    assert scene.events()[-1]["is_back"] is True
    for node in nodes:
        node.say("done", run_id="run0", state="succeeded")
    assert scene.end()["state"] == "succeeded"


def test_a_question_in_the_run_folder_reaches_the_nodes_and_their_answers_come_back(make: Make):
    def tells(node: ScriptedNode, message: Mapping[str, Any]) -> None:
        if message["type"] == "stacks":
            for nonce in (message["nonce"], "../../x", "f" * 16, None):
                node.say("stacks", run_id=message["run_id"], nonce=nonce, stacks=[{"rank": int(node.token, 16)}])
        else:
            busy(node, message)

    nodes = [ScriptedNode(0, tells), ScriptedNode(1, tells)]
    scene = make(*nodes, nnodes="2")
    scene.until(lambda: all(node.of("run") for node in nodes))
    question = scene.run.asks / ("0" * 16)
    question.mkdir(parents=True)
    (scene.run.asks / "no question").mkdir()
    scene.until(lambda: len(list(question.iterdir())) == 2)
    assert [rundir.read_json(question / f"node_{n}.json") for n in range(2)] == [
        {"stacks": [{"rank": 0}]},
        {"stacks": [{"rank": 1}]},
    ]
    scene.until(lambda: len(nodes[0].of("ping")) > 2)
    assert [len(node.of("stacks")) for node in nodes] == [1, 1]  # once each
    assert sorted(p.name for p in scene.run.asks.iterdir()) == ["0" * 16, "no question"]


def hangs(doing: Mapping[str, str]) -> Callable[[ScriptedNode, Mapping[str, Any]], None]:
    """A node with one rank, which stands still when it is told to; ``doing`` says how."""

    def answer(node: ScriptedNode, message: Mapping[str, Any]) -> None:
        rank = int(node.token, 16)
        if message["type"] == "stacks":
            one = {"rank": rank, "state": doing[node.token], "doing": "waits in x" if rank else "sleeps"}
            node.say("stacks", run_id=message["run_id"], nonce=message["nonce"], stacks=[one])
        elif message["type"] == "run":
            tells(node, "worker_started", rank=rank, local_rank=0)
        else:
            busy(node, message)

    return answer


def tells(node: ScriptedNode, kind: str, **data: Any) -> None:
    """A line of the node's journal."""
    node.say("event", run_id="run0", event={"event": kind, "time_ns": 1, "node": 9, "round": 0, **data})


def standstills(scene: Scene) -> list[tuple[str, str, tuple[int, ...]]]:
    """What the journal tells of them: the event, its headline, the ranks that stand still while others move."""
    found = []
    for event in scene.events():
        if event.kind in {"hang_found", "stall_found", "hang_over"}:
            report = event.get("report") or {}
            still = tuple(r for g in report.get("groups", ()) if g["is_still"] for r in g["ranks"])
            found.append((event.kind, report.get("headline", ""), still))
    return found


def test_a_run_hangs_only_where_nothing_moves_on_any_node(make: Make):
    """On one node all may wait for long while another one validates or saves."""
    doing = {"00000000": "busy", "00000001": "busy"}
    nodes = [ScriptedNode(n, hangs(doing)) for n in range(2)]
    scene = make(*nodes, nnodes="2", hang_after=0.2)

    scene.until(lambda: len([e for e in scene.events() if e.kind == "worker_started"]) == 2)
    tells(nodes[1], "hang_found", report={"headline": "only mine", "groups": [{"ranks": [1], "state": "waiting"}]})
    scene.until(lambda: nodes[0].of("stacks"))  # does it stand, as its node says?
    assert standstills(scene) == []
    tells(nodes[0], "hang_found")
    scene.until(lambda: len(nodes[0].of("stacks")) > 3)  # all compute: it looks again
    assert standstills(scene) == []
    doing["00000001"] = "waiting"
    scene.until(lambda: standstills(scene))
    said = ("hang_found", "Rank 0 sleeps; rank 1 waits in x.", ())
    assert standstills(scene) == [said]
    tells(nodes[1], "hang_over")
    tells(nodes[0], "hang_over")
    scene.until(lambda: len(standstills(scene)) == 2)
    assert standstills(scene) == [said, ("hang_over", "", ())]


def test_a_node_that_stands_while_another_one_talks_is_told_without_ending_the_run(make: Make):
    """A thread of rank 0 may say that it lives, or it works on: its node can't know that another node's ranks wait for it."""
    doing = {"00000000": "waiting", "00000001": "waiting"}
    nodes = [ScriptedNode(n, hangs(doing)) for n in range(2)]
    scene = make(*nodes, nnodes="2", hang_after=0.2, on_hang="stop")
    scene.until(lambda: len([e for e in scene.events() if e.kind == "worker_started"]) == 2)
    tells(nodes[1], "hang_found")
    scene.until(lambda: standstills(scene))
    said = ("stall_found", "Rank 0 sleeps; rank 1 waits in x.", (1,))
    tells(nodes[1], "hang_over")
    scene.until(lambda: len(standstills(scene)) == 2)
    assert standstills(scene) == [said, ("hang_over", "", ())]
    tells(nodes[0], "stall_found", ranks=[0, 1, 7, "x", [0]])  # of its own ranks only
    scene.until(lambda: len(standstills(scene)) == 3)
    assert standstills(scene)[2] == ("stall_found", "Rank 1 waits in x; rank 0 sleeps.", (0,))
    assert nodes[0].of("stop") == []


@pytest.mark.parametrize("why", ["it only computes", "somebody looks at another one"])
def test_a_node_that_stands_for_a_good_reason_is_not_told(make: Make, why: str):
    is_held = why == "somebody looks at another one"
    doing = {"00000000": "held" if is_held else "busy", "00000001": "waiting"}
    nodes = [ScriptedNode(n, hangs(doing)) for n in range(2)]
    scene = make(*nodes, nnodes="2", hang_after=0.2)
    scene.until(lambda: len([e for e in scene.events() if e.kind == "worker_started"]) == 2)
    state = "waiting" if is_held else "busy"
    tells(nodes[1], "hang_found", report={"groups": [{"ranks": [1], "state": state}]})
    pings = len(nodes[1].of("ping"))
    scene.until(lambda: len(nodes[1].of("ping")) > pings + 4)
    assert bool(nodes[0].of("stacks")) is is_held
    assert standstills(scene) == []


def test_some_that_become_all_are_a_hang(make: Make):
    doing = {"00000000": "waiting", "00000001": "waiting"}
    nodes = [ScriptedNode(n, hangs(doing)) for n in range(2)]
    scene = make(*nodes, nnodes="2", hang_after=0.2)
    scene.until(lambda: len([e for e in scene.events() if e.kind == "worker_started"]) == 2)
    tells(nodes[1], "stall_found", ranks=[1])
    scene.until(lambda: standstills(scene))
    for node in nodes:
        tells(node, "hang_found")
    scene.until(lambda: len(standstills(scene)) == 2)
    assert [kind for kind, _, _ in standstills(scene)] == ["stall_found", "hang_found"]


def test_a_hang_of_all_nodes_ends_the_run_where_that_is_wished(make: Make):
    doing = {"00000000": "waiting", "00000001": "waiting"}
    nodes = [ScriptedNode(n, hangs(doing)) for n in range(2)]
    scene = make(*nodes, nnodes="2", hang_after=0.2, on_hang="stop")
    scene.until(lambda: len([e for e in scene.events() if e.kind == "worker_started"]) == 2)
    for node in nodes:
        tells(node, "hang_found")
    end = scene.end()
    assert (end["state"], end["category"]) == ("failed", "timeout")
    assert end["text"].startswith("timeout: nothing moved any more. Rank 0 sleeps; rank 1 waits in x.")
    assert [node.of("stop")[0]["by"] for node in nodes] == ["hang", "hang"]


def test_a_silent_node_does_not_keep_a_hang_from_being_told(make: Make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(standstill, "ANSWER_S", 0.2)

    def mute(node: ScriptedNode, message: Mapping[str, Any]) -> None:
        if message["type"] != "stacks":
            hangs({})(node, message)

    nodes = [ScriptedNode(0, hangs({"00000000": "waiting"})), ScriptedNode(1, mute)]
    scene = make(*nodes, nnodes="2", hang_after=0.2)
    scene.until(lambda: len([e for e in scene.events() if e.kind == "worker_started"]) == 2)
    for node in nodes:
        tells(node, "hang_found")
    scene.until(lambda: [e for e in scene.events() if e.kind == "hang_found"])
    report = scene.events()[-1]["report"]
    assert "rank 1 is on node 1 (host1), which does not answer" in report["headline"]
