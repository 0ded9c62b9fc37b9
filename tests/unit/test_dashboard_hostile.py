"""What ranks put in place of the files that the dashboard reads, and interrupts at bad moments, harm nobody."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nb_elastic import rundir
from nb_elastic.dashboard import plainjson, runlist, saved
from nb_elastic.dashboard import view as views
from nb_elastic.dashboard.board import Board
from nb_elastic.dashboard.errands import MAX_STOPS
from nb_elastic.lifeline import HeldInterrupts
from nb_elastic.render import html, widget
from nb_elastic.render.base import Shown
from nb_elastic.run import Run
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import load
from tests.support.dashboards import DashboardStory
from tests.support.until import until
from tests.unit.test_dashboard_view import Clock, Viewed, Wire, ask

MB = 1 << 20


def put_link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def put_folder(path: Path) -> None:
    path.mkdir()
    (path / "file").write_text("x")


REPLACED: dict[str, Callable[[Path], None]] = {
    "link": put_link,
    "fifo": os.mkfifo,
    "folder": put_folder,
    "nothing": lambda path: None,
    "a shorter file": lambda path: path.write_bytes(b"x"),
}


@pytest.mark.parametrize("how", REPLACED)
def test_a_view_of_files_that_were_replaced_comes_to_its_end(tmp_path: Path, how: str) -> None:
    """It must neither spin for ever after bytes that are not there, nor keep the page without its last word."""
    story = DashboardStory(tmp_path, ending="succeeded")
    viewed = Viewed(story)
    for name in ("stdout", "stderr", "metrics", "outputs"):
        path = getattr(story.folder.rank(1, 0), name)
        path.unlink(missing_ok=True)
        REPLACED[how](path)
    for _ in range(20):
        viewed.step(0.3)
    assert viewed.view.is_over
    assert viewed.wire.sent[-1]["is_over"]
    assert not viewed.view.is_behind
    assert b"/etc" not in b"".join(viewed.wire.buffers)


def test_a_run_folder_that_is_deleted_under_a_live_view_leaves_it_beating(tmp_path: Path) -> None:
    story = DashboardStory(tmp_path)
    story.swell(30 * MB)
    viewed = Viewed(story)
    viewed.step()
    assert viewed.view.is_behind
    shutil.rmtree(story.folder.path)
    viewed.step(1.1)
    viewed.step(1.1)
    assert not viewed.view.is_behind
    assert viewed.wire.kinds()[-1] == "beat"


def test_a_page_whose_window_is_full_costs_nothing_until_it_speaks(tmp_path: Path) -> None:
    story = DashboardStory(tmp_path)
    story.swell(40 * MB)
    viewed = Viewed(story)
    for _ in range(100):
        viewed.step(is_acked=False)
    viewed.clock.now_s += 3
    assert viewed.view.due_s() == pytest.approx(views.SILENT_S - 8)


def test_a_line_without_end_is_passed_over_and_the_next_one_is_read(tmp_path: Path) -> None:
    """In one pass: reading it again and again with each megabyte would take hours for a gigabyte."""
    path = tmp_path / "outputs.jsonl"
    good = b'{"time_ns": 5}\n'
    with open(path, "wb") as f:
        f.write(good)
        f.truncate(200 * MB)
    reader = plainjson.RowReader(path)
    assert [row["time_ns"] for row in reader.rows()] == [5]
    assert len(reader._rest) <= rundir.LINE_BYTES
    with open(path, "ab") as f:
        f.write(b"end of it\n" + good)
    assert [row["time_ns"] for row in reader.rows()] == [5]
    assert plainjson.rows(path, limit_bytes=1 * MB) == [{"time_ns": 5}]


ROWS = [
    b"[" * 100_000, b'{"time_ns": "soon"}', b'{"time_ns": 1e300}', b'{"time_ns": true}', b"7", b"null", b"\xff\xfe", b'{"time_ns": 1',
    b'{"time_ns": 1, "kind": "display", "data": 5}', b'{"time_ns": 1, "kind": ["display"]}', b'{"time_ns": 1, "kind": {"a": 1}}',
    b'{"time_ns": 2, "rank": "0", "kind": "display", "data": {"text/plain": {"a": 1}, "image/png": ["x"], "text/html": "\\ud800 <b>"}, "metadata": 7}',
    b'{"time_ns": 3, "rank": NaN, "kind": "update", "display_id": {}, "data": {"application/json": {"x": [NaN]}}, "note": []}',
    b'{"time_ns": 4, "rank": 1, "step": "' + b"x" * 100_000 + b'", "total": {"a": []}, "loss": Infinity, "\\udfff": [1]}',
    b'{"time_ns": 5, "ranks": 7}', b'{"time_ns": 6, "ranks": [7, {"rank": []}]}', b'{"time_ns": 7, "sizes": {"1/0/stdout": -5, "x": "y", "1/1/stdout": 1e99}}',
    b'{"event": "worker_started", "time_ns": 8, "node": "x", "rank": [], "local_rank": {}, "round": 1e9}',
]  # fmt: skip


def test_rows_of_the_wrong_kind_reach_neither_notebook_nor_page(tmp_path: Path) -> None:
    story = DashboardStory(tmp_path, ending="succeeded")
    folder, place = story.folder, story.folder.rank(1, 0)
    for path in (place.metrics, place.outputs, place.stdout, folder.usage(), folder.growth(), folder.journal):
        with open(path, "ab") as f:
            f.write(b"\n".join(ROWS) + b"\n")
    bundle = html.bundle(load(folder), folder, now_ns=story.now_ns)
    told = json.dumps(bundle, allow_nan=False).encode()
    assert len(told) < 400_000
    for one in saved.outputs(folder):
        assert all(isinstance(form, str) or kind.endswith("json") for kind, form in one["data"].items())
    viewed = Viewed(story)
    for _ in range(20):
        viewed.step(0.3)
    assert viewed.view.is_over
    json.dumps(viewed.wire.sent, allow_nan=False).encode()
    run = Run(folder)
    assert all(isinstance(row, dict) for row in (*run.metrics, *run.outputs))


def test_half_characters_of_a_file_name_reach_no_message(tmp_path: Path) -> None:
    """Python decodes a name that is no UTF-8 to these; no front end, file or terminal takes them."""
    story = DashboardStory(tmp_path, ending="failed")
    bad = os.fsdecode(b"caf\xe9.pt")
    story.leave_failure(2, f"FileNotFoundError: {bad}")
    note = {"event": "note", "time_ns": story.now_ns, "node": 0, "level": "warning", "text": bad}
    with open(story.folder.journal, "a", encoding="ascii") as f:
        f.write(json.dumps(note) + "\n")
    asked = rundir.read_json(story.folder.run_json)
    rundir.write_json(story.folder.run_json, {**asked, "cell": bad})
    bundle = html.bundle(load(story.folder), story.folder, now_ns=story.now_ns)
    assert "FileNotFoundError: caf\\udce9.pt" in bundle["text/html"]
    json.dumps(bundle, ensure_ascii=False).encode()
    viewed = Viewed(story)
    viewed.step()
    json.dumps(viewed.wire.sent, ensure_ascii=False).encode()


def test_a_week_of_displays_and_updates_is_joined_in_one_pass() -> None:
    def row(kind: str, text: str, name: str) -> dict[str, Any]:
        return {"time_ns": 1, "rank": 0, "kind": kind, "display_id": name, "data": {"text/plain": text}}

    rows = [row("display", "old", "x"), row("clear", "", ""), row("display", "a", "x"), row("update", "b", "x")]
    rows += [row("display", f"{n}", f"d{n}") for n in range(20_000)]
    rows += [row("update", f"new {n}", f"d{n}") for n in range(20_000)]
    rows += [row("display", "c", "x"), row("update", "nobody", "y"), row("display", "plain", "")]
    shown = [one["data"]["text/plain"] for one in saved.displayed(rows)]
    assert shown == ["b", *(f"new {n}" for n in range(20_000)), "c", "plain"]


def test_of_a_run_that_restarted_often_the_last_rounds_are_saved(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    for number in range(1_200):
        place = folder.rank(number, 0)
        place.path.mkdir(parents=True)
        place.metrics.write_text(json.dumps({"time_ns": number, "rank": 0, "step": number}) + "\n")
        if number > 1_100:
            data = {"text/plain": f"round {number}", "text/html": "x" * 50_000}
            row = {"time_ns": number, "rank": 0, "kind": "display", "data": data}
            place.outputs.write_text(json.dumps(row) + "\n")
    assert saved.metrics(folder)[-1]["step"] == 1_199
    whole = [one["data"]["text/plain"] for one in saved.outputs(folder) if "text/html" in one["data"]]
    assert whole == [f"round {number}" for number in range(1_200 - len(whole), 1_200)]


@pytest.mark.parametrize("run_id", ["\u4e2d" * 200, "x" * 200])
def test_a_name_too_long_for_any_file_is_no_run(elastic_home: Path, run_id: str) -> None:
    assert runlist.by_id(run_id) is None


# -- the board's thread -----------------------------------------------------------------------


def test_a_view_that_cannot_be_served_ends_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board, bad, good = Board(), Wire(), Wire()
    story = DashboardStory(tmp_path)
    bad.door.find = good.door.find = lambda _: story.folder
    step = views.View.step

    def fail(view: views.View) -> bool:
        if view.door is bad.door:
            raise MemoryError
        return step(view)

    monkeypatch.setattr(views.View, "step", fail)
    ask(board, bad, "open")
    ask(board, good, "open")
    until(lambda: "state" in good.kinds())
    until(lambda: [v.door for v in board._views] == [good.door])
    board.leave(good.door)
    assert board._thread is None


def test_an_interrupt_before_the_thread_begins_does_not_end_all_dashboards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board, wire = Board(), Wire(DashboardStory(tmp_path).folder)

    def interrupted(_thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ask(board, wire, "list")
    board.leave(wire.door)
    ask(board, wire, "open")
    until(lambda: "state" in wire.kinds())
    board.leave(wire.door)
    assert board._thread is None


def test_the_thread_ends_when_the_comm_of_the_panel_is_closed(tmp_path: Path) -> None:
    board, wire = Board(), Wire(DashboardStory(tmp_path).folder)

    def tell() -> float:
        wire.door.send({"type": "runs"}, [])
        return 0.01

    board.keep(wire.door, tell)
    until(lambda: wire.sent)
    wire.is_cut = True
    until(lambda: board._thread is None)


def test_a_page_that_stops_without_end_gets_no_thread_for_each(tmp_path: Path) -> None:
    board, wire = Board(), Wire(DashboardStory(tmp_path).folder)
    is_let = threading.Event()
    wire.door.stop = lambda folder, grace_s: (is_let.wait(60), wire.stop(folder, grace_s))[1]
    for _ in range(200):
        ask(board, wire, "stop", grace_s=2)
    until(lambda: not board._tasks)
    assert sum(t.name == "nb-elastic-stop" for t in threading.enumerate()) <= MAX_STOPS
    is_let.set()
    until(lambda: wire.kinds() == ["stopping"] * MAX_STOPS)
    until(lambda: board._thread is None)


# -- interrupts --------------------------------------------------------------------------------


def test_a_hold_within_a_hold_leaves_the_interrupt_to_the_outer_one() -> None:
    with HeldInterrupts() as outer:
        with HeldInterrupts() as inner:
            os.kill(os.getpid(), 2)
        assert [inner.count, outer.release()] == [0, 1]


class Face:
    """A renderer that is interrupted, or fails."""

    needs_logs = False

    def __init__(self, *, at: str, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.at, self.error, self.calls = at, error, []

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*_: object) -> None:
            self.calls.append(name)
            if name == self.at:
                self.at = ""
                raise self.error

        return call


@pytest.mark.parametrize(("at", "error"), [("update", KeyboardInterrupt), ("append", OSError), ("show", ValueError)])
def test_a_face_is_closed_however_the_following_ends(tmp_path: Path, at: str, error: type[BaseException]) -> None:
    face = Face(at=at, error=error)
    with pytest.raises(error):
        Run(DashboardStory(tmp_path, ending="succeeded").folder).follow(face)  # type: ignore[arg-type]
    assert [face.calls.count("close"), face.calls[-1]] == [1, "close"]


def test_an_interrupt_that_cannot_be_passed_on_closes_the_face_all_the_same(tmp_path: Path) -> None:
    face = Face(at="update")

    def fail(_times: int) -> bool:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        Run(DashboardStory(tmp_path).folder).follow(face, on_interrupt=fail)  # type: ignore[arg-type]
    assert face.calls[-1] == "close"


def test_interrupts_held_back_while_the_face_was_made_are_told_as_many_as_they_were(tmp_path: Path) -> None:
    told: list[int] = []
    with HeldInterrupts() as held:
        os.kill(os.getpid(), 2)
        os.kill(os.getpid(), 2)
        run = Run(DashboardStory(tmp_path, ending="succeeded").folder)
        run.follow(Face(at=""), on_interrupt=lambda times: not told.append(times), held=held)  # type: ignore[arg-type]
    assert told == [2]


def test_a_tail_that_was_interrupted_can_be_drawn_and_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []

    def display(_data: object, *, update: bool, **_: object) -> None:
        told.append(update)
        if len(told) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("IPython.display.display", display)
    clock = Clock()
    folder = DashboardStory(tmp_path).folder
    tail = widget._Tail(folder, shown=Shown(), clock=clock, is_all=True)
    with pytest.raises(KeyboardInterrupt):
        tail.draw(load(folder))
    clock.now_s += 60
    tail.draw(load(folder))
    tail.clear()
    tail.clear()
    assert told == [False, False, True]


# -- what a user reads ---------------------------------------------------------------------------


def test_metrics_and_outputs_are_rows_that_pandas_takes(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    run = Run(DashboardStory(tmp_path, ending="succeeded").folder)
    table = pandas.DataFrame(run.metrics)
    assert list(table.columns) == ["round", "time_ns", "rank", "step", "total", "loss", "lr"]
    assert table.groupby(["round", "rank"]).step.max().to_dict() == {
        (number, rank): last for number, last in ((0, 3), (1, 8)) for rank in range(4)
    }
    assert table[table.loss.isna()][["round", "rank", "step"]].values.tolist() == [[0, 1, 2], [1, 1, 2]]
    shown = pandas.DataFrame(run.outputs)
    assert list(shown.columns) == ["round", "time_ns", "rank", "kind", "display_id", "data", "metadata", "note"]
    assert shown[shown["rank"] == 1].kind.tolist() == ["display", "update"]
    assert [one["data"]["text/plain"] for one in run.outputs if one["kind"] == "update"] == ["8/100"]
