"""The third tutorial: a failure, a hang, a stop, a detached run and a debug session are told as its text says."""

from __future__ import annotations

import re

from tests.support.tutorials import Book, Tutorial


def check(book: Book) -> None:
    """What the text around the cells promises must stand under them."""
    killed = book.text("--name killed")
    assert "rank 1 failed first: killed from outside (SIGKILL)" in killed
    assert len(re.findall(r"^ +rank [02]: (?:followed|ended by the agent)", killed, re.MULTILINE)) == 2
    assert book.text("cause = nb_elastic").startswith("rank 1 | SIGKILL | killed from outside\n - It died by SIGKILL")

    stuck = book.text("--name stuck")
    assert re.search(r"Ranks 0, 1 wait in all_reduce, Cell In\[\d+\], line 6; rank 2 waits for a lock, line 5", stuck)
    assert "rank 2 (waiting, the odd one out): waits for a lock" in stuck
    assert re.search(r"Run \S+ failed: timeout: nothing moved any more", stuck)

    stopped = book.text("--name stopped")
    assert re.search(r"rank 1: stopped: saved and left by itself", stopped)
    assert re.search(r"rank 2: stopped: killed after 5 s", stopped)
    after = book.text('print(run.state.value, "|", run.results, "|", run.logs')
    assert re.fullmatch(r"stopped \| \{0: 'rank 0 was done before'\} \| saved after \d+ steps\s*", after)

    assert "is detached; it outlives this kernel" in book.text("--name overnight")
    stacks = book.text("%elastic stacks overnight")
    assert re.search(r"^Ranks? .*\((waiting|busy).*: .*Cell In\[\d+\], line [3456]", stacks, re.MULTILINE)
    assert "ranks 0-1: 'done after 60 steps'" in book.text("%elastic attach overnight")
    assert book.text("run.metrics[-1]").endswith("'done after 60 steps'} | last loss: 0.017\n")
    assert book.text("%elastic reap").startswith("Nothing is left of dead runs (4 looked at")
    check_debugging(book)
    states = re.findall(r" (\w+) +(\w+) +[23] +\d+ s", book.text("%elastic runs"))
    assert states == [
        ("breakpoint", "succeeded"), ("held", "failed"), ("overnight", "succeeded"),
        ("stopped", "stopped"), ("stuck", "failed"), ("killed", "failed"),
    ]  # fmt: skip


def check_debugging(book: Book) -> None:
    """A held rank and one at a breakpoint answer what was typed, and end as their reader told them."""
    held = book.text("--name held")
    assert "The group is held: `%elastic debug` opens pdb on rank 1" in held
    assert book.text("%elastic eval batch.shape") == "(torch.Size([4, 4]), 3)\n"
    session = book.text("%elastic debug")
    assert "(rank 1) (Pdb) p batch.shape\ntorch.Size([4, 4])\n" in session
    assert re.search(r"\(rank 1\) \(Pdb\) p rank\n1\n\(rank 1\) \(Pdb\) q\nRun \S+ is failed", session)
    assert "(rank 1) (Pdb) p total\n1\n" in book.text("--name breakpoint")
    assert book.text("nb_elastic.last_run().results") == "{0: 3, 1: 102}"


class TestTutorial(Tutorial):
    """Run anew, and as it was kept."""

    file = "03_when_things_go_wrong.ipynb"
    check = staticmethod(check)
