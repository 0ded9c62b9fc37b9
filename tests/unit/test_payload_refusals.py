"""What can't travel is refused before anything starts, with the way to the culprit.

A user would lose: hours with "cannot pickle '_thread.lock' object" and no word on which of all objects.
"""

import gc
import sys
import types
from collections.abc import Iterator

import pytest

from nb_elastic import payload
from nb_elastic.errors import PayloadError
from tests.support.cells import notebook  # noqa: F401

CASES = {
    "lock_in_closure": (
        ("import threading\nclass DS:\n    def __init__(self): self._lock = threading.Lock()\n"
        "def make():\n    ds = DS()\n    def train(): return ds\n    return train\ntrain = make()"),
        "train -> closure 'ds' -> _lock (_thread.lock)", "A lock belongs to one process",
    ),
    "rlock": ("import threading\ntrain = [threading.RLock()]", "train -> [0] (_thread.RLock)", "A lock belongs"),
    "event": ("import threading\ntrain = threading.Event()", "train -> _cond -> _lock (_thread.lock)", "A lock belongs"),
    "thread_local": ("import threading\ntrain = {'a': threading.local()}", "train -> ['a'] (_thread._local)", "Thread-local data"),
    "file": ("train = open('/dev/null')", "train (_io.TextIOWrapper)", "capture its path"),
    "binary_file": ("train = (1, open('/dev/null', 'rb'))", "train -> [1] (_io.BufferedReader)", "capture its path"),
    "temporary_file": ("import tempfile\ntrain = tempfile.TemporaryFile()", "train (_io.BufferedRandom)", "capture its path"),
    "socket": ("import socket\ntrain = socket.socket()", "train (socket.socket)", "connect inside the function"),
    "generator": ("train = (i for i in [1])", "train (generator)", "half-run code"),
    "async_generator": ("async def g():\n    yield\ntrain = g()", "train (async_generator)", "half-run code"),
    "coroutine": ("async def f(): pass\ntrain = f()", "train (coroutine)", "await it first"),
    "weakref": ("import weakref\nclass A: pass\na = A()\ntrain = {1: [weakref.ref(a)]}", "train -> [1] -> [0] (weakref.ReferenceType)", "weak reference"),
    "frame": ("import sys\ntrain = sys._getframe()", "train (frame)", "running code"),
    "through_functions": ("f = open('/dev/null')\ndef h(): return f\ndef train(): return h()", "train -> global 'h' -> global 'f' (_io.TextIOWrapper)", "open file"),
    "method_of_object": ("class A:\n    def __init__(self): self.f = open('/dev/null')\n    def go(self): pass\ntrain = A().go", "train -> __self__ -> f (_io.TextIOWrapper)", "open file"),
    "default": ("def train(f=open('/dev/null')): pass", "train -> a default (_io.TextIOWrapper)", "open file"),
    "class_attribute": ("class A:\n    f = open('/dev/null')\ntrain = A()", "train -> its class -> f (_io.TextIOWrapper)", "open file"),
    "partial": ("import functools\ntrain = functools.partial(print, file=open('/dev/null'))", "train -> argument 'file' (_io.TextIOWrapper)", "open file"),
    "cycle": (
        "class N: pass\na, b = N(), N()\na.b, b.a = b, a\na.z = open('/dev/null')\ntrain = a",
        "train -> z (_io.TextIOWrapper)", "open file",
    ),
    "mapping_key": ("import weakref\nclass A: pass\na = A()\ntrain = {weakref.ref(a): 1}", "train -> key weakref.ReferenceType (weakref.ReferenceType)", "weak"),
    "own_getstate": ("class A:\n    def __getstate__(self): raise RuntimeError('not me')\ntrain = [A()]", "train -> [0] (A)", "RuntimeError: not me"),
    "c_object": ("import sqlite3\ntrain = sqlite3.connect(':memory:')", "train (sqlite3.Connection)", "Python can't pickle it"),
    "executor": ("import concurrent.futures\ntrain = concurrent.futures.ThreadPoolExecutor(1)", None, ""),
    "slots": ("class A:\n    __slots__ = ('f',)\ntrain = A()\ntrain.f = open('/dev/null')", "train -> f (_io.TextIOWrapper)", "open file"),
    "deep": ("train = []\nfor _ in range(100_000):\n    train = [train]", None, "nested too deeply"),
}  # fmt: skip


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What the cells left open is collected here: in a later test its warning would be that test's failure."""
    yield
    gc.collect()


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore:coroutine:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("case", CASES)
def test_what_cannot_travel_is_refused_with_the_way_to_it(forgotten, notebook, case):  # noqa: F811
    source, path, advice = CASES[case]
    notebook.cell(source)
    with pytest.raises(PayloadError) as caught:
        notebook.dump("train")
    assert advice in str(caught.value)
    assert str(caught.value).endswith("Nothing was started.")
    assert "\n" not in str(caught.value)
    if path is not None:
        assert caught.value.path == path
    close = getattr(notebook.names["train"], "close", None)
    if callable(close):
        close()


def test_a_module_that_ranks_cannot_import_is_refused(notebook, monkeypatch):  # noqa: F811
    module = types.ModuleType("made_here")
    exec("def f(): pass\nclass A: pass", vars(module))
    monkeypatch.setitem(sys.modules, "made_here", module)
    notebook.names |= {"made_here": module, "f": module.f, "box": [module.A()]}
    paths = []
    for name in ("made_here", "f", "box"):
        with pytest.raises(PayloadError, match="'made_here' can't be imported by the ranks") as caught:
            notebook.dump(name)
        paths.append(caught.value.path)
    assert paths == ["made_here (module)", "f (function)", "box -> [0] (made_here.A)"]


def test_arguments_of_a_call_are_named(notebook):  # noqa: F811
    notebook.cell("def train(x, *, y): pass")
    with open("/dev/null") as file:
        with pytest.raises(PayloadError) as caught:
            notebook.call(notebook.names["train"], 1, y=[file])
    assert caught.value.path == "keywords -> ['y'] -> [0] (_io.TextIOWrapper)"


def test_a_tensor_on_a_gpu_is_refused_without_touching_the_gpu(notebook):  # noqa: F811
    """A stand-in device: no machine of the tests has a GPU."""
    torch = pytest.importorskip("torch")

    class OnGpu(torch.Tensor):
        @property
        def device(self):
            return torch.device("cuda", 0)

    notebook.names["model"] = {"w": torch.ones(2).as_subclass(OnGpu)}
    with pytest.raises(PayloadError) as caught:
        notebook.dump("model")
    assert "It lies on cuda:0" in str(caught.value)
    assert "x = x.cpu()" in str(caught.value)
    assert caught.value.path.startswith("model -> ['w']")


def test_the_culprit_of_any_object_can_be_asked_for(notebook):  # noqa: F811
    notebook.cell("import threading\nx = {'a': [1, threading.Lock()]}")
    assert payload.culprit(notebook.names["x"], "x") == "x -> ['a'] -> [1] (_thread.lock)"


def test_a_refusal_leaves_the_notebook_as_it_was(notebook):  # noqa: F811
    notebook.cell("import threading\nclass A:\n    x = 1\nlock = threading.Lock()\na = A()")
    import copyreg

    copyreg._slotnames(notebook.names["A"])  # the cache that any pickling leaves in a class
    before = dict(notebook.names), dict(vars(notebook.names["A"]))
    with pytest.raises(PayloadError):
        notebook.dump("a, lock")
    assert (dict(notebook.names), dict(vars(notebook.names["A"]))) == before
