"""Launching: from an entrypoint and options to a live Run.

Runs in: the kernel or the command line. Nothing is started before everything that can be checked here is checked.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from nb_elastic import events, notebook, payload, rundir, topology
from nb_elastic import options as opts
from nb_elastic.engines import base as engine_base
from nb_elastic.errors import ElasticError, OptionError
from nb_elastic.model import Entrypoint, LaunchOptions, LaunchSpec, to_json
from nb_elastic.notebook import Sources
from nb_elastic.payload import Payload
from nb_elastic.run import GRACE_S, Run

SUPERVISOR_ENV = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
"""The process that forks ranks has one thread and never touches CUDA; ranks get their own environment."""

_last: list[Run] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One launch, ready to start.

    Attributes:
        cell: source of the launching cell, or "".
        sources: sources of the notebook that the payload carries, for ``export``.
    """

    entrypoint: Entrypoint
    options: LaunchOptions
    payload: Payload | None = None
    cell: str = ""
    sources: Sources | None = None


def launch(fn: Callable[..., Any] | str, /, *args: Any, options: LaunchOptions | None = None, **kwargs: Any) -> Run:
    """Run a function in fresh processes, one a rank, under PyTorch's elastic agent.

    Options go by their Python names beside the function's own keywords::

        run = nb_elastic.launch(train, model, data, nproc_per_node=4, lr=0.1)

    Where ``fn``'s keywords clash with an option, say it plainly::

        run = nb_elastic.launch(train, args=(model,), kwargs={"name": "x"}, options=LaunchOptions(nproc_per_node=4))

    Args:
        fn: a function; ``"package.module:function"``; or a script, as ``elastic_launch`` takes.
        args: of the function; strings where ``fn`` is text.
        options: all options at once; then ``args=`` and ``kwargs=`` are the function's.
        kwargs: options by their Python names, and the function's own keywords.

    Returns:
        The run: finished with success, or live with ``detach=True``.

    Raises:
        OptionError, PayloadError, LaunchError: nothing was started.
        WorkerFailedError, RunStoppedError, RunLostError: how the run ended, if not with success.
    """
    if options is None:
        fn_args, fn_kwargs, options = args, *_split_keywords(fn, kwargs)
    else:
        fn_args = tuple(kwargs.pop("args", args))
        fn_kwargs = dict(kwargs.pop("kwargs", {}))
        if kwargs:
            raise OptionError(
                f"launch() got {', '.join(kwargs)} beside options=; put options into options=, the function's keywords into kwargs=."
            )
    options = opts.check(options)
    run = start(request_for(fn, fn_args, fn_kwargs, options))
    if not options.detach:
        watch(run, options)
    return run


