"""Picklers: notebook code goes by value into the rank's ``__main__``, and comes back by reference.

Runs in: the kernel or command line, and the worker.

The ways of cloudpickle are its authors' (https://github.com/cloudpipe/cloudpickle); what is added here is
one shared namespace, sources, refusals with reasons, and memory that isn't copied.
"""

from __future__ import annotations

import builtins
import dis
import functools
import importlib
import io
import pickle
import sys
import types
import typing
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle

from nb_elastic import payload_look as look
from nb_elastic import payload_tensors
from nb_elastic.cell import HISTORY, OWN_NAMES, is_history
from nb_elastic.payload_file import PickleStream
from nb_elastic.payload_refusals import Importable, Refusal, refusals

IN_MEMORY_FILES = frozenset({io.StringIO, io.BytesIO})
STREAMS = ("stdin", "stdout", "stderr")
_LOADS_GLOBAL = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "STORE_GLOBAL", "DELETE_GLOBAL"})


def main_namespace() -> dict[str, Any]:
    """Stands in a pickle for ``__main__.__dict__``; the loader puts the right one in its place."""
    return vars(sys.modules["__main__"])


def main_module() -> types.ModuleType:
    """Stands in a pickle for the module ``__main__``."""
    return sys.modules["__main__"]


class _Main:
    """Pickles to a call of ``main_namespace``."""

    def __reduce__(self) -> tuple[Any, ...]:
        return main_namespace, ()


def global_code_names(code: types.CodeType) -> set[str]:
    """Global names that code and the code inside it use; class bodies, which cloudpickle misses, included."""
    found = {str(i.argval) for i in dis.get_instructions(code) if i.opname in _LOADS_GLOBAL}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= global_code_names(constant)
    return found


def is_own(name: str, value: Any) -> bool:
    """True for what every process has for itself: IPython's own names, ``__name__`` and the like."""
    if name in OWN_NAMES:
        return name not in HISTORY or is_history(name, value)
    if not hasattr(builtins, name):
        return False
    # IPython puts a guarded `open` and other replacements of builtins into the notebook
    origin = look.function_globals(value).get("__name__") or type(value).__module__
    return str(origin).partition(".")[0] in {"IPython", "ipykernel"}


class NotebookPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles what a cell or function needs, notebook code by value.

    Args:
        stream: takes the bytes and the big buffers.
        namespace: the notebook's globals; its functions get the rank's ``__main__.__dict__`` instead.
        labels: file name of notebook code -> how tracebacks shall name it.

    Attributes:
        pulled: top-level names of the notebook that shipped code uses or that shipped objects belong to,
            with the name of what asked for them.
        labels_used: labels of the code that went into the stream.
    """

    def __init__(self, stream: PickleStream, *, namespace: Mapping[str, Any], labels: Mapping[str, str]) -> None:
        super().__init__(stream, protocol=5, buffer_callback=stream.take_buffer)
        self.pulled: dict[str, str] = {}
        self.labels_used: set[str] = set()
        self._namespace = namespace
        self._labels = labels
        self._storages: dict[int, Any] = {}
        self._rules: dict[type, Callable[[Any], Any] | None] = {}
        self._refusals = refusals()
        self._importable = Importable()
        self._main = vars(sys.modules["__main__"])
        for home in (namespace, self._main):
            self.globals_ref[id(home)] = _Main()

    # -- which rule for which object

    def reducer_override(self, obj: Any) -> Any:
        """How to pickle ``obj``; NotImplemented leaves it to cloudpickle and pickle."""
        kind = type(obj)
        try:
            rule = self._rules[kind]
        except KeyError:
            rule = self._rules[kind] = self._rule(kind)
        return NotImplemented if rule is None else rule(obj)

    def _rule(self, kind: type) -> Callable[[Any], Any] | None:
        simple: dict[type, Callable[[Any], Any]] = {
            types.FunctionType: self._function,
            types.BuiltinFunctionType: self._builtin,
            types.CodeType: self._code,
            types.ModuleType: self._module,
            type: self._class,
            io.IOBase.__bases__[0]: self._file,  # what the C classes and Python's own have in common
            memoryview: payload_tensors.reduce_memoryview,
            type(functools.lru_cache(len)): self._cached,
            functools.cached_property: _reduce_cached_property,
            typing.NewType: self._new_type,
            weakref.WeakKeyDictionary: _weak_dictionary,
            weakref.WeakValueDictionary: _weak_dictionary,
        }
        named: dict[tuple[str, str], Callable[[Any], Any]] = {
            ("torch.storage", "UntypedStorage"): self._storage,
            ("torch.storage", "TypedStorage"): self._typed_storage,
            ("torch", "Tensor"): self._tensor,
            ("torch.nn.parallel.distributed", "DistributedDataParallel"): self._wrapped_model,
            ("numpy", "ndarray"): payload_tensors.reduce_array,
            ("typing", "ParamSpec"): self._type_parameter,
            ("typing", "TypeVarTuple"): self._type_parameter,
        }
        for base in kind.__mro__:
            if base in self._refusals:
                return self._refuse
            if (rule := simple.get(base)) or (rule := named.get((look.module_of(base), base.__qualname__))):
                return rule
        return None

    # -- code

    def _class(self, cls: type) -> Any:
        made = super().reducer_override(cls)
        if made is NotImplemented:
            self._importable.check(cls.__module__)
            return made
        if made[0].__name__ in {"_make_skeleton_class", "_make_skeleton_enum"}:
            self._note(cls)
            # without a tracker id, loading never touches a class that the process already has
            function, arguments, *rest = made
            rest[0][0]["__qualname__"] = cls.__qualname__  # cloudpickle forgets that a class was nested
            arguments = (*arguments[:-2], None, None)
            if function.__name__ == "_make_skeleton_class":
                function, arguments = _make_class, (function, *arguments)
            made = (function, arguments, *rest)
        return made

    def _function(self, function: types.FunctionType) -> Any:
        if payload_tensors.is_compiled(function):
            return payload_tensors.reduce_compiled(function)
        made = super().reducer_override(function)
        if made is NotImplemented:
            self._importable.check(function.__module__)
            return made
        self._note(function)
        return made

    def _dynamic_function_reduce(self, function: types.FunctionType) -> Any:
        made = super()._dynamic_function_reduce(function)
        if isinstance(self.globals_ref.get(id(function.__globals__)), _Main):
            names = sorted(global_code_names(function.__code__))
            known = {n: function.__globals__[n] for n in names if n in function.__globals__}
            made[2][1]["__globals__"] = {n: v for n, v in known.items() if not is_own(n, v)}
            for name in (*made[2][1]["__globals__"], *(n for n in names if n in {"get_ipython", "display"})):
                self.pulled.setdefault(name, function.__qualname__)
        return made

    def _note(self, obj: Any) -> None:
        """Remember the top-level name under which plain pickle will look for a notebook class or function."""
        if look.module_of(obj) != "__main__":
            return
        top = obj.__qualname__.partition(".")[0]
        found: Any = self._namespace.get(top)
        for part in obj.__qualname__.split(".")[1:]:
            found = look.member(found, part)
        if found is obj:
            self.pulled.setdefault(top, top)

    def _code(self, code: types.CodeType) -> Any:
        label = self._labels.get(code.co_filename)
        if label is None:
            return NotImplemented
        self.labels_used.add(label)
        return self.dispatch_table[types.CodeType](code.replace(co_filename=label))

    def _builtin(self, function: Any) -> Any:
        if function.__self__ is None or isinstance(function.__self__, types.ModuleType):
            module = getattr(function, "__module__", None)
            if module:
                self._importable.check(module)
        return NotImplemented

    def _module(self, module: types.ModuleType) -> Any:
        if vars(module) is self._main or vars(module) is self._namespace:
            return main_module, ()
        name = module.__name__
        if sys.modules.get(name) is not module:
            parent, _, tail = name.rpartition(".")
            if parent and getattr(sys.modules.get(parent), tail, None) is module:
                self._importable.check(parent)
                return _submodule, (parent, tail)
            raise Refusal(
                f"the module {name!r} can't be imported by the ranks: it was made at run time",
                "put it into a file on sys.path, or define its content in a cell",
            )
        self._importable.check(name)
        return importlib.import_module, (name,)

    def _cached(self, cached: Any) -> Any:
        """A function under ``functools.cache``: pickle would look for it by name."""
        inner = cached.__wrapped__
        if isinstance(inner, types.FunctionType) and super().reducer_override(inner) is not NotImplemented:
            self._note(cached)
            return _recache, (inner, dict(cached.cache_parameters()), dict(vars(cached)))
        return NotImplemented

    def _new_type(self, kind: Any) -> Any:
        if kind.__module__ != "__main__":
            return NotImplemented
        return _make_new_type, (kind.__name__, kind.__supertype__)

    def _type_parameter(self, parameter: Any) -> Any:
        if parameter.__module__ != "__main__":
            return NotImplemented
        return _make_type_parameter, (type(parameter).__name__, parameter.__name__)

    # -- things of one process

    def _refuse(self, obj: Any) -> Any:
        base = next(b for b in type(obj).__mro__ if b in self._refusals)
        raise Refusal(*self._refusals[base])

    def _file(self, file: Any) -> Any:
        for name in STREAMS:
            if file is getattr(sys, name) or file is getattr(sys, f"__{name}__"):
                return getattr, (sys, name)
        if type(file) in IN_MEMORY_FILES:
            return NotImplemented
        raise Refusal(
            "an open file belongs to one process", "capture its path, and open it inside the function or the cell"
        )

    # -- memory

    def _storage(self, storage: Any) -> Any:
        if payload_tensors.is_on_device(storage):
            return self._device(storage)
        return payload_tensors.reduce_storage(storage)

    def _typed_storage(self, storage: Any) -> Any:
        return payload_tensors.reduce_typed_storage(storage, self._storages)

    def _tensor(self, tensor: Any) -> Any:
        if payload_tensors.is_on_device(tensor):
            return self._device(tensor)
        return NotImplemented

    def _wrapped_model(self, _model: Any) -> Any:
        raise Refusal(
            "a DistributedDataParallel model belongs to the process group of its ranks",
            "take the model itself, model.module, along",
        )

    def _device(self, obj: Any) -> Any:
        raise Refusal(
            f"it lies on {obj.device}, whose memory belongs to this process",
            "move it first (x = x.cpu(), model = model.cpu()), and to the rank's own device in the rank",
        )


class Loader(pickle.Unpickler):
    """Unpickles into a given ``__main__``.

    Args:
        main: stands for the notebook; functions' globals are its ``__dict__``.
    """

    def __init__(self, file: Any, *, buffers: Any, main: dict[str, Any] | None = None) -> None:
        super().__init__(file, buffers=buffers)
        self._main = main

    def find_class(self, module: str, name: str) -> Any:
        """Resolve a global of the pickle."""
        if self._main is not None:
            if module == __name__ and name == "main_namespace":
                return lambda: self._main
            if module in {"__main__", "__mp_main__"}:
                top, *rest = name.split(".")
                if top in self._main:
                    return functools.reduce(getattr, rest, self._main[top])
        return super().find_class(module, name)


def _submodule(parent: str, tail: str) -> Any:
    return getattr(importlib.import_module(parent), tail)


def _make_class(make: Callable[..., type], meta: type, name: str, bases: tuple[Any, ...], *rest: Any) -> type:
    """Make a class anew without the ``__init_subclass__`` of the notebook: that ran when the class was born.

    Run again, it would register the class twice, or miss its keywords.
    """
    found = [
        c
        for b in types.resolve_bases(bases)
        for c in b.__mro__
        if c.__module__ == "__main__" and "__init_subclass__" in vars(c)
    ]
    kept = {c: vars(c)["__init_subclass__"] for c in found}

    def only_library_ones(owner: Any) -> Any:
        return classmethod(lambda cls: super(owner, cls).__init_subclass__())

    for cls in kept:
        cls.__init_subclass__ = only_library_ones(cls)
    try:
        return make(meta, name, bases, *rest)
    finally:
        for cls, original in kept.items():
            cls.__init_subclass__ = original


def _reduce_cached_property(prop: Any) -> Any:
    """Before Python 3.12 it holds a lock."""
    return _make_cached_property, (type(prop), prop.func, prop.attrname)


def _make_cached_property(kind: type[Any], function: Any, name: str | None) -> Any:
    made = kind(function)
    made.attrname = name
    return made


def _recache(function: Any, parameters: dict[str, Any], attributes: dict[str, Any]) -> Any:
    cached = functools.lru_cache(**parameters)(function)
    vars(cached).update({k: v for k, v in attributes.items() if k != "__wrapped__"})
    return cached


def _make_new_type(name: str, supertype: Any) -> Any:
    new_type: Any = typing.NewType
    made = new_type(name, supertype)
    made.__module__ = "__main__"
    return made


def _make_type_parameter(kind: str, name: str) -> Any:
    made = getattr(typing, kind)(name)
    made.__module__ = "__main__"
    return made


def _weak_dictionary(table: Any) -> Any:
    return type(table), (dict(table),)
