"""Views and the board's thread: what pages get, what they may ask, and that none of them can hold anything up."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nb_elastic.dashboard import messages, runlist
from nb_elastic.dashboard import view as views
from nb_elastic.dashboard.board import Board
from nb_elastic.dashboard.errands import MAX_STACKS, Errands
from nb_elastic.dashboard.live import LiveRun
from nb_elastic.dashboard.panel import Panel
from nb_elastic.dashboard.view import Door, View
from nb_elastic.model import Frame, StackGroup, StackReport
from nb_elastic.rundir import RunDir
from tests.support.dashboards import RUN_ID, DashboardStory, stack_report
from tests.support.until import until

MB = 1 << 20


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Wire:
    """A door, and all that went through it."""

    def __init__(self, folder: RunDir | None = None) -> None:
        self.sent: list[dict[str, Any]] = []
        self.buffers: list[bytes] = []
        self.stops: list[tuple[str, float]] = []
        self.is_cut = False
        self.door = Door(send=self.send, find=lambda _: folder, stop=self.stop)

    def send(self, message: dict[str, Any], buffers: list[bytes]) -> None:
        """Take a message."""
        if self.is_cut:
            raise ConnectionError
        self.sent.append(message)
        self.buffers.append(b"".join(buffers))

    def stop(self, folder: RunDir, grace_s: float) -> None:
        """Note a stop."""
        self.stops.append((folder.run_id, grace_s))

    def kinds(self, view: str = "") -> list[str]:
        """Types of what was sent, to one view if named."""
        return [m["type"] for m in self.sent if not view or m.get("view") == view]

    def bytes_of(self, view: str) -> int:
        """Bytes that a view got."""
        return sum(len(b) for m, b in zip(self.sent, self.buffers, strict=True) if m.get("view") == view)


class Viewed:
    """One view with a clock of its own, stepped by hand."""

    def __init__(self, story: DashboardStory, *, name: str = "v", have: dict[str, int] | None = None) -> None:
        self.clock, self.wire = Clock(), Wire()
        self.run = LiveRun(story.folder)
        self.run.look()
        self.view = View(name, door=self.wire.door, run=self.run, have=have, clock=self.clock)

    def step(self, seconds: float = 0.05, *, is_acked: bool = True) -> bool:
        """Time passes, one look, one step."""
        self.clock.now_s += seconds
        self.run.look()
        has_more = self.view.step()
        if is_acked:
            self.view.hear(self.wire.sent[-1].get("seq", 0) if self.wire.sent else 0)
        return has_more


def test_a_view_gets_hello_state_files_and_at_the_end_one_last_beat(tmp_path: Path) -> None:
    viewed = Viewed(DashboardStory(tmp_path, ending="succeeded"))
    viewed.step()
    assert viewed.wire.kinds() == ["hello", "state", "chunks", "beat"]
    assert [m.get("seq") for m in viewed.wire.sent] == [None, 1, 2, 3]
    assert viewed.wire.sent[-1]["is_over"]
    assert {(m["view"], m["run"]) for m in viewed.wire.sent} == {("v", RUN_ID)}
    assert viewed.view.is_over
    viewed.step(5)
    assert len(viewed.wire.sent) == 4


def test_states_come_at_most_five_times_a_second_and_beats_once(tmp_path: Path) -> None:
    story = DashboardStory(tmp_path)
    viewed = Viewed(story)
    journal = story.folder.journal
    for n in range(60):
        line = f'{{"event": "note", "time_ns": {story.now_ns + n}, "node": 0, "level": "info", "text": "note {n}"}}\n'
        journal.write_bytes(journal.read_bytes() + line.encode())
        viewed.step(0.05)
    states = [m for m in viewed.wire.sent if m["type"] == "state"]
    assert 10 <= len(states) <= 16
    assert len(viewed.wire.kinds()) - len(states) - 2 == 2 or viewed.wire.kinds().count("beat") in {2, 3}
    viewed.step(0.3)
    assert [m for m in viewed.wire.sent if m["type"] == "state"][-1]["snapshot"]["notes"][-1] == ("info", "note 59")


def test_a_page_that_stops_answering_gets_a_window_and_no_more_and_goes_on_when_it_does(tmp_path: Path) -> None:
    story = DashboardStory(tmp_path)
    story.swell(40 * MB)
    viewed = Viewed(story)
    for _ in range(100):
        viewed.step(is_acked=False)
    numbered = [m["seq"] for m in viewed.wire.sent if "seq" in m]
    assert numbered == list(range(1, views.WINDOW + 1))
    viewed.view.hear(10)
    for _ in range(100):
        viewed.step(is_acked=False)
    assert viewed.wire.sent[-1]["seq"] == views.WINDOW + 10
    while viewed.view.is_behind:
        viewed.step()
    assert viewed.wire.bytes_of("v") > 40 * MB


def test_a_page_unheard_for_long_is_dropped(tmp_path: Path) -> None:
    viewed = Viewed(DashboardStory(tmp_path))
    viewed.step()
    viewed.step(views.SILENT_S + 1, is_acked=False)
    assert viewed.view.is_gone


def test_an_ack_of_what_was_never_sent_opens_no_window(tmp_path: Path) -> None:
    viewed = Viewed(DashboardStory(tmp_path))
    viewed.view.hear(10**6)
    for _ in range(60):
        viewed.step(1, is_acked=False)
        viewed.view.hear(0)
    assert viewed.wire.sent[-1]["seq"] == views.WINDOW


def test_a_way_that_is_cut_ends_the_view_and_nothing_else(tmp_path: Path) -> None:
    viewed = Viewed(DashboardStory(tmp_path))
    viewed.wire.is_cut = True
    viewed.step()
    assert viewed.view.is_gone


def test_pages_that_cannot_be_heard_get_two_megabytes_a_second(tmp_path: Path) -> None:
    story = DashboardStory(tmp_path)
    story.swell(40 * MB)
    viewed = Viewed(story, name=messages.EVERYBODY)
    for _ in range(220):
        viewed.step(0.05, is_acked=False)
    assert 19_000_000 < viewed.wire.bytes_of("*") < 21_500_000
    assert not viewed.view.is_gone


def test_a_broadcast_waits_for_pages_that_can_be_heard_and_begins_anew_for_those_that_come_late(tmp_path: Path) -> None:
    """With the charts each time, which such pages can't ask for; pages that are heard before get none of it."""
    viewed = Viewed(DashboardStory(tmp_path), name=messages.EVERYBODY)
    viewed.wire.door.charts = b"code"
    viewed.step(0.9)
    assert viewed.wire.sent == []
    for _ in range(100):
        viewed.step(0.1)
    kinds = [kind for kind in viewed.wire.kinds() if kind != "beat"]
    assert kinds == ["hello", "asset", "state", "chunks"] * 3
    pieces = [b for b in viewed.wire.buffers if b]
    assert pieces[:2] == pieces[2:4] == pieces[4:]
    assert pieces[0] == b"code"


