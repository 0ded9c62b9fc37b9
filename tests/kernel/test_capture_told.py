"""What a cell takes along, in a real kernel: what stays with IPython, odd objects, and the line of an error."""

from __future__ import annotations

from pathlib import Path

from tests.support.kernel import Kernel


def test_ipython_s_history_stays_in_the_notebook_and_the_refusal_tells_the_way_out(
    notebook: Kernel, notebook_home: Path
):
    before = sorted(notebook_home.iterdir())
    notebook.ok("[1, 2]")
    cell = notebook.run("%%elastic_launch --nproc 1\nprint(len(Out), nowhere)")
    assert cell.reply["ename"] == "PayloadError"
    for words in ("'nowhere' in line 2, which neither", "'Out' in line 2, which belongs to the notebook's IPython"):
        assert words in cell.text, cell.text
    assert "kept = Out[...]" in cell.text
    assert sorted(notebook_home.iterdir()) == before


def test_a_config_with_a_catch_all_and_a_cell_of_one_line(notebook: Kernel):
    """The rank reads the config, and the error's line is shown though IPython keeps the cell as one call."""
    notebook.ok("class Config(dict): __getattr__ = dict.__getitem__\ncfg = Config(lr=0)")
    cell = notebook.run("%%elastic_launch --nproc 1\n1/cfg.lr")
    assert cell.reply["ename"] == "WorkerFailedError", cell.text
    assert "1/cfg.lr" in cell.text and "line 2, in <module>" in cell.text, cell.text
    assert "ZeroDivisionError" in cell.text
