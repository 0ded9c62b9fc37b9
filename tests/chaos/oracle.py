"""The oracle: after an episode it looks whether every promise was kept, and says in words which was not.

Runs in: the chaos test.

The promise about what is left is five seconds, after the grace where a stop asked for one. A loaded machine does the same
work later, so every bound is scaled by the world's pace (how long a plain launch takes here, beside 0.35 s on two quiet
cores) and gets a margin that only a leak or a hang uses up; the closing line tells the longest that was really needed.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nb_elastic import events, rundir, snapshot
from nb_elastic.errors import ElasticError
from nb_elastic.model import RunState, WorkerState
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import RunSnapshot
from tests.chaos import outcomes, programs
from tests.chaos.episode import Plan, Record
from tests.chaos.outcomes import End
from tests.chaos.world import PLAIN_SAYS, World
from tests.support import leaks

GONE_S = 5.0
MARGIN_S = 5.0

PROBE = re.compile(r"[a-z0-9_]{8}")
"""How the file is named with which Python's ``tempfile`` tries out a folder, and what it writes into it."""
PROBE_WORDS = {b"", b"blat"}
SEMAPHORE = re.compile(r"sem\.(mp-[a-z0-9_]{8}|[A-Za-z0-9]{6})")
"""How a lock of multiprocessing is named in /dev/shm while it is made, and what glibc makes of it first."""

ERRORS = {
    "succeeded": {"", "KeyboardInterrupt"},
    "failed": {"WorkerFailedError", "LaunchError", "EngineError", "RendezvousError", "failed"},
    "stopped": {"RunStoppedError", "KeyboardInterrupt", "stopped"},
    "lost": {"RunLostError", "failed"},
    "": {"KeyboardInterrupt", "LaunchError", "EngineError", "OptionError", "failed", "stopped"},
    "created": {"KeyboardInterrupt", "dead"},
}
"""What whoever launched may get, by the state of the run: the names of errors, and words for exit codes."""

UNHEARD = {"dead", "no reply"}
"""Whoever launched could not tell."""


@dataclass
class Verdict:
    """What an episode came to.

    Attributes:
        broken: promises that were not kept, in words.
        state: the run's state at last, or "" where there is no run.
        gone_s: seconds until all was gone.
    """

    broken: list[str]
    state: str = ""
    gone_s: float = 0.0


def judge(world: World, plan: Plan, record: Record) -> Verdict:
    """Look at everything."""
    verdict = Verdict(broken=[])
    if record.hung:
        verdict.broken.append(f"it hangs: {record.hung}")
    verdict.broken += record.scene.trouble
    folder = record.scene.folder
    looks: list[tuple[str, Callable[[], Iterator[str]]]] = []
    if outcomes.may_find_no_run(record.deeds):
        verdict.state = "deleted"
        looks.append(("what was told", lambda: _deleted(record)))
    elif folder is not None and folder.journal.exists():
        looks += [
            ("the journal", lambda: _journal(folder, plan, record, verdict)),
            ("what others see", lambda: _faces(world, folder, verdict)),
            ("logs and results", lambda: _ranks(world, folder, plan, record)),
        ]
    else:
        looks.append(("that there is no run", lambda: _no_run(plan, record)))
    if plan.way == "pair":
        looks.append(("the run beside it", lambda: _companion(world, plan, record)))
    is_calm = verdict.state == "succeeded" and not any(d.is_done for d in record.deeds)
    looks.append(("the kernel", lambda: kernel(world, is_calm=is_calm)))
    spared = 0 if is_calm or not plan.program.has_loaders else plan.nproc
    verdict.broken += _looked("what is left", lambda: _left(world, record, verdict, semaphores=spared), world)
    if not world.is_alive:
        world.renew()
    for what, look in looks:
        verdict.broken += _looked(what, look, world)
    verdict.broken += world.take_trouble()
    return verdict


