"""What of the modules in memory is installed, so that only an installation changes it, and what changed meanwhile.

Runs in: the kernel and the launcher.
"""

from __future__ import annotations

import contextlib
import functools
import os
import site
import sys
import sysconfig
from collections.abc import Mapping
from importlib.machinery import PathFinder
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

NOT_FOR_RANKS = frozenset({
    "IPython", "ipykernel", "ipywidgets", "traitlets", "anywidget", "jupyter_client", "jupyter_core", "jupyterlab", "notebook",
    "comm", "zmq", "tornado", "debugpy", "nb_elastic", "builtins",
})  # fmt: skip
"""Packages that make a notebook, not a training."""


def is_installed(path: str) -> bool:
    """True for a file in a site folder or the standard library."""
    real = os.path.realpath(path)
    return real.startswith(_folders())


@functools.cache
def _folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    found = {paths[name] for name in ("stdlib", "platstdlib")} | set(site_folders())
    return tuple(os.path.realpath(folder) + os.sep for folder in found)


@functools.cache
def site_folders() -> tuple[str, ...]:
    """Folders that packages are installed into."""
    paths = sysconfig.get_paths()
    found = {paths["purelib"], paths["platlib"], *site.getsitepackages()}
    if site.ENABLE_USER_SITE:
        found.add(site.getusersitepackages())
    return tuple(sorted(found))


def stamp() -> tuple[tuple[str, int], ...]:
    """Changes whenever a package is installed, upgraded or removed."""
    found: list[tuple[str, int]] = []
    for folder in site_folders():
        with contextlib.suppress(OSError):
            found.append((folder, os.stat(folder).st_mtime_ns))
    return tuple(found)


def wanted(names: Mapping[str, Any]) -> list[str]:
    """Installed modules that the notebook has imported, sorted: those its own names come from, with their packages' parts.

    Args:
        names: the notebook's namespace.
    """
    found: set[str] = set()
    for name, value in list(names.items()):
        module = "" if name.startswith("_") else _module_of(value)
        if module:
            found.add(module)
    roots = {module.partition(".")[0] for module in found} - NOT_FOR_RANKS
    parts = (name for name in list(sys.modules) if name.count(".") < 2 and name.partition(".")[0] in roots)
    found = {module for module in found if module.partition(".")[0] in roots}
    return sorted(name for name in found.union(parts) if _is_installed_module(name))


def _module_of(value: object) -> str:
    """Name of the module that a value comes from, or "". Runs no code of the value: it may be a proxy that connects."""
    kind = type(value)
    if issubclass(kind, ModuleType):
        return _own_text(value, "__name__")
    owner = value if issubclass(kind, (type, FunctionType, BuiltinFunctionType)) else kind
    try:
        found = getattr(owner, "__module__", "")
    except Exception:  # noqa: BLE001  a metaclass may do anything
        return ""
    return found if type(found) is str else ""


def file_of(module: object) -> str:
    """File that a module of ``sys.modules`` was loaded from, or "". Loads no lazy module."""
    return _own_text(module, "__file__")


def _own_text(module: object, name: str) -> str:
    try:
        found = object.__getattribute__(module, "__dict__").get(name)
    except (AttributeError, TypeError):  # anything may lie in sys.modules
        return ""
    return found if type(found) is str else ""


def _is_installed_module(name: str) -> bool:
    return file_of(sys.modules.get(name)).startswith(_real_site_folders())


@functools.cache
def _real_site_folders() -> tuple[str, ...]:
    return tuple({f + os.sep for folder in site_folders() for f in (folder, os.path.realpath(folder))})


def installed_path() -> list[str]:
    """The part of ``sys.path`` that only an installation changes."""
    return [entry for entry in sys.path if entry and is_installed(os.path.join(entry, "x"))]


def shadowed() -> str:
    """File of a user's own that ``sys.path`` would find in place of an installed package in memory; "" if none."""
    sites = {os.path.realpath(folder) for folder in site_folders()}
    packages: frozenset[str] | None = None
    for entry in sys.path:
        folder = os.path.realpath(entry or os.curdir)
        if folder in sites:
            return ""
        if is_installed(os.path.join(folder, "x")):
            continue
        packages = packages_held(len(sys.modules)) if packages is None else packages
        with contextlib.suppress(OSError):
            for name in sorted(packages.intersection(n.partition(".")[0] for n in os.listdir(folder))):
                found = PathFinder.find_spec(name, [folder])
                if found is not None and found.origin:  # a folder without __init__.py hides nothing
                    return found.origin
    return ""


@functools.lru_cache(maxsize=1)
def packages_held(_count: int) -> frozenset[str]:
    """Names of what was imported from site folders.

    To look at every module copies pages in a process that was forked, so the answer of the process it comes from is kept.

    Args:
        _count: of all modules; another one is a reason to look again.
    """
    roots = ((name, module) for name, module in list(sys.modules.items()) if "." not in name)
    return frozenset(name for name, module in roots if file_of(module).startswith(site_folders()))
