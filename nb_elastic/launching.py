"""Launching: from an entrypoint and options to a live Run.

Runs in: the kernel or the command line. Nothing is started before everything that can be checked here is checked.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from nb_elastic import (
    debugging,
    events,
    notebook,
    opening,
    payload,
    report_words,
    rundir,
    seals,
    topology,
)
from nb_elastic import launching_asked as asked
from nb_elastic import options as opts
from nb_elastic.engines import driven
from nb_elastic.engines.driven import DrivenEngine, Plan
from nb_elastic.engines.local import LocalEngine
from nb_elastic.engines.seat import Channel, Seat
from nb_elastic.engines.warm import LAUNCHER_ENV
from nb_elastic.errors import ElasticError, LaunchError, OptionError, WorkerFailedError
from nb_elastic.lifeline import HeldInterrupts
from nb_elastic.model import LaunchSpec, to_json
from nb_elastic.model_options import LaunchOptions
from nb_elastic.report_failure import failure_text
from nb_elastic.request import Request, name_of, place, request_for
from nb_elastic.run import GRACE_S, Run

_last: list[Run] = []
_own: weakref.WeakValueDictionary[str, Run] = weakref.WeakValueDictionary()
_own_ids: set[str] = set()
_held: dict[str, Run] = {}
"""Runs of this process whose group is held: the end of their channel would end them."""

END_S = 15.0
"""How long a group that was released may take to end."""


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
    if unfit := [name for name in ("dry_run", "out", "pull") if getattr(options, name)]:
        raise OptionError(
            f"{', '.join(unfit)} makes no sense for launch(): it returns the run, whose results are in run.results. "
            "The magics take it. Nothing was started."
        )
    return carry_out(request_for(fn, fn_args, fn_kwargs, options))


def _split_keywords(fn: Callable[..., Any] | str, kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], LaunchOptions]:
    known = set(opts.names())
    own: set[str] = set()
    if callable(fn):
        with contextlib.suppress(TypeError, ValueError):
            own = {p.name for p in inspect.signature(fn).parameters.values() if p.kind is not p.VAR_KEYWORD}
    if clash := sorted(own & known & set(kwargs)):
        raise OptionError(
            f"{', '.join(clash)} is both a keyword of {name_of(fn)} and an option of launch(). "
            f"Say which: launch(fn, args=(...), kwargs={{...}}, options=LaunchOptions(...)). Nothing was started."
        )
    ours = {k: v for k, v in kwargs.items() if k in known}
    return {k: v for k, v in kwargs.items() if k not in known}, opts.from_kwargs(
        config=notebook.config(notebook.shell()), environ=os.environ, **ours
    )


def carry_out(request: Request, *, started: Callable[[Run], None] | None = None) -> Run:
    """Start a run and, unless it is detached, draw it to its end. An interrupt at any moment leaves nothing running.

    Args:
        started: is told the run as soon as it lives.

    Raises:
        OptionError, LaunchError: nothing was started.
        WorkerFailedError, RunStoppedError, RunLostError: how the run ended, if not with success.
    """
    with HeldInterrupts() as held:
        try:
            run = start(request)
        except OSError as e:  # of a look at the machine, before there is a folder
            raise LaunchError(f"{e}. Nothing was started.{_descriptors_hint(e)}") from e
        if started is not None:
            started(run)
        if not request.options.detach:
            with opening.wants_told(f"Run {run.id} could not be watched, and was stopped if it was not over,"):
                _watch(run, request.options, held)
        elif held.count:
            run.stop(0.0, by="interrupt")  # its id will not be told, so nobody would know of it
    return run


def _descriptors_hint(error: OSError) -> str:
    return (
        " A higher `ulimit -n`, or fewer open files in this process, would help." if error.errno == errno.EMFILE else ""
    )


def start(request: Request) -> Run:
    """Make the run folder, start the supervisor, or the driver of many nodes, and hand it the launch.

    Raises:
        OptionError: if this machine, or the engine, can't do what the options ask.
        EngineError: if the supervisor can't be started, or what the engine needs isn't there.
    """
    from nb_elastic.render.choose import resolve

    options = request.options
    if not options.detach:
        resolve(options.render)
    cwd = asked.working_folder()
    machine = topology.read()
    plan = driven.settle(options) if driven.is_driven(options) else None
    nproc = options.nproc_per_node if plan is not None else len(place(options, machine=machine).cpus)
    folder = rundir.create(wanted_id=options.rdzv_id, log_dir=options.log_dir)
    seals.know(folder.path, os.urandom(32))
    try:
        channel = _begin(folder, request, asked.spec_of(folder, request, cwd, -1), machine, plan, nproc=nproc)
    except OSError as e:
        rundir.remove(folder)
        raise LaunchError(
            f"The run folder {folder.path} can't be written: {e.strerror or e}. Nothing was started. "
            f"--log-dir or NB_ELASTIC_HOME names another place."
        ) from e
    except BaseException:
        rundir.remove(folder)
        raise
    run = Run(folder, channel=channel)
    _last[:] = [run]
    _own[run.id] = run
    _own_ids.add(run.id)
    return run


def _begin(
    folder: rundir.RunDir,
    request: Request,
    spec: LaunchSpec,
    machine: topology.Topology,
    plan: Plan | None,
    *,
    nproc: int | str,
) -> Channel:
    """Fill the run folder and start the supervisor. What can't be done leaves no descriptor: it may be for want of one."""
    with contextlib.ExitStack() as own:
        buffers_fd = -1
        if request.payload is not None:
            buffers_fd = payload.write(request.payload, folder.payload)
            if buffers_fd >= 0:
                own.callback(os.close, buffers_fd)
        spec = replace(spec, buffers_fd=buffers_fd)
        asked.write_run_json(folder, request, spec, machine)
        with contextlib.closing(rundir.Journal(folder.journal)) as journal:
            for event in (asked.created(request, spec, nproc), *_still_held(), *request.marks):
                journal.append(event)
            # For the supervisor's words: the disk may be full before it is up.
            opening.reserve(journal.fd, os.fstat(journal.fd).st_size, opening.RESERVE_BYTES)
            return _open(folder, spec, journal, plan, nproc=nproc, own=own)


