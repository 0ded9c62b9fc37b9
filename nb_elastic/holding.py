"""Holding a rank: at its exception (``--hold``) and at ``breakpoint()``, until somebody has looked.

Runs in: a worker. pdb is imported only when a rank is first held.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from nb_elastic import frames, holding_patience
from nb_elastic.holding_desk import Desk, say
from nb_elastic.model import WorkerSpec
from nb_elastic.rundir import RankDir

if TYPE_CHECKING:
    from nb_elastic.holding_pdb import RankPdb


def changes(spec: WorkerSpec) -> Mapping[str, Callable[[Any], None]]:
    """Set ``breakpoint()`` up; returns what is to be changed in libraries, when they are imported, by their names."""
    breakpoints = _Breakpoints(spec)
    sys.breakpointhook = breakpoints.hook
    found: dict[str, Callable[[Any], None]] = {
        "pdb": breakpoints.change_pdb,
        "torch.distributed": breakpoints.change_torch,
    }
    if spec.is_patient:
        found |= holding_patience.CHANGES
    return found


def at_failure(spec: WorkerSpec, exc: BaseException) -> None:
    """Hold the rank at its exception, where the run asks for that; returns when it is released, or the run is stopped."""
    let_go()
    tb = frames.skip_own(exc.__traceback__)
    if not spec.hold or isinstance(exc, KeyboardInterrupt) or tb is None or not _is_rank():
        return
    from nb_elastic.holding_pdb import RankPdb

    try:
        RankPdb(Desk(RankDir(Path(spec.rank_dir)), release_line="quit"), is_dead=True).look_back(exc, tb)
    except OSError as e:
        say(f"rank {spec.rank} can't be held: {e.strerror or e}.")


def trim(exc: BaseException) -> None:
    """Cut the debugger's own frames off an exception that was raised through it into the user's code: a stop's, most often."""
    tb = exc.__traceback__
    while tb is not None and tb.tb_next is not None:
        code = tb.tb_next.tb_frame.f_code
        if code.co_name == "trace_dispatch" and os.path.basename(code.co_filename) == "bdb.py":
            tb.tb_next = None
        tb = tb.tb_next


def let_go() -> None:
    """The user's code is over: nobody steps into what comes after."""
    owner = getattr(sys.gettrace(), "__self__", None)
    if owner is not None and type(owner).__module__ == "nb_elastic.holding_pdb":
        sys.settrace(None)


class _Breakpoints:
    """What ``breakpoint()`` and ``pdb.set_trace()`` do in this rank."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._pdb: RankPdb | None = None
        self._said: set[str] = set()

    def hook(self, *args: Any, **kwargs: Any) -> Any:
        """See ``sys.breakpointhook``: PYTHONBREAKPOINT has its way."""
        chosen = os.environ.get("PYTHONBREAKPOINT", "")
        if chosen == "0":
            return None
        if chosen not in {"", "pdb.set_trace"}:
            return sys.__breakpointhook__(*args, **kwargs)  # noqa: T100  the user's own choice
        return self._stop(_caller())

    def change_pdb(self, module: Any) -> None:
        """Let ``pdb.set_trace()`` stop here, too."""

        def set_trace(*, header: str | None = None, commands: Any = None) -> None:  # noqa: ARG001  pdb's own signature
            self._stop(_caller(), header=header or "")

        module.set_trace = set_trace

    def change_torch(self, module: Any) -> None:
        """Let ``torch.distributed.breakpoint(rank)`` stop here, too: the others wait for this rank at a barrier, as torch has it."""
        seen: Counter[tuple[str, int]] = Counter()

        def stop_one(rank: int = 0, skip: int = 0, timeout_s: float | None = 3600) -> None:  # noqa: ARG001  torch's own
            frame = _caller()
            place = frame.f_code.co_filename, frame.f_lineno
            seen[place] += 1
            if seen[place] <= skip:
                return
            if module.get_rank() == rank:
                self._stop(frame, is_now=True)
            module.barrier()

        module.breakpoint = stop_one

    def _stop(self, frame: FrameType, *, header: str = "", is_now: bool = False) -> None:
        spec, where = self._spec, f"{frame.f_code.co_filename}, line {frame.f_lineno}"
        if not _is_rank():
            self._say_once(f"a child of rank {spec.rank} passes over the breakpoint at {where}: only ranks can stop.")
            return
        if spec.on_breakpoint == "pass":
            self._say_once(
                f"rank {spec.rank} passes over the breakpoint at {where}: nobody can answer here. Run it from a notebook in a "
                "browser, in a terminal, or with --detach (then `%elastic debug` opens pdb)."
            )
            return
        if spec.on_breakpoint == "wait":
            self._say_once(
                f"rank {spec.rank} waits at the breakpoint at {where}: `nb-elastic debug {spec.run_id} --rank {spec.rank}` opens pdb."
            )
        if self._pdb is None:
            from nb_elastic.holding_pdb import RankPdb

            self._pdb = RankPdb(Desk(RankDir(Path(spec.rank_dir)), release_line="continue"), is_dead=False)
        if header:
            self._pdb.message(header)
        if is_now:
            self._pdb.stop_at(frame)
        else:
            self._pdb.set_trace(frame)

    def _say_once(self, text: str) -> None:
        kind = text.partition(" at ")[0]
        if kind not in self._said:
            self._said.add(kind)
            say(text)


def _is_rank() -> bool:
    """False in a child that the user's code forked: the rank leads the session."""
    return os.getpid() == os.getsid(0)


def _caller() -> FrameType:
    """Frame of the user's code that called the caller of this."""
    return sys._getframe(2)  # noqa: SLF001  as pdb itself does
