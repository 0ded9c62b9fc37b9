"""Notebook code and data <-> bytes: what goes to the ranks, and what they give back.

Runs in: the kernel or command line (``dump_cell``, ``dump_function``, ``write``, ``load_result``) and the worker
(``load``, ``dump_result``, ``dump_values``).
"""

from __future__ import annotations

import builtins
import functools
import importlib
import os
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nb_elastic import cell as cells
from nb_elastic import payload_culprit, payload_file, payload_source, rundir
from nb_elastic.cell import CellCode
from nb_elastic.errors import PayloadError
from nb_elastic.payload_pickler import Loader, NotebookPickler, ResultPickler, global_code_names, is_own

SHIPPED = "__elastic_shipped__"
"""Name in the rank's ``__main__`` of what came from the notebook: results refer to it by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """One name that travels.

    Attributes:
        size_bytes: what it adds to the payload, in band and out of band.
        via: the function or class that needs it, or "" where the cell itself does.
    """

    name: str
    type_name: str
    size_bytes: int
    via: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """A cell or function with all it needs, as bytes.

    Attributes:
        data: what the payload file holds.
        buffers: big buffers, uncopied: they are still the notebook's own memory until ``write``.
        captured: what travels, in the order of the names.
        left_out: names that the cell most probably binds itself and that can't travel.
    """

    data: bytes
    buffers: tuple[memoryview, ...] = ()
    captured: tuple[Captured, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes in all."""
        return len(self.data) + sum(b.nbytes for b in self.buffers)


def dump_cell(
    cell: CellCode, namespace: Mapping[str, Any], *, sources: Mapping[str, str], labels: Mapping[str, str]
) -> Payload:
    """Pickle a cell's body with the notebook's names that it needs.

    Args:
        namespace: the notebook's globals; the very dict that its functions have.
        sources: file name of notebook code -> its text.
        labels: file name of notebook code -> how tracebacks name it, such as ``Cell In[3]``.

    Raises:
        PayloadError: if something can't travel; its ``path`` says what.
    """
    dump = _Dump(namespace, sources, labels)
    for name in sorted(cell.reads):
        if name in namespace and not is_own(name, namespace[name]):
            dump.want(name, via="", is_soft=name in cell.soft)
    dump.run()
    whole = "\n" * cell.line_offset + cell.text
    given = next((sources[f] for f, label in labels.items() if label == cell.label and f in sources), whole)
    header = {
        "kind": "cell",
        "cell": {"source": cell.source, "label": cell.label, "line_offset": cell.line_offset, "flags": cell.flags},
        "needs_shell": cell.needs_shell or dump.needs_shell,
        "submodules": sorted(dump.submodules(cell.names)),
    }
    return dump.finish(header, {cell.label: given if cell.text.strip() in given else whole})


def dump_function(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    sources: Mapping[str, str],
    labels: Mapping[str, str],
) -> Payload:
    """Pickle a call: a function with its arguments and all it needs.

    Raises:
        PayloadError: if something can't travel; its ``path`` says what.
    """
    home = getattr(function, "__globals__", {})
    namespace = home if home.get("__name__") == "__main__" else vars(sys.modules["__main__"])
    dump = _Dump(namespace, sources, labels)
    name = getattr(function, "__name__", type(function).__name__)
    dump.follow(function, name)
    dump.run()
    dump.add("", (function, args, dict(kwargs)), label=name, parts={name: function, "arguments": args, "keywords": dict(kwargs)})
    dump.run()
    header = {"kind": "function", "cell": None, "needs_shell": dump.needs_shell, "submodules": []}
    return dump.finish(header, {})


def write(payload: Payload, path: Path) -> int:
    """Write the payload's file, atomically and 0600, and its buffers into a memory file.

    Returns:
        Descriptor of the buffers for the ranks to inherit (the caller closes it), or -1 without buffers.
    """
    rundir.write_atomic(path, payload.data)
    if not payload.buffers:
        return -1
    size = sum(payload_file.aligned(b.nbytes) for b in payload.buffers)
    return payload_file.to_descriptor(payload.buffers, size_bytes=size)