def _looked(what: str, look: Callable[[], Iterator[str]], world: World) -> list[str]:
    """What a look finds; a kernel or a command that does not answer it is a broken promise, too."""
    found: list[str] = []
    try:
        found.extend(look())
    except (AssertionError, ElasticError, OSError, RuntimeError, ValueError, subprocess.SubprocessError) as e:
        found.append(f"{what} can't be looked at: {type(e).__name__}: {str(e)[:1000]}")
        world.renew()
    return found


# -- what is left -----------------------------------------------------------------------------


def _left(world: World, record: Record, verdict: Verdict, *, semaphores: int = 0) -> Iterator[str]:
    """What is left.

    Args:
        semaphores: at most so many may be: Python names a lock for some microseconds, and a SIGKILL may come in between. Of 1,500
            plain processes that make locks and are killed 14 leave one.
    """
    began = time.monotonic()
    bound_s = (GONE_S + MARGIN_S) * world.pace
    if left := settle(world.processes, bound_s):
        told = "\n".join(f"    {leaks.describe(p)}" for p in sorted(left, key=lambda p: p.pid))
        yield f"processes left after {bound_s:.0f} s:\n{told}"
        leaks.end(left)
    verdict.gone_s = time.monotonic() - began
    if any(d.is_done and d.fault.kind in {"supervisor", "standby", "starter"} for d in record.deeds):
        world.forget(world.half_written())  # who writes, or sweeps after those who do, was killed itself
    if _was(record, "slow"):
        # torch makes a segment and removes its name at once; slow calls let a SIGKILL come in between, and nobody can tell
        # afterwards whose it was.
        world.forget({p for p in world.shared_memory() if p.name.startswith("torch_")})
    for what, look in (
        ("listening sockets", world.listeners),
        ("shared memory", world.shared_memory),
        ("half-written files", world.half_written),
    ):
        if found := settle(look, bound_s):
            is_lock = all(isinstance(one, Path) and SEMAPHORE.fullmatch(one.name) for one in found)
            if not is_lock or len(found) > semaphores:
                yield f"{what} left: {', '.join(sorted(map(str, found)))}"
            world.forget(found)


def settle(look: Callable[[], set], bound_s: float) -> set:
    """Look until nothing is there or the time is up; what is there at last."""
    deadline = time.monotonic() + bound_s
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def kernel(world: World, *, is_calm: bool = False) -> Iterator[str]:
    """The kernel is as it was, and a plain launch in it works.

    Args:
        is_calm: nothing was done to the run, so that no rank may have left a temporary file of Python's own.
    """
    world.kernel.run("raise ValueError('IPython keeps the last traceback, and what hangs on it')", 60 * world.pace)
    says, _ = world.plain_launch()
    if says != PLAIN_SAYS:
        yield f"the next plain launch in the same kernel does not work: {says}"
    bound_s = (GONE_S + MARGIN_S) * world.pace
    world.forget(set() if is_calm else {p for p in world.tmp.iterdir() if _is_pythons_own(p)})
    if found := settle(lambda: set(world.tmp.iterdir()), bound_s):  # of a killed rehearsal: the next one removes it
        yield f"temporary files left: {', '.join(sorted(map(str, found)))}"
        world.forget(found)
    for one in settle(lambda: world.rest().beyond(world.at_rest), bound_s):
        yield f"the kernel keeps {one}"
        world.at_rest = world.rest()


def _is_pythons_own(path: Path) -> bool:
    """What Python makes for a moment, or multiprocessing for a rank, and nobody removes after a signal; without us it is the same."""
    if path.name.startswith("pymp-"):
        return True
    return bool(PROBE.fullmatch(path.name)) and path.is_file() and path.read_bytes() in PROBE_WORDS


# -- the journal ------------------------------------------------------------------------------


