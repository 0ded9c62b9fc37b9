"""A tutorial that was run, by what its cells say.

Runs in: the tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.support.run_notebook import DEFAULT_HOME, execute, texts

FOLDER = Path(__file__).parents[2] / "notebooks"


class Book:
    """A notebook by what its cells say."""

    def __init__(self, notebook: nbformat.NotebookNode) -> None:
        self.cells = [c for c in notebook.cells if c.cell_type == "code"]

    def cell(self, mark: str) -> nbformat.NotebookNode:
        """The first cell with that in its source."""
        return next(c for c in self.cells if mark in c.source)

    def text(self, mark: str) -> str:
        """All text under it."""
        return "\n".join(texts(self.cell(mark)))

    def data(self, mark: str, kind: str) -> list[Any]:
        """Its displays of a kind."""
        return [o.data[kind] for o in self.cell(mark).outputs if kind in o.get("data", {})]


def is_run_in_order(book: Book) -> bool:
    """True if its code cells were run once, from the first to the last."""
    counts = [c.execution_count for c in book.cells]
    return counts == list(range(1, len(counts) + 1))


def names_of_a_machine(text: str) -> list[str]:
    """Paths in a notebook's file that are those of the machine where it was run."""
    return re.findall(r"(?<![\w~.<])/(?:root|home|tmp|work|Users|opt)/[^\s\"']*", text)


class Tutorial:
    """What is true of every tutorial; a test module has ``class TestTutorial(Tutorial)``.

    Attributes:
        file: its name.
        check: fails unless under its cells stands what the text around them promises.
        needs: a package without which it can't be run.
    """

    file: str
    check: Callable[[Book], None]
    needs = ""

    @property
    def path(self) -> Path:
        """Its file."""
        return FOLDER / self.file

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    def test_every_cell_does_what_the_text_says(self) -> None:
        if self.needs:
            pytest.importorskip(self.needs, reason=f"needs the extra {self.needs}")
        type(self).check(Book(execute(self.path)))

    def test_the_kept_outputs_are_those_a_reader_gets(self) -> None:
        book = Book(nbformat.read(self.path, as_version=4))
        type(self).check(book)
        assert is_run_in_order(book)

    def test_the_kept_outputs_name_nothing_of_the_machine_they_came_from(self) -> None:
        text = self.path.read_text()
        assert DEFAULT_HOME in text
        assert names_of_a_machine(text) == []
