"""Functions and classes of a notebook work in a rank as they do in the notebook.

A user would lose: cells that use what other cells define. Every launch here is a real fresh process.
"""

import pytest

from nb_elastic import cell, payload
from tests.support.cells import notebook  # noqa: F401

DEFINITIONS = """
import abc, collections, dataclasses, enum, functools, logging, os, pathlib, re, typing
import xml.etree.ElementTree
import os.path as path
from collections import namedtuple
from typing import Generic, NamedTuple, Protocol, TypedDict, TypeVar

K = 3
T = TypeVar("T")
UserId = typing.NewType("UserId", int)
logger = logging.getLogger("mine")
pattern = re.compile("a(b+)")
where = pathlib.Path("/tmp/x")
Point = namedtuple("Point", "x y")
point = Point(1, 2)

def even(n): return True if n == 0 else odd(n - 1)
double = lambda x: x * K

def outer(a):
    b = [a]
    def inner(c, d=K, *, e=double(1)):
        nonlocal b
        b = b + [c]
        return b, d, e
    return inner

closure = outer(1)

def make():
    class Local:
        k = K
        def get(self): return self.k + K
    return Local()

def deco(fn):
    @functools.wraps(fn)
    def wrapped(*args): return ("wrapped", fn(*args))
    return wrapped

@deco
def greet(name): return f"hi {name} {K}"

@functools.lru_cache(maxsize=7)
def cached(n): return n + K

@functools.singledispatch
def kind(x): return "object"

@kind.register
def _(x: int): return "int"

part = functools.partial(double, 5)

def numbers():
    yield from range(K)

async def later(): return K

class Meta(type):
    def __new__(mcls, name, bases, names, **kwargs):
        made = super().__new__(mcls, name, bases, names)
        made.tag = "tagged"
        return made

class Base(metaclass=Meta):
    scale = K
    def __init__(self, v): self.v = v
    def value(self): return self.v * self.scale
    @classmethod
    def make(cls, v): return cls(v)
    @staticmethod
    def static(x): return double(x)
    @property
    def prop(self): return ("prop", self.v)
    class Inner:
        z = 9

class Child(Base):
    def value(self): return super().value() + 1

class Slotted:
    __slots__ = ("a", "b")
    def __init__(self, a, b): self.a, self.b = a, b

class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...

class Square(Shape):
    def area(self): return 4

class Has(Protocol):
    def area(self) -> int: ...

class Box(Generic[T]):
    def __init__(self, item: T): self.item = item

class Colour(enum.Enum):
    RED = 1
    BLUE = 2
    def nice(self): return self.name.lower()

class Row(NamedTuple):
    a: int
    b: str = "b"

class Movie(TypedDict):
    name: str

class Broken(Exception):
    def __init__(self, code): super().__init__(code); self.code = code

@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Frozen:
    a: int
    b: tuple = ()

@dataclasses.dataclass
class Config:
    a: int = 1
    items: list = dataclasses.field(default_factory=list)
    def total(self): return self.a + sum(self.items) + K

class Owner:
    def __init__(self): self.me = self; self.table = {"me": [self]}

child, slotted, config, frozen, colour, row = Child(2), Slotted(1, 2), Config(4, [1]), Frozen(1, (2,)), Colour.BLUE, Row(1)
inner_instance = Base.Inner()
owner = Owner()
bound = child.value
counter = collections.Counter("aab")
view = {"k": Frozen(1)}
by_key = {Frozen(3): "three", Colour.RED: "red"}
proxy = __import__("types").MappingProxyType({"a": 1})
"""

CHECKS = """
def odd(n): return False if n == 0 else even(n - 1)
"""

BODY = """
[
 even(10), odd(7), double(4), closure(2), closure(3)[0], make().get(), greet("you"), cached(1), cached.cache_parameters()["maxsize"],
 kind(1), kind("x"), part(), list(numbers()), child.value(), Child.make(3).value(), Base.static(2), child.prop, Child.tag,
 type(child) is Child, Base.Inner.z, type(inner_instance) is Base.Inner, slotted.a, Square().area(), Shape.__abstractmethods__ == {"area"},
 Box(3).item, Box[int].__origin__ is Box, colour is Colour.BLUE, Colour(2).nice(), row, Row(2), type(row) is Row, Movie(name="m"), Broken(3).code,
 frozen < Frozen(2), by_key[Frozen(3)], by_key[Colour.RED], config.total(), Config().items, owner.me is owner, owner.table["me"][0] is owner,
 bound(), counter["a"], point, type(point) is Point, where.name, pattern.match("abb")[1], logger.name, UserId(3), path.join("a", "b"),
 os.path.basename("a/b"), xml.etree.ElementTree.fromstring("<a/>").tag, view["k"].a, proxy["a"], await later(), K,
]
"""  # fmt: skip

