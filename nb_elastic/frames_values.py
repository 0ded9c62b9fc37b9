"""Short, safe texts of the variables where the notebook's code failed.

Runs in: a worker. Nothing of a user's class is called: no ``__repr__``, no property, no value of a GPU's tensor. What is
not known to be harmless is shown by its class's name, and what is called a password is not shown.
"""

from __future__ import annotations

import itertools
import linecache
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

MAX_NAMES = 20
MAX_CHARS = 200
MAX_ITEMS = 6
MAX_DEPTH = 2
NEAR_LINES = 3
"""A module-level frame shows what so many lines before the failing one use, too: its other names are the whole notebook."""

HIDDEN = "<hidden>"
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SECRET = re.compile(r"passw|secret|credential|apikey")
_SECRET_WORDS = frozenset(["pwd", "passphrase", "token"])
_SECRET_KEYS = frozenset(["api", "access", "private", "secret", "auth", "encryption"])
_SECRET_TEXT = re.compile(
    r"(sk-|hf_|gh[pousr]_|github_pat_|xox[abp]-|AKIA|eyJ[\w-]+\.)[\w-]{8}|-----BEGIN [A-Z ]*PRIVATE KEY"
)
_LOGIN = re.compile(r"://[^/\s@]+@")
_NAME = re.compile(r"[^\W\d]\w*")
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)
_NOISE = (*_FUNCTIONS, types.ModuleType, types.MethodType, type)
_PLAIN_MODULES = ("datetime", "decimal", "fractions", "uuid", "pathlib", "zoneinfo", "numpy")
_exception_args = BaseException.__dict__["args"].__get__
_mro = type.__dict__["__mro__"].__get__
_class_name = type.__dict__["__name__"].__get__
_class_module = type.__dict__["__module__"].__get__


def of_frame(frame: types.FrameType, line: int) -> dict[str, str]:
    """Texts of a frame's variables by name: those of the failing line first."""
    file = frame.f_code.co_filename
    near = range(max(1, line - NEAR_LINES), line + 1) if frame.f_code.co_name == "<module>" else range(line, line + 1)
    lines = [linecache.getline(file, number, frame.f_globals) for number in near]
    wanted = dict.fromkeys(name for text in reversed(lines) for name in _NAME.findall(text))
    found = frame.f_globals if frame.f_code.co_name == "<module>" else frame.f_locals
    names = [*wanted, *(() if found is frame.f_globals else (n for n in found if n not in wanted))]
    told: dict[str, str] = {}
    for name in names:
        if len(told) < MAX_NAMES and name.isidentifier() and not name.startswith("__") and name in found:
            value = found[name]
            if not _is_any(value, _NOISE):
                told[name[:MAX_CHARS]] = HIDDEN if is_secret(name, value) else short(value)
    return told


def is_secret(name: str, value: Any) -> bool:
    """True for what its name, or its look, says is to be kept to oneself. A token that is a number is one of a text."""
    words = [word.lower() for word in _WORD.findall(name)]
    if "token" in words and not _is_any(value, (str, bytes, list, tuple, dict)):
        return False
    pairs = itertools.pairwise(words)
    if _SECRET.search(name.lower()) or _SECRET_WORDS.intersection(words):
        return True
    return any(a in _SECRET_KEYS and b in {"key", "keys"} for a, b in pairs)


def short(value: Any) -> str:
    """A value in one line of at most ``MAX_CHARS`` characters."""
    try:
        text = _text(value, 0)
    except Exception:  # noqa: BLE001  border: another thread may change a container meanwhile, a library its ways
        text = f"<{_class_name(type(value))} object>"
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS - 3]}..."


def _is_any(value: Any, kinds: tuple[type, ...]) -> bool:
    """``isinstance`` that asks neither the object nor its metaclass."""
    return not set(kinds).isdisjoint(_mro(type(value)))


def _text(value: Any, depth: int) -> str:
    kind = type(value)
    if kind in {type(None), bool, float, complex, range, slice, type(...)}:
        return repr(value)
    if kind is int:
        return repr(value) if value.bit_length() < 600 else f"<int of {value.bit_length()} bits>"
    if kind in {str, bytes, bytearray}:
        return _words(value)
    if (found := _library(value)) is not None:
        return found
    if kind in {list, tuple, set, frozenset, dict}:
        return _container(value, depth)
    return _structure(value, kind, depth)


def _words(value: str | bytes | bytearray) -> str:
    start = value[: 2 * MAX_CHARS]
    text = start if isinstance(start, str) else bytes(start).decode("latin-1")
    if _SECRET_TEXT.search(text):
        return HIDDEN
    if isinstance(value, str):
        shown = repr(_LOGIN.sub(f"://{HIDDEN}@", text)[: MAX_CHARS - 40])
    else:
        shown = repr(bytes(value[:50]))
    return (
        shown
        if len(value) <= MAX_CHARS - 40
        else f"{shown}... ({len(value)} {'characters' if isinstance(value, str) else 'bytes'})"
    )


