"""Which statements of a notebook a piece of code needs, found in the texts of its cells.

Runs in: the kernel or command line.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from nb_elastic import cell_names
from nb_elastic.errors import ElasticError

Kind = Literal["import", "source", "data"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A cell's body as plain Python.

    Attributes:
        text: what the user wrote, or what IPython makes of it where it uses magics.
        needs_shell: it calls ``get_ipython()``.
        is_async: it awaits at top level.
        futures: features that its ``from __future__`` switches on, taken out of ``text``.
    """

    text: str
    tree: ast.Module
    needs_shell: bool
    is_async: bool
    futures: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One top-level statement of a cell.

    Attributes:
        kind: ``source`` can stand in a script as it is; ``data`` made something at its time.
        position: index of its cell and its first line there, for the notebook's order.
        is_star: ``from module import *``, which may bind anything.
    """

    kind: Kind
    label: str
    text: str
    position: tuple[int, int]
    binds: frozenset[str]
    reads: frozenset[str]
    is_star: bool = False


@dataclass(slots=True, kw_only=True)
class Needed:
    """What a script must hold before the code itself.

    Attributes:
        statements: imports, functions, classes and constants, in the notebook's order.
        found: names that they bind.
        origins: name of captured data -> the statement that made it.
        futures: features of ``from __future__`` that the notebook used.
    """

    statements: list[Statement] = field(default_factory=list)
    found: set[str] = field(default_factory=set)
    origins: dict[str, Statement] = field(default_factory=dict)
    futures: set[str] = field(default_factory=set)

    @property
    def imports(self) -> list[str]:
        """Texts of the import statements, each once."""
        return list(dict.fromkeys(s.text for s in self.statements if s.kind == "import"))

    @property
    def texts(self) -> list[str]:
        """Texts of everything else."""
        return [s.text for s in self.statements if s.kind != "import"]

    @property
    def needs_shell(self) -> bool:
        """True where something in it calls ``get_ipython()``."""
        return any("get_ipython" in s.reads for s in self.statements)


def parse(text: str) -> Code:
    """Parse a cell's body, through IPython where it is more than Python.

    Raises:
        ElasticError: if it is no valid code even so.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        from IPython.core.inputtransformer2 import TransformerManager

        text = TransformerManager().transform_cell(text)  # type: ignore[no-untyped-call]
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError) as e:
            raise ElasticError(f"The run's cell is no valid code, so it can't be exported: {e}.") from None
    code = compile(tree, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    futures = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    if futures:
        # They must come first in a script, so they are taken out here and told apart.
        tree.body = [node for node in tree.body if node not in futures]
        text = ast.unparse(tree)
    return Code(
        text=text,
        tree=tree,
        needs_shell="get_ipython" in names_read(tree),
        is_async=bool(code.co_flags & inspect.CO_COROUTINE),
        futures=frozenset(alias.name for node in futures for alias in node.names),
    )


def names_read(tree: ast.Module) -> frozenset[str]:
    """Names that code needs from outside, those of the functions it defines included."""
    return cell_names.find_names(tree).reads


def names_bound(tree: ast.Module) -> frozenset[str]:
    """Names that code binds at its top level."""
    return cell_names.find_names(tree).binds


def needed(start: Iterable[str], sources: Mapping[str, str]) -> Needed:
    """Collect what the names in ``start`` stand for, and whatever that needs in its turn.

    Args:
        sources: text of each cell, by its label.
    """
    every = [s for n, (label, text) in enumerate(_in_order(sources)) for s in _statements(n, label, text)]
    found = Needed(futures={n for s in every if s.text.startswith("from __future__") for n in s.binds})
    every = [s for s in every if not s.text.startswith("from __future__")]
    chosen = {s.position: s for s in every if s.is_star}
    queue, seen = list(start), set()
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        bound = [s for s in every if name in s.binds]
        if not bound:
            continue
        if bound[-1].kind == "data":
            found.origins[name] = bound[-1]
            # Its imports come along, so that what made the data can be taken over as it stands.
            queue += [
                n for n in bound[-1].reads if (by := [s for s in every if n in s.binds]) and by[-1].kind == "import"
            ]
            continue
        # `import torch` and `import torch.nn` bind one name together; of functions the last one counts.
        for statement in [s for s in bound if s.kind == "import"] if bound[-1].kind == "import" else bound[-1:]:
            chosen[statement.position] = statement
            found.found |= statement.binds
            queue += statement.reads
    found.statements = [chosen[position] for position in sorted(chosen)]
    return found


def _in_order(sources: Mapping[str, str]) -> list[tuple[str, str]]:
    """Cells by their execution number, which their labels end in."""

    def number(label: str) -> int:
        digits = re.findall(r"\d+", label)
        return int(digits[-1]) if digits else 0

    return sorted(sources.items(), key=lambda pair: number(pair[0]))


def _statements(cell: int, label: str, text: str) -> Iterator[Statement]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    lines = text.splitlines()
    for n, node in enumerate(tree.body):
        names = cell_names.find_names(ast.Module([node], []))
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        is_alone = lines[first - 1][: node.col_offset].strip() == "" and all(
            other is node or other.lineno > (node.end_lineno or 0) or (other.end_lineno or 0) < first
            for other in tree.body
        )
        is_star = isinstance(node, ast.ImportFrom) and any(a.name == "*" for a in node.names)
        is_future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
        yield Statement(
            kind=_kind(node),
            label=label,
            text="\n".join(lines[first - 1 : node.end_lineno]) if is_alone and not is_future else ast.unparse(node),
            position=(cell, n),
            binds=names.binds,
            reads=names.reads,
            is_star=is_star,
        )


def _kind(node: ast.stmt) -> Kind:
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return "import"
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Pass)):
        return "source"
    if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None and _is_constant(node.value):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return "source" if all(isinstance(t, ast.Name) for t in targets) else "data"
    if isinstance(node, (ast.If, ast.Try)):
        inner = [*node.body, *node.orelse, *getattr(node, "finalbody", ())]
        inner += [s for branch in getattr(node, "handlers", ()) for s in branch.body]
        return "data" if any(_kind(s) == "data" for s in inner) else "source"
    return "data"


def _is_constant(node: ast.expr) -> bool:
    """True for a literal that nobody can change later: a number, a text, a tuple of such."""
    if isinstance(node, ast.Tuple):
        return all(_is_constant(e) for e in node.elts)
    if isinstance(node, (ast.UnaryOp, ast.BinOp)):
        parts = [node.operand] if isinstance(node, ast.UnaryOp) else [node.left, node.right]
        return all(_is_constant(e) for e in parts)
    return isinstance(node, ast.Constant)
