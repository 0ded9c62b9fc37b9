"""A failure shows what the notebook's variables were, without running the user's code, touching a GPU or telling a secret."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import os
import pathlib
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from nb_elastic import frames, frames_values
from nb_elastic.frames_values import HIDDEN, is_secret, short
from nb_elastic.model import to_json


class Loud:
    """Everything about it raises."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(f"{name} was asked for")

    def __repr__(self) -> str:
        raise SystemExit("its repr was asked for")


class LoudList(list):  # type: ignore[type-arg]
    """A list with a will of its own."""

    def __len__(self) -> int:
        raise SystemExit

    def __iter__(self) -> Any:
        raise SystemExit


@dataclasses.dataclass
class Config:
    lr: float
    path: pathlib.Path
    password: str = "hunter2"

    def __repr__(self) -> str:
        raise SystemExit


class Colour(enum.Enum):
    RED = 1

    def __repr__(self) -> str:
        raise SystemExit


Point = collections.namedtuple("Point", "x y")
LOOP: list[Any] = [1]
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (3, "3"),
        (10**400, "<int of 1329 bits>"),
        (math.nan, "nan"),
        ("it's", '"it\'s"'),
        ("x" * 500, f"'{'x' * 160}'... (500 characters)"),
        ("a\u202e\x1b[31m\n", "'a\\u202e\\x1b[31m\\n'"),
        ("\udcff", "'\\udcff'"),
        (b"\x00" * 100, f"b'{chr(92)}x00{(chr(92) + 'x00') * 49}'... (100 bytes)"[:197] + "..."),
        ([1, "a", (2,)], "[1, 'a', (2,)]"),
        (list(range(1000)), "[0, 1, 2, 3, 4, 5, ...] (1000 items)"),
        ({"a": {"b": {"c": {}}}, "e": {}}, "{'a': {'b': {...}}, 'e': {}}"),
        ({1}, "{1}"),
        (set(), "set()"),
        (frozenset([1]), "frozenset({1})"),
        (LOOP, "[1, [1, [...]]]"),
        (pathlib.PurePosixPath("/a"), "PurePosixPath('/a')"),
        (dt.date(2026, 1, 2), "datetime.date(2026, 1, 2)"),
        (decimal.Decimal("1.5"), "Decimal('1.5')"),
        (np.zeros((2, 3), np.float32), "ndarray(shape=(2, 3), dtype=float32)"),
        (np.float64(1.5), "np.float64(1.5)"),
        (np.ma.array([1]), "<MaskedArray object>"),
        (torch.zeros(2, 3), "Tensor(shape=(2, 3), dtype=float32, device=cpu)"),
        (torch.zeros(2, device="meta"), "Tensor(shape=(2,), dtype=float32, device=meta)"),
        (torch.nn.Parameter(torch.zeros(1)), "Parameter(shape=(1,), dtype=float32, device=cpu)"),
        (torch.bfloat16, "torch.bfloat16"),
        (torch.nn.Linear(1, 1), "<Linear object>"),
        (pd.DataFrame({"a": [1], "b": [0.5]}), "DataFrame(shape=(1, 2), dtypes={'a': int64, 'b': float64})"),
        (pd.Series([1]), "Series(shape=(1,), dtype=int64)"),
        (Loud(), "<Loud object>"),
        ([Loud()], "[<Loud object>]"),
        (LoudList([1, 2]), "<LoudList of 2 items>"),
        (collections.Counter("aab"), "<Counter of 2 items>"),
        (Config(0.1, pathlib.PurePosixPath("/d")), "Config(lr=0.1, path=PurePosixPath('/d'), password=<hidden>)"),
        (Point(1, "b"), "Point(x=1, y='b')"),
        (Colour.RED, "Colour.RED"),
        (ValueError("no", 2), "ValueError('no', 2)"),
        ([len, int], "[<builtin_function_or_method len>, <class int>]"),
        (os.environ, "<_Environ object>"),
        ({"user": "me", "api_key": "k", "n": {"db_password": 1}}, "{'user': 'me', 'api_key': <hidden>, 'n': {'db_password': <hidden>}}"),
        ("hf_abcdefghijklmnop", HIDDEN),
        ("postgres://me:pw@host/db", "'postgres://<hidden>@host/db'"),
    ],
    ids=lambda v: type(v).__name__,
)  # fmt: skip
def test_values_are_short_and_made_without_their_own_code(value: Any, text: str) -> None:
    assert short(value) == text