def load(path: str, buffers_fd: int, main: types.ModuleType) -> Callable[[], Any]:
    """Restore what the notebook shipped into ``main`` and return what runs the cell or calls the function.

    The functions' globals are ``main.__dict__`` itself.

    Args:
        buffers_fd: descriptor from ``write``; it may be closed afterwards.

    Raises:
        PayloadError: if the file is torn or from another Python.
    """
    sys.modules["__main__"] = main
    buffers = payload_file.map_private(buffers_fd) if buffers_fd >= 0 else memoryview(b"")
    return _load(path, buffers, vars(main))


def load_in_child(path: str, buffers: str, main: dict[str, Any]) -> None:
    """Restore the namespace, and the body's own definitions, in a process that a rank spawned."""
    view = memoryview(b"")
    if buffers:
        fd = os.open(buffers, os.O_RDONLY | os.O_CLOEXEC)
        try:
            view = payload_file.map_private(fd)
        finally:
            os.close(fd)
    _load(path, view, main, is_child=True)


def write_stub(path: Path, *, payload: str, buffers_fd: int) -> None:
    """Write the file that ``__main__.__file__`` of a rank names, so that multiprocessing can spawn.

    Call it in the rank, with the rank's own descriptor.
    """
    buffers = f"/proc/{os.getpid()}/fd/{buffers_fd}" if buffers_fd >= 0 else ""
    rundir.write_atomic(path, payload_source.stub(payload=payload, buffers=buffers).encode())


def dump_result(value: Any, path: Path) -> int:
    """Pickle a rank's return value into a file; notebook classes by reference, tensors on the CPU.

    Returns:
        Size of the file in bytes.

    Raises:
        PayloadError: if it can't be pickled; its ``path`` says what.
        OSError: if the disk is full.
    """
    return _dump_back(value, path, name="result")


def dump_values(values: dict[str, Any], path: Path) -> int:
    """Pickle variables of a rank (``--pull``) as ``dump_result`` does; ``load_result`` gives the dict back."""
    return _dump_back(values, path, name="pulled")


def load_result(path: Path) -> Any:
    """Load what ``dump_result`` or ``dump_values`` wrote.

    Raises:
        PayloadError: if it is absent, torn, not this user's, or needs a class that the notebook lacks.
    """
    packed = payload_file.read_file(path)
    try:
        return Loader(payload_file.SegmentReader(packed.segments), buffers=packed.buffers).load()
    except Exception as e:  # border: unpickling runs constructors of any class
        text = f"{path} can't be loaded here ({type(e).__name__}: {e}). Its classes must be defined or importable where it is read."
        raise PayloadError(text, path=str(path)) from e


def culprit(obj: Any, name: str) -> str:
    """The way to the smallest object in ``obj`` that can't be pickled, as ``train -> closure 'ds' -> _lock (_thread.lock)``."""
    home = getattr(obj, "__globals__", None)
    trial = payload_culprit.notebook_trial(home if isinstance(home, dict) else vars(sys.modules["__main__"]))
    return payload_culprit.find(obj, name, trial)[0]