def _library(value: Any) -> str | None:
    """Arrays, tensors and tables by their shape; None for anything else."""
    kind = type(value)
    torch, numpy, pandas = (sys.modules.get(name) for name in ("torch", "numpy", "pandas"))
    if torch is not None and hasattr(torch, "nn") and kind in {torch.Tensor, torch.nn.Parameter}:
        dtype = str(value.dtype).removeprefix("torch.")
        return f"{kind.__name__}(shape={tuple(value.shape)}, dtype={dtype}, device={value.device})"
    if torch is not None and hasattr(torch, "Size") and kind in {torch.Size, torch.device, torch.dtype}:
        return repr(value)
    if numpy is not None and hasattr(numpy, "ndarray") and kind is numpy.ndarray:
        return f"ndarray(shape={value.shape}, dtype={value.dtype})"
    if pandas is not None and hasattr(pandas, "DataFrame"):
        if kind is pandas.Series:
            return f"Series(shape={value.shape}, dtype={value.dtype})"
        if kind is pandas.DataFrame:
            columns = [f"{_text(name, 1)}: {dtype}" for name, dtype in list(value.dtypes.items())[:MAX_ITEMS]]
            more = ", ..." if value.shape[1] > MAX_ITEMS else ""
            return f"DataFrame(shape={value.shape}, dtypes={{{', '.join(columns)}{more}}})"
    return None


def _container(value: Any, depth: int) -> str:
    opening, closing = ("[", "]") if type(value) is list else ("(", ")") if type(value) is tuple else ("{", "}")
    if depth >= MAX_DEPTH and value:
        return f"{opening}...{closing}"
    items = (
        [_pair(k, v, depth) for k, v in _first(value.items())]
        if type(value) is dict
        else [_text(v, depth + 1) for v in _first(value)]
    )
    rest = len(value) - len(items)
    inside = ", ".join(items) + (", ..." if rest else "," if type(value) is tuple and len(items) == 1 else "")
    count = f" ({len(value)} items)" if rest else ""
    if type(value) in {set, frozenset} and (type(value) is frozenset or not value):
        return f"{type(value).__name__}({opening + inside + closing if value else ''}){count}"
    return f"{opening}{inside}{closing}{count}"


def _pair(key: Any, value: Any, depth: int) -> str:
    is_hidden = type(key) is str and is_secret(key, value)
    return f"{_text(key, depth + 1)}: {HIDDEN if is_hidden else _text(value, depth + 1)}"


def _first(items: Iterable[Any]) -> Iterator[Any]:
    for count, item in enumerate(items):
        if count >= MAX_ITEMS:
            return
        yield item


def _structure(value: Any, kind: type, depth: int) -> str:
    """Named fields where a class has them, else its name."""
    name = _class_name(kind)
    if type in _mro(kind):
        return f"<class {_class_name(value)}>"
    if _is_any(value, _NOISE):
        return f"<{name} {value.__name__}>" if _is_any(value, _FUNCTIONS) else f"<{name}>"
    module = _class_module(kind)
    if isinstance(module, str) and module.partition(".")[0] in _PLAIN_MODULES and not _is_any(value, (list, dict)):
        return repr(value) if _is_plain(value, module) else f"<{name} object>"
    if _is_any(value, (BaseException,)):
        return f"{name}({', '.join(_text(a, depth + 1) for a in _first(_exception_args(value)))})"
    if type(names := kind.__dict__.get("_fields")) is tuple and tuple in _mro(kind):
        parts = dict(zip(names, tuple.__iter__(value), strict=False))
        return f"{name}({_named(parts, parts, depth)})" if depth < MAX_DEPTH else f"{name}(...)"
    for base in (list, tuple, dict, set, frozenset):
        if _is_any(value, (base,)):
            return f"<{name} of {base.__len__(value)} items>"
    if "_name_" in (fields := _fields_of(value, kind)) and "_value_" in fields:  # a member of an enumeration
        return f"{name}.{fields['_name_']}"
    told = kind.__dict__.get("__dataclass_fields__")
    if type(told) is dict and depth < MAX_DEPTH:
        return f"{name}({_named(told, fields, depth)})"
    return f"<{name} object>"


def _named(names: Iterable[str], values: Mapping[str, Any], depth: int) -> str:
    known = [name for name in names if name in values]
    told = [
        f"{name}={HIDDEN if is_secret(name, values[name]) else _text(values[name], depth + 1)}"
        for name in known[:MAX_ITEMS]
    ]
    return ", ".join(told + ["..."] * (len(known) > MAX_ITEMS))


def _is_plain(value: Any, module: str) -> bool:
    """True for numbers of NumPy, and for what the standard library itself made."""
    if module.partition(".")[0] == "numpy":
        return sys.modules["numpy"].generic in _mro(type(value)) and value.nbytes <= MAX_CHARS
    return True


def _fields_of(value: Any, kind: type) -> dict[str, Any]:
    """What an object holds itself, in its dictionary and its slots; nothing that would have to be computed."""
    found: dict[str, Any] = {}
    for base in reversed(_mro(kind)):
        for name, member in list(base.__dict__.items()):
            if type(member) is types.MemberDescriptorType and base is not object:
                try:
                    found[name] = member.__get__(value, kind)
                except AttributeError:
                    continue
    try:
        found.update(object.__getattribute__(value, "__dict__"))
    except AttributeError:
        return found
    return found
