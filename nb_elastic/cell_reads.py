"""Which names expressions, magics' texts and code that runs later read.

Runs in: the kernel or command line.
"""

# ruff: noqa: N802  methods are named after the syntax nodes they read, as ast.NodeVisitor has them
from __future__ import annotations

import ast
import contextlib
import re
import symtable
from collections.abc import Iterable, Iterator

OPAQUE_CALLS = frozenset(
    {"exec", "eval", "execfile", "globals", "locals", "vars", "get_ipython", "setattr", "__import__"}
)
"""After a call of these, any name may be bound: a missing one is no longer certain."""

SHELL_CELLS = frozenset(
    [
        "bash",
        "sh",
        "script",
        "sx",
        "system",
        "cmd",
        "perl",
        "ruby",
        "html",
        "HTML",
        "svg",
        "SVG",
        "javascript",
        "js",
        "latex",
        "markdown",
        "writefile",
        "file",
    ]
)
"""Cell magics whose body is no Python."""

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def global_names(node: ast.AST) -> tuple[set[str], set[str]]:
    """Names that the code of a statement or expression reads, and binds, in the module's scope."""
    try:
        if isinstance(node, ast.expr):
            # inside an async function every expression of a notebook cell is legal, await included
            table = symtable.symtable(f"async def __expression():\n  return ({ast.unparse(node)})", "<cell>", "exec")
        else:
            table = symtable.symtable(ast.unparse(node), "<cell>", "exec")
    except (SyntaxError, ValueError, RecursionError):
        every = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        return every, set()
    reads: set[str] = set()
    binds: set[str] = set()
    pending = list(table.get_children())
    while pending:
        scope = pending.pop()
        pending += scope.get_children()
        for symbol in scope.get_symbols():
            # a name that a class body both reads and binds falls back to the global one
            is_fallback = scope.get_type() == "class" and symbol.is_assigned() and symbol.is_local()
            if symbol.is_referenced() and (symbol.is_global() or is_fallback):
                reads.add(symbol.get_name())
            if symbol.is_declared_global() and symbol.is_assigned():
                binds.add(symbol.get_name())
    return reads, binds


def walrus_names(node: ast.AST) -> dict[str, bool]:
    """Names that ``:=`` in a comprehension binds in the scope around it; true for those it may read before."""
    events = [e for e in _events(node) if e[1] != "maybe"]
    names = {n for n, kind in _events(node) if kind != "read"}
    return {name: next((kind for n, kind in events if n == name), "bind") == "read" for name in names}


def _events(node: ast.AST, *, is_certain: bool = True) -> Iterator[tuple[str, str]]:
    """Yield (name, ``read`` or ``bind`` or ``maybe``, which may bind) of a comprehension in order of evaluation."""
    if isinstance(node, ast.Name):
        yield node.id, "read"
    elif isinstance(node, ast.Lambda):
        yield from ((name, "read") for name in global_names(node)[0])
    elif isinstance(node, ast.NamedExpr):
        yield from _events(node.value, is_certain=is_certain)
        yield node.target.id, "bind" if is_certain else "maybe"
    elif isinstance(node, COMPREHENSIONS):
        parts: list[ast.AST] = [p for g in node.generators for p in (g.iter, *g.ifs)]
        parts += [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        for part in parts:
            yield from _events(part, is_certain=is_certain and not isinstance(part, COMPREHENSIONS))
    else:
        is_branch = isinstance(node, (ast.BoolOp, ast.IfExp, ast.Compare))
        for child in ast.iter_child_nodes(node):
            yield from _events(child, is_certain=is_certain and not (is_branch or isinstance(child, COMPREHENSIONS)))


def names_in_text(text: str) -> set[str]:
    """Names that the text of a magic mentions: its Python names, else what ``$name`` and ``{expr}`` expand."""
    for code in (text, re.sub(r"^(\s*-\S+(\s+\d+)?)+", "", text).strip()):
        with contextlib.suppress(SyntaxError, ValueError, RecursionError):
            return {n.id for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Name)}
    found = set(re.findall(r"(?<!\$)\$(\w+)", text))
    for inner in re.findall(r"\{([^{}]+)\}", text):
        with contextlib.suppress(SyntaxError, ValueError, RecursionError):
            found |= {n.id for n in ast.walk(ast.parse(inner.strip(), mode="eval")) if isinstance(n, ast.Name)}
    return found


