"""A real IPython shell inside a rank, made when a magic first needs one.

Runs in: the worker. The only place there that imports IPython, and only late.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def display(*objects: Any, **_options: Any) -> None:
    """What ``display`` is in a rank, where no front listens: the objects' text, as in a terminal IPython."""
    for item in objects:
        sys.stdout.write(f"{item!r}\n")


def getter(main: dict[str, Any]) -> Callable[[], Any]:
    """What the rank's ``get_ipython`` is: makes the shell at its first call.

    Args:
        main: the rank's ``__main__.__dict__``, which becomes the shell's namespace.
    """
    made: list[Any] = []

    def get_ipython() -> Any:
        if not made:
            made.append(_make(main))
            main["get_ipython"] = get_ipython
        return made[0]

    return get_ipython


def _make(main: dict[str, Any]) -> Any:
    try:
        from IPython.core.history import HistoryManager
        from IPython.core.interactiveshell import InteractiveShell
    except ImportError as e:
        text = "The cell uses magics, and the rank has no IPython: pip install ipython."
        raise ModuleNotFoundError(text, name="IPython") from e

    class RankShell(InteractiveShell):
        """A shell without a front: no history file, no colours, commands write to the rank's own descriptors."""

        system = InteractiveShell.system_raw

        def init_history(self) -> None:
            """Keep no history: ranks would fight for its database."""
            self.history_manager = HistoryManager(shell=self, parent=self, enabled=False, hist_file=":memory:")

        def init_virtualenv(self) -> None:
            """The rank has the interpreter that it should have."""

        def enable_gui(self, gui: str | None = None) -> None:
            """No event loop to join."""

    names = ["__builtins__", "exit", "quit", "open", "_", "In", "Out"]
    kept = {n: main[n] for n in names if n in main}
    module = sys.modules["__main__"]
    shell = RankShell.instance(
        user_module=module if vars(module) is main else None, user_ns=main, colors="NoColor", cache_size=0
    )
    main.update(kept)
    return shell
