"""One rank: takes over a fresh process, runs the entrypoint in it and leaves a result or a failure.

Runs in: a worker. ``begin`` is called in a process just forked; where a new interpreter (or any other
program) is to run, it prepares the process and executes that.
"""

from __future__ import annotations

import builtins
import contextlib
import faulthandler
import io
import json
import logging
import os
import reprlib
import signal
import socket
import sys
import time
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from nb_elastic import (
    afresh,
    ambient,
    entry,
    frames,
    holding,
    machine,
    opening,
    rankshell_hooks,
    rankstacks,
    rundir,
    steady,
)
from nb_elastic.errors import PayloadError
from nb_elastic.knell import Knell
from nb_elastic.lifeline import HeldInterrupts, ProcessId
from nb_elastic.model import WorkerFailure, WorkerSpec, from_json, to_json
from nb_elastic.rundir import RankDir

STOPPED_CODE = 130
"""Exit code of a rank that a KeyboardInterrupt ended, as shells tell SIGINT."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD)


def begin(spec: WorkerSpec, *, can_fork: bool, knell: Knell | None = None) -> NoReturn:
    """Make the process just forked a rank; never returns.

    Args:
        can_fork: run in this process's own state; else, or where the spec says so, execute anew.
        knell: tells the supervisor at once when this process dies; another program would not hold it.
    """
    code = 1
    before = dict(os.environ)
    try:
        _take_stdio(spec)
        _take_signals()
        is_exec = spec.is_exec or not can_fork or spec.entrypoint.kind == "program"
        if knell is not None and not is_exec:
            knell.hold(spec.local_rank)  # before the rank says that it is ready
        report = _prepare(spec)
        if is_exec:
            _exec(spec)
        afresh.begin(before)
        code = _run(spec, report)
    except KeyboardInterrupt:
        code = STOPPED_CODE
    except BaseException as e:  # noqa: BLE001  the border of the process: whatever it is, it is told
        _fail(spec, e)
    finally:
        with contextlib.suppress(BaseException):
            sys.stderr.flush()
        os._exit(code)


def main(fd: int) -> NoReturn:
    """Run a rank in an interpreter of its own; its spec comes through a descriptor."""
    os.set_inheritable(fd, False)
    with open(fd, "rb") as f:
        spec = from_json(WorkerSpec, json.loads(f.read()))
    code = 1
    try:
        if spec.buffers_fd >= 0:
            os.set_inheritable(spec.buffers_fd, False)
        _open_texts()
        code = _run(spec, rundir.read_json(RankDir(Path(spec.rank_dir)).worker_json))
    except BaseException as e:  # noqa: BLE001  the border of the process
        code = STOPPED_CODE if isinstance(e, KeyboardInterrupt) else 1
        _fail(spec, e)
    finally:
        os._exit(code)


# -- taking over the process ------------------------------------------------------------------


def _take_stdio(spec: WorkerSpec) -> None:
    """A session of its own; every byte to fd 1 and 2 goes to the rank's files from here on."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for fd, path in ((1, spec.stdout), (2, spec.stderr)):
        log = opening.to_append(Path(path))
        os.dup2(log, fd)
        os.close(log)
    _open_texts()


def _open_texts() -> None:
    """New text streams over fds 0 to 2, unbuffered as with ``python -u``: a killed rank's last words are kept."""
    before = sys.stdout, sys.stderr
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BufferedReader(_raw(0, "r", "<stdin>")), encoding="utf-8")  # type: ignore[misc]
    out = io.TextIOWrapper(
        _raw(1, "w", "<stdout>"),
        encoding="utf-8",
        errors="strict",
        line_buffering=True,
        write_through=True,
    )
    err = io.TextIOWrapper(
        _raw(2, "w", "<stderr>"),
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
        write_through=True,
    )
    for text, mode in ((sys.stdin, "r"), (out, "w"), (err, "w")):
        text.mode = mode  # type: ignore[misc]  # as the interpreter sets it
    sys.stdout = sys.__stdout__ = out  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = err  # type: ignore[misc]
    for handler in filter(None, (ref() for ref in logging._handlerList)):  # type: ignore[attr-defined]  # noqa: SLF001
        for old, new in zip(before, (out, err), strict=True):
            if getattr(handler, "stream", None) is old:
                handler.stream = new
    faulthandler.enable(2)


def _raw(fd: int, mode: str, name: str) -> io.FileIO:
    raw = io.FileIO(fd, mode, closefd=False)
    raw.name = name
    return raw


