"""A cell's body: what it needs from the notebook, and how a rank runs it.

Runs in: the kernel or command line (``analyze``, ``missing_names``) and the worker (``execute``).
"""

from __future__ import annotations
import __future__

import ast
import asyncio
import builtins
import difflib
import inspect
import io
import tokenize
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from nb_elastic import cell_names

HISTORY: Mapping[str, type] = types.MappingProxyType(
    {"In": list, "Out": dict, "_ih": list, "_oh": dict, "_dh": list, "_sh": types.ModuleType}
)
"""IPython's own record of the session, which a rank has not, with the type it has in the notebook."""

OWN_NAMES = frozenset(
    [
        "__name__",
        "__file__",
        "__doc__",
        "__builtins__",
        "__spec__",
        "__loader__",
        "__package__",
        "__annotations__",
        "__cached__",
        "__path__",
        "get_ipython",
        "exit",
        "quit",
        "display",
        *HISTORY,
    ]
)
"""Names that every process has for itself: never captured, never missed (``HISTORY`` is told apart)."""


_HISTORY_NOTE = (
    "which belongs to the notebook's IPython and stays there (copy what you need of it to a name in a cell of its own first, "
    "such as kept = {name}[...], and read that name here)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellCode:
    """A cell's body, analysed.

    Attributes:
        source: the body after IPython's transformation; valid Python.
        text: the body as the user wrote it.
        label: name of the cell as tracebacks show it, such as ``Cell In[12]``.
        line_offset: lines of the cell above ``source`` (the ``%%magic`` line).
        reads: names that it may read before it binds them.
        soft: those of ``reads`` that it most probably binds first; left out where they can't travel.
        must_read: names that it certainly reads first, with the cell's line of that read.
        binds: names that it may bind.
        names: every identifier in its code, for finding the submodules it uses.
        needs_shell: it uses magics or ``!commands``.
        is_async: it awaits at top level.
        flags: compiler flags of the notebook (``from __future__`` of earlier cells).
    """

    source: str
    label: str
    text: str = ""
    line_offset: int = 0
    reads: frozenset[str] = frozenset()
    soft: frozenset[str] = frozenset()
    must_read: Mapping[str, int]
    binds: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    needs_shell: bool = False
    is_async: bool = False
    flags: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingName:
    """A name that the body needs and the notebook lacks.

    Attributes:
        line: line of the cell that reads it.
        similar: names of the notebook that look alike, best first.
        note: why the ranks lack it though the notebook has it, and what to do; a relative clause, or "".
    """

    name: str
    line: int
    similar: tuple[str, ...] = ()
    note: str = ""


def is_history(name: str, value: Any) -> bool:
    """True for IPython's ``In``, ``Out`` and the like, not for what the user put under such a name (``In, Out = 784, 10``)."""
    return name in HISTORY and issubclass(type(value), HISTORY[name])


def analyze(
    source: str,
    *,
    label: str,
    line_offset: int = 0,
    transform: Callable[[str], str] | None = None,
    flags: int = 0,
) -> CellCode:
    """Analyse a cell's body.

    Args:
        source: the text below the ``%%magic`` line.
        label: how tracebacks name the cell, such as ``Cell In[12]``.
        line_offset: lines of the cell above ``source``.
        transform: IPython's cell transformation (``shell.transform_cell``); None for plain Python.
        flags: compiler flags that earlier cells switched on (``shell.compile.flags``).

    Raises:
        SyntaxError: with the cell's label and its own line number.
    """
    code = text = source
    if transform is not None:
        # IPython drops blank lines at the top; dropped here first, the line numbers stay the notebook's
        lines = source.splitlines(keepends=True)
        blank = next((n for n, line in enumerate(lines) if line.strip()), 0)
        line_offset += blank
        text = "".join(lines[blank:])
        code = transform(text)
    tree = parse(code, label=label, line_offset=line_offset, flags=flags)
    compiled = compile(tree, label, "exec", flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    annotations = __future__.annotations.compiler_flag
    names = cell_names.find_names(tree, has_lazy_annotations=bool(flags & annotations))
    own = OWN_NAMES - HISTORY.keys()
    # of IPython's history any read counts: there is hardly code that reads it only where it is
    asked = (names.reads & HISTORY.keys()) - names.binds - names.soft
    history = {n.id: n.lineno for n in reversed(list(ast.walk(tree))) if isinstance(n, ast.Name) and n.id in asked}
    return CellCode(
        source=code,
        text=text,
        label=label,
        line_offset=line_offset,
        reads=names.reads - own,
        soft=names.soft - own,
        must_read={n: line for n, line in {**history, **names.must_read}.items() if n not in own},
        binds=names.binds,
        names=frozenset(code_names(compiled)),
        needs_shell="get_ipython" in names.reads,
        is_async=bool(compiled.co_flags & inspect.CO_COROUTINE),
        flags=flags,
    )


def missing_names(cell: CellCode, namespace: Mapping[str, Any]) -> tuple[MissingName, ...]:
    """Names that the body is certain to read and that no rank will have, in the order of their lines.

    Those are names that nobody has, and IPython's history (``In``, ``Out``), which stays in the notebook.

    A name that a function of the notebook declares ``global`` and binds is not missed: a call may bind it.
    """
    absent = {n: line for n, line in cell.must_read.items() if n not in namespace and not hasattr(builtins, n)}
    history = [
        MissingName(name=n, line=line, note=_HISTORY_NOTE.format(name=n))
        for n, line in cell.must_read.items()
        if n in HISTORY and is_history(n, namespace.get(n)) and not (cell.needs_shell and n in {"_dh", "_sh"})
    ]
    for value in list(namespace.values()) if absent else ():
        if type(value) is types.FunctionType and value.__globals__ is namespace:
            for name in _stored_globals(value.__code__):
                absent.pop(name, None)
    own = [n for n in namespace if not n.startswith("_")]
    found = [
        MissingName(name=n, line=line, similar=tuple(_similar(n, own) or _similar(n, dir(builtins))))
        for n, line in absent.items()
    ]
    return tuple(sorted([*found, *history], key=lambda m: (m.line, m.name)))


def _similar(name: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, list(known), n=3)


def parse(source: str, *, label: str, line_offset: int = 0, flags: int = 0) -> ast.Module:
    """Parse a body so that its line numbers are the cell's.

    Raises:
        SyntaxError: with the cell's label and line.
    """
    mode = flags | ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile("\n" * line_offset + source, label, "exec", mode, dont_inherit=True)
    return cast("ast.Module", tree)


def execute(source: str, *, label: str, namespace: dict[str, Any], line_offset: int = 0, flags: int = 0) -> Any:
    """Run a body as top-level code of ``namespace``.

    Args:
        source: valid Python, as in ``CellCode.source``.

    Returns:
        The last expression's value, or None where the body ends in a statement or in ``;``.
    """
    tree = parse(source, label=label, line_offset=line_offset, flags=flags)
    last: ast.Expression | None = None
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(cast("ast.Expr", tree.body.pop()).value)
    mode = flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    body = compile(tree, label, "exec", mode, dont_inherit=True)
    # the body's own `from __future__` must reach its last expression, too
    features = sum(getattr(__future__, n).compiler_flag for n in __future__.all_feature_names)
    tail = compile(last, label, "eval", mode | (body.co_flags & features), dont_inherit=True) if last else None
    is_async = any(code is not None and code.co_flags & inspect.CO_COROUTINE for code in (body, tail))
    if is_async:
        value = asyncio.run(_run_async(body, tail, namespace))
    else:
        exec(body, namespace)  # noqa: S102  the user's own code, in the user's own process
        value = eval(tail, namespace) if tail else None  # noqa: S307  as above
    return None if is_silenced(source) else value


async def _run_async(body: types.CodeType, tail: types.CodeType | None, namespace: dict[str, Any]) -> Any:
    value: Any = None
    for code in (body, tail):
        if code is not None:
            value = eval(code, namespace)  # noqa: S307  as above
            if code.co_flags & inspect.CO_COROUTINE:
                value = await value
    return value if tail else None


def is_silenced(source: str) -> bool:
    """True when the last thing in the code, comments aside, is a semicolon."""
    last = ""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER, tokenize.INDENT, tokenize.DEDENT}
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type not in skipped:
                last = token.string
    except (tokenize.TokenError, SyntaxError):
        return False
    return last == ";"


def definitions(source: str, *, label: str, line_offset: int = 0, flags: int = 0) -> list[types.CodeType]:
    """Code of the body's imports, functions and classes at top level, one each.

    A child process that re-creates ``__main__`` runs these and nothing else, as it would skip what
    a script keeps under ``if __name__ == "__main__"``.
    """
    tree = parse(source, label=label, line_offset=line_offset, flags=flags)
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = [s for s in tree.body if isinstance(s, kinds)]
    return [compile(ast.Module([s], []), label, "exec", flags, dont_inherit=True) for s in found]


def code_names(code: types.CodeType) -> set[str]:
    """Every global, attribute and import name in a code object and the code inside it."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= code_names(constant)
    return found


def _stored_globals(code: types.CodeType) -> set[str]:
    import dis

    found = {str(i.argval) for i in dis.get_instructions(code) if i.opname == "STORE_GLOBAL"}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _stored_globals(constant)
    return found
