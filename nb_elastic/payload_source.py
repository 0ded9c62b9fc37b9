"""Sources of notebook code in a rank: tracebacks, ``inspect``, TorchScript and torch.compile find its lines.

Runs in: the worker (``install``, ``stub``), and the kernel or command line (``annotation_names``, ``class_label``).
"""

from __future__ import annotations

import ast
import inspect
import linecache
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nb_elastic import payload_look as look

STUB = '''"""Lets processes that a rank spawns find the notebook's functions and classes; written by nb_elastic."""

from nb_elastic import payload as _payload

_payload.load_in_child({payload!r}, {buffers!r}, globals())
del _payload
'''


def install(sources: Mapping[str, str]) -> None:
    """Make ``linecache`` and ``inspect`` know the shipped sources.

    Args:
        sources: label, such as ``Cell In[12]``, -> the cell's whole text.
    """
    for label, text in sources.items():
        # without a modification time, linecache.checkcache keeps the entry
        linecache.cache[label] = (len(text), None, [f"{line}\n" for line in text.splitlines()], label)
    _show_lines_of_cells()
    known = getattr(inspect.getfile, "elastic_sources", None)
    if isinstance(known, dict):
        known.update(sources)
    else:
        patched: Any = _getfile_of_cells(inspect.getfile, dict(sources))
        inspect.getfile = patched  # as torch.package does for its own


def _show_lines_of_cells() -> None:
    """Before Python 3.13 the default hooks read files themselves, and know nothing of linecache."""
    if sys.version_info >= (3, 13):
        return
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = traceback.print_exception
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _thread_excepthook


def _thread_excepthook(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        name = args.thread.name if args.thread else threading.get_ident()
        text = "".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback))
        sys.stderr.write(f"Exception in thread {name}:\n{text}")


def _getfile_of_cells(original: Callable[[Any], str], sources: dict[str, str]) -> Callable[[Any], str]:
    def getfile(obj: Any) -> str:
        if isinstance(obj, type) and obj.__module__ in {"__main__", "__mp_main__"}:
            label = class_label(obj, sources)
            if label:
                return label
        return original(obj)

    getfile.elastic_sources = sources  # type: ignore[attr-defined]
    return getfile


def class_label(cls: type, sources: Mapping[str, str], labels: Mapping[str, str] | None = None) -> str:
    """Label of the cell that defines a class: where its methods are, else the newest that says ``class X``."""
    for value in list(vars(cls).values()):
        function = value.__func__ if look.is_a(value, staticmethod, classmethod) else value
        function = function.fget if look.is_a(function, property) else function
        while look.is_a(function, types.FunctionType) and "__wrapped__" in vars(function):
            function = vars(function)["__wrapped__"]
        if (
            look.is_a(function, types.FunctionType)
            and function.__qualname__ == f"{cls.__qualname__}.{function.__name__}"
        ):
            file: str = function.__code__.co_filename
            file = (labels or {}).get(file, file)
            if file in sources:
                return file
    for label, text in reversed(list(sources.items())):
        if f"class {cls.__name__}" in text and cls.__qualname__ in _classes(text):
            return label
    return ""


def _classes(text: str) -> set[str]:
    found: set[str] = set()

    def walk(body: Iterable[ast.AST], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                found.add(prefix + node.name)
                walk(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                walk(node.body, f"{prefix}{node.name}.<locals>.")
            else:
                walk(ast.iter_child_nodes(node), prefix)

    walk(parse_cell(text).body, "")
    return found


def parse_cell(text: str) -> ast.Module:
    """Parse a cell's text as far as it is Python: lines of magics and shell become blank."""
    lines = text.splitlines()
    kept = ["" if line.lstrip()[:1] in {"%", "!", "?"} else line for line in lines]
    try:
        return ast.parse("\n".join(kept))
    except (SyntaxError, ValueError, RecursionError):
        return ast.Module([], [])


def annotation_names(text: str) -> dict[int, set[str]]:
    """Names in annotations of each function and class, by the line on which it starts.

    Annotations of local variables leave no trace in the bytecode, yet TorchScript looks them up.
    """
    found: dict[int, set[str]] = {}
    for node in ast.walk(parse_cell(text)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        names: set[str] = set()
        for inner in ast.walk(node):
            for part in (getattr(inner, "annotation", None), getattr(inner, "returns", None)):
                if isinstance(part, ast.AST):
                    names |= _names_of_annotation(part)
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        found.setdefault(first, set()).update(names)
    return found


def _names_of_annotation(node: ast.AST) -> set[str]:
    found = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            try:
                found |= {n.id for n in ast.walk(ast.parse(part.value, mode="eval")) if isinstance(n, ast.Name)}
            except (SyntaxError, ValueError):
                continue
    return found


def stub(*, payload: str, buffers: str) -> str:
    """Text of the file that stands for ``__main__`` in processes spawned by a rank.

    Args:
        payload: absolute path of the payload.
        buffers: path of the buffers' memory file, ``/proc/<rank's pid>/fd/<n>``, or "".
    """
    return STUB.format(payload=payload, buffers=buffers)
