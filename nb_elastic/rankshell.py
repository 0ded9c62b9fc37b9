"""A real IPython shell inside a rank, made when a magic first needs one.

Runs in: the worker. The only place there that imports IPython, and only late.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from nb_elastic import outputs, rankshell_display
from nb_elastic.rankshell_display import display
from nb_elastic.rankshell_hooks import FIGURES

__all__ = ["display", "getter"]


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

        def init_display_pub(self) -> None:
            """What is displayed goes where the rank's own display puts it."""
            self.display_pub = _publisher(self)

        def enable_matplotlib(self, gui: str | None = None) -> tuple[str | None, str]:
            """What ``%matplotlib`` asks for can only be this."""
            from matplotlib import pyplot as plt

            plt.switch_backend(FIGURES)
            return gui, "inline"

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


def _publisher(shell: Any) -> Any:
    from IPython.core.displaypub import DisplayPublisher

    class RankPublisher(DisplayPublisher):
        """Publishes into the rank's outputs."""

        def publish(
            self,
            data: Any,
            metadata: Any = None,
            source: Any = None,  # noqa: ARG002
            *,
            transient: Any = None,
            update: Any = False,
            **_: Any,
        ) -> None:
            """See base class."""
            rankshell_display.write(data, metadata, transient=transient, update=update)

        def clear_output(self, wait: bool = False) -> None:  # noqa: FBT001, FBT002
            """See base class."""
            outputs.OWN.clear(is_later=wait)

    return RankPublisher(parent=shell, shell=shell)  # type: ignore[no-untyped-call]