def _journal(folder: RunDir, plan: Plan, record: Record, verdict: Verdict) -> Iterator[str]:
    is_full = _was(record, "disk")
    lines = folder.journal.read_bytes().split(b"\n")
    torn = [line for line in lines[:-1] if events.decode(line) is None]
    if torn and not is_full:
        yield f"the journal has {len(torn)} torn lines: {torn[0][:200]!r}"
    now = snapshot.load(folder)
    verdict.state = now.state.value
    told = [e for e in map(events.decode, lines) if e is not None]
    ends = [e.kind for e in told if e.kind in {"run_finished", "run_lost"}]
    if len(ends) > 1 and set(ends) != {"run_lost"}:  # each reader that sees a supervisor gone may say so
        yield f"the journal tells {len(ends)} ends: {ends}"
    allowed = outcomes.allowed(
        plan.program,
        record.deeds,
        restarts=plan.restarts,
        is_detached=plan.way == "detach",
        is_command=plan.way == "command",
        ranks={e["pid"]: e["rank"] for e in told if e.kind == "worker_started"},
    )
    if not any(_is(now, end) for end in allowed):
        yield f"it ended as {_told(now)}, which is none of: {'; '.join(sorted(map(_said, allowed)))}"
    by = outcomes.stopped_by(record.deeds)
    if now.state is RunState.STOPPED and now.stop_by not in by:
        yield f"it was stopped by {now.stop_by!r}, not by any of {sorted(by)}"
    if not is_full and now.state not in {RunState.LOST, RunState.CREATED}:
        started = {(e["round"], e["local_rank"]) for e in told if e.kind == "worker_started"}
        exited = {(e["round"], e["local_rank"]) for e in told if e.kind == "worker_exited"}
        if started - exited:
            yield f"the journal tells no end of (round, rank) {sorted(started - exited)}"
    if not record.hung:
        yield from _error(now, record)


def _error(now: RunSnapshot, record: Record) -> Iterator[str]:
    """What whoever launched got is what happened."""
    if record.error == "KeyboardInterrupt" and not _was(record, "interrupt"):
        yield "a KeyboardInterrupt came from nowhere"
    if record.error in UNHEARD:
        return
    if now.is_detached:
        is_known = now.state is RunState.STOPPED or now.run_id in record.text
        if record.error == "KeyboardInterrupt" and not is_known:
            yield "the interrupted launch left a detached run that nobody was told of"
        return
    if record.error == "DescriptorsError" and _was(record, "limit files"):
        return  # it says that it can't see how its run ended
    root = now.root_rank
    if now.state is RunState.FAILED and root is not None and f"rank {root}" not in record.text:
        yield f"rank {root} failed first, but nobody told whoever launched"
    if record.error == "stopped" and now.state is RunState.SUCCEEDED and _was(record, "interrupt"):
        return  # a command that is interrupted exits with 130, also where its run was over a moment before
    if record.error == "failed" and _was(record, "limit files"):
        return  # a command that can open nothing any more can't see how its run ended
    if record.error not in ERRORS.get(now.state.value, set()):
        yield f"whoever launched got {record.error or 'no error'}, but the run is {now.state.value}"


def _is(now: RunSnapshot, end: End) -> bool:
    if now.state.value != end.state or end.says.lower() not in _account(now).lower():
        return False
    if end.root is None:
        return True
    root = now.root
    if root is None or root.rank != end.root:
        return False
    is_so = not end.how or end.how in {root.signal, root.error_type, f"exit {root.exit_code}"}
    return is_so and root.category in outcomes.CATEGORIES.get(end.how, {root.category})


def _account(now: RunSnapshot) -> str:
    return "\n".join([now.text, *(f"{f.message}\n{f.hint}" for f in now.failures), *(text for _, text in now.notes)])


def _told(now: RunSnapshot) -> str:
    failures = ", ".join(f"rank {f.rank} {f.signal or f.error_type or f.exit_code}, {f.category}" for f in now.failures)
    return f"{now.state.value} ({failures or now.text[:300]})"


def _said(end: End) -> str:
    more = [f"rank {end.root} {end.how}"] if end.root is not None else []
    more += [f"saying {end.says!r}"] if end.says else []
    return " ".join([end.state or "no run", *more])


def _no_run(plan: Plan, record: Record) -> Iterator[str]:
    allowed = outcomes.allowed(
        plan.program,
        record.deeds,
        restarts=plan.restarts,
        is_detached=plan.way == "detach",
        is_command=plan.way == "command",
    )
    if outcomes.NO_RUN not in allowed:
        yield f"there is no run: {record.error}"
    if record.error not in ERRORS[""] | UNHEARD:
        yield f"whoever launched got {record.error or 'no error'}, but there is no run"


