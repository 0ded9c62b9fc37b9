"""Notebook code and data <-> bytes: what goes to the ranks, and what they give back.

Runs in: the kernel or command line (``dump_cell``, ``dump_function``, ``write``, ``load_result``) and the worker
(``load``, ``dump_result``, ``dump_values``).
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import importlib
import os
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nb_elastic import cell as cells
from nb_elastic import payload_culprit, payload_file, payload_source, rundir
from nb_elastic import payload_look as look
from nb_elastic.cell import CellCode
from nb_elastic.errors import PayloadError
from nb_elastic.payload_capture import Capture, Captured, Payload
from nb_elastic.payload_pickler import Loader, is_own
from nb_elastic.payload_result import SHIPPED, dump_result, dump_values, load_result

__all__ = [
    "Captured", "Payload", "culprit", "dump_cell", "dump_function", "dump_result", "dump_values", "load", "load_in_child",
    "load_result", "write", "write_stub",
]  # fmt: skip


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
    dump = Capture(namespace, sources, labels)
    for name in sorted(cell.reads):
        if name in namespace and not is_own(name, namespace[name]):
            dump.want(name, via="", is_soft=name in cell.soft)
    dump.run()
    whole = "\n" * cell.line_offset + cell.text
    given = next(
        (t for f, label in labels.items() if label == cell.label and _holds(t := sources.get(f, ""), cell)), whole
    )
    header = {
        "kind": "cell",
        "cell": {"source": cell.source, "label": cell.label, "line_offset": cell.line_offset, "flags": cell.flags},
        "needs_shell": cell.needs_shell or dump.needs_shell,
        "needs_display": "display" in cell.names or dump.needs_display,
        "submodules": sorted(dump.submodules(cell.names)),
    }
    return dump.finish(header, {cell.label: given})


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
    home = look.function_globals(function)
    namespace = home if home.get("__name__") == "__main__" else vars(sys.modules["__main__"])
    dump = Capture(namespace, sources, labels)
    name = look.name_of(function)
    dump.follow(function, name)
    dump.run()
    dump.add(
        "",
        (function, args, dict(kwargs)),
        label=name,
        parts={name: function, "arguments": args, "keywords": dict(kwargs)},
    )
    dump.run()
    header: dict[str, Any] = {"kind": "function", "cell": None, "needs_shell": dump.needs_shell, "submodules": []}
    header["needs_display"] = dump.needs_display
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
        buffers_fd: descriptor from ``write``; it stays open for processes that the rank may spawn.

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


def culprit(obj: Any, name: str) -> str:
    """The way to the smallest object in ``obj`` that can't be pickled, as ``train -> closure 'ds' -> _lock (_thread.lock)``."""
    home = look.function_globals(obj) or vars(sys.modules["__main__"])
    trial = payload_culprit.notebook_trial(home)
    return payload_culprit.find(obj, name, trial)[0]


def _holds(text: str, cell: CellCode) -> bool:
    """True if the text has the body's lines where its line numbers say; what IPython made of a magic has them in a string."""
    return text.rstrip().splitlines()[cell.line_offset :] == cell.text.rstrip().splitlines()


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
    if header["needs_shell"] or header["needs_display"]:
        shell = importlib.import_module("nb_elastic.rankshell")
        main["display"] = shell.display
        if header["needs_shell"]:
            main["get_ipython"] = shell.getter(main)
    loader = Loader(payload_file.SegmentReader(packed.segments), buffers=packed.buffers, main=main)
    call: Any = None
    shipped: dict[str, Any] = {}
    for name in header["names"]:
        value = loader.load()
        if name:
            main[name] = value
            if look.module_of(value) == "__main__":
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
            # a definition may need what only the running body has; plain pickle says what is missing
            with contextlib.suppress(Exception):
                exec(definition, main)  # noqa: S102  the user's own code, in the user's own process
    return functools.partial(cells.execute, namespace=main, **code)