def _take_signals() -> None:
    """What a fresh interpreter does with signals; those that came while they were blocked arrive now."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in SIGNALS[1:]:
        signal.signal(number, signal.SIG_DFL)
    for number in signal.valid_signals() - set(SIGNALS):
        if callable(signal.getsignal(number)):  # of an import in the process that forked this one
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _prepare(spec: WorkerSpec) -> dict[str, Any]:
    """Environment, folder, affinity: what an executed program keeps. Returns what ``worker.json`` says."""
    before = dict(os.environ)
    for name in before.keys() - spec.env.keys():
        del os.environ[name]
    os.environ.update({n: v for n, v in spec.env.items() if before.get(n) != v})  # each costs a call of putenv
    os.umask(spec.umask)
    os.chdir(spec.cwd)
    short = ambient.take_rlimits(spec.rlimits)
    if short and spec.local_rank == 0 and spec.round == 0:
        _say(f"nb_elastic: a limit of the notebook can't be had in the ranks: {'; '.join(short)}.\n")
    ambient.take_niceness(spec.niceness)
    ambient.take_affinity(spec.affinity)
    cpus: tuple[int, ...] = ()
    bound = spec.binding
    if spec.cpus:
        from nb_elastic import binding

        cpus = binding.apply(spec.cpus)
        bound = "; ".join(filter(None, (bound, binding.shortfall(spec.cpus, cpus))))
    elif hasattr(os, "sched_getaffinity"):
        cpus = tuple(sorted(os.sched_getaffinity(0)))
    identity = ProcessId.of(os.getpid())
    report: dict[str, Any] = {
        "pid": os.getpid(),
        "start_ticks": identity.start_ticks if identity else 0,
        "machine": machine.here(),
        "rank": spec.rank,
        "local_rank": spec.local_rank,
        "round": spec.round,
        "host": socket.gethostname(),
        "cpus": list(cpus),
        "binding": bound,
        "device": spec.device,
        "ready_ns": time.time_ns(),
    }
    rundir.write_json(RankDir(Path(spec.rank_dir)).worker_json, report)
    return report


def _exec(spec: WorkerSpec) -> NoReturn:
    """Become another program, or a new interpreter that goes on with ``main``."""
    if spec.entrypoint.kind == "program":
        argv = [spec.entrypoint.target, *spec.entrypoint.argv]
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; programs count on them
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(argv[0], argv, dict(spec.env))
    fd = os.memfd_create("nb_elastic-spec", 0) if hasattr(os, "memfd_create") else _unnamed_file()
    os.write(fd, json.dumps(to_json(spec)).encode())
    os.lseek(fd, 0, os.SEEK_SET)
    os.set_inheritable(fd, True)
    if spec.buffers_fd >= 0:
        os.set_inheritable(spec.buffers_fd, True)
    root = str(Path(__file__).parents[1])
    code = f"import sys; sys.path.append({root!r}); from nb_elastic.worker import main; main({fd})"
    os.execve(sys.executable, [sys.executable, "-u", "-c", code], dict(spec.env))


def _unnamed_file() -> int:
    import tempfile

    with tempfile.TemporaryFile() as f:
        return os.dup(f.fileno())


# -- running the entrypoint -------------------------------------------------------------------


def _run(spec: WorkerSpec, report: dict[str, Any]) -> int:
    """Run the entrypoint in a fresh ``__main__`` and end as an interpreter ends; returns the exit code."""
    _settle_in(spec)
    main_module = types.ModuleType("__main__")
    main_module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main_module  # the second as multiprocessing has it
    try:
        call = entry.open_entry(spec, main_module)
        code = _call(spec, call, main_module, report)
    except BaseException as e:  # noqa: BLE001  the border to the user's code
        code = _end_by(spec, e)
    try:
        _show_last(spec)
        entry.leave(main_module)
    except KeyboardInterrupt:
        code = code or STOPPED_CODE
    return code


def _call(
    spec: WorkerSpec,
    call: Callable[[], Any],
    main_module: types.ModuleType,
    report: dict[str, Any],
) -> int:
    try:
        value = call()
    except SystemExit as e:
        return _end_by(spec, e)
    holding.let_go()
    with HeldInterrupts() as held:  # its work is done: an interrupt comes too late, and must not cost the result
        _leave_result(spec, value, report, main_module)
        held.release()
    return 0


def _show_last(spec: WorkerSpec) -> None:
    """Display what the user's code left to be displayed."""
    if _is_rank():
        try:
            rankshell_hooks.at_end(has_cell=spec.entrypoint.kind in {"cell", "function", "import"})
        except Exception:  # noqa: BLE001  a library's drawing code may raise anything; the result is there already
            traceback.print_exc()


def _settle_in(spec: WorkerSpec) -> None:
    """What the notebook expects to find."""
    set_title(f"nb_elastic:{spec.run_id}:rank{spec.rank}")
    if spec.sys_path:
        sys.path[:] = spec.sys_path
    rankshell_hooks.install(holding.changes(spec), rankstacks.install(RankDir(Path(spec.rank_dir))))
    if process := sys.modules.get("multiprocessing.process"):
        process.ORIGINAL_DIR = spec.cwd  # type: ignore[attr-defined]


