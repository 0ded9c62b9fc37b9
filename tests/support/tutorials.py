"""A tutorial that was run, by what its cells say.

Runs in: the tests.
"""

from __future__ import annotations

import re
from typing import Any

import nbformat

from tests.support.run_notebook import texts


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