class Reads:
    """Follows expressions in order of evaluation, and keeps the books on names.

    Attributes:
        reads: names that may be read before they are bound.
        firm: those that nothing bound earlier in the text, on whatever way.
        must: names read for certain, with the line of the first read.
        bound: names that are bound for certain by now.
        ever: names that something bound so far, on whatever way.
        bound_elsewhere: names that functions bind with ``global``.
    """

    def __init__(self, *, has_lazy_annotations: bool) -> None:
        self.reads: set[str] = set()
        self.firm: set[str] = set()
        self.must: dict[str, int] = {}
        self.bound: set[str] = set()
        self.ever: set[str] = set()
        self.bound_elsewhere: set[str] = set()
        self.later: dict[str, set[str]] = {}
        self.depth = 0
        self.is_opaque = False
        self.methods: set[str] | None = None
        self.declared: set[str] = set()  # `global` in the class body around
        self.mark = ""  # set apart the names of class bodies: a dot for each class around
        self.is_lazy = has_lazy_annotations

    # -- names

    def read(self, name: str, line: int = 0) -> None:
        """Note a read; a line makes it one that happens right here, not in code called later."""
        for inner in self.later.pop(name, ()):
            self.read(inner)
        if name in self.bound or (line and self.mark + name in self.bound):
            return
        self.reads.add(name)
        if name not in self.ever:
            self.firm.add(name)
            if line and not self.depth and not self.is_opaque and not self.mark:
                self.must.setdefault(name, line)

    def bind(self, name: str) -> None:
        """Note a binding; one in a class body is seen by that body alone, not by code nested in it."""
        mark = "" if name in self.declared else self.mark
        self.bound.add(mark + name)
        if not mark:
            self.later.pop(name, None)
            self.ever.add(name)

    def finish(self) -> None:
        """Charge what functions read that the code defines but never mentions again."""
        while self.later:
            _, inner = self.later.popitem()
            for other in inner:
                self.read(other)

    def soft_reads(self, names: Iterable[str]) -> None:
        """Note reads that only a text mentions."""
        for name in names:
            for inner in self.later.pop(name, ()):
                self.read(inner)
            if name not in self.bound:
                self.reads.add(name)

    def run_later(self, node: ast.AST) -> set[str]:
        """Names that code called later reads; what it binds with ``global`` is noted at once."""
        reads, binds = global_names(node)
        self.bound_elsewhere |= binds
        return reads

    @contextlib.contextmanager
    def maybe(self, *, keeps: bool = False) -> Iterator[None]:
        """What happens inside may not happen; bindings are forgotten unless ``keeps``."""
        before = set(self.bound)
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
            if not keeps:
                self.bound = before

    # -- expressions

    def expr(self, node: ast.AST | None) -> None:
        """Follow an expression in the order of evaluation."""
        if node is None:
            return
        method = getattr(self, f"_expr_{type(node).__name__}", None)
        if method is not None:
            method(node)
        elif isinstance(node, COMPREHENSIONS):
            self._comprehension(node)
        else:
            for child in ast.iter_child_nodes(node):
                self.expr(child)

    def _expr_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.read(node.id, node.lineno)
        elif isinstance(node.ctx, ast.Store):
            self.bind(node.id)
        else:
            self.read(node.id, node.lineno)
            self.bound.add(self.mark + node.id)  # a deleted name isn't looked for in the notebook again

    def _expr_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.expr(node.value)
        self.expr(node.target)

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        """All of it but the first iterable may never run; ``:=`` inside binds out here."""
        self.expr(node.generators[0].iter)
        walrus = walrus_names(node)
        for name in (self.run_later(node) - walrus.keys()) | {n for n, is_read in walrus.items() if is_read}:
            self.read(name)
        with self.maybe():
            for name in walrus:
                self.bind(name)

    def _expr_Compare(self, node: ast.Compare) -> None:
        for part in (node.left, node.comparators[0]):
            self.expr(part)
        with self.maybe():
            for part in node.comparators[1:]:
                self.expr(part)

    def _expr_Lambda(self, node: ast.Lambda) -> None:
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            self.expr(default)
        for name in self.run_later(node):
            self.read(name)

    def _expr_BoolOp(self, node: ast.BoolOp) -> None:
        self.expr(node.values[0])
        for value in node.values[1:]:
            with self.maybe():
                self.expr(value)

    def _expr_IfExp(self, node: ast.IfExp) -> None:
        self.expr(node.test)
        for branch in (node.body, node.orelse):
            with self.maybe():
                self.expr(branch)

    def _expr_Call(self, node: ast.Call) -> None:
        for child in [node.func, *node.args, *node.keywords]:
            self.expr(child)
        inner: ast.AST = node.func
        while isinstance(inner, (ast.Attribute, ast.Call)):
            inner = inner.value if isinstance(inner, ast.Attribute) else inner.func
        name = inner.id if isinstance(inner, ast.Name) else ""
        if name == "get_ipython":
            self._magic(node)
        if name in OPAQUE_CALLS and (name == "get_ipython" or isinstance(node.func, ast.Name)):
            self.is_opaque = True
            if name in {"exec", "eval"} and node.args and isinstance(node.args[0], ast.Constant):
                self.soft_reads(names_in_text(str(node.args[0].value)))

    def _magic(self, node: ast.Call) -> None:
        """``get_ipython().run_cell_magic('time', '', 'f(x)')`` reads what its text reads."""
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        if method == "run_line_magic":
            texts = texts[1:]
        elif method == "run_cell_magic":
            texts = texts[1:] if texts and texts[0] not in SHELL_CELLS else texts[1:2]
        elif method in {"system", "getoutput", "run_line", "magic"}:
            # a shell line: only what IPython expands, never words that happen to parse
            self.soft_reads(names_in_text("! " + texts[0]) if texts else ())
            return
        for text in texts:
            self.soft_reads(names_in_text(text))
