"""What a cell needs from the notebook, and how its body runs.

A user would lose: a cell that finds its names in the ranks, and one that takes no more than it needs along.
"""

import traceback

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from nb_elastic import cell


def analyze(source, **kwargs):
    return cell.analyze(source, label="Cell In[7]", line_offset=1, **kwargs)


@pytest.mark.parametrize(
    ("source", "reads", "must"),
    [
        ("x", {"x"}, {"x"}),
        ("x = 1; x", set(), set()),
        ("x += 1", {"x"}, {"x"}),
        ("x: int = y", {"int", "y"}, {"int", "y"}),
        ("x[0] = 1", {"x"}, {"x"}),
        ("x.a = 1", {"x"}, {"x"}),
        ("del x", {"x"}, {"x"}),
        ("x = 1; del x", set(), set()),
        ("del x; x = 2; x", {"x"}, {"x"}),
        ("f'{a!r:{w}}'", {"a", "w"}, {"a", "w"}),
        ("[a * k for a in z]", {"k", "z"}, {"z"}),
        ("{a: b for a in z for b in a if q}", {"z", "q"}, {"z"}),
        ("[y for x in z if (y := x)]", {"z"}, {"z"}),
        ("(y := z); y", {"z"}, {"z"}),
        ("lambda a, b=d: a + e", {"d", "e"}, {"d"}),
        ("def f(a, b=d, *, c: T = g) -> R:\n    return a + h", {"d", "T", "g", "R", "h"}, {"d", "T", "g", "R"}),
        ("def f(): return g()\ndef g(): return 1\nf()", set(), set()),
        ("def f(): return g()\nf()\ndef g(): return 1", {"g"}, set()),
        ("def f():\n    def g():\n        return x\n    x = 1\n    return g", set(), set()),
        ("def f():\n    def g():\n        return x\n    return g", {"x"}, set()),
        ("def f():\n    global x\n    x = 1\nf()\nx", {"x"}, set()),
        ("def f(n): return f(n - 1)", set(), set()),
        ("@dec\nclass A(B, metaclass=M):\n    y = z\n    w = y\n    def m(self): return v, A", {"dec", "B", "M", "z", "v"}, {"dec", "B", "M"}),
        ("def f():\n    class A:\n        x = x\n    return A", {"x"}, set()),
        ("import a.b as c, d.e\nc; d", set(), set()),
        ("from a import b as c\nc; b", {"b"}, {"b"}),
        ("from a import *\nx", {"x"}, set()),
        ("y\nfrom a import *", {"y"}, {"y"}),
        ("exec(code)\nx", {"exec", "code", "x"}, {"exec", "code"}),
        ("if a:\n    x = 1\nelse:\n    x = 2\nx", {"a"}, {"a"}),
        ("if a:\n    x = 1\nx", {"a", "x"}, {"a"}),
        ("if a:\n    raise E\nelse:\n    x = 2\nx", {"a", "E"}, {"a"}),
        ("for i in r:\n    loss = i\nloss", {"r", "loss"}, {"r"}),
        ("while a:\n    b", {"a", "b"}, {"a"}),
        ("with c() as d:\n    e = d\ne", {"c"}, {"c"}),
        ("try:\n    import a\nexcept E as e:\n    a = e\na", {"E"}, set()),
        ("try:\n    x\nexcept NameError:\n    x = 1\nx", {"x", "NameError"}, set()),
        ("try:\n    pass\nexcept E as e:\n    pass\ne", {"E", "e"}, set()),
        ("match p:\n    case [a, *b] if a: b\n    case {'k': v, **r}: (v, r)\n    case K(x=1) | D.c: pass", {"p", "K", "D"}, {"p"}),
        ("match p:\n    case 1: x = 1\n    case _: x = 2\nx", {"p"}, {"p"}),
        ("a and (x := b)\nx", {"a", "b", "x"}, {"a"}),
        ("await f(x)", {"f", "x"}, {"f", "x"}),
        ("async for i in g: print(i)", {"g", "print"}, {"g"}),
        ("[await f(i) for i in r]", {"f", "r"}, {"r"}),
        ("def f(x: 'T'): pass", set(), set()),
        ("from __future__ import annotations\ndef f(x: T): pass\ny: U = 1", set(), set()),
        ("_ + In[0]", {"_", "In"}, {"_", "In"}),
        ("[(y := x) for x in range(2)]; y", {"range", "y"}, {"range"}),
        ("[y for x in z if a and (y := x)]", {"z", "a", "y"}, {"z"}),
        ("[(total := total + x) for x in z]", {"z", "total"}, {"z"}),
        ("[[(y := b) for b in a] for a in z]; y", {"z", "y"}, {"z"}),
        ("[(y := f(lambda y: y)) for a in z]", {"z", "f"}, {"z"}),
        ("lambda: [(y := x) for x in z]\ny", {"z", "y"}, {"y"}),
        ("assert True, undefined", {"undefined"}, set()),
        ("assert a, b\nb", {"a", "b"}, {"a", "b"}),
        ("a < b < c", {"a", "b", "c"}, {"a", "b"}),
        ("raise SystemExit\nx", {"SystemExit", "x"}, {"SystemExit"}),
        ("class K:\n    global kk\n    kk = 1\nkk", set(), set()),
        ("class K:\n    global kk\n    kk = 1\n    class L:\n        mm = 1\n    def f(self): return kk\nkk, mm", {"mm"}, {"mm"}),
        ("x = x", {"x"}, {"x"}),
        ("a = b = c; a, b", {"c"}, {"c"}),
        ("print(__name__, get_ipython)", {"print"}, {"print"}),
        ("", set(), set()),
    ],
)  # fmt: skip
def test_a_cell_takes_the_names_it_reads_before_it_binds_them(source, reads, must):
    code = analyze(source)
    assert (set(code.reads), set(code.must_read)) == (reads, must)


