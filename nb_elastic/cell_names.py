"""Which names a cell's code reads before it binds them, and which it binds.

Runs in: the kernel or command line.

Top-level code is followed statement by statement, in the order in which Python would evaluate it; code
that runs later (functions, lambdas, comprehensions) is asked for its global names through ``symtable``,
which knows every scoping rule of the running Python.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nb_elastic.cell_reads import Reads


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
    flow = Flow(has_lazy_annotations=lazy)
    flow.block(tree.body)
    flow.finish()
    return Names(
        reads=frozenset(flow.reads),
        soft=frozenset(flow.reads - flow.firm),
        must_read={n: line for n, line in flow.must.items() if n not in flow.bound_elsewhere},
        binds=frozenset(flow.ever | flow.bound_elsewhere),
    )


class Flow(Reads):
    """Follows statements in order, branch by branch."""

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
        if not self.is_lazy and not getattr(node, "type_params", None):
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
            for argument in every:
                self.expr(argument.annotation if argument else None)
            self.expr(node.returns)
        bare = _without_header(node)
        inner = self.run_later(bare)
        if self.methods is not None:
            self.methods |= inner
            self.bind(node.name)
            return
        if node.decorator_list:  # a decorator may call it at once
            for name in inner - {node.name}:
                self.read(name)
            self.bind(node.name)
            return
        self.bind(node.name)
        self.later[node.name] = inner - {node.name}

    _stmt_AsyncFunctionDef = _stmt_FunctionDef

    def _stmt_ClassDef(self, node: ast.ClassDef) -> None:
        for part in [*node.decorator_list, *node.bases, *node.keywords]:
            self.expr(part)
        outer, mark, before, declared = self.methods, self.mark, set(self.bound), self.declared
        self.methods, self.mark, self.declared = set(), mark + ".", set()
        self.block(node.body)
        before |= self.bound & self.declared  # `global x` in the body binds outside it
        methods, self.methods, self.mark, self.bound = self.methods, outer, mark, before
        self.declared = declared
        methods.discard(node.name)
        if outer is not None:
            outer |= methods
        elif node.decorator_list:
            for name in methods:
                self.read(name)
        self.bind(node.name)
        if outer is None and not node.decorator_list:
            self.later[node.name] = methods

    def _stmt_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            if alias.name == "*":
                self.is_opaque = True
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
        if not self.is_lazy:
            self.expr(node.annotation)
        if node.value is not None or not isinstance(node.target, ast.Name):
            self.expr(node.target)

    def _stmt_TypeAlias(self, node: ast.AST) -> None:
        self.soft_reads(self.run_later(node))
        self.expr(node.name)  # type: ignore[attr-defined]

    def _stmt_Global(self, node: ast.Global) -> None:
        """In a class body it names what the module binds; at top level it changes nothing."""
        self.declared |= set(node.names)

    def _stmt_Assert(self, node: ast.Assert) -> None:
        self.expr(node.test)
        with self.maybe():
            self.expr(node.msg)

    def _stmt_Raise(self, node: ast.Raise) -> None:
        self.expr(node.exc)
        self.expr(node.cause)
        if not self.depth:
            self.is_opaque = True  # what follows never runs

    def _branches(self, branches: Iterable[Iterable[ast.stmt]]) -> None:
        """Follow ways of which exactly one is taken; what all ways that go on bind is bound."""
        before, after = set(self.bound), []
        for branch in branches:
            body = list(branch)
            self.bound = set(before)
            with self.maybe(keeps=True):
                self.block(body)
            if not (body and isinstance(body[-1], (ast.Raise, ast.Continue, ast.Break, ast.Return))):
                after.append(self.bound)
        self.bound = set.intersection(*after) if after else before

    def _stmt_If(self, node: ast.If) -> None:
        self.expr(node.test)
        self._branches([node.body, node.orelse])

    def _stmt_While(self, node: ast.While) -> None:
        self.expr(node.test)
        with self.maybe():
            self.block(node.body)
        with self.maybe():
            self.block(node.orelse)

    def _stmt_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.expr(node.iter)
        with self.maybe():
            self.expr(node.target)
            self.block(node.body)
        with self.maybe():
            self.block(node.orelse)

    _stmt_AsyncFor = _stmt_For

    def _stmt_With(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            self.expr(item.context_expr)
            self.expr(item.optional_vars)
        with self.maybe(keeps=True):
            self.block(node.body)

    _stmt_AsyncWith = _stmt_With

    def _stmt_Try(self, node: ast.Try) -> None:
        before = set(self.bound)
        with self.maybe(keeps=True):
            self.block([*node.body, *node.orelse])
        after = [self.bound]
        for handler in node.handlers:
            self.bound = set(before)
            with self.maybe(keeps=True):
                self.expr(handler.type)
                if handler.name:
                    self.bind(handler.name)
                self.block(handler.body)
            if not (handler.body and isinstance(handler.body[-1], (ast.Raise, ast.Continue, ast.Break))):
                after.append(self.bound - {handler.name or ""})
        self.bound = set.intersection(*after)
        with self.maybe(keeps=True):
            self.block(node.finalbody)

    _stmt_TryStar = _stmt_Try

    def _stmt_Match(self, node: ast.Match) -> None:
        self.expr(node.subject)
        before, after, is_total = set(self.bound), [], False
        for case in node.cases:
            self.bound = set(before)
            with self.maybe(keeps=True):
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
    fields: dict[str, Any] = {"type_params": getattr(node, "type_params", [])} if hasattr(node, "type_params") else {}
    made = type(node)(name=node.name, args=bare, body=node.body, decorator_list=[], returns=None, **fields)
    return ast.fix_missing_locations(made)