def _watch(run: Run, options: LaunchOptions, held: HeldInterrupts) -> None:
    """Draw the run until it is over; an interrupt stops it, a second one hurries."""
    from nb_elastic.render.choose import choose

    def interrupted(times: int) -> bool:
        run.stop(GRACE_S if times == 1 else 0.0, by="interrupt")
        return True

    attendant = debugging.Attendant(
        rundir.RunDir(run.dir), stop=lambda: run.stop(GRACE_S, by="debugger"), can_ask=debugging.can_ask()
    )
    try:
        renderer = choose(
            options.render,
            run=rundir.RunDir(run.dir),
            options=options,
            on_stop=lambda grace_s: run.stop(grace_s, by="dashboard"),
        )
        run.follow(renderer, on_interrupt=interrupted, held=held, attendant=attendant)
    except BaseException as e:
        run.stop(0.0, by="interrupt")  # nobody would be left to watch it
        run.wait(GRACE_S + 10)
        # It may have come while a failed run was drawn for the last time, and that failure must be heard of.
        if isinstance(e, KeyboardInterrupt):
            run.raise_for_state()
        raise
    if attendant.is_held and not run.state.is_final:
        _leave_held(run)
    run.raise_for_state()


def _leave_held(run: Run) -> None:
    """A group that is held at its failure: a notebook comes back to it later, a terminal looks at once.

    Raises:
        WorkerFailedError: in a notebook.
    """
    folder, now = rundir.RunDir(run.dir), run.snapshot
    if notebook.shell() is None and debugging.can_ask():
        held = debugging.choose(folder, now)
        debugging.show(f"{failure_text(now, folder=folder)}\n\nRank {held.rank} is held: {held.text}\n")
        with contextlib.suppress(KeyboardInterrupt, ElasticError):
            outcome = debugging.converse(held, write=debugging.show)
            if outcome == "left":
                debugging.release(held)
        with contextlib.suppress(ElasticError):  # an interrupt: nobody comes back to a command line that has ended
            debugging.release(held)
        run.wait(END_S)
        return
    _held[run.id] = run
    text = f"{failure_text(now, folder=folder)}\n\n{debugging.held_text(folder, now)}"
    raise WorkerFailedError(text, run_id=run.id, rank=now.root_rank)


def _still_held() -> list[events.Event]:
    """Notes for a new run about groups of this process that are still held."""
    for run_id in [run_id for run_id, run in _held.items() if run.state.is_final]:
        _held.pop(run_id).wait(0.0)  # its driver, with its nodes, is free for the next
    command = report_words.command()
    return [
        events.make("note", level="info", text=f"Run {run_id} is still held: `{command} debug {run_id}` looks at it.")
        for run_id in _held
    ]


def last_run() -> Run:
    """The newest run that this process launched.

    Raises:
        ElasticError: if there is none.
    """
    if not _last:
        raise ElasticError("Nothing was launched from here yet. `%elastic runs` lists the runs of this machine.")
    return _last[0]


def is_own(run_id: str) -> bool:
    """True for a run that this process launched."""
    return run_id in _own_ids


def stop(folder: rundir.RunDir, grace_s: float) -> None:
    """Ask a run of this machine to stop for the dashboard, over its channel where this process has it.

    Raises:
        ElasticError: if it can't be asked.
    """
    (_own.get(folder.run_id) or Run(folder)).stop(grace_s, by="dashboard")


def _open(
    folder: rundir.RunDir,
    spec: LaunchSpec,
    journal: rundir.Journal,
    plan: Plan | None,
    *,
    nproc: int | str,
    own: contextlib.ExitStack,
) -> Channel:
    """Start the supervisor or the driver, and hand it the launch; the journal gets the moments, for measuring.

    Args:
        own: descriptors that are the channel's from then on.
    """
    marks = [events.make("mark", name="folder")]
    env = {**os.environ, **LAUNCHER_ENV}
    seat = Seat(
        log=folder.supervisor_log,
        pass_fds=(spec.buffers_fd,) if spec.buffers_fd >= 0 else (),
        is_detached=spec.is_detached,
        env=env if plan is None else os.environ,
        nproc=nproc if isinstance(nproc, int) else 0,
        rank_env=spec.env,
    )
    channel: Channel = LocalEngine().open(seat) if plan is None else DrivenEngine(plan).open(seat)
    own.pop_all()
    try:
        channel.send({"type": "launch", "spec": to_json(spec), "env": env})
    except BaseException:
        channel.close()
        raise
    with contextlib.suppress(OSError):
        marks.append(events.make("mark", name="sent"))
        if waits_for := channel.waits_for:
            first = "" if _own_ids or notebook.shell() is None else " (first launch of this kernel)"
            marks.append(events.make("mark", name="waits", text=f"{waits_for}{first}"))
        for event in (*marks, *(events.make("note", level="info", text=text) for text in channel.notes)):
            journal.append(event)
    return channel
