"""What rank 0 displays, under the cell: in its place, updated there, and never without end."""

from __future__ import annotations

from typing import Any

import pytest

from nb_elastic.render import displays
from nb_elastic.render.displays import Displays, text_lines


class Cell:
    """The cell's displays by their id, in order; the kernel's ``display`` is replaced by it."""

    def __init__(self) -> None:
        self.places: dict[str, str] = {}
        self.count = 0

    def display(self, data: dict[str, Any], _metadata: Any, place: str, *, is_update: bool) -> None:
        """Take a display or an update."""
        self.count += 1
        assert is_update == (place in self.places)
        self.places[place] = data["text/plain"]

    @property
    def texts(self) -> list[str]:
        """What is seen."""
        return [text for text in self.places.values() if text]


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    made = Cell()
    monkeypatch.setattr(displays, "_display", made.display)
    return made


def row(kind: str, text: str = "", display_id: str = "", note: str = "", **data: Any) -> dict[str, Any]:
    """One row of outputs.jsonl."""
    told = {"text/plain": text, **data} if text else data
    return {"time_ns": 1, "rank": 0, "kind": kind, "display_id": display_id, "data": told, "metadata": {}, "note": note}


def test_an_update_changes_what_it_names_and_nothing_else(cell: Cell) -> None:
    shown = Displays("r")
    shown.show(
        [row("display", "one", "a"), row("display", "two"), row("update", "ONE", "a"), row("update", "x", "zzz")]
    )
    assert cell.texts == ["ONE", "two"]


def test_a_loop_of_clear_and_display_takes_one_place(cell: Cell) -> None:
    shown = Displays("r")
    for n in range(50):
        shown.show([row("clear"), row("display", f"step {n}")])
    assert list(cell.places.values()) == ["step 49"]
    shown.show([row("clear")])
    assert cell.texts == []


def test_a_loop_of_displays_ends_in_a_count(cell: Cell) -> None:
    shown = Displays("r")
    for n in range(1_000):
        shown.show([row("display", f"{n}")])
    assert len(cell.places) == displays.MOST + 1
    assert cell.texts[-1].startswith("(800 more displays of rank 0 ")


def test_a_flood_of_displays_is_one_message_beyond_those_that_are_shown_and_a_clear_takes_its_count_away(
    cell: Cell,
) -> None:
    """The server drops what comes too fast, and with it the dashboard's own messages."""
    shown = Displays("r")
    shown.show([row("display", f"{n}") for n in range(10_000)])
    assert cell.count == displays.MOST + 1
    assert cell.texts[-1].startswith("(9,800 more displays of rank 0 ")
    shown.show([row("clear"), row("display", "new")])
    assert cell.texts == ["new"]


def test_what_was_left_out_is_told_and_a_ranks_widget_is_shown_as_its_text(cell: Cell) -> None:
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}}
    Displays("r").show([row("display", "IntSlider(value=0)", **view), row("display", note="too large")])
    assert cell.texts == ["IntSlider(value=0)", "(too large)"]


def test_faces_of_text_show_text_made_harmless() -> None:
    rows = [row("display", "a\x1b[2Jb\nc"), row("update", "no"), row("clear"), row("display", note="too large")]
    assert text_lines(rows) == ["ab", "c", "(too large)"]
