"""Which names a cell's code reads before it binds them, and which it binds.

Runs in: the kernel or command line.

Top-level code is followed statement by statement, in the order in which Python would evaluate it; code
that runs later (functions, lambdas, comprehensions) is asked for its global names through ``symtable``,
which knows every scoping rule of the running Python.
"""

from __future__ import annotations

import ast
import contextlib
import re
import symtable
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

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

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What a piece of top-level code does with names.

    Attributes:
        reads: names that may be read before the code binds them.
        soft: those of ``reads`` that it probably binds first, or that only a magic's text mentions.
        must_read: names certainly read before anything binds them, with the line of the first read.
        binds: names that it may bind at top level.
    """

    reads: frozenset[str]
    soft: frozenset[str]
    must_read: Mapping[str, int]
    binds: frozenset[str]


def find_names(tree: ast.Module, *, has_lazy_annotations: bool = False) -> Names:
    """Follow top-level code and collect the names it needs.

    Args:
        has_lazy_annotations: annotations aren't evaluated (``from __future__ import annotations``).
    """
    lazy = has_lazy_annotations or any(
        isinstance(s, ast.ImportFrom) and s.module == "__future__" and any(a.name == "annotations" for a in s.names)
        for s in tree.body
    )
    flow = _Flow(has_lazy_annotations=lazy)
    flow.block(tree.body)
    flow.finish()
    return Names(
        reads=frozenset(flow.reads),
        soft=frozenset(flow.reads - flow.firm),
        must_read={n: line for n, line in flow.must.items() if n not in flow.bound_elsewhere},
        binds=frozenset(flow.ever | flow.bound_elsewhere),
    )


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


class _Flow:
    """Follows statements in order; ``bound`` holds the names that are bound for certain by now."""

    def __init__(self, *, has_lazy_annotations: bool) -> None:
        self.reads: set[str] = set()
        self.firm: set[str] = set()
        self.must: dict[str, int] = {}
        self.bound: set[str] = set()
        self.ever: set[str] = set()
        self.bound_elsewhere: set[str] = set()
        self._later: dict[str, set[str]] = {}
        self._depth = 0
        self._is_opaque = False
        self._methods: set[str] | None = None
        self._mark = ""  # set apart the names of class bodies: a dot for each class around
        self._lazy = has_lazy_annotations

    # -- names

    def read(self, name: str, line: int = 0) -> None:
        """Note a read; a line makes it one that happens right here, not in code called later."""
        for inner in self._later.pop(name, ()):
            self.read(inner)
        if name in self.bound or (line and self._mark + name in self.bound):
            return
        self.reads.add(name)
        if name not in self.ever:
            self.firm.add(name)
            if line and not self._depth and not self._is_opaque and not self._mark:
                self.must.setdefault(name, line)

    def bind(self, name: str) -> None:
        """Note a binding; one in a class body is seen by that body alone, not by code nested in it."""
        self.bound.add(self._mark + name)
        if not self._mark:
            self._later.pop(name, None)
            self.ever.add(name)

    def finish(self) -> None:
        """Charge what functions read that the code defines but never mentions again."""
        while self._later:
            _, inner = self._later.popitem()
            for other in inner:
                self.read(other)

    def _soft_reads(self, names: Iterable[str]) -> None:
        for name in names:
            for inner in self._later.pop(name, ()):
                self.read(inner)
            if name not in self.bound:
                self.reads.add(name)

    def _run_later(self, node: ast.AST) -> set[str]:
        reads, binds = global_names(node)
        self.bound_elsewhere |= binds
        return reads

    @contextlib.contextmanager
    def _maybe(self, *, keeps: bool = False) -> Iterator[None]:
        """What happens inside may not happen; bindings are forgotten unless ``keeps``."""
        before = set(self.bound)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
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
            self.expr(node.generators[0].iter)
            for name in self._run_later(node):
                self.read(name)
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
            self.bound.add(self._mark + node.id)  # a deleted name isn't looked for in the notebook again

    def _expr_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.expr(node.value)
        self.expr(node.target)

    def _expr_Lambda(self, node: ast.Lambda) -> None:
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            self.expr(default)
        for name in self._run_later(node):
            self.read(name)

    def _expr_BoolOp(self, node: ast.BoolOp) -> None:
        self.expr(node.values[0])
        for value in node.values[1:]:
            with self._maybe():
                self.expr(value)

    def _expr_IfExp(self, node: ast.IfExp) -> None:
        self.expr(node.test)
        for branch in (node.body, node.orelse):
            with self._maybe():
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
            self._is_opaque = True
            if name in {"exec", "eval"} and node.args and isinstance(node.args[0], ast.Constant):
                self._soft_reads(names_in_text(str(node.args[0].value)))

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
            self._soft_reads(names_in_text("! " + texts[0]) if texts else ())
            return
        for text in texts:
            self._soft_reads(names_in_text(text))

    # -- statements

    def block(self, body: Iterable[ast.stmt]) -> None:
        """Follow statements in order."""
        for node in body:
            self.stmt(node)

    def stmt(self, node: ast.stmt) -> None:
        """Follow one statement."""
        method = getattr(self, f"_stmt_{type(node).__name__}", None)
        if method is not None:
            method(node)
        else:
            self.expr(node)

    def _stmt_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for decorator in node.decorator_list:
            self.expr(decorator)
        arguments = node.args
        for default in [*arguments.defaults, *arguments.kw_defaults]:
            self.expr(default)
        if not self._lazy and not getattr(node, "type_params", None):
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
            for argument in every:
                self.expr(argument.annotation if argument else None)
            self.expr(node.returns)
        bare = _without_header(node)
        inner = self._run_later(bare)
        if self._methods is not None:
            self._methods |= inner
            self.bind(node.name)
            return
        if node.decorator_list:  # a decorator may call it at once
            for name in inner - {node.name}:
                self.read(name)
            self.bind(node.name)
            return
        self.bind(node.name)
        self._later[node.name] = inner - {node.name}

    _stmt_AsyncFunctionDef = _stmt_FunctionDef

    def _stmt_ClassDef(self, node: ast.ClassDef) -> None:
        for part in [*node.decorator_list, *node.bases, *node.keywords]:
            self.expr(part)
        outer, mark, before = self._methods, self._mark, set(self.bound)
        self._methods, self._mark = set(), mark + "."
        self.block(node.body)
        methods, self._methods, self._mark, self.bound = self._methods, outer, mark, before
        methods.discard(node.name)
        if outer is not None:
            outer |= methods
        elif node.decorator_list:
            for name in methods:
                self.read(name)
        self.bind(node.name)
        if outer is None and not node.decorator_list:
            self._later[node.name] = methods

    def _stmt_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            if alias.name == "*":
                self._is_opaque = True
            else:
                self.bind(alias.asname or alias.name.partition(".")[0])

    _stmt_ImportFrom = _stmt_Import

    def _stmt_Assign(self, node: ast.Assign) -> None:
        self.expr(node.value)
        for target in node.targets:
            self.expr(target)

    def _stmt_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self.read(node.target.id, node.lineno)
        self.expr(node.value)
        self.expr(node.target)

    def _stmt_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.expr(node.value)
        if not self._lazy:
            self.expr(node.annotation)
        if node.value is not None or not isinstance(node.target, ast.Name):
            self.expr(node.target)

    def _stmt_TypeAlias(self, node: ast.AST) -> None:
        self._soft_reads(self._run_later(node))
        self.expr(node.name)  # type: ignore[attr-defined]

    def _stmt_Global(self, node: ast.Global) -> None:
        """At top level ``global`` changes nothing."""

    def _branches(self, branches: Iterable[Iterable[ast.stmt]]) -> None:
        """Follow ways of which exactly one is taken; what all ways that go on bind is bound."""
        before, after = set(self.bound), []
        for branch in branches:
            body = list(branch)
            self.bound = set(before)
            with self._maybe(keeps=True):
                self.block(body)
            if not (body and isinstance(body[-1], (ast.Raise, ast.Continue, ast.Break, ast.Return))):
                after.append(self.bound)
        self.bound = set.intersection(*after) if after else before

    def _stmt_If(self, node: ast.If) -> None:
        self.expr(node.test)
        self._branches([node.body, node.orelse])

    def _stmt_While(self, node: ast.While) -> None:
        self.expr(node.test)
        with self._maybe():
            self.block(node.body)
        with self._maybe():
            self.block(node.orelse)

    def _stmt_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.expr(node.iter)
        with self._maybe():
            self.expr(node.target)
            self.block(node.body)
        with self._maybe():
            self.block(node.orelse)

    _stmt_AsyncFor = _stmt_For

    def _stmt_With(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            self.expr(item.context_expr)
            self.expr(item.optional_vars)
        with self._maybe(keeps=True):
            self.block(node.body)

    _stmt_AsyncWith = _stmt_With

    def _stmt_Try(self, node: ast.Try) -> None:
        before = set(self.bound)
        with self._maybe(keeps=True):
            self.block([*node.body, *node.orelse])
        after = [self.bound]
        for handler in node.handlers:
            self.bound = set(before)
            with self._maybe(keeps=True):
                self.expr(handler.type)
                if handler.name:
                    self.bind(handler.name)
                self.block(handler.body)
            if not (handler.body and isinstance(handler.body[-1], (ast.Raise, ast.Continue, ast.Break))):
                after.append(self.bound - {handler.name or ""})
        self.bound = set.intersection(*after)
        with self._maybe(keeps=True):
            self.block(node.finalbody)

    _stmt_TryStar = _stmt_Try

    def _stmt_Match(self, node: ast.Match) -> None:
        self.expr(node.subject)
        before, after, is_total = set(self.bound), [], False
        for case in node.cases:
            self.bound = set(before)
            with self._maybe(keeps=True):
                self._pattern(case.pattern)
                self.expr(case.guard)
                self.block(case.body)
            after.append(self.bound)
            wild = case.pattern
            is_total |= case.guard is None and isinstance(wild, ast.MatchAs) and wild.pattern is None
        self.bound = set.intersection(*after) if is_total else before

    def _pattern(self, node: ast.pattern) -> None:
        for part in ast.walk(node):
            if isinstance(part, (ast.MatchAs, ast.MatchStar)) and part.name:
                self.bind(part.name)
            elif isinstance(part, ast.MatchMapping) and part.rest:
                self.bind(part.rest)
            elif isinstance(part, ast.Name):
                self.read(part.id, part.lineno)


def _without_header(node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.stmt:
    """The function without what is evaluated at its definition: that is followed apart."""
    arguments = node.args
    bare = ast.arguments(
        posonlyargs=[ast.arg(a.arg) for a in arguments.posonlyargs],
        args=[ast.arg(a.arg) for a in arguments.args],
        vararg=ast.arg(arguments.vararg.arg) if arguments.vararg else None,
        kwonlyargs=[ast.arg(a.arg) for a in arguments.kwonlyargs],
        kw_defaults=[ast.Constant(None) if d is not None else None for d in arguments.kw_defaults],
        kwarg=ast.arg(arguments.kwarg.arg) if arguments.kwarg else None,
        defaults=[ast.Constant(None) for _ in arguments.defaults],
    )
    fields = {"type_params": getattr(node, "type_params", [])} if hasattr(node, "type_params") else {}
    made = type(node)(name=node.name, args=bare, body=node.body, decorator_list=[], returns=None, **fields)
    return ast.fix_missing_locations(made)