class _Dump:
    """One payload in the making: names to ship, the stream they went into."""

    def __init__(self, namespace: Mapping[str, Any], sources: Mapping[str, str], labels: Mapping[str, str]) -> None:
        self._namespace = namespace
        self._sources = sources
        self._labels = labels
        self._stream = payload_file.PickleStream()
        self._pickler = NotebookPickler(self._stream, namespace=namespace, labels=labels)
        self._via: dict[str, str] = {}
        self._soft: set[str] = set()
        self._entries: list[str] = []
        self._captured: list[Captured] = []
        self._left_out: list[str] = []
        self._annotations: dict[str, dict[int, set[str]]] = {}

    @property
    def needs_shell(self) -> bool:
        """True if shipped code uses magics."""
        return "get_ipython" in self._pickler.pulled or "get_ipython" in self._via

    def want(self, name: str, *, via: str, is_soft: bool = False) -> None:
        """Ship a name of the notebook, and what its code needs in turn."""
        if name in self._via:
            return
        self._via[name] = via
        if is_soft:
            self._soft.add(name)
        if name in self._namespace:
            self.follow(self._namespace[name], name)

    def follow(self, value: Any, name: str) -> None:
        """Want the names that a value's code uses."""
        for code in _codes(value):
            for inner in sorted(global_code_names(code)):
                if inner == "get_ipython" or (inner in self._namespace and not is_own(inner, self._namespace[inner])):
                    self.want(inner, via=name)
            for inner in sorted(self._annotated(code)):
                if inner in self._namespace and _is_type_like(self._namespace[inner]):
                    self.want(inner, via=name, is_soft=True)

    def run(self) -> None:
        """Pickle every wanted name, and those that pickling itself brings up."""
        done = set(self._entries) | set(self._left_out)
        while names := [n for n in self._via if n not in done and n in self._namespace]:
            for name in sorted(names, key=lambda n: (_rank(self._namespace[n]), n)):
                done.add(name)
                self.add(name, self._namespace[name], label=name)
            for name, via in list(self._pickler.pulled.items()):
                if name in self._namespace and not is_own(name, self._namespace[name]):
                    self.want(name, via="" if via == name else via)

    def add(self, name: str, value: Any, *, label: str, parts: Mapping[str, Any] | None = None) -> None:
        """Pickle one value.

        Raises:
            PayloadError: if it can't travel.
        """
        trial = payload_culprit.notebook_trial(self._namespace)
        if name in self._soft and trial(value, frozenset()) is not None:
            self._left_out.append(name)
            return
        before = self._stream.size_bytes
        try:
            self._pickler.dump(value)
        except Exception as e:  # border: pickling runs code of the user's classes, which may raise anything
            raise self._refusal(label, value, parts) from e
        self._entries.append(name)
        if name:
            size = self._stream.size_bytes - before
            kind = payload_culprit.type_name(value)
            self._captured.append(Captured(name=name, type_name=kind, size_bytes=size, via=self._via.get(name, "")))

    def submodules(self, names: Iterable[str]) -> set[str]:
        """Imported submodules that code with these names can reach from captured modules."""
        modules = {m.__name__ for n in self._entries if isinstance(m := self._namespace.get(n), types.ModuleType)}
        known = set(names)
        found = set()
        for name in list(sys.modules):
            parts = name.split(".")
            if any(".".join(parts[:i]) in modules and known.issuperset(parts[i:]) for i in range(1, len(parts))):
                found.add(name)
        return found

    def finish(self, header: Mapping[str, Any], own_sources: Mapping[str, str]) -> Payload:
        """Put everything together."""
        used = set(self._pickler.labels_used)
        by_label = {self._labels.get(f, f): text for f, text in self._sources.items()}
        for name in self._entries:
            value = self._namespace.get(name)
            if isinstance(value, type) and value.__module__ == "__main__":
                used.add(payload_source.class_label(value, by_label, self._labels))
        whole = {
            **header,
            "python": list(sys.version_info[:2]),
            "names": self._entries,
            "sources": {**{k: v for k, v in by_label.items() if k in used}, **own_sources},
            **self._stream.layout(),
        }
        return Payload(
            data=payload_file.encode(whole, self._stream.in_band()),
            buffers=tuple(self._stream.regions),
            captured=tuple(sorted(self._captured, key=lambda c: c.name)),
            left_out=tuple(sorted(self._left_out)),
        )

    def _annotated(self, code: types.CodeType) -> set[str]:
        file = code.co_filename
        if file not in self._sources:
            return set()
        if file not in self._annotations:
            self._annotations[file] = payload_source.annotation_names(self._sources[file])
        return self._annotations[file].get(code.co_firstlineno, set())

    def _refusal(self, label: str, value: Any, parts: Mapping[str, Any] | None) -> PayloadError:
        trial = payload_culprit.notebook_trial(self._namespace)
        for name, part in (parts or {label: value}).items():
            path, reason = payload_culprit.find(part, name, trial)
            if reason is not None:
                break
        via = self._via.get(label, "")
        if via and not parts:
            path = f"global {label!r}{path.removeprefix(label)}"
            while via:
                above = self._via.get(via, "")
                path = f"{f'global {via!r}' if above else via} -> {path}"
                via = above
        text = f"{path} can't travel to the ranks. {payload_culprit.explain(reason)} Nothing was started."
        return PayloadError(text, path=path)


