"""The way to the smallest object that can't be pickled.

Runs in: the kernel or command line, and the worker.
"""

from __future__ import annotations

import functools
import itertools
import pickle
import time
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nb_elastic import payload_look as look
from nb_elastic.frames import message_of
from nb_elastic.payload_file import PickleStream
from nb_elastic.payload_pickler import NotebookPickler, global_code_names, is_own
from nb_elastic.payload_refusals import Refusal

MAX_DEPTH = 40
MAX_CHILDREN = 10_000
MAX_SECONDS = 10.0

Trial = Callable[[Any, frozenset[int]], BaseException | None]
ATOMS = (int, float, complex, bool, str, bytes, bytearray, type(None))


class Nowhere(PickleStream):
    """Takes bytes and forgets them."""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Forget bytes."""
        return len(data)

    def take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """Forget a buffer."""
        buffer.raw()
        return False


class _TrialPickler(NotebookPickler):
    """Pickles into nowhere, stepping over objects that are known by now."""

    def __init__(self, *, namespace: Mapping[str, Any], known: frozenset[int]) -> None:
        super().__init__(Nowhere(), namespace=namespace, labels={})
        self._known = known

    def persistent_id(self, obj: Any) -> Any:
        """Step over a known object."""
        return "known" if id(obj) in self._known else None


def notebook_trial(namespace: Mapping[str, Any]) -> Trial:
    """A trial that pickles as a launch does."""

    def attempt(obj: Any, known: frozenset[int]) -> BaseException | None:
        try:
            _TrialPickler(namespace=namespace, known=known).dump(obj)
        except Exception as e:  # noqa: BLE001  border: pickling runs code of the user's classes, which may raise anything
            return e
        return None

    return attempt


def find(
    obj: Any, name: str, trial: Trial, *, clock: Callable[[], float] = time.monotonic
) -> tuple[str, BaseException | None]:
    """Walk from ``obj`` to the smallest object inside it that can't be pickled.

    Args:
        name: what the user calls ``obj``.
        trial: says why an object can't be pickled, objects with the given ids left aside, or None if it can.

    Returns:
        The way, as in ``train -> closure 'ds' -> _lock (_thread.lock)``, and why it ends there.
    """
    path, known, deadline = [name], frozenset({id(obj)}), clock() + MAX_SECONDS
    reason = trial(obj, frozenset())
    while reason is not None and len(path) < MAX_DEPTH and clock() < deadline:
        for edge, child in itertools.islice(_as_far_as_it_goes(children(obj)), MAX_CHILDREN):
            if id(child) in known or type(child) in ATOMS:
                continue
            found = trial(child, known)
            if found is not None:
                path.append(edge)
                obj, reason, known = child, found, known | {id(child)}
                break
            if clock() > deadline:
                break
        else:
            break
    return f"{' -> '.join(path)} ({type_name(obj)})", reason


def _as_far_as_it_goes(edges: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The edges up to the first that can't be looked at."""
    try:
        yield from edges
    except Exception:  # noqa: BLE001  border: looking inside runs code of the user's classes (`items`, `__class__`)
        return


def type_name(obj: Any) -> str:
    """Name of an object's type as a user would write it."""
    kind = type(obj)
    module = look.module_of(kind)
    return kind.__qualname__ if module in {"", "builtins", "__main__"} else f"{module}.{kind.__qualname__}"


