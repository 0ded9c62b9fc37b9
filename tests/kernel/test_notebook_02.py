"""The second tutorial: what it promises of a watched run stands under its cells, in a real kernel and in what is kept."""

from __future__ import annotations

import re

from tests.support.tutorials import Book, Tutorial

MIME = "application/vnd.nb-elastic.run.v1+json"


def check(book: Book) -> None:
    """What the text around the cells promises must stand under them."""
    first = book.text("--name first-look")
    assert sorted(re.findall(r"rank (\d)\] step 40: loss 0\.\d+", first)) == ["0", "1", "2", "3"]
    (saved,) = book.data("--name first-look", MIME)
    told = {(row["rank"], row["step"]) for row in saved["metrics"] if row["loss"] > 0}
    assert {(rank, step) for rank in range(4) for step in (1, 40)} <= told, "the saved dashboard has the curves"
    assert {sample["rank"] for row in saved["usage"] for sample in row["ranks"]} == {0, 1, 2, 3}

    (table,) = book.data("metrics = pandas.DataFrame", "text/plain")
    means = [float(mean) for mean in re.findall(r"^\d+ +(\d\.\d+)", table, re.MULTILINE)]
    assert len(means) == 4 and means == sorted(means, reverse=True), "the loss falls"

    slow = re.search(r"median step (0\.\d+) s \| slowest: rank (\d) at (0\.\d+) s", book.text("reports = pandas"))
    assert slow and slow[2] == "2" and float(slow[3]) > 2 * float(slow[1])

    bars = book.text("--name bars")
    assert sorted(re.findall(r"rank (\d) err\] adding: 100%", bars)) == ["0", "1"]

    assert len(book.data("--name figures", "image/png")) == 1, "rank 0's figure stands under the cell"
    assert any("<table" in html and "fewest" in html for html in book.data("--name figures", "text/html"))
    saved = book.data("--name figures", MIME)[-1]
    assert {output["rank"] for output in saved["outputs"] if "image/png" in output["data"]} == {0, 1}

    check_failure(book)
    assert book.data("%elastic show straggler", MIME)[-1]["snapshot"]["name"] == "straggler"


def check_failure(book: Book) -> None:
    """The root cause is the rank with the broken picture, and its values are told."""
    failed = book.text("--name broken-picture")
    assert "rank 1 failed first (FloatingPointError: the loss of step 1 is nan)" in failed
    assert re.search(r"Cell In\[\d+\], line 8", failed), "the traceback shows the notebook's own lines"
    assert re.search(r"\bstep = 1\b", failed), "the values in the failing frame are told"
    after = book.text("root cause: rank")
    assert "root cause: rank 1 | FloatingPointError | the loss of step 1 is nan" in after
    assert "reported before: [(0, 0), (1, 0), (2, 0), (3, 0)]" in after


class TestTutorial(Tutorial):
    """Run anew, and as it was kept."""

    file = "02_watching_a_run.ipynb"
    check = staticmethod(check)