def _deleted(record: Record) -> Iterator[str]:
    """Without the folder nobody can know how the run ended; whoever launched gets an error that says so, or none."""
    ours = set().union(*ERRORS.values()) | UNHEARD | {"PayloadError"}
    if record.error not in ours:
        yield f"whoever launched a run whose folder was deleted got {record.error}"


def _was(record: Record, kind: str) -> bool:
    return any(d.fault.kind == kind and d.is_done for d in record.deeds)


# -- what others see --------------------------------------------------------------------------


def _faces(world: World, folder: RunDir, verdict: Verdict) -> Iterator[str]:
    """The list, ``show`` and a handle in the kernel tell the same state as the journal."""
    listed = world.command("runs").stdout
    row = next((line.split() for line in listed.splitlines() if line.startswith(f"{folder.run_id} ")), [])
    if len(row) < 3 or row[2] != verdict.state:
        yield f"`nb-elastic runs` tells {row}, the journal {verdict.state}"
    shown = world.command("show", folder.run_id)
    if shown.returncode not in {0, 1} or verdict.state not in shown.stdout.lower():
        yield f"`nb-elastic show` ({shown.returncode}) does not say {verdict.state}:\n{shown.stdout[-1500:]}{shown.stderr[-500:]}"
    state = world.ask(f"nb_elastic.attach({folder.run_id!r}).state.value")
    if state != verdict.state:
        yield f"attach() in the kernel tells {state}, the journal {verdict.state}"


def _companion(world: World, plan: Plan, record: Record) -> Iterator[str]:
    """The detached run launched beside is not harmed by what was done to this one."""
    name = f"companion-{plan.number}"
    run = next((r for r in world.runs() if rundir.read_json(r.run_json).get("name") == name), None)
    state = snapshot.load(run).state.value if run else "no run"
    may = {"succeeded"}
    if any(
        d.is_done and d.fault.kind in {"disk", "limit files", "limit size", "standby", "launcher"} for d in record.deeds
    ):
        may |= {"failed", "lost", "no run", "created"}
    if any(d.is_done and d.fault.kind in {"interrupt", "starter"} for d in record.deeds):
        may |= {"no run", "created", "stopped"}
    if state not in may:
        yield f"the detached run launched beside it is {state}"


# -- logs and results -------------------------------------------------------------------------


def _ranks(world: World, folder: RunDir, plan: Plan, record: Record) -> Iterator[str]:
    is_disk = _was(record, "disk")
    now = snapshot.load(folder)
    for worker in now.workers:
        path = folder.rank(worker.round, worker.local_rank).stdout
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        numbered = [line for line in lines[:-1] if line.startswith(b"line ")]
        if not is_disk and numbered != [b"line %d" % k for k in range(len(numbered))]:
            yield f"rank {worker.rank}'s log has not every line: {len(numbered)} of them, the last {numbered[-1:]}"
        is_well = worker.state is WorkerState.SUCCEEDED
        if is_well and plan.program.ends == (programs.SUCCESS,) and not is_disk and len(numbered) != plan.program.lines:
            yield f"rank {worker.rank} finished, but its log has {len(numbered)} of {plan.program.lines} lines"
    if plan.program.value is None or plan.way == "command":
        return
    done = [w.rank for w in now.workers if w.state is WorkerState.SUCCEEDED]
    look = f"{{str(r): {plan.program.look} for r, v in nb_elastic.attach({folder.run_id!r}).results.items()}}"
    results = world.ask(look)
    wanted = {str(r): plan.program.value(r, plan.nproc) for r in done}
    full = ("disk", "No space left", "File too large")
    may_miss = is_disk or _was(record, "limit size")
    told = {str(w.rank) for w in now.workers if any(word in w.result_error for word in full)} if may_miss else set()
    wanted = {r: value for r, value in wanted.items() if r not in told or r in results}
    if {r: v for r, v in results.items() if r in wanted} != wanted:
        yield f"the results are {json.dumps(results)[:300]}, not {json.dumps(wanted)[:300]}"