def _codes(value: Any) -> list[types.CodeType]:
    """Code of notebook functions that a value runs: its own, its class's, what it wraps."""
    found: list[types.CodeType] = []
    seen: set[int] = set()
    pending = [value]
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, types.FunctionType):
            if item.__globals__.get("__name__") == "__main__":
                found.append(item.__code__)
            pending += [c.cell_contents for c in item.__closure__ or () if _is_filled(c)]
            pending.append(vars(item).get("__wrapped__"))
        elif isinstance(item, (types.MethodType, staticmethod, classmethod)):
            pending += [item.__func__, getattr(item, "__self__", None)]
        elif isinstance(item, property):
            pending += [item.fget, item.fset, item.fdel]
        elif isinstance(item, functools.partial):
            pending += [item.func, *item.args, *item.keywords.values()]
        elif isinstance(item, functools._lru_cache_wrapper):
            pending.append(item.__wrapped__)
        elif isinstance(item, type):
            if item.__module__ == "__main__":
                pending += [*vars(item).values(), *item.__bases__, type(item)]
        elif type(item).__module__ == "__main__":
            pending.append(type(item))
    return found


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _is_type_like(value: Any) -> bool:
    return isinstance(value, (type, types.ModuleType)) or type(value).__module__ in {"typing", "types"}


def _rank(value: Any) -> int:
    """What is used before what uses it, so that sizes are told where they belong."""
    if isinstance(value, types.ModuleType):
        return 0
    if isinstance(value, type):
        return 2
    if isinstance(value, types.FunctionType):
        return 4
    return 3 if type(value).__module__ == "__main__" else 1


def _load(path: str, buffers: memoryview, main: dict[str, Any], *, is_child: bool = False) -> Callable[[], Any]:
    with open(path, "rb") as f:
        data = memoryview(f.read())
    header, rest = payload_file.decode(data, name=path)
    here = list(sys.version_info[:2])
    if header["python"] != here:
        raise PayloadError(
            f"The notebook runs Python {header['python'][0]}.{header['python'][1]}, this rank {here[0]}.{here[1]}: "
            "compiled functions can't travel between them. Use the same Python for both."
        )
    packed = payload_file.split(header, rest, buffers)
    payload_source.install(header["sources"])
    for name in header["submodules"]:
        importlib.import_module(name)
    if header["needs_shell"]:
        main["get_ipython"] = importlib.import_module("nb_elastic.rankshell").getter(main)
    loader = Loader(payload_file.SegmentReader(packed.segments), buffers=packed.buffers, main=main)
    call: Any = None
    shipped: dict[str, Any] = {}
    for name in header["names"]:
        value = loader.load()
        if name:
            main[name] = value
            if getattr(value, "__module__", None) == "__main__":
                shipped[name] = value
        else:
            call = value
    main["__builtins__"] = builtins
    main[SHIPPED] = shipped
    code = header["cell"]
    if code is None:
        function, args, kwargs = call
        return functools.partial(function, *args, **kwargs)
    if is_child:
        for definition in cells.definitions(**code):
            try:
                exec(definition, main)
            except Exception:  # border: a definition may need what only the running body has; plain pickle says what is missing
                continue
    return functools.partial(cells.execute, namespace=main, **code)


def _dump_back(value: Any, path: Path, *, name: str) -> int:
    stream = payload_file.PickleStream()
    main = sys.modules["__main__"]
    shipped = vars(main).get(SHIPPED, {})
    try:
        ResultPickler(stream, shipped=shipped).dump(value)
    except Exception as e:  # border: pickling runs code of the user's classes, which may raise anything

        def trial(obj: Any, known: frozenset[int]) -> BaseException | None:
            return _try_result(obj, known, shipped)

        way, reason = payload_culprit.find(value, name, trial)
        text = f"{way} can't travel back to the notebook. {payload_culprit.explain(reason or e)}"
        raise PayloadError(text.replace(": create it inside the function or the cell", ": return something simpler"), path=way) from e
    return payload_file.write_file(path, {"kind": name}, stream)


def _try_result(obj: Any, known: frozenset[int], shipped: Mapping[str, Any]) -> BaseException | None:
    class Trial(ResultPickler):
        def persistent_id(self, item: Any) -> Any:
            return "known" if id(item) in known else None

    try:
        Trial(payload_culprit._Nowhere(), shipped=shipped).dump(obj)
    except Exception as e:  # border: as above
        return e
    return None
