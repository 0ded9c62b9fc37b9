"""The first tutorial: its cells run in a real kernel, and what it keeps is what a reader gets."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from tests.support.run_notebook import DEFAULT_HOME, execute, texts

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "01_first_launch.ipynb"


def shown(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """Each code cell's first line, and all the text under it."""
    code = [c for c in notebook.cells if c.cell_type == "code"]
    return [(c.source.splitlines()[0], "\n".join(texts(c))) for c in code]


def check(cells: list[tuple[str, str]]) -> None:
    """What the text around the cells promises must stand under them."""
    hello, digits, failed, pulled = (
        next(text for _source, text in cells if mark in text)
        for mark in ("hello from rank", "accuracy on unseen digits", "Traceback", "in the notebook:")
    )
    greeted = re.findall(r"hello from rank (\d) of 4", hello)
    assert sorted(greeted) == ["0", "1", "2", "3"]
    assert any("{0: 0, 1: 1, 2: 4, 3: 9}" in text for _source, text in cells)

    found = re.search(r"accuracy on unseen digits: (0\.\d+)", digits)
    again = re.search(r"in the notebook: (0\.\d+)", pulled)
    assert found and again and found[1] == again[1], "the pulled weights are rank 0's"
    assert float(found[1]) > 0.9

    assert "rank 2 failed first (IndexError: Target 10 is out of bounds.)" in failed
    assert re.search(r"Cell In\[\d+\], line 7", failed), "the traceback shows the notebook's own lines"
    assert "largest label in the notebook: 9" in next(text for _source, text in cells if "root cause: rank 2" in text)
    assert any("IndexError" in text for source, text in cells if source.startswith("%elastic logs"))
    listing = next(text for source, text in cells if source.startswith("%elastic runs"))
    assert re.findall(r"\b(?:succeeded|failed)\b", listing) == ["failed", "succeeded", "succeeded"]
    assert cells[-1][1].rstrip().endswith("{0: 9.0, 1: 9.0, 2: 9.0, 3: 9.0}")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_cell_does_what_the_text_says():
    check(shown(execute(NOTEBOOK)))


def test_the_kept_outputs_are_those_a_reader_gets():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    check(shown(notebook))
    counts = [c.execution_count for c in notebook.cells if c.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_the_kept_outputs_name_nothing_of_the_machine_they_came_from():
    text = NOTEBOOK.read_text()
    assert DEFAULT_HOME in text
    assert re.findall(r"(?<![\w~.])/(?:root|home|tmp|work|Users|opt)/[^\s\"']*", text) == []