def test_a_name_that_a_loop_binds_is_taken_if_it_can_travel():
    """`loss` of an earlier cell, on a GPU, must not stop a cell that sets its own."""
    code = analyze("for batch in data:\n    loss = f(batch)\nprint(loss)")
    assert (set(code.soft), "loss" in code.reads) == ({"loss"}, True)


def test_a_missing_name_is_told_with_its_line_and_what_it_looks_like():
    code = analyze("x = 1\nprint(lenght, x)\ntrian(1)")
    found = cell.missing_names(code, {"train": 1, "length": 2})
    assert found == (
        cell.MissingName(name="lenght", line=3, similar=("length",)),
        cell.MissingName(name="trian", line=4, similar=("train",)),
    )


HISTORY = {"In": [""], "Out": {1: 2}, "_ih": [""], "_oh": {1: 2}, "_dh": ["/"]}


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ("Out[1]", ["Out"]),
        ("for i in range(3):\n    In[i], _oh", ["In", "_oh"]),
        ("def f(): return Out[1]\nf()", ["Out"]),
        ("Out = {}\nOut[1]", []),
        ("for Out in range(3): pass\nOut", []),
        ("!true\n_dh", []),
        ("_, __, _i, _i1", []),
    ],
)
def test_ipython_s_history_is_refused_with_a_word_on_how_to_take_it_along(source, missing):
    names = {**HISTORY, "_": 1, "__": 2, "_i": "x", "_i1": "x"}
    code = analyze(source, transform=TransformerManager().transform_cell)
    found = cell.missing_names(code, names)
    assert [m.name for m in found] == missing
    for m in found:
        assert m.note.startswith("which belongs to the notebook's IPython")
        assert "in a cell of its own first" in m.note


def test_names_of_ipython_s_that_the_notebook_gave_its_own_values_are_its_own():
    code = analyze("In, Out")
    assert cell.missing_names(code, {"In": 784, "Out": 10}) == ()


def test_a_name_that_a_function_of_the_notebook_binds_is_not_missed():
    names = {}
    exec("def setup():\n    global model\n    model = 1", names)
    assert cell.missing_names(analyze("setup()\nmodel"), names) == ()


def test_a_syntax_error_names_the_cell_and_the_notebook_line():
    with pytest.raises(SyntaxError) as caught:
        analyze("x = 1\ny = (2,\nz = 3 +")
    assert (caught.value.filename, caught.value.lineno) == ("Cell In[7]", 3)


def test_return_outside_a_function_is_refused_before_anything_starts():
    with pytest.raises(SyntaxError) as caught:
        analyze("x = 1\nreturn x")
    assert (caught.value.filename, caught.value.lineno) == ("Cell In[7]", 3)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("x = 2\nx * 21", 42),
        ("42;", None),
        ("42; # no comment", None),
        ("42 # a comment;", 42),
        ("';'", ";"),
        ("x = 42", None),
        ("'''\n;'''", "\n;"),
        ("import asyncio\nawait asyncio.wait_for(asyncio.to_thread(lambda: 42), 9)", 42),
        ("async def g():\n    yield 42\n[i async for i in g()]", [42]),
        ("async def g():\n    yield 42\nasync for i in g():\n    x = i\nx", 42),
        ("from __future__ import annotations\ndef f(x: Missing): return 42\nf(1)", 42),
        ("", None),
        ("# nothing", None),
    ],
)
def test_the_last_expression_is_the_value_unless_a_semicolon_ends_it(source, value):
    code = analyze(source)
    names = {"__name__": "__main__"}
    got = cell.execute(code.source, label=code.label, line_offset=code.line_offset, namespace=names)
    assert got == value


@pytest.mark.parametrize("source", ["\n\nx = 1\n1 / 0", "\n\nx = 1\nawait f()\n1 / 0", "\n\nx = 1\n1 / 0; x = 3"])
def test_a_traceback_counts_lines_as_the_notebook_does(source):
    async def f():
        return None

    try:
        cell.execute(source, label="Cell In[7]", line_offset=1, namespace={"f": f})
    except ZeroDivisionError as e:
        last = traceback.extract_tb(e.__traceback__)[-1]
    line = 1 + next(n for n, text in enumerate(source.splitlines(), 1) if "1 / 0" in text)
    assert (last.filename, last.lineno) == ("Cell In[7]", line)


def test_top_level_await_is_noticed():
    assert [analyze(s).is_async for s in ("await f()", "async def g(): await f()")] == [True, False]


def test_future_imports_of_earlier_cells_hold_in_the_body():
    import __future__

    code = analyze("def f(x: Missing): return x\nf(3)", flags=__future__.annotations.compiler_flag)
    names = {}
    got = cell.execute(code.source, label=code.label, line_offset=1, namespace=names, flags=code.flags)
    assert (got, set(code.reads)) == (3, set())
