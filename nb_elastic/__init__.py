"""Interactive multi-GPU launch for Jupyter and IPython, through PyTorch's elastic agent.

Runs in: every process. Importing this imports neither torch nor IPython nor a front end.

``%load_ext nb_elastic`` defines ``%%elastic_launch``, ``%elastic_launch`` and ``%elastic``;
``nb_elastic.launch(fn, ...)`` does the same from Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nb_elastic.errors import (
    ElasticError,
    EngineError,
    LaunchError,
    OptionError,
    PayloadError,
    RendezvousError,
    RunLostError,
    RunStoppedError,
    WorkerFailedError,
)
from nb_elastic.report import report

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from nb_elastic.launching import last_run, launch
    from nb_elastic.model_options import LaunchOptions
    from nb_elastic.run import Run, attach, runs

__version__ = "0.1.0"

__all__ = [
    "ElasticError",
    "EngineError",
    "LaunchError",
    "LaunchOptions",
    "OptionError",
    "PayloadError",
    "RendezvousError",
    "Run",
    "RunLostError",
    "RunStoppedError",
    "WorkerFailedError",
    "attach",
    "last_run",
    "launch",
    "report",
    "runs",
]

_LATE = {
    "LaunchOptions": "nb_elastic.model",
    "Run": "nb_elastic.run",
    "attach": "nb_elastic.run",
    "last_run": "nb_elastic.launching",
    "launch": "nb_elastic.launching",
    "runs": "nb_elastic.run",
}


def __getattr__(name: str) -> Any:
    """Import the names of the Python interface when they are first used."""
    if name in _LATE:
        from importlib import import_module

        value = getattr(import_module(_LATE[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'nb_elastic' has no attribute {name!r}")


def load_ipython_extension(ip: InteractiveShell) -> None:
    """Define the magics; ``%load_ext nb_elastic`` calls this."""
    from nb_elastic.magics import load

    load(ip)


def unload_ipython_extension(ip: InteractiveShell) -> None:
    """Take the magics away; ``%unload_ext nb_elastic`` calls this."""
    from nb_elastic.magics import unload

    unload(ip)
