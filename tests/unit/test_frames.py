"""An exception becomes text a reader can use, whatever the exception does."""

from __future__ import annotations

import sys

import pytest

from nb_elastic import frames


def _run(source: str, name: str = "Cell In[3]") -> BaseException:
    try:
        exec(compile(source, name, "exec"), {"__name__": "__main__"})
    except BaseException as e:
        return e
    raise AssertionError("nothing was raised")


def test_cells_are_named_as_ipython_names_them():
    told = frames.tell(_run("def f():\n    raise ValueError('x')\nf()"))
    assert (told.error_type, told.message) == ("ValueError", "x")
    lines = [line for line in told.text.splitlines() if "test_frames" not in line and "exec(" not in line]
    kept = [line for line in lines if set(line.strip()) - set("~^")]
    assert kept == [
        "Traceback (most recent call last):",
        "  Cell In[3], line 3, in <module>",
        "  Cell In[3], line 2, in f",
        "ValueError: x",
    ]
    assert [(f.file, f.line, f.name) for f in told.frames][1:] == [
        ("Cell In[3]", 3, "<module>"),
        ("Cell In[3]", 2, "f"),
    ]


def test_a_syntax_error_of_a_cell_shows_its_line():
    told = frames.tell(_run("x = 1\ny = (\n"))
    assert "  Cell In[3], line 2\n    y = (" in told.text


def test_a_chain_of_causes_is_kept():
    told = frames.tell(_run("try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('k') from e"))
    assert told.error_type == "KeyError"
    assert "ZeroDivisionError: division by zero" in told.text
    assert "direct cause" in told.text
    assert told.text.count("Cell In[3], line") == 2


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups came with 3.11")
def test_a_group_shows_its_members():
    told = frames.tell(_run("raise ExceptionGroup('g', [ValueError('a'), KeyError('b')])"))
    assert (told.error_type, told.message) == ("ExceptionGroup", "g (2 sub-exceptions)")
    assert "ValueError: a" in told.text
    assert "KeyError: 'b'" in told.text


def test_an_exception_that_refers_to_itself_is_told():
    told = frames.tell(_run("e = ValueError('loop')\ne.__cause__ = e\nraise e"))
    assert (told.error_type, told.message) == ("ValueError", "loop")


def test_words_that_are_no_text_can_be_written():
    told = frames.tell(_run("raise ValueError('\\udcff')"))
    assert told.message == "\\udcff"
    told.text.encode()


def test_what_cannot_be_told_is_still_named():
    source = (
        "class Evil(Exception):\n    def __getattribute__(self, name):\n        raise RuntimeError('no')\nraise Evil"
    )
    assert frames.tell(_run(source)).error_type == "Evil"


def test_deep_recursion_keeps_both_ends():
    told = frames.tell(_run("def f(n):\n    return f(n + 1)\nf(0)"))
    assert told.error_type == "RecursionError"
    assert len(told.frames) == frames.MAX_FRAMES
    assert (told.frames[1].name, told.frames[-1].name) == ("<module>", "f")


def test_a_very_long_message_loses_its_middle_only():
    told = frames.tell(_run("raise ValueError('a' * 10**6 + 'end')"))
    assert len(told.message) < frames.MAX_TEXT + 100
    assert told.message.startswith("aaa")
    assert told.message.endswith("end")
