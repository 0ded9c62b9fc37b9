"""A cell that gets only the names it was found to need does exactly what it would do in the notebook.

A user would lose: trust in capture. Programs are made at random; both runs must agree, errors included.
"""

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nb_elastic import cell

NAMES = "abcde"
EXAMPLES = int(os.environ.get("NB_TEST_EXAMPLES", "150"))
name = st.sampled_from(NAMES)


def indent(lines):
    return "\n".join("    " + line for text in lines for line in text.splitlines())


def expressions(deeper):
    return st.one_of(
        st.tuples(deeper, deeper).map(lambda p: f"({p[0]} + {p[1]})"),
        st.tuples(name, deeper, deeper).map(lambda p: f"sum([{p[1]} for {p[0]} in range(abs({p[2]}) % 3)])"),
        st.tuples(name, deeper).map(lambda p: f"({p[0]} := {p[1]})"),
        st.tuples(deeper, deeper, deeper).map(lambda p: f"({p[0]} if {p[1]} else {p[2]})"),
        st.tuples(deeper, deeper).map(lambda p: f"({p[0]} and {p[1]})"),
        st.tuples(name, deeper).map(lambda p: f"(lambda {p[0]}: {p[1]})(1)"),
        st.tuples(deeper).map(lambda p: f"len(f'{{{p[0]}}}')"),
        st.tuples(deeper, deeper, deeper).map(lambda p: f"({p[0]} < {p[1]} < {p[2]})"),
        st.tuples(name, deeper, deeper).map(lambda p: f"sum([({p[0]} := {p[1]}) for k in range(abs({p[2]}) % 3)])"),
    )


expression = st.recursive(st.one_of(name, st.integers(0, 3).map(str)), expressions, max_leaves=4)


def statements(deeper):
    block = st.lists(deeper, min_size=1, max_size=3).map(indent)
    return st.one_of(
        st.tuples(expression, block, block).map(lambda p: f"if {p[0]}:\n{p[1]}\nelse:\n{p[2]}"),
        st.tuples(name, expression, block).map(lambda p: f"for {p[0]} in range(abs({p[1]}) % 3):\n{p[2]}"),
        st.tuples(name, block, expression).map(lambda p: f"def f{p[0]}():\n{p[1]}\n    return {p[2]}"),
        st.tuples(name, name, block, expression).map(
            lambda p: f"def f{p[0]}():\n    global {p[1]}\n{p[2]}\n    return {p[3]}"
        ),
        st.tuples(name, block).map(
            lambda p: f"class {p[0]}:\n{p[1]}\n    __add__ = __radd__ = lambda s, o: 1\n    __abs__ = lambda s: 1"
        ),
        st.tuples(name, block).map(lambda p: f"class k:\n    global {p[0]}\n{p[1]}"),
        st.tuples(block, name, block).map(lambda p: f"try:\n{p[0]}\nexcept Exception as {p[1]}:\n{p[2]}"),
        st.tuples(expression, name, block, block).map(
            lambda p: f"match {p[0]}:\n    case 1:\n{indent([p[2]])}\n    case {p[1]}:\n{indent([p[3]])}"
        ),
    )


simple = st.one_of(
    st.tuples(name, expression).map(lambda p: f"{p[0]} = {p[1]}"),
    st.tuples(name, expression).map(lambda p: f"{p[0]} += {p[1]}"),
    name.map(lambda n: f"del {n}"),
    st.tuples(expression, expression).map(lambda p: f"assert {p[0]}, {p[1]}"),
    name.map(lambda n: f"seen.append(f{n}() if 'f{n}' in globals() else 0)"),
    expression.map(lambda e: f"seen.append(repr({e})[:9])"),
    name.map(lambda n: f"import math as {n}; {n} = 3"),
)
program = st.lists(st.recursive(simple, statements, max_leaves=6), min_size=1, max_size=6).map("\n".join)


def outcome(source, names):
    seen = []
    scope = {**names, "seen": seen, "__name__": "__main__"}
    try:
        cell.execute(source, label="Cell In[1]", namespace=scope)
    except Exception as e:
        return seen, type(e).__name__
    return seen, ""


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(program)
def test_a_cell_does_the_same_with_only_the_names_it_was_found_to_need(source):
    try:
        code = cell.analyze(source, label="Cell In[1]")
    except SyntaxError:
        return
    everything = {n: i + 1 for i, n in enumerate(NAMES)}
    needed = {n: v for n, v in everything.items() if n in code.reads}
    assert outcome(source, needed) == outcome(source, everything)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(program)
def test_a_name_said_to_be_needed_for_certain_is(source):
    """Without it the cell fails: refusing such a launch never stops one that would have worked."""
    try:
        code = cell.analyze(source, label="Cell In[1]")
    except SyntaxError:
        return
    everything = {n: i + 1 for i, n in enumerate(NAMES)}
    for missing in set(code.must_read) & set(NAMES):
        rest = {n: v for n, v in everything.items() if n != missing}
        assert outcome(source, rest)[1] != ""
