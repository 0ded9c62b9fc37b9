"""The ways into a user's code (cell, function, script, module) and out of the interpreter.

Runs in: a worker.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import os
import runpy
import sys
import threading
import types
import zipfile
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from nb_elastic.model import Entrypoint, WorkerSpec


def open_entry(spec: WorkerSpec, main: types.ModuleType) -> Callable[[], Any]:
    """Find what the rank is to run and return it as a call without arguments.

    Args:
        main: the rank's fresh ``__main__``; it holds what the code defines.
    """
    entry = spec.entrypoint
    importlib.invalidate_caches()
    sys.argv = [entry.argv0 or entry.target, *entry.argv]
    sys.orig_argv = [sys.executable, "-u", *_command(entry)]
    if entry.kind in {"cell", "function"}:
        from nb_elastic import payload

        sys.argv = [""]
        stub = Path(spec.rank_dir) / "main.py"
        payload.write_stub(stub, payload=spec.payload, buffers_fd=spec.buffers_fd)
        main.__file__ = str(stub)
        sys.orig_argv = [*sys.orig_argv[:2], str(stub)]
        return payload.load(spec.payload, spec.buffers_fd, main)
    if entry.kind == "import":
        return lambda: _import(entry.target)(*entry.argv)
    if entry.kind == "script":
        return lambda: _script(entry.target, main)
    if entry.kind == "module":
        _put_first(os.getcwd())
        return lambda: _module(entry.target)
    raise ValueError(f"An entrypoint of kind {entry.kind!r} can't run inside a rank.")


def _command(entry: Entrypoint) -> list[str]:
    """What follows ``python`` where the same is run without us."""
    if entry.kind == "module":
        return ["-m", entry.target, *entry.argv]
    if entry.kind == "import":
        module, _, name = entry.target.partition(":")
        return ["-c", f"import {module}; {module}.{name}(*{list(entry.argv)!r})"]
    return [entry.argv0 or entry.target, *entry.argv]


def _import(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{target} is a {type(found).__name__}, not a function.")
    return found  # type: ignore[no-any-return]


def _script(path: str, main: types.ModuleType) -> None:
    """Run a file as ``python path`` does: in ``__main__``, its folder first on ``sys.path``."""
    path = os.path.abspath(path)
    if os.path.isdir(path) or zipfile.is_zipfile(path):
        _put_first(path)
        runpy._run_module_as_main("__main__", alter_argv=False)  # type: ignore[attr-defined]  # noqa: SLF001  see _module
        return
    with io.open_code(path) as f:
        source = f.read()
    _put_first(os.path.dirname(os.path.realpath(path)))
    loader = SourceFileLoader("__main__", path)
    main.__dict__.update(__file__=path, __cached__=None, __spec__=None, __loader__=loader)
    if sys.version_info < (3, 14):  # later ones make it when it is asked for
        main.__annotations__ = {}
    code = compile(source, path, "exec", dont_inherit=True)
    exec(code, main.__dict__)  # noqa: S102


def _module(name: str) -> None:
    """Run a module as ``python -m name`` does.

    runpy's public function would use another ``__main__``, and children of multiprocessing's spawn could not find theirs.
    """
    runpy._run_module_as_main(name, alter_argv=True)  # type: ignore[attr-defined]  # noqa: SLF001


def _put_first(folder: str) -> None:
    sys.path.insert(0, folder)


def pull(spec: WorkerSpec, main: types.ModuleType, path: Path) -> dict[str, Any]:
    """Write the variables asked for with ``--pull``; returns what was missing or could not be written."""
    from nb_elastic import payload

    values = {name: main.__dict__[name] for name in spec.pull if name in main.__dict__}
    missing = [name for name in spec.pull if name not in main.__dict__]
    error = ""
    try:
        payload.dump_values(values, path)
    except Exception as e:  # noqa: BLE001  a value's own __reduce__ may raise anything
        error = str(e)
    return {"missing": missing, "error": error}


def leave(main: types.ModuleType) -> None:
    """End as an interpreter ends: wait for threads, run exit functions, flush, drop what ``__main__`` holds.

    The process itself is ended by the caller: torch's own teardown is left out.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001  as multiprocessing's children do
    atexit._run_exitfuncs()  # noqa: SLF001  no public name; the forked state must not run the parent's exit
    _flush()
    clear(main)
    _flush()


def clear(main: types.ModuleType) -> None:
    """Drop the module's names in the interpreter's order, so that open files are written and ``__del__`` runs."""
    names = main.__dict__
    for is_private in (True, False):
        for name in list(names):
            if name.startswith("_") is is_private and name != "__builtins__" and names.get(name) is not None:
                names[name] = None
    gc.collect()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
