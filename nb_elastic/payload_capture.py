"""Collects the names that a cell or function needs, transitively, and pickles each once.

Runs in: the kernel or command line.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nb_elastic import payload_culprit, payload_file, payload_source
from nb_elastic import payload_look as look
from nb_elastic.errors import PayloadError
from nb_elastic.payload_pickler import NotebookPickler, global_code_names, is_own


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


class Capture:
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

    @property
    def needs_display(self) -> bool:
        """True if shipped code shows objects as a notebook does."""
        return "display" in self._pickler.pulled

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
        for code in notebook_code(value):
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
        modules = {m.__name__ for n in self._entries if look.is_a(m := self._namespace.get(n), types.ModuleType)}
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
            if look.is_a(value, type) and look.module_of(value) == "__main__":
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


def notebook_code(value: Any) -> list[types.CodeType]:
    """Code of notebook functions that a value runs: its own, its class's, what it wraps."""
    found: list[types.CodeType] = []
    seen: set[int] = set()
    pending = [value]
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if look.is_a(item, types.FunctionType):
            if item.__globals__.get("__name__") == "__main__":
                found.append(item.__code__)
            pending += [c.cell_contents for c in item.__closure__ or () if _is_filled(c)]
            pending.append(vars(item).get("__wrapped__"))
        elif look.is_a(item, types.MethodType):
            pending += [item.__func__, item.__self__]
        elif look.is_a(item, staticmethod, classmethod):
            pending.append(item.__func__)
        elif look.is_a(item, property):
            pending += [item.fget, item.fset, item.fdel]
        elif look.is_a(item, functools.partial):
            pending += [item.func, *item.args, *item.keywords.values()]
        elif look.is_a(item, type(functools.lru_cache(len))):
            pending.append(item.__wrapped__)
        elif look.is_a(item, type):
            if look.module_of(item) == "__main__":
                pending += [*vars(item).values(), *item.__bases__, type(item)]
        elif look.module_of(type(item)) == "__main__":
            pending.append(type(item))
    return found


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _is_type_like(value: Any) -> bool:
    return look.is_a(value, type, types.ModuleType) or look.module_of(type(value)) in {"typing", "types"}


def _rank(value: Any) -> int:
    """What is used before what uses it, so that sizes are told where they belong."""
    if look.is_a(value, types.ModuleType):
        return 0
    if look.is_a(value, type):
        return 2
    if look.is_a(value, types.FunctionType):
        return 4
    return 1 if look.module_of(type(value)) in {"builtins", "numpy", "torch"} else 3