EXPECTED = [
    True, True, 12, ([1, 2], 3, 3), [1, 2, 3], 6, ("wrapped", "hi you 3"), 4, 7, "int", "object", 15, [0, 1, 2], 7, 10, 6, ("prop", 2), "tagged",
    True, 9, True, 1, 4, True, 3, True, True, "blue", (1, "b"), (2, "b"), True, {"name": "m"}, 3, True, "three", "red", 8, [], True, True,
    7, 2, (1, 2), True, "x", "bb", "mine", 3, "a/b", "b", "a", 1, 1, 3, 3,
]  # fmt: skip


def test_everything_a_notebook_defines_works_in_a_rank(notebook):  # noqa: F811
    notebook.cell(DEFINITIONS)
    notebook.cell(CHECKS)
    assert notebook.launch(BODY).value == EXPECTED


def test_a_cell_before_any_other_needs_nothing(notebook):  # noqa: F811
    done = notebook.launch("print('hello'); 6 * 7")
    assert (done.value, done.stdout, done.payload.captured) == (42, "hello\n", ())


def test_functions_of_all_cells_share_one_namespace_with_the_body(notebook):  # noqa: F811
    """A body that sets `lr` is seen by the notebook's functions; one of them may set a name for the body."""
    notebook.cell("lr = 1\ndef read(): return lr\ndef setup():\n    global model\n    model = 'made'")
    notebook.cell("def both(): return read(), globals() is read.__globals__")
    assert notebook.launch("lr = 2\nsetup()\nimport __main__\nboth(), model, vars(__main__) is globals()").value == (
        (2, True),
        "made",
        True,
    )


def test_a_launch_takes_only_what_the_cell_needs_and_tells_the_sizes(notebook):  # noqa: F811
    notebook.cell(
        "import math\nbig = bytes(2_000_000)\nother = bytes(3_000_000)\ndef f(): return len(big) + g()\ndef g(): return math.pi"
    )
    shipped = notebook.dump("f()")
    assert [(c.name, c.type_name, c.via, c.size_bytes > 1_000_000) for c in shipped.captured] == [
        ("big", "bytes", "f", True),
        ("f", "function", "", False),
        ("g", "function", "f", False),
        ("math", "module", "g", False),
    ]
    assert 2_000_000 < shipped.size_bytes < 2_010_000


def test_names_of_ipython_stay_in_the_notebook(notebook):  # noqa: F811
    names = {"In": ["", "x"], "Out": {1: open}, "_": 5, "_dh": [open], "get_ipython": print, "exit": 1, "quit": 1}
    notebook.names.update(names)
    assert [c.name for c in notebook.dump("_ + 1, len(range(3)), exit").captured] == ["_"]


def test_what_ipython_puts_in_place_of_builtins_stays_there_too(notebook):  # noqa: F811
    from IPython.core import interactiveshell

    notebook.names["open"] = interactiveshell._modified_open
    notebook.cell("import os\ndef f(): return open(os.devnull).read()")
    assert [c.name for c in notebook.dump("f(), open").captured] == ["f", "os"]


def test_a_builtin_that_the_notebook_replaced_is_taken_along(notebook):  # noqa: F811
    notebook.cell("def sorted(x): return 'mine'")
    assert notebook.launch("sorted([2, 1]), max(1, 2)").value == ("mine", 2)


def test_soft_names_that_cannot_travel_stay_behind(notebook):  # noqa: F811
    notebook.cell("loss = open('/dev/null')\nloss.close()")
    done = notebook.launch("for i in range(3):\n    loss = i\nloss")
    assert (done.value, done.payload.left_out) == (2, ("loss",))