def test_every_text_is_short_however_deep_or_wide_the_value() -> None:
    value: Any = "x" * 100
    for _ in range(50):
        value = {f"key {n} " * 20: [value] * 50 for n in range(50)}
    assert len(short(value)) <= frames_values.MAX_CHARS


@pytest.mark.parametrize("name", ["password", "DB_PASSWORD", "dbPassword", "mypasswd", "client_secret", "HFToken", "hf_token", "api_key", "APIKey", "apikey", "aws_access_key", "credentials"])  # fmt: skip
def test_what_is_called_a_secret_is_not_shown(name: str) -> None:
    assert is_secret(name, "x")


@pytest.mark.parametrize(("name", "value"), [("tokens", ["a"]), ("tokenizer", "bpe"), ("token", 17), ("token", torch.zeros(2)), ("key", "k"), ("author", "me"), ("n_tokens", 5)])  # fmt: skip
def test_what_language_models_call_a_token_is_shown(name: str, value: Any) -> None:
    assert not is_secret(name, value)


def failed(source: str, **names: Any) -> BaseException:
    """Run a cell's source and return what it raised."""
    import linecache

    file = "Cell In[12]"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    try:
        exec(compile(source, file, "exec"), {"__name__": "__main__", **names})
    except BaseException as e:
        return e
    raise AssertionError("nothing was raised")


def values(exc: BaseException) -> list[tuple[str, dict[str, str]]]:
    told = frames.tell(exc, has_values=True)
    return [(f.name, dict(f.values)) for f in told.frames if f.file == "Cell In[12]"]


def test_a_function_s_frame_shows_its_locals_those_of_the_line_first() -> None:
    source = "import math\ndef f(a, b):\n    total = a + 1\n    unused = 'u'\n    return total / b\n\nlr = 0.1\nother = 5\n\n\n\n\nf(2, 0)"
    assert values(failed(source)) == [
        ("<module>", {}),
        ("f", {"total": "3", "b": "0", "a": "2", "unused": "'u'"}),
    ]


def test_a_module_level_frame_shows_what_its_line_and_those_above_use() -> None:
    source = "far = 1\n\n\n\nnear = 2\nrow = [near, 3]\nrow[5]"
    assert values(failed(source, notebook="whole")) == [("<module>", {"row": "[2, 3]", "near": "2"})]


def test_only_the_notebook_s_innermost_frames_have_values_and_each_a_few() -> None:
    many = "\n".join(f"    v{n} = {n}" for n in range(50))
    told = frames.tell(failed(f"def f(n):\n{many}\n    return f(n - 1) if n else int('x')\nf(9)"), has_values=True)
    with_values = [f for f in told.frames if f.values]
    assert [(f.name, len(f.values)) for f in with_values] == [("f", frames_values.MAX_NAMES)] * frames.MAX_VALUE_FRAMES
    assert with_values == list(told.frames[-3:])


def test_endless_recursion_stays_small() -> None:
    told = frames.tell(failed("def f(n, data):\n    return f(n + 1, data)\nf(0, list(range(10**5)))"), has_values=True)
    assert told.error_type == "RecursionError"
    assert len(json.dumps([to_json(f) for f in told.frames])) < 100_000


def test_values_are_told_only_when_they_are_wanted() -> None:
    assert not any(f.values for f in frames.tell(failed("x = 1\nx / 0")).frames)


def test_frames_of_libraries_show_nothing() -> None:
    told = frames.tell(failed("import json\njson.loads('{')"), has_values=True)
    assert [bool(f.values) for f in told.frames if "json" in f.file] == [False] * 3
