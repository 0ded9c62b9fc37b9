"""What a rank displays is kept as it was shown, and no loop of displays or updates can fill the disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from nb_elastic import outputs
from nb_elastic.outputs import Outputs
from tests.support.until import until


class Rank:
    """A rank's outputs file under a clock that the test sets."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "outputs.jsonl"
        self.now = 0.0
        self.outputs = Outputs(lambda: self.path, clock=lambda: self.now)

    @property
    def records(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]

    @property
    def texts(self) -> list[tuple[str, str]]:
        """(kind, text/plain) of each."""
        return [(one["kind"], one["data"].get("text/plain", "")) for one in self.records]

    def show(self, text: str, **options: Any) -> None:
        self.outputs.show({"text/plain": text}, **options)

    def update(self, text: str, display_id: str = "x") -> None:
        self.show(text, display_id=display_id, is_update=True)


@pytest.fixture
def rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rank:
    monkeypatch.setenv("RANK", "3")
    return Rank(tmp_path)


def test_a_display_is_one_whole_line_written_at_once(rank: Rank) -> None:
    rank.outputs.show(
        {"text/plain": "<p>", "image/png": b"\x89PNG", "application/vnd.x+json": {"a": [1]}},
        {"image/png": {"width": 5}},
        display_id="a",
    )
    (record,) = rank.records
    assert record.pop("time_ns") > 0
    assert record == {
        "rank": 3,
        "kind": "display",
        "display_id": "a",
        "data": {"text/plain": "<p>", "image/png": "iVBORw==", "application/vnd.x+json": {"a": [1]}},
        "metadata": {"image/png": {"width": 5}},
        "note": "",
    }
    assert oct(rank.path.stat().st_mode)[-3:] == "600"


def test_a_thousand_updates_stay_few_lines_and_end_in_the_last_state(rank: Rank) -> None:
    rank.show("0", display_id="x")
    for n in range(1, 1001):
        rank.now += 0.001
        rank.update(str(n))
    rank.outputs.finish()
    texts = rank.texts
    assert texts[:2] == [("display", "0"), ("update", "1")]
    assert texts[-1] == ("update", "1000")
    assert len(texts) <= 13


def test_what_waits_is_written_by_itself(rank: Rank) -> None:
    """Else the last update before a long step would be shown after it."""
    rank.update("a")
    rank.update("b")
    assert until(lambda: rank.texts[1:]) == [("update", "b")]


def test_updates_of_different_displays_do_not_replace_each_other(rank: Rank) -> None:
    rank.update("now")
    for n in range(5):
        rank.update(f"x{n}")
        rank.update(f"y{n}", "y")
    rank.outputs.finish()
    assert rank.texts == [("update", "now"), ("update", "x4"), ("update", "y4")]


def test_a_display_is_never_dropped_and_keeps_its_place(rank: Rank) -> None:
    rank.update("now")
    rank.update("waits")
    rank.show("new")
    rank.outputs.finish()
    assert rank.texts == [("update", "now"), ("update", "waits"), ("display", "new")]


def test_a_loop_that_clears_and_draws_anew_is_paced_like_updates(rank: Rank) -> None:
    for n in range(200):
        rank.now += 0.01
        rank.outputs.clear(is_later=True)
        rank.show(f"plot {n}")
    rank.outputs.finish()
    texts = rank.texts
    assert texts[:2] == [("clear", ""), ("display", "plot 0")]
    assert texts[-2:] == [("clear", ""), ("display", "plot 199")]
    assert len(texts) < 50


def test_a_clear_for_later_after_which_nothing_comes_clears_nothing(rank: Rank) -> None:
    rank.show("kept")
    rank.outputs.clear(is_later=True)
    rank.outputs.finish()
    assert rank.texts == [("display", "kept")]
    rank.outputs.clear()
    assert rank.texts[1:] == [("clear", "")]


