"""Ranks that print as fast as they can: the notebook still answers, obeys its stop button, and shows first and last lines.

The bounds are wide: only a kernel that is starved for good reaches them. Figures come from ``python -m tests.benchmarks answers``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.kernel import Kernel
from tests.support.until import until

PROGRAMS = Path(__file__).parents[1] / "programs"
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def subshell(notebook: Kernel) -> str:
    """Where a front end asks while a cell runs."""
    return notebook.subshell()


@pytest.mark.parametrize("face", ["plain", "widget"])
def test_a_notebook_whose_ranks_print_without_end_answers_and_can_be_stopped(
    notebook: Kernel, notebook_home: Path, subshell: str, face: str
):
    before = set(notebook_home.iterdir())

    def all_begun() -> bool:
        notebook.complete("nb_elastic.las", cell, subshell=subshell, timeout_s=PATIENCE_S)
        logs = [p for run in set(notebook_home.iterdir()) - before for p in run.glob("round_0/*/stdout.log")]
        return len(logs) == 2 and all(log.stat().st_size > 100 for log in logs)

    cell = notebook.start(f"%elastic_launch -n 2 --render {face} {PROGRAMS / 'prints_without_end.py'}")
    until(all_begun, 60)
    for _ in range(20):
        notebook.complete("nb_elastic.las", cell, subshell=subshell, timeout_s=PATIENCE_S)
    if face == "plain":
        notebook.wait_for(cell, "] begins")
    notebook.interrupt()
    notebook.wait(cell, timeout_s=60)
    assert cell.reply["ename"] == "RunStoppedError", cell.text[-2_000:]
    assert notebook.ok("print(nb_elastic.last_run().logs(1)[:7])").stdout == "begins\n\n"


@pytest.mark.parametrize("lines", [1, 4])
def test_lines_of_50_mb_are_cut_in_the_view_and_the_end_is_seen(notebook: Kernel, lines: int):
    """Four of them come faster than anybody reads: some are passed over, and that is told."""
    body = (
        f"import os\nfor _ in range({lines}):\n    os.write(1, b'x' * 50_000_000 + b'\\n')\n"
        "print('the end of', os.environ['RANK'])"
    )
    cell = notebook.ok(f"%%elastic_launch -n 2\n{body}")
    assert "the end of 0" in cell.stdout
    assert "the end of 1" in cell.stdout
    assert len(cell.text) < 50_000
    if lines == 1:
        assert "[... 49,998,000 more bytes on this line, see the log file]" in cell.stdout
    run = Path(notebook.ok("print(nb_elastic.last_run().dir)").stdout.strip())
    logs = [run / "round_0" / rank / "stdout.log" for rank in "01"]
    assert [log.stat().st_size for log in logs] == [lines * 50_000_001 + len("the end of 0\n")] * 2
    for log in logs:
        os.truncate(log, 0)  # pytest keeps what tests leave


def test_a_run_that_is_followed_by_two_is_seen_whole_by_both(notebook: Kernel):
    """A thread of the notebook's waits for the run while the cell draws it: neither takes the other's wakes for good."""
    notebook.ok("import threading, nb_elastic")
    cell = notebook.ok(
        "run = nb_elastic.launch(lambda: print('hello'), nproc_per_node=2, detach=True)\n"
        "waiters = [threading.Thread(target=run.wait) for _ in range(3)]\n"
        "for w in waiters: w.start()\n"
        "run.dashboard()\n"
        "for w in waiters: w.join(60)\n"
        "print([w.is_alive() for w in waiters], run.state.value)"
    )
    assert cell.stdout.endswith("[False, False, False] succeeded\n"), cell.text
