"""Gives libraries that a rank imports the notebook's ways: display, figures, progress bars; and questions a clear answer.

Runs in: a worker. Nothing of them is imported here: each is changed when, and only if, the user's code imports it.
"""

from __future__ import annotations

import builtins
import contextlib
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Change = Callable[[Any], None]

FIGURES = "module://nb_elastic.rankshell_figures"
INLINE = frozenset({"inline", "module://matplotlib_inline.backend_inline", "module://ipykernel.pylab.backend_inline"})
"""Backends that need a notebook's kernel; ranks find the first one's name in the notebook's own environment."""

NOBODY = (
    "A rank can't ask: {name}() has nobody to answer it. Pass the value from the notebook: ask in a cell of its own, "
    "and use the name that holds the answer in the cell that runs in the ranks."
)


def install(*more: Mapping[str, Change]) -> None:
    """Change what is imported already, wait for the rest, and answer ``input()``.

    Args:
        more: further changes, by the module's name; several may be for the same one.
    """
    builtins.input = _no_input(builtins.input)
    changes = _joined((CHANGES, *more))
    for name, change in changes.items():
        if name in sys.modules:
            _make(change, sys.modules[name])
    sys.meta_path.insert(0, _Imports(changes))


def at_end(*, has_cell: bool) -> None:
    """The user's code is done: write what waits, and, of a notebook's code, display the figures that it left open."""
    figures = sys.modules.get("nb_elastic.rankshell_figures") if has_cell else None
    if figures is not None:
        figures.show()
    if (outputs := sys.modules.get("nb_elastic.outputs")) is not None:
        outputs.OWN.finish()


def _joined(all_changes: Iterable[Mapping[str, Change]]) -> dict[str, Change]:
    """All changes of a module as one."""
    found: dict[str, Change] = {}
    for name, change in (pair for changes in all_changes for pair in changes.items()):
        found[name] = _both(found[name], change) if name in found else change
    return found


def _both(first: Change, second: Change) -> Change:
    def change(module: Any) -> None:
        _make(first, module)
        _make(second, module)

    return change


class _Imports:
    """Finds what everybody finds, and has a module changed right after it was loaded."""

    def __init__(self, changes: Mapping[str, Callable[[Any], None]]) -> None:
        self._waiting = {name: change for name, change in changes.items() if name not in sys.modules}

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """See ``importlib.abc.MetaPathFinder``."""
        if name not in self._waiting:
            return None
        change = self._waiting.pop(name)
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path, target)) is not None:
                _change_after(spec, change)
                return spec
        return None


def _change_after(spec: ModuleSpec, change: Callable[[Any], None]) -> None:
    loader: Any = spec.loader
    load = getattr(loader, "exec_module", None)
    if load is None:
        return

    def exec_module(module: ModuleType) -> None:
        with contextlib.suppress(AttributeError):
            del loader.exec_module
        load(module)
        _make(change, module)

    with contextlib.suppress(AttributeError):  # a loader that lets nobody change it: the library stays as it is
        loader.exec_module = exec_module


def _make(change: Callable[[Any], None], module: ModuleType) -> None:
    with contextlib.suppress(
        Exception
    ):  # another version, in which nothing is where it was: it works as it does anywhere
        change(module)


def _change_ipython(module: Any) -> None:
    from nb_elastic import rankshell_display as own

    module.display, module.publish_display_data, module.clear_output = (
        own.display,
        own.publish_display_data,
        own.clear_output,
    )


def _change_matplotlib(module: Any) -> None:
    chosen = dict.__getitem__(module.rcParams, "backend")  # as it stands: asking politely would choose one
    if (
        not isinstance(chosen, str) or chosen in INLINE
    ):  # neither the environment nor a file of the user's names another
        module.rcParams["backend"] = FIGURES


def _change_tqdm(module: Any) -> None:
    """Widgets need a kernel. The bar as text is shown by every face, and by the dashboard as a bar."""
    plain: Any = sys.modules["tqdm.std"].tqdm

    class TextBar(plain):  # type: ignore[misc]
        """``tqdm.notebook.tqdm`` in a rank."""

        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("display", None)
            super().__init__(*args, **options)

        def display(self, msg: str | None = None, pos: int | None = None, **_options: Any) -> Any:
            """Draw the bar."""
            return super().display(msg, pos)

    def trange(*args: Any, **options: Any) -> TextBar:
        return TextBar(range(*args), **options)

    module.tqdm = module.tqdm_notebook = TextBar
    module.trange = module.tnrange = trange


def _change_getpass(module: Any) -> None:
    def getpass(prompt: str = "Password: ", stream: Any = None, **_options: Any) -> str:  # noqa: ARG001
        raise EOFError(NOBODY.format(name="getpass"))

    module.getpass = module.unix_getpass = module.fallback_getpass = getpass


def _no_input(plain: Callable[..., str]) -> Callable[..., str]:
    def input(prompt: Any = "", /) -> str:  # noqa: A001
        if sys.stdin is sys.__stdin__:
            raise EOFError(NOBODY.format(name="input"))
        return plain(prompt)  # the user's code has put a stream of its own there

    return input


CHANGES: Mapping[str, Callable[[Any], None]] = {
    "IPython.core.display_functions": _change_ipython,
    "matplotlib": _change_matplotlib,
    "tqdm.notebook": _change_tqdm,
    "getpass": _change_getpass,
}