def test_updates_get_rarer_the_more_was_written(rank: Rank) -> None:
    """A training that updates one table for a week must not fill the disk, nor lose the table's end."""
    table = "x" * 10_000
    for n in range(20_000):
        rank.now += 0.1
        rank.update(f"{n} {table}")
    rank.update("the end")
    rank.outputs.finish()
    assert rank.path.stat().st_size < outputs.MAX_FILE_BYTES
    assert rank.texts[-1] == ("update", "the end")


def test_a_picture_too_large_is_replaced_by_its_text_and_a_note(rank: Rank) -> None:
    rank.outputs.show({"text/plain": "<Figure>", "image/png": b"x" * (3 << 20), "text/html": "small"})
    (record,) = rank.records
    assert record["data"] == {"text/plain": "<Figure>", "text/html": "small"}
    assert record["note"] == "image/png of 4.2 MB left out: one output may have 2 MB."


def test_a_text_too_large_is_cut_with_a_note(rank: Rank) -> None:
    rank.show("y" * (5 << 20))
    (record,) = rank.records
    assert len(record["data"]["text/plain"]) == outputs.MAX_WORDS + 3
    assert record["note"] == "The text was cut: it had 5242880 characters."


def test_a_rank_s_outputs_are_capped_and_the_last_ones_say_why(rank: Rank) -> None:
    for n in range(15):
        rank.outputs.show({"text/plain": f"<Figure {n}>", "image/png": b"x" * 1_500_000})
    *_, last = rank.records
    assert rank.path.stat().st_size <= outputs.MAX_FILE_BYTES + outputs.RESERVE_BYTES
    assert (last["data"], last["note"]) == (
        {"text/plain": "<Figure 14>"},
        "No room for more: the outputs of a rank may have 20 MB.",
    )
    for _ in range(200):
        rank.show("z" * 100_000)
    assert rank.path.stat().st_size <= outputs.MAX_FILE_BYTES + outputs.RESERVE_BYTES


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        ({"application/json": {"a": float("nan")}}, {"application/json": "{'a': nan}"}),
        ({"application/json": {1, 2}}, {"application/json": "{1, 2}"}),
        ({"text/plain": "\udcff \u202e\x1b[31m"}, {"text/plain": "\udcff \u202e\x1b[31m"}),
        ({"text/html": 5}, {"text/html": "5"}),
        ({"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "IntSlider"}, {"text/plain": "IntSlider"}),
        ({"application/javascript": "alert(1)", "text/plain": "<Javascript>"}, {"text/plain": "<Javascript>"}),
    ],
)  # fmt: skip
def test_odd_values_are_written_as_json_that_every_reader_takes(rank: Rank, data: Any, kept: Any) -> None:
    rank.outputs.show(data, {"x": object()})
    (line,) = rank.path.read_bytes().splitlines()
    record = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (record["data"], record["metadata"]) == (kept, {})
    line.decode("ascii")


def test_neither_a_full_disk_nor_a_link_in_the_file_s_place_harms_the_training(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    for path in (Path("/dev/full"), tmp_path / "link", tmp_path / "no" / "folder", None):
        Outputs(lambda path=path: path).show({"text/plain": "x"})
    assert (tmp_path / "mine").read_text() == "mine"


def test_outside_a_rank_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(outputs.METRICS_FILE, raising=False)
    assert outputs.path() is None
    monkeypatch.setenv(outputs.METRICS_FILE, "/r/round_0/1/metrics.jsonl")
    assert outputs.path() == Path("/r/round_0/1/outputs.jsonl")


def test_a_forked_child_does_not_write_what_its_parent_has_to(rank: Rank) -> None:
    rank.update("parent's")
    rank.update("waits")
    with rank.outputs._lock:  # another thread may hold it at that moment
        pid = os.fork()
        if pid == 0:
            rank.outputs.after_fork()
            rank.show("child's")
            rank.outputs.finish()
            os._exit(0)
        os.waitpid(pid, 0)
        assert rank.texts == [("update", "parent's"), ("display", "child's")]
    rank.outputs.finish()
    assert rank.texts[2:] == [("update", "waits")]
