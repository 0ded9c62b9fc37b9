"""The fourth tutorial: a cell on two pretended machines, a failure, and a machine that disappears, as its text tells them."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from tests.support.run_notebook import DEFAULT_HOME, execute
from tests.support.tutorials import Book, is_run_in_order, names_of_a_machine

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "04_many_machines.ipynb"


def check(book: Book) -> None:
    """What the text around the cells promises must stand under them."""
    two = book.text("--name two-machines")
    assert sorted(re.findall(r"rank (\d) of 4 on node ([01]): the sum of all ranks is 6", two)) == [
        ("0", "0"), ("1", "0"), ("2", "1"), ("3", "1"),
    ]  # fmt: skip
    told = book.text("run = nb_elastic.last_run()")
    assert told == "results: {0: 0, 1: 0, 2: 1, 3: 1}\nrank 3 wrote: rank 3 of 4 on node 1: the sum of all ranks is 6\n"

    unlucky = book.text("--name unlucky")
    assert re.search(r"failed: rank 3 \(node [01], local rank 1, host \S+\) failed first \(KeyError: 3\)", unlucky)
    assert re.search(r"batches = \{0: 4, 1: 4, 2: 4\}", unlucky)

    cut = book.text("--name power-cut")
    assert re.search(r"a world of [24] begins at step 0", cut)
    assert re.search(r"Node \d \(host \S+\) was lost after [^:]+: the node program on .* ended by signal 9", cut)
    assert re.search(r"a world of 4 begins at step [1-9]\d+", cut)
    assert "ranks 0-3: 4" in cut
    states = re.findall(r"node (\d): (\w+)", book.text("snapshot.nodes"))
    assert sorted(state for _, state in states) == ["joined", "joined", "lost"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_cell_does_what_the_text_says() -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    check(Book(execute(NOTEBOOK)))


def test_the_kept_outputs_are_those_a_reader_gets() -> None:
    book = Book(nbformat.read(NOTEBOOK, as_version=4))
    check(book)
    assert is_run_in_order(book)


def test_the_kept_outputs_name_nothing_of_the_machine_they_came_from() -> None:
    text = NOTEBOOK.read_text()
    assert DEFAULT_HOME in text
    assert names_of_a_machine(text) == []