@pytest.mark.parametrize(
    "content",
    [
        None, 7, "open", [], {}, {"type": "open"}, {"type": "open", "view": ""}, {"type": "open", "view": "*"},
        {"type": "open", "view": "v" * 300}, {"type": "open", "view": "v", "run": 5}, {"type": "sudo", "view": "v"},
        {"type": ["open"], "view": "v"}, {"type": "read", "view": "v", "file": 5, "size": 5}, {"type": "read", "view": "v", "file": "a"},
        {"type": "stop", "view": "v", "grace_s": -1}, {"type": "stop", "view": "v", "grace_s": float("nan")},
        {"type": "stop", "view": "v", "grace_s": True}, {"type": "open", "view": "v\x00"},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_not_heard(content: Any) -> None:
    assert messages.read(content) is None


def test_what_makes_sense_in_part_is_heard_in_part() -> None:
    have = {"0/usage": 7, 3: 4, "a": -1, "b": "x", "c": 1.0, "d": 1e300, "e": True}
    ask = messages.read({"type": "open", "view": "v", "have": have})
    assert ask is not None
    assert ask.have == {"0/usage": 7, "c": 1}
    read = messages.read({"type": "read", "view": "v", "id": 3, "file": "0/usage", "offset": -4, "size": 10**15})
    assert read is not None
    assert (read.offset, read.size) == (0, messages.READ_BYTES)


@pytest.mark.parametrize("run_id", ["", ".", "..", "../x", "/etc", "a/b", ".hidden", "x\x00y", "x" * 150, "nothing"])
def test_only_runs_can_be_named(elastic_home: Path, run_id: str) -> None:
    (elastic_home / ".hidden").mkdir()
    (elastic_home / ".hidden" / "run.json").write_text("{}")
    assert runlist.by_id(run_id) is None


def test_a_run_elsewhere_is_found_through_its_pointer(elastic_home: Path, tmp_path: Path) -> None:
    story = DashboardStory(tmp_path)
    assert runlist.by_id(RUN_ID) is None
    (elastic_home / f"{RUN_ID}.json").write_text(f'{{"dir": "{story.folder.path}"}}')
    assert runlist.by_id(RUN_ID) == story.folder
    (elastic_home / "other.json").write_text(f'{{"dir": "{story.folder.path}"}}')
    assert runlist.by_id("other") is None


# -- the board's thread -----------------------------------------------------------------------


@pytest.fixture
def board() -> Iterator[Board]:
    """A board whose thread ends with the test."""
    made = Board()
    yield made
    until(lambda: made._thread is None, 10)


def ask(board: Board, wire: Wire, kind: str, *, view: str = "v", **more: Any) -> None:
    """A page says something."""
    board.hear(wire.door, {"type": kind, "view": view, **more})


def test_the_thread_lives_while_there_is_a_view_and_no_longer(tmp_path: Path, board: Board) -> None:
    wire = Wire(DashboardStory(tmp_path).folder)
    assert board._thread is None
    ask(board, wire, "open")
    until(lambda: wire.kinds()[:2] == ["hello", "state"])
    ask(board, wire, "close")
    until(lambda: board._thread is None)
    ask(board, wire, "open", view="w")
    until(lambda: "state" in wire.kinds("w"))
    board.leave(wire.door)
    assert board._thread is None


def test_what_a_rank_writes_is_on_its_way_and_a_second_page_gets_all(tmp_path: Path, board: Board) -> None:
    story = DashboardStory(tmp_path)
    wire = Wire(story.folder)
    ask(board, wire, "open")
    until(lambda: "chunks" in wire.kinds())
    with open(story.folder.rank(1, 2).stdout, "ab") as f:
        f.write(b"one line more\n")
    until(lambda: any(b.endswith(b"one line more\n") for b in wire.buffers))
    ask(board, wire, "open", view="w")
    until(lambda: wire.bytes_of("w") == wire.bytes_of("v"))
    board.leave(wire.door)


def test_the_first_page_ends_the_broadcast(tmp_path: Path, board: Board) -> None:
    story = DashboardStory(tmp_path)
    wire = Wire(story.folder)
    board.broadcast(wire.door)
    until(lambda: wire.kinds("*")[:2] == ["hello", "state"])
    assert not board.was_opened(story.folder)
    ask(board, wire, "open")
    until(lambda: "state" in wire.kinds("v"))
    assert board.was_opened(story.folder)
    count = len(wire.kinds("*"))
    with open(story.folder.rank(1, 2).stdout, "ab") as f:
        f.write(b"one line more\n")
    until(lambda: any(b.endswith(b"one line more\n") for b in wire.buffers))
    assert len(wire.kinds("*")) == count
    board.leave(wire.door)


def test_a_page_gets_the_charts_when_it_asks(tmp_path: Path, board: Board) -> None:
    wire = Wire(DashboardStory(tmp_path).folder)
    ask(board, wire, "asset")
    until(lambda: board._thread is None)
    assert wire.sent == [], "this door has none"
    wire.door.charts = b"code"
    ask(board, wire, "asset")
    until(lambda: wire.kinds("v") == ["asset"])
    assert wire.buffers == [b"code"]


def test_finish_waits_for_pages_that_are_there_and_not_for_those_that_are_not(tmp_path: Path, board: Board) -> None:
    story = DashboardStory(tmp_path, ending="succeeded")
    quick, slow = Wire(story.folder), Wire(story.folder)
    assert board.finish(story.folder, 60), "no page, no wait"
    ask(board, quick, "open")
    assert board.finish(story.folder, 60)
    assert quick.sent[-1]["is_over"]
    story.swell(40 * MB)
    ask(board, slow, "open", view="deaf")
    assert not board.finish(story.folder, 0.3)
    board.leave(slow.door)
    board.leave(quick.door)


def test_a_stop_is_asked_for_and_answered_without_holding_up_the_others(tmp_path: Path, board: Board) -> None:
    story = DashboardStory(tmp_path)
    wire, other = Wire(story.folder), Wire(story.folder)
    is_let = threading.Event()
    wire.door.stop = lambda folder, grace_s: (is_let.wait(60), wire.stop(folder, grace_s))[1]
    ask(board, wire, "stop", grace_s=2)
    ask(board, other, "open")
    until(lambda: "state" in other.kinds())
    is_let.set()
    until(lambda: "stopping" in wire.kinds())
    assert wire.stops == [(RUN_ID, 2.0)]
    assert wire.sent[-1]["ok"]
    board.leave(other.door)


def test_a_stop_that_fails_says_why(tmp_path: Path, board: Board) -> None:
    wire = Wire(DashboardStory(tmp_path).folder)

    def refuse(_folder: RunDir, _grace_s: float) -> None:
        raise OSError("no such process")

    wire.door.stop = refuse
    ask(board, wire, "stop")
    until(lambda: wire.kinds() == ["stopping"])
    assert not wire.sent[0]["ok"]
    assert "no such process" in wire.sent[0]["text"]
    wire.door.stop = None
    ask(board, wire, "stop")
    until(lambda: wire.kinds() == ["stopping"] * 2)
    assert wire.sent[1]["text"] == "This dashboard can only look."


def test_stacks_are_taken_without_holding_up_the_others(tmp_path: Path, board: Board) -> None:
    story = DashboardStory(tmp_path)
    wire, other = Wire(story.folder), Wire(story.folder)
    is_let = threading.Event()
    asked: list[str] = []

    def take(folder: RunDir) -> StackReport:
        asked.append(f"{folder.run_id} in {threading.current_thread().name}")
        is_let.wait(60)
        return stack_report(cause="asked")

    wire.door.stacks = take
    ask(board, wire, "stacks")
    ask(board, other, "open")
    until(lambda: "state" in other.kinds())
    assert "stacks" not in wire.kinds()
    is_let.set()
    until(lambda: "stacks" in wire.kinds())
    assert asked == [f"{RUN_ID} in nb-elastic-stacks-ask"]
    answer = wire.sent[-1]
    assert (answer["ok"], answer["view"], answer["run"]) == (True, "v", RUN_ID)
    assert answer["text"] == answer["report"]["headline"] == stack_report().headline
    assert [g["ranks"] for g in json.loads(json.dumps(answer["report"]))["groups"]] == [[2], [0, 1, 3]]
    board.leave(other.door)


def test_stacks_that_cannot_be_had_say_why(tmp_path: Path, board: Board) -> None:
    wire = Wire(DashboardStory(tmp_path).folder)

    def refuse(_folder: RunDir) -> StackReport:
        raise PermissionError("may not look at pid 4242")

    wire.door.stacks = refuse
    ask(board, wire, "stacks")
    until(lambda: wire.kinds() == ["stacks"])
    said = wire.sent[0]
    assert (said["ok"], said["report"], said["text"]) == (False, None, "PermissionError: may not look at pid 4242")


def test_a_page_that_asks_for_stacks_without_end_gets_few_threads_and_always_an_answer(
    tmp_path: Path, board: Board
) -> None:
    wire = Wire(DashboardStory(tmp_path).folder)
    is_let = threading.Event()
    wire.door.stacks = lambda _: (is_let.wait(60), stack_report())[1]
    for _ in range(200):
        ask(board, wire, "stacks")
    until(lambda: wire.kinds() == ["stacks"] * (200 - MAX_STACKS))
    assert sum(t.name == "nb-elastic-stacks-ask" for t in threading.enumerate()) == MAX_STACKS
    assert all("ask again in a moment" in m["text"] for m in wire.sent)
    is_let.set()
    until(lambda: wire.kinds() == ["stacks"] * 200)
    assert sum(m["ok"] for m in wire.sent) == MAX_STACKS


def test_a_board_that_rested_still_counts_who_takes_stacks(tmp_path: Path) -> None:
    folder = DashboardStory(tmp_path).folder
    wire = Wire(folder)
    is_let, errands = threading.Event(), Errands()
    wire.door.stacks = lambda _: (is_let.wait(60), stack_report())[1]
    try:
        for _ in range(MAX_STACKS + 1):
            errands.stacks(wire.door, folder, {})
            errands.end()
        assert wire.kinds() == ["stacks"], "the last one was refused"
    finally:
        is_let.set()
    until(lambda: wire.kinds() == ["stacks"] * (MAX_STACKS + 1))


def test_a_huge_report_is_cut_to_what_a_page_can_draw() -> None:
    frame = Frame(file="/x" * 5_000, line=1, name="f" * 5_000, text="y" * 50_000, values={"v": "1"})
    group = StackGroup(ranks=tuple(range(50_000)), state="busy", doing="\ud800 x", frames=(frame,) * 200)
    report = messages.stacks(StackReport(time_ns=1, cause="asked", headline="h", groups=(group,) * 200))["report"]
    assert len(json.dumps(report)) < 6 * MB
    assert (len(report["groups"]), len(report["groups"][0]["frames"]), len(report["groups"][0]["ranks"])) == (
        64,
        60,
        4_096,
    )


def test_a_page_that_asks_without_end_starves_nobody(tmp_path: Path, board: Board) -> None:
    story = DashboardStory(tmp_path)
    greedy, other = Wire(story.folder), Wire(story.folder)
    for n in range(3_000):
        ask(board, greedy, "open", view=f"v{n}")
    until(lambda: not board._tasks)
    assert len(board._views) <= 64
    assert "error" in greedy.kinds()
    board.leave(greedy.door)
    ask(board, other, "open")
    until(lambda: "state" in other.kinds())
    board.leave(other.door)


def test_the_panel_hears_of_new_runs_and_of_their_ends(elastic_home: Path) -> None:
    wire = Wire()
    panel = Panel(send=wire.send, stop=wire.stop, is_own=lambda run_id: run_id.endswith("1"))
    panel.hear({"type": "list", "view": "lab"})
    until(lambda: wire.kinds() == ["runs"])
    DashboardStory(elastic_home, ending="failed", run_id="20231114-000000-aaa1")
    until(lambda: len(wire.sent) > 1)
    DashboardStory(elastic_home, ending="succeeded", run_id="20231114-000001-aaa2")
    until(lambda: len(wire.sent[-1]["runs"]) == 2)
    rows = {row["run_id"][-4:]: (row["state"], row["is_own"]) for row in wire.sent[-1]["runs"]}
    assert rows == {"aaa1": ("failed", True), "aaa2": ("succeeded", False)}
    panel.hear({"type": "open", "view": "lab", "run": "20231114-000000-aaa1", "have": {}})
    until(lambda: "hello" in wire.kinds("lab"))
    panel.hear({"type": "open", "view": "lab2", "run": "../../etc", "have": {}})
    until(lambda: wire.kinds("lab2") == ["error"])
    panel.close()


def test_the_panel_tells_nobody_when_no_page_asks_any_more(elastic_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed browser says no word; the thread must not look at the home for ever after."""
    wire = Wire()
    made = Panel(send=wire.send, stop=wire.stop, is_own=lambda _: False)
    monkeypatch.setattr("nb_elastic.dashboard.panel.GONE_S", 0.1)
    made.hear({"type": "list", "view": "lab"})
    until(lambda: made._board._thread is None)
    monkeypatch.setattr("nb_elastic.dashboard.panel.GONE_S", 60)
    made.hear({"type": "list", "view": "lab"})
    until(lambda: "runs" in wire.kinds())
    made.close()