def set_title(title: str) -> None:
    """Name this process in ps, top and nvidia-smi. A process that will fork must be named before it forks.

    The title must fit into the command line: else it would overwrite /proc/<pid>/environ, by which
    processes are known.
    """
    is_set = "SPT_NOENV" in os.environ
    os.environ["SPT_NOENV"] = "1"
    try:
        import setproctitle
    except ImportError:
        return
    else:
        setproctitle.setproctitle(title)
    finally:
        if not is_set:
            del os.environ["SPT_NOENV"]


def _leave_result(spec: WorkerSpec, value: Any, report: dict[str, Any], main_module: types.ModuleType) -> None:
    """Write the return value and what was asked for with ``--pull``; what can't be pickled fails nothing."""
    if not _is_rank():
        return
    folder = RankDir(Path(spec.rank_dir))
    if spec.entrypoint.kind in {"cell", "function", "import"}:
        text, size_bytes, error = _short(value), 0, ""
        try:
            from nb_elastic import payload

            size_bytes = payload.dump_result(value, folder.result)
        except PayloadError as e:
            error = str(e)
        except Exception as e:  # noqa: BLE001  a value's own __reduce__ may raise anything
            error = f"{type(e).__name__}: {frames.message_of(e)}"
        report["result"] = {"text": text, "size_bytes": size_bytes, "error": error}
    if spec.pull:
        report["pull"] = entry.pull(spec, main_module, folder.pulled)
    report["done_ns"] = time.time_ns()
    with contextlib.suppress(OSError):  # a full disk: the supervisor tells of it, and the user's work was done
        rundir.write_json(folder.worker_json, report)


def _short(value: Any) -> str:
    try:
        shorter = reprlib.Repr()
        shorter.maxstring = shorter.maxother = 200
        return frames.shorten(shorter.repr(value), 400)
    except Exception as e:  # noqa: BLE001  a value's own __repr__ may raise anything
        return f"<{type(value).__name__}: its __repr__ raised {type(e).__name__}>"


def _is_rank() -> bool:
    """False in a child that the user's code forked and let run on: the rank leads the session."""
    return os.getpid() == os.getsid(0)


# -- failing ----------------------------------------------------------------------------------


def _end_by(spec: WorkerSpec, exc: BaseException) -> int:
    """Exit code for what ended the user's code, as the interpreter would choose it."""
    holding.trim(exc)
    if isinstance(exc, SystemExit):
        if exc.code is None or exc.code == 0:
            return 0
        code = exc.code & 0xFF if isinstance(exc.code, int) else 1
        _write_failure(spec, exc)
        if not isinstance(exc.code, int):
            _say(frames.message_of(exc) + "\n")
        if code:
            holding.at_failure(spec, exc)
        return code
    _fail(spec, exc)
    holding.at_failure(spec, exc)
    return STOPPED_CODE if isinstance(exc, KeyboardInterrupt) else 1


def _fail(spec: WorkerSpec, exc: BaseException) -> None:
    text = _write_failure(spec, exc)
    if sys.excepthook is not sys.__excepthook__ and sys.excepthook is not traceback.print_exception:  # payload's
        with contextlib.suppress(BaseException):
            sys.excepthook(type(exc), exc, frames.skip_own(exc.__traceback__))
            return
    _say(text)


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        os.write(2, text.encode("utf-8", "backslashreplace"))


def _write_failure(spec: WorkerSpec, exc: BaseException) -> str:
    """Write ``failure.json`` and torch's error file; returns the traceback. The first thing after an exception."""
    time_ns, steady_ns = time.time_ns(), steady.now_ns()
    told = frames.tell(exc, has_values=not spec.hide_values)
    if not _is_rank():
        return told.text
    failure = WorkerFailure(
        rank=spec.rank,
        local_rank=spec.local_rank,
        round=spec.round,
        time_ns=time_ns,
        pid=os.getpid(),
        error_type=told.error_type,
        message=told.message,
        traceback=told.text,
        frames=told.frames,
    )
    with contextlib.suppress(OSError):
        rundir.write_json(RankDir(Path(spec.rank_dir)).failure_json, {**to_json(failure), "steady_ns": steady_ns})
    if path := spec.env.get("TORCHELASTIC_ERROR_FILE"):
        extra = {"py_callstack": told.text, "timestamp": str(time_ns // 10**9)}
        message = {"message": f"{told.error_type}: {told.message}", "extraInfo": extra}
        with contextlib.suppress(OSError):
            rundir.write_atomic(Path(path), json.dumps({"message": message}).encode())
    return told.text