def children(obj: Any) -> Iterator[tuple[str, Any]]:
    """Yield what pickling ``obj`` would pickle next, each with its name on the way."""
    if look.is_a(obj, types.FunctionType):
        yield from _of_function(obj)
    elif look.is_a(obj, types.MethodType):
        yield "__self__", obj.__self__
        yield "__func__", obj.__func__
    elif look.is_a(obj, functools.partial):
        yield "func", obj.func
        yield from ((f"args[{i}]", a) for i, a in enumerate(obj.args))
        yield from ((f"argument {k!r}", v) for k, v in obj.keywords.items())
    elif look.is_a(obj, staticmethod, classmethod):
        yield "__func__", obj.__func__
    elif look.is_a(obj, property):
        yield from ((n, f) for n, f in (("getter", obj.fget), ("setter", obj.fset), ("deleter", obj.fdel)) if f)
    elif look.is_a(obj, type):
        yield from ((f"base {b.__name__}", b) for b in obj.__bases__)
        skipped = {"__dict__", "__weakref__", "__abc_impl", "_abc_impl"}
        yield from ((k, v) for k, v in list(vars(obj).items()) if k not in skipped)
    elif look.is_a(obj, Mapping):
        if type(obj) is not dict:
            yield from _of_object(obj, with_items=False)
        yield from _of_mapping(obj)
    elif look.is_a(obj, list, tuple):
        yield from ((f"[{i}]", v) for i, v in enumerate(list(obj)))
        if type(obj) not in {list, tuple}:
            yield from _of_object(obj, with_items=False)
    elif look.is_a(obj, set, frozenset):
        yield from (("an element", v) for v in list(obj))
    elif not look.is_a(obj, types.ModuleType, *ATOMS):
        if type(obj).__module__ == "__main__":
            yield "its class", type(obj)
        yield from _of_object(obj, with_items=True)


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f"closure {name!r}", cell.cell_contents
        except ValueError:  # an empty cell
            continue
    for name in sorted(global_code_names(function.__code__)):
        if name in function.__globals__ and not is_own(name, function.__globals__[name]):
            yield f"global {name!r}", function.__globals__[name]
    for value in function.__defaults__ or ():
        yield "a default", value
    for name, value in (function.__kwdefaults__ or {}).items():
        yield f"default {name!r}", value
    yield from list(vars(function).items())
    yield from ((f"annotation {k!r}", v) for k, v in list(getattr(function, "__annotations__", {}).items()))


def _of_mapping(table: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in list(table.items()):
        text = repr(key) if isinstance(key, ATOMS) else type_name(key)
        yield f"[{text[:60]}]", value
        if not isinstance(key, ATOMS):
            yield f"key {text[:60]}", key


def _of_object(obj: Any, *, with_items: bool) -> Iterator[tuple[str, Any]]:
    """What the object's own ``__reduce_ex__`` names, attributes by their names."""
    try:
        made: Any = obj.__reduce_ex__(5)
    except Exception:  # noqa: BLE001  border: code of the user's classes; without it only attributes are left to look at
        made = None
    if not isinstance(made, tuple):
        yield from look.attributes(obj).items()
        return
    whole: tuple[Any, ...] = (*made, None, None, None, None)
    _, arguments, state, items, pairs, *_ = whole
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, dict):
            yield from ((str(k), v) for k, v in list(part.items()))
        elif part is not None and not isinstance(part, ATOMS):
            yield "its state", part
    yield from ((f"constructor argument {i}", a) for i, a in enumerate(arguments) if not isinstance(a, type))
    if with_items:
        yield from ((f"[{i}]", v) for i, v in enumerate(items or ()))
        yield from ((f"[{k!r}]"[:60], v) for k, v in pairs or ())


def explain(reason: BaseException | None, *, is_result: bool = False) -> str:
    """Why it can't travel and what to do, as one or two sentences."""
    way_out = "return plain data, or an object without it" if is_result else "create it inside the function or the cell"
    if isinstance(reason, Refusal):
        return f"{reason.what[0].upper()}{reason.what[1:]}: {reason.advice if reason.is_for_results or not is_result else way_out}."
    if isinstance(reason, RecursionError) or isinstance(reason.__cause__ if reason else None, RecursionError):
        return f"It is nested too deeply for pickle: flatten it, or {way_out}."
    text = " ".join(message_of(reason).split())[:300] if reason else ""
    return f"Python can't pickle it ({type(reason).__name__}: {text}): {way_out}."
