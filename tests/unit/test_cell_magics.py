"""Magics and shell commands work in a body as in a notebook cell; the rank's shell is made only when needed.

A user would lose: `!nvidia-smi`, `%timeit` and `%env` in the cell that trains.
"""

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from nb_elastic import cell
from tests.support.cells import notebook  # noqa: F401


def transform(source):
    return TransformerManager().transform_cell(source)


@pytest.mark.parametrize(
    ("source", "reads"),
    [
        ("%time train(x)", {"train", "x"}),
        ("%timeit -n 3 -r 1 train(x)", {"train", "x"}),
        ("!ls {where} $name $$HOME train", {"where", "name"}),
        ("y = !echo {a.b[c]}", {"a", "c"}),
        ("%%time\nz = train(x)", {"train", "x", "z"}),
        ("%%bash\nx = train", set()),
        ("%env FOO=$bar", {"bar"}),
        ("def f():\n    !ls {x}\n    return y", {"y"}),
    ],
)
def test_names_in_magics_are_taken_along(source, reads):
    code = cell.analyze(source, label="c", transform=transform)
    assert (set(code.reads), set(code.must_read), code.needs_shell) == (reads, set(), True)


def test_a_cell_without_magics_needs_no_shell():
    assert not cell.analyze("print(1)", label="c", transform=transform).needs_shell


BODY = r"""
import sys
before = "IPython" in sys.modules
!echo from the shell {word} $word
lines = !printf 'a\nb\n'
%env NB_TEST=7
%cd -q /
import os
%time made = double(4)
%timeit -n 1 -r 1 double(2)
def helper():
    found = !echo {word}
    return list(found)
before, list(lines), os.environ["NB_TEST"], os.getcwd(), made, helper(), get_ipython() is get_ipython(), type(lines).__name__
"""


def test_magics_work_in_a_rank(notebook):  # noqa: F811
    notebook.cell("word = 'hi'\ndef double(x): return 2 * x")
    done = notebook.launch(BODY, transform=transform)
    assert done.value == (False, ["a", "b"], "7", "/", 8, ["hi"], True, "SList")
    assert "from the shell hi hi\n" in done.stdout
    assert "Wall time" in done.stdout
    assert "per loop" in done.stdout


def test_a_cell_magic_may_be_the_whole_body(notebook):  # noqa: F811
    notebook.cell("def double(x): return 2 * x")
    done = notebook.launch("%%time\nz = double(4)\nprint('z is', z)", transform=transform)
    assert (done.returncode, "z is 8\n" in done.stdout, "Wall time" in done.stdout) == (0, True, True)


def test_magics_inside_functions_of_other_cells_work(notebook):  # noqa: F811
    notebook.cell(transform("def where():\n    out = !echo here\n    return out[0]"))
    assert notebook.launch("where()").value == "here"
    assert notebook.call(notebook.names["where"]).value == "here"


def test_an_error_in_a_body_with_magics_shows_the_notebook_s_line(notebook):  # noqa: F811
    done = notebook.launch("!true\n%env A=1\n1 / 0", transform=transform)
    assert '  File "Cell In[1]", line 4, in <module>\n    1 / 0\n' in done.stderr


def test_display_works_without_a_front(notebook):  # noqa: F811
    notebook.cell("def show(x): display(x)")
    done = notebook.launch("display([1, 2])\nshow('x')")
    assert (done.returncode, done.stdout) == (0, "[1, 2]\n'x'\n"), done.stderr
