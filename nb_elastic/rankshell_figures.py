"""The matplotlib backend of a rank: ``plt.show()`` displays the open figures and closes them, as in a notebook.

Runs in: a worker, once it draws a figure.
"""

from __future__ import annotations

from typing import Any

from matplotlib._pylab_helpers import Gcf
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg

from nb_elastic import rankshell_display


class FigureManager(FigureManagerBase):
    """Shows its figure once more."""

    def show(self) -> None:
        """What ``figure.show()`` does."""
        _display(self.canvas.figure)


class FigureCanvas(FigureCanvasAgg):
    """Draws in memory."""

    manager_class = FigureManager


def show(*_args: Any, **_options: Any) -> None:
    """Display every open figure, and close it."""
    try:
        for manager in Gcf.get_all_fig_managers():
            _display(manager.canvas.figure)
    finally:
        Gcf.destroy_all()


def _display(figure: Any) -> None:
    if figure.axes or figure.lines or figure.texts:
        rankshell_display.display(figure)