@pytest.mark.parametrize("transform", [False, True])
def test_a_traceback_shows_the_notebook_s_own_lines(notebook, transform):  # noqa: F811
    notebook.cell("def inner(x):\n    # why\n    return 1 / x\n\ndef train(x):\n    return inner(x)")
    from IPython.core.inputtransformer2 import TransformerManager

    done = notebook.launch("\n\ntrain(\n    0)", transform=TransformerManager().transform_cell if transform else None)
    shown = done.stderr[done.stderr.index('  File "Cell In[2]"') :].splitlines()
    assert [(line, shown[i + 1].strip()) for i, line in enumerate(shown) if line.startswith("  File")] == [
        ('  File "Cell In[2]", line 4, in <module>', "train("),
        ('  File "Cell In[1]", line 6, in train', "return inner(x)"),
        ('  File "Cell In[1]", line 3, in inner', "return 1 / x"),
    ]
    assert shown[-1] == "ZeroDivisionError: division by zero"


def test_a_cell_of_one_line_shows_its_line(notebook):  # noqa: F811
    """IPython keeps such a cell as one line, get_ipython().run_cell_magic(...), that holds the body's text."""
    magic = "get_ipython().run_cell_magic('elastic_launch', '-n 2', '1/0\\n')\n"
    file = "/tmp/ipykernel_1/1.py"
    code = cell.analyze("1/0\n", label="Cell In[1]", line_offset=1)
    shipped = payload.dump_cell(code, {}, sources={file: magic}, labels={file: "Cell In[1]"})
    done = notebook.run(shipped)
    assert '  File "Cell In[1]", line 2, in <module>\n    1/0\n' in done.stderr


def test_names_that_the_notebook_took_from_ipython_travel(notebook):  # noqa: F811
    notebook.names.update({"_ih": [""], "_oh": {}})
    notebook.cell("In, Out = 784, 10\ndef f(): return In")
    assert notebook.launch("In, Out, f()").value == (784, 10, 784)


def test_inspect_finds_the_source_of_functions_and_classes(notebook):  # noqa: F811
    notebook.cell(
        "from dataclasses import dataclass\n\n@dataclass\nclass Config:\n    a: int = 1\n\nclass Net:\n    class Part:\n        x = 1\n    def f(self): return 1"
    )
    notebook.cell("def helper(x):\n    return x  # here\nf = lambda x: x + 1")
    body = """
import inspect
class Born:
    def m(self): pass
[inspect.getsource(o) for o in (helper, f, Config, Net, Net.Part, Net.f, Born)] + [inspect.getsourcefile(Config), inspect.getsourcelines(Net)[1]]
"""
    assert notebook.launch(body).value == [
        "def helper(x):\n    return x  # here\n",
        "f = lambda x: x + 1\n",
        "@dataclass\nclass Config:\n    a: int = 1\n",
        "class Net:\n    class Part:\n        x = 1\n    def f(self): return 1\n",
        "    class Part:\n        x = 1\n",
        "    def f(self): return 1\n",
        "class Born:\n    def m(self): pass\n",
        "Cell In[1]",
        7,
    ]


def test_a_class_is_found_by_its_name_even_if_only_an_instance_came_along(notebook):  # noqa: F811
    """torch.save, DataLoader workers and plain pickle look classes up as __main__.X."""
    notebook.cell(
        "class Outer:\n    class Inner:\n        def __eq__(self, o): return type(o) is type(self)\nitem = Outer.Inner()\ndef fn(): return 1\nholder = [fn, item]"
    )
    body = "import pickle\npickle.loads(pickle.dumps(holder))[1] == item, b'__main__' in pickle.dumps(holder)"
    assert notebook.launch(body).value == (True, True)


def test_a_call_ships_its_arguments(notebook):  # noqa: F811
    notebook.cell(
        "K = 2\nclass A:\n    def __init__(self, x): self.x = x\n    def go(self, y): return self.x * K + y\ndef train(a, *rest, lr): return a.x * K + lr, rest"
    )
    a = notebook.names["A"](5)
    assert notebook.call(notebook.names["train"], a, 1, lr=3).value == (13, (1,))
    assert notebook.call(a.go, 1).value == 11
    assert notebook.call(max, 1, 2).value == 2


def test_a_library_function_goes_by_name(notebook):  # noqa: F811
    import json

    assert notebook.call(json.dumps, {"a": 1}).value == '{"a": 1}'


