"""The fourth tutorial: a cell on two pretended machines, a failure, and a machine that disappears, as its text tells them."""

from __future__ import annotations

import re

from tests.support.tutorials import Book, Tutorial


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


class TestTutorial(Tutorial):
    """Run anew, and as it was kept."""

    file = "04_many_machines.ipynb"
    check = staticmethod(check)
    needs = "ray"
