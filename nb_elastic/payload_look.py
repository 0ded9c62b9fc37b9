"""Looks at objects of the user without believing what they say of themselves.

Runs in: the kernel or command line, and the worker.

An object with a catch-all ``__getattr__`` has every attribute, or raises anything but AttributeError where it is
asked for one; a proxy or mock lies about its ``__class__``. So types are asked, by ``type(obj)``, and only real
functions for their globals.
"""

from __future__ import annotations

import inspect
import types
from typing import Any, TypeGuard


def is_a(obj: Any, *kinds: type[Any]) -> TypeGuard[Any]:
    """``isinstance`` by the object's real type, which no ``__class__`` of its own can hide."""
    return issubclass(type(obj), kinds)


def function_globals(obj: Any) -> dict[str, Any]:
    """Globals of a Python function or of a method's function; empty for anything else."""
    if is_a(obj, types.MethodType):
        obj = obj.__func__
    return obj.__globals__ if is_a(obj, types.FunctionType) else {}


def module_of(obj: Any) -> str:
    """Name of the module that an object says it is from, or ""."""
    try:
        found = getattr(obj, "__module__", "")
    except Exception:  # noqa: BLE001  border: a user's __getattribute__ may raise anything
        return ""
    return found if type(found) is str else ""


def name_of(obj: Any) -> str:
    """What the user calls a callable: its own name, else its type's."""
    try:
        found = getattr(obj, "__name__", "")
    except Exception:  # noqa: BLE001  border: a user's __getattr__ may raise anything
        found = ""
    return found if type(found) is str and found else type(obj).__name__


def member(obj: Any, name: str) -> Any:
    """What ``obj.name`` is, looked up without running any code of the object; None where there is nothing."""
    found = inspect.getattr_static(obj, name, None)
    return found.__func__ if is_a(found, staticmethod, classmethod) else found


def attributes(obj: Any) -> dict[str, Any]:
    """The object's own ``__dict__``, or an empty one."""
    try:
        found = object.__getattribute__(obj, "__dict__")
    except Exception:  # noqa: BLE001  border: `__dict__` may be a property of the user's class
        return {}
    return dict(found) if is_a(found, dict) else {}
