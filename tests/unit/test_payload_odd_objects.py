"""Objects that answer every question about themselves, or none, neither stop a launch nor break its refusal.

A user would lose: a notebook with one ``Config(dict)`` in it, refused with a raw ``KeyError: '__globals__'``.
"""

import pytest

from nb_elastic import cell, payload, payload_culprit, payload_source
from nb_elastic.errors import PayloadError
from tests.support.cells import notebook  # noqa: F401

ODD = """
import unittest.mock

class KeyConfig(dict):
    __getattr__ = dict.__getitem__

class GetConfig(dict):
    __getattr__ = dict.get

class Anything:
    "What torch.fx's proxies and pandas-like query builders do."
    def __getattr__(self, name): return Anything()
    def __call__(self, *args): return Anything()
    def __iter__(self): raise RuntimeError("not here")
    def __eq__(self, other): raise RuntimeError("a proxy has no truth")
    __hash__ = object.__hash__

class Truthy:
    __slots__ = ("kept",)
    def __getattr__(self, name): return self
    def __call__(self, *args): return self

class Unbound:
    "A context-local proxy outside its context."
    @property
    def __class__(self): raise RuntimeError("working outside of context")

key, get, anything, truthy, unbound = KeyConfig(lr=0.1), GetConfig(lr=0.2), Anything(), Truthy(), Unbound()
mock = unittest.mock.MagicMock()
fake = unittest.mock.MagicMock(spec=len)
def real(): return 1
posing = unittest.mock.MagicMock(spec=real)
class Holder:
    cfg, other, m = KeyConfig(), Anything(), None
    def f(self): return 1
"""
NAMES = ("key", "get", "anything", "truthy", "unbound", "mock", "fake", "posing", "Holder")


def test_a_config_with_its_keys_as_attributes_travels(notebook):  # noqa: F811
    notebook.cell(ODD)
    done = notebook.launch("def f(): return key.lr\nkey.lr, get.lr, f(), type(key) is KeyConfig, Holder().f()")
    assert done.value == (0.1, 0.2, 0.1, True, 1)


@pytest.mark.parametrize("name", NAMES)
def test_an_odd_object_under_any_name_stops_no_cell_that_leaves_it_alone(notebook, name):  # noqa: F811
    notebook.cell(ODD)
    notebook.names["open"] = notebook.names[name]
    code = cell.analyze("undefined", label="Cell In[2]")
    assert [m.name for m in cell.missing_names(code, notebook.names)] == ["undefined"]
    assert [c.name for c in notebook.dump("real()").captured] == ["real"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("body", ["{}", "box = [{}]", "def g(): return {}\ng()", "open"])
def test_an_odd_object_travels_or_is_refused_in_words(notebook, name, body):  # noqa: F811
    notebook.cell(ODD)
    notebook.names["open"] = notebook.names[name]
    try:
        shipped = notebook.dump(body.format(name))
    except PayloadError as told:
        assert "can't travel to the ranks." in str(told)
        assert told.path.startswith("open" if body == "open" else name)
    else:
        assert ("open" if body == "open" else name) in {c.name for c in shipped.captured}


@pytest.mark.parametrize("name", NAMES)
def test_calling_an_odd_object_is_refused_in_words_or_works(notebook, name):  # noqa: F811
    notebook.cell(ODD)
    try:
        payload.dump_function(notebook.names[name], (), {}, sources={}, labels={})
    except PayloadError as told:
        assert "can't travel to the ranks." in str(told)


@pytest.mark.parametrize("name", NAMES)
def test_the_culprit_is_found_beside_and_inside_odd_objects(notebook, name):  # noqa: F811
    notebook.cell(ODD + "\nimport threading")
    odd = notebook.names[name]
    # what can't travel itself is a culprit, too
    expected = {"x -> [1] (_thread.lock)", "x -> [0]"}
    found = payload.culprit([odd, notebook.names["threading"].Lock()], "x")
    assert any(found.startswith(text) for text in expected), found
    assert payload_culprit.find(odd, "odd", lambda _obj, _known: TypeError("no"))[0].startswith("odd")


def test_a_class_with_odd_attributes_has_a_source(notebook):  # noqa: F811
    notebook.cell(ODD)
    assert payload_source.class_label(notebook.names["Holder"], notebook.sources, notebook.labels)


def test_an_error_without_a_text_is_told_all_the_same(notebook):  # noqa: F811
    notebook.cell(
        "class Mute(Exception):\n    def __str__(self): raise KeyError('no text')\n"
        "class A:\n    def __reduce__(self): raise Mute\na = A()"
    )
    with pytest.raises(PayloadError, match="its __str__ raised KeyError") as caught:
        notebook.dump("a")
    assert caught.value.path == "a (A)"


def test_a_class_with_a_nonsense_module_is_named(notebook):  # noqa: F811
    notebook.cell("import threading\nclass A: pass\na = A()\nA.__module__ = []\na.x = threading.Lock()")
    with pytest.raises(PayloadError) as caught:
        notebook.dump("a")
    assert caught.value.path.startswith("a")


def test_a_table_that_cannot_be_walked_is_the_culprit_itself(notebook):  # noqa: F811
    notebook.cell(
        "class Lazy(dict):\n    def items(self): raise RuntimeError('not open')\n    def __reduce__(self): raise TypeError('no')\na = [Lazy()]"
    )
    with pytest.raises(PayloadError) as caught:
        notebook.dump("a")
    assert caught.value.path == "a -> [0] (Lazy)"
