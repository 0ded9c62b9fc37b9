"""What is to be launched, before anything is started: an entrypoint, its payload, its options.

Runs in: the kernel or the command line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nb_elastic import binding, notebook, payload
from nb_elastic.binding import BindingPlan
from nb_elastic.engines import driven
from nb_elastic.errors import OptionError
from nb_elastic.events import Event
from nb_elastic.model import Entrypoint
from nb_elastic.model_options import LaunchOptions
from nb_elastic.notebook import Sources
from nb_elastic.payload import Payload
from nb_elastic.topology import Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One launch, ready to start.

    Attributes:
        cell: source of the launching cell, or "".
        cell_offset: lines of that cell above ``cell``.
        sources: sources of the notebook that the payload carries, for ``export``.
        marks: moments on the way here, for measuring; they go into the journal.
    """

    entrypoint: Entrypoint
    options: LaunchOptions
    payload: Payload | None = None
    cell: str = ""
    cell_offset: int = 0
    sources: Sources | None = None
    marks: tuple[Event, ...] = ()


def request_for(
    fn: Callable[..., Any] | str, args: Sequence[Any], kwargs: Mapping[str, Any], options: LaunchOptions
) -> Request:
    """Make a request from a function or from text that names an entrypoint.

    Raises:
        OptionError: if the text names nothing that can be run.
        PayloadError: if the function or what it captured can't be shipped.
    """
    if isinstance(fn, str):
        if kwargs:
            raise OptionError(
                f"Only a function takes keywords; {fn!r} gets its arguments as strings. Nothing was started."
            )
        return Request(entrypoint=entrypoint_of(fn, [str(a) for a in args], options), options=options)
    if not callable(fn):
        raise OptionError(
            f"launch() takes a function, 'package.module:function' or a script, not {type(fn).__name__}. Nothing was started."
        )
    ip = notebook.shell()
    known = notebook.sources(ip)
    words = tuple(args) if all(isinstance(a, str) for a in args) else ()
    packed = payload.dump_function(fn, tuple(args), dict(kwargs), sources=known.texts, labels=known.labels)
    return Request(
        entrypoint=Entrypoint(kind="function", target=name_of(fn), argv=words),
        options=options,
        payload=packed,
        sources=known,
    )


def entrypoint_of(target: str, argv: Sequence[str], options: LaunchOptions) -> Entrypoint:
    """Tell what TARGET on a command line means; the options ``-m`` and ``--no-python`` decide first.

    Raises:
        OptionError: if it is neither a module's function nor a file that exists.
    """
    words = tuple(argv)
    if options.module:
        return Entrypoint(kind="module", target=target, argv=words)
    if options.no_python:
        return Entrypoint(kind="program", target=target, argv=words)
    path = Path(target).expanduser().absolute()
    if path.is_file():
        return Entrypoint(kind="script", target=str(path), argv=words, argv0=os.path.expanduser(target))
    module, _, name = target.partition(":")
    if name and all(part.isidentifier() for part in [*module.split("."), *name.split(".")]):
        return Entrypoint(kind="import", target=target, argv=words)
    raise OptionError(
        f"TARGET {target!r} is neither a function of the notebook, nor package.module:function, nor a file in {Path.cwd()}. "
        f"Nothing was started. (-m runs a module, --no-python any program.)"
    )


def dry_run_text(request: Request) -> str:
    """Tell what would be captured, started and bound; starts nothing."""
    options = request.options
    entry = f"{request.entrypoint.kind} {request.entrypoint.target}"
    placed = None if driven.is_driven(options) else place(options)
    if placed is None:
        count = options.nproc_per_node
        where = [f"On {driven.settle(options).text}"]
        lines = [f"Would start {count} rank(s) on each of {options.nnodes} node(s): {entry}", *where]
    else:
        lines = [f"Would start {len(placed.cpus)} rank(s) on {options.nnodes} node(s): {entry}"]
    if request.payload is not None:
        lines.append(f"Payload {size_text(request.payload.size_bytes)}; captured from the notebook:")
        lines += [f"  {c.name:24s} {c.type_name:30s} {size_text(c.size_bytes)}" for c in request.payload.captured] or [
            "  nothing"
        ]
        if request.payload.left_out:
            lines.append("Left behind, for it can't travel and the cell binds it itself, most probably:")
            lines += [f"  {name}" for name in request.payload.left_out]
    if placed is not None:
        lines += [placed.note] if placed.note else []
        lines += binding.describe(placed)
    plain = LaunchOptions()
    changed = [f.name for f in fields(LaunchOptions) if getattr(options, f.name) != getattr(plain, f.name)]
    lines.append("Options: " + (", ".join(f"{n}={getattr(options, n)!r}" for n in changed) or "all at their defaults"))
    return "\n".join([*lines, "Nothing was started."])


def place(options: LaunchOptions, *, machine: Topology | None = None) -> BindingPlan:
    """Decide on ranks, GPUs and CPUs of this node as its supervisor will; refuses what the machine does not have.

    Raises:
        OptionError: naming what isn't there.
    """
    return binding.for_node(options, environ={**os.environ, **options.env}, topology=machine)


def size_text(size_bytes: int) -> str:
    """Size in words, as in ``1.5 MiB``."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def name_of(fn: Callable[..., Any] | str) -> str:
    """What the user calls a function."""
    if isinstance(fn, str):
        return fn
    try:
        found = getattr(fn, "__qualname__", "")
    except Exception:  # noqa: BLE001  border: a user's __getattr__ may raise anything
        found = ""
    return found if type(found) is str and found else type(fn).__name__