def test_submodules_are_there_as_they_were_in_the_notebook(notebook):  # noqa: F811
    notebook.cell(
        "import concurrent.futures\nimport importlib.resources as res\ndef f(): return concurrent.futures.thread.__name__"
    )
    body = "import sys\nconcurrent.futures.ThreadPoolExecutor.__name__, f(), res.__name__"
    assert notebook.launch(body).value == ("ThreadPoolExecutor", "concurrent.futures.thread", "importlib.resources")


def test_modules_beside_the_notebook_travel_by_name(notebook, tmp_path, monkeypatch):  # noqa: F811
    (tmp_path / "beside.py").write_text("def f(): return 'from the file'\nclass A: pass")
    monkeypatch.syspath_prepend(tmp_path)
    notebook.cell("import beside\nfrom beside import f\na = beside.A()")
    shipped = notebook.dump("beside.f(), f(), type(a)")
    assert (b"from the file" in shipped.data, sorted(c.name for c in shipped.captured)) == (False, ["a", "beside", "f"])


def test_standard_output_stands_for_the_rank_s_own(notebook):  # noqa: F811
    notebook.cell("import sys, functools\nsay = functools.partial(print, file=sys.stdout)")
    assert notebook.launch("say('hi')").stdout == "hi\n"


def test_a_class_that_registers_itself_is_registered_once(notebook):  # noqa: F811
    notebook.cell(
        "class Registry:\n    found = {}\n    def __init_subclass__(cls, *, key, **kw):\n        super().__init_subclass__(**kw)\n"
        "        assert key not in Registry.found\n        Registry.found[key] = cls\nclass A(Registry, key='a'): pass\na = A()"
    )
    body = "class B(Registry, key='b'): pass\nlist(Registry.found), Registry.found['a'] is A, type(a) is A"
    assert notebook.launch(body).value == (["a", "b"], True, True)


def test_cached_properties_and_context_managers_travel(notebook):  # noqa: F811
    notebook.cell(
        "import contextlib, functools\nclass A:\n    @functools.cached_property\n    def x(self): return [5]\n"
        "@contextlib.contextmanager\ndef managed():\n    yield 3\na = A()"
    )
    assert notebook.launch("with managed() as m: pass\na.x is a.x, a.x, m").value == (True, [5], 3)


def test_warnings_and_errors_of_threads_show_the_notebook_s_lines(notebook):  # noqa: F811
    notebook.cell(
        "import threading, warnings\ndef bad():\n    1 / 0  # here\ndef warn():\n    warnings.warn('careful')  # there"
    )
    done = notebook.launch(
        "warnings.simplefilter('always')\nt = threading.Thread(target=bad)\nt.start()\nt.join()\nwarn()"
    )
    assert (
        'File "Cell In[1]", line 3, in bad\n    1 / 0  # here\n' in done.stderr,
        "Cell In[1]:5: UserWarning: careful\n" in done.stderr,
    ) == (
        True,
        True,
    )


def test_a_class_whose_unpickling_uses_notebook_names_loads(notebook):  # noqa: F811
    notebook.cell(
        "import math\nK = 2\nclass A:\n    def __init__(self, x): self.x = x\n    def __getstate__(self): return self.x\n"
        "    def __setstate__(self, x): self.x = math.floor(x) * K\n    def __hash__(self): return hash(self.x) + K\n"
        "    def __eq__(self, other): return self.x == other.x\na = A(3.5)\ntable = {A(1): 'one'}"
    )
    assert notebook.launch("a.x, len(table)").value == (6, 1)


def test_code_of_a_class_body_inside_a_function_keeps_its_globals(notebook):  # noqa: F811
    notebook.cell("CONST = 4\nclass Base: pass\ndef make():\n    class A(Base):\n        x = CONST\n    return A")
    assert notebook.launch("A = make()\nA.x, A.__mro__[1] is Base").value == (4, True)


def test_another_python_is_told_in_words(notebook):  # noqa: F811
    shipped = notebook.dump("1")
    import dataclasses

    done = notebook.run(dataclasses.replace(shipped, data=shipped.data.replace(b'"python": [3, ', b'"python": [2, ')))
    assert "PayloadError: The notebook runs Python 2." in done.stderr