def _split_keywords(fn: Callable[..., Any] | str, kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], LaunchOptions]:
    known = set(opts.names())
    own: set[str] = set()
    if callable(fn):
        with contextlib.suppress(TypeError, ValueError):
            own = {p.name for p in inspect.signature(fn).parameters.values() if p.kind is not p.VAR_KEYWORD}
    if clash := sorted(own & known & set(kwargs)):
        raise OptionError(
            f"{', '.join(clash)} is both a keyword of {_name(fn)} and an option of launch(). "
            f"Say which: launch(fn, args=(...), kwargs={{...}}, options=LaunchOptions(...)). Nothing was started."
        )
    ours = {k: v for k, v in kwargs.items() if k in known}
    return {k: v for k, v in kwargs.items() if k not in known}, opts.from_kwargs(environ=os.environ, **ours)


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
    packed = payload.dump_function(fn, tuple(args), dict(kwargs), sources=known.texts, labels=known.labels)
    return Request(
        entrypoint=Entrypoint(kind="function", target=_name(fn)), options=options, payload=packed, sources=known
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
        return Entrypoint(kind="script", target=str(path), argv=words)
    module, _, name = target.partition(":")
    if name and all(part.isidentifier() for part in [*module.split("."), *name.split(".")]):
        return Entrypoint(kind="import", target=target, argv=words)
    raise OptionError(
        f"TARGET {target!r} is neither a function of the notebook, nor package.module:function, nor a file in {Path.cwd()}. "
        f"Nothing was started. (-m runs a module, --no-python any program.)"
    )


def start(request: Request) -> Run:
    """Make the run folder, start the supervisor and hand it the launch.

    Raises:
        OptionError: if this machine can't do what the options ask.
        EngineError: if the supervisor can't be started.
    """
    options = request.options
    machine = topology.read()
    nproc = _check_machine(options, machine)
    engine = engine_base.load(options.engine)
    folder = rundir.create(wanted_id=options.rdzv_id, log_dir=options.log_dir)
    marks = [events.make("mark", name="folder")]
    buffers_fd = -1
    try:
        if request.payload is not None:
            buffers_fd = payload.write(request.payload, folder.payload)
        spec = LaunchSpec(
            run_id=folder.run_id,
            rdzv_id=options.rdzv_id or folder.run_id,
            run_dir=str(folder.path),
            entrypoint=request.entrypoint,
            options=options,
            env={**os.environ, **options.env},
            cwd=str(Path.cwd()),
            sys_path=tuple(str(Path(p).absolute()) for p in sys.path),
            umask=_umask(),
            payload=str(folder.payload) if request.payload is not None else "",
            buffers_fd=buffers_fd,
            key_hex=os.urandom(32).hex(),
            is_detached=options.detach,
        )
        _write_run_json(folder, request, spec, machine)
        journal = rundir.Journal(folder.journal)
        try:
            journal.append(_created(request, spec, nproc))
            marks.append(events.make("mark", name="payload"))
            channels = engine.open(
                engine_base.Placement(
                    nodes=1,
                    log=folder.supervisor_log,
                    pass_fds=(buffers_fd,) if buffers_fd >= 0 else (),
                    is_detached=options.detach,
                    env={**os.environ, **SUPERVISOR_ENV},
                )
            )
            channels[0].send({"type": "launch", "spec": to_json(spec)})
            for mark in [*marks, events.make("mark", name="sent")]:
                journal.append(mark)
        except BaseException as e:
            journal.append(events.make("run_finished", state="failed", root_rank=None, text=f"Could not start: {e}"))
            raise
        finally:
            journal.close()
    finally:
        if buffers_fd >= 0:
            os.close(buffers_fd)
    run = Run(folder, channel=channels[0])
    _last[:] = [run]
    return run


def watch(run: Run, options: LaunchOptions, *, grace_s: float = GRACE_S) -> None:
    """Draw the run until it is over; an interrupt stops it, a second one hurries.

    Raises:
        WorkerFailedError, RunStoppedError, RunLostError: how the run ended, if not with success.
    """
    from nb_elastic.render.choose import choose

    def interrupted(times: int) -> bool:
        run.stop(grace_s if times == 1 else 0.0, by="interrupt")
        return True

    try:
        renderer = choose(
            options.render,
            run=rundir.RunDir(run.dir),
            options=options,
            on_stop=lambda: run.stop(grace_s, by="dashboard"),
        )
        run.follow(renderer, on_interrupt=interrupted)
    except BaseException:
        run.stop(0.0, by="interrupt")  # nobody would be left to watch it
        run.wait(grace_s + 10)
        raise
    run.raise_for_state()


def last_run() -> Run:
    """The newest run that this process launched.

    Raises:
        ElasticError: if there is none.
    """
    if not _last:
        raise ElasticError("Nothing was launched from here yet. `%elastic runs` lists the runs of this machine.")
    return _last[0]


def dry_run_text(request: Request) -> str:
    """Tell what would be captured, started and bound; starts nothing."""
    from nb_elastic import binding

    options = request.options
    machine = topology.read()
    nproc = _check_machine(options, machine)
    lines = [
        f"Would start {nproc} rank(s) on {options.nnodes} node(s): {request.entrypoint.kind} {request.entrypoint.target}"
    ]
    if request.payload is not None:
        lines.append(f"Payload {payload_size_text(request.payload.size_bytes)}; captured from the notebook:")
        lines += [
            f"  {c.name:24s} {c.type_name:30s} {payload_size_text(c.size_bytes)}" for c in request.payload.captured
        ] or ["  nothing"]
    visible = topology.visible_gpus(machine, cuda_visible_devices=_cuda_visible(options), gpus=options.gpus)
    plan = binding.plan(
        machine, nproc=nproc, mode=options.numa_binding, visible=visible, virtual_local_rank=options.virtual_local_rank
    )
    lines.append(plan.note or "Binding:")
    lines += [f"  rank {n}: {text}" for n, text in enumerate(plan.text)]
    changed = [f.name for f in fields(LaunchOptions) if getattr(options, f.name) != getattr(LaunchOptions(), f.name)]
    lines.append(
        "Options: " + (", ".join(f"{name}={getattr(options, name)!r}" for name in changed) or "all at their defaults")
    )
    return "\n".join([*lines, "Nothing was started."])


def payload_size_text(size_bytes: int) -> str:
    """Size in words, as in ``1.5 MiB``."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def _check_machine(options: LaunchOptions, machine: topology.Topology) -> int:
    """Number of ranks on this node; refuses what the machine does not have."""
    visible = topology.visible_gpus(machine, cuda_visible_devices=_cuda_visible(options), gpus=options.gpus)
    return topology.resolve_nproc(options.nproc_per_node, topology=machine, visible=visible)


def _cuda_visible(options: LaunchOptions) -> str | None:
    return options.env.get("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES"))


def _created(request: Request, spec: LaunchSpec, nproc: int) -> events.Event:
    options = request.options
    return events.make(
        "run_created",
        run_id=spec.run_id,
        rdzv_id=spec.rdzv_id,
        name=options.name or "",
        nproc=nproc,
        min_nodes=options.min_nodes,
        max_nodes=options.max_nodes,
        max_restarts=options.max_restarts,
        entry=f"{request.entrypoint.kind} {request.entrypoint.target}".strip(),
        is_detached=options.detach,
    )


def _write_run_json(folder: rundir.RunDir, request: Request, spec: LaunchSpec, machine: topology.Topology) -> None:
    packed, known = request.payload, request.sources
    used = {} if known is None else {label: known.texts[file] for file, label in known.labels.items()}
    rundir.write_json(
        folder.run_json,
        {
            "run_id": spec.run_id,
            "rdzv_id": spec.rdzv_id,
            "name": request.options.name or "",
            "created_ns": time.time_ns(),
            "entry": to_json(request.entrypoint),
            "options": {**to_json(request.options), "env": sorted(request.options.env)},
            "cell": request.cell,
            "sources": used,
            "captured": [to_json(c) for c in packed.captured] if packed is not None else [],
            "payload_bytes": packed.size_bytes if packed is not None else 0,
            "host": platform.node(),
            "cwd": spec.cwd,
            "python": platform.python_version(),
            "versions": {name: _version(name) for name in ("torch", "nb-elastic", "ipykernel", "numpy")},
            "topology": topology.to_json(machine),
        },
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _umask() -> int:
    with (
        contextlib.suppress(OSError, StopIteration, ValueError),
        open("/proc/self/status", encoding="ascii", errors="replace") as status,
    ):
        return int(next(line for line in status if line.startswith("Umask:")).split()[1], 8)
    current = os.umask(0o077)
    os.umask(current)
    return current


def _name(fn: Callable[..., Any] | str) -> str:
    return fn if isinstance(fn, str) else getattr(fn, "__qualname__", type(fn).__name__)
