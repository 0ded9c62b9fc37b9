"""Where all ranks of a run stand: takes their stacks from outside, and makes a report of them.

Runs in: the kernel or command line, in any thread, and the supervisor's hang watch. It needs no help of the supervisor, and leaves
nothing in the ranks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nb_elastic import (
    snapshot,
    stacks_ask,
    stacks_flight,
    stacks_frames,
    stacks_judge,
    stacks_native,
    stacks_nodes,
    stacks_proc,
    stacks_told,
    stacks_waits,
)
from nb_elastic.lifeline import ProcessId
from nb_elastic.model import Frame, StackReport, WorkerState
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import RunSnapshot
from nb_elastic.stacks_ask import Answer
from nb_elastic.stacks_frames import Texts
from nb_elastic.stacks_nouns import RankStack, Target
from nb_elastic.stacks_proc import Look

WINDOW_S = 0.2
"""For so long it is watched whether a main thread uses a CPU."""
BUSY_SHARE = 0.15
"""Of one CPU; less than half, for other threads may have Python's lock most of the time."""
QUIET_S = 10.0
MOVES_S = 0.3
MAX_CHILDREN = 4
MAX_THREADS = 6
WITH_CHILDREN = frozenset({"dataloader", "queue", "child", "thread"})


def report(folder: RunDir, *, rank: int | None = None) -> StackReport:
    """Tell where the ranks of a run stand now; takes about half a second, some seconds where ranks or nodes do not answer.

    Args:
        rank: only this one.
    """
    now = snapshot.load(folder)
    time_ns = time.time_ns()
    if now.state.is_final:
        return StackReport(time_ns=time_ns, cause="asked", headline=f"The run is over: it is {now.state.value}.")
    if now.nodes:  # a pid of theirs is another process here, or none
        told = stacks_nodes.found(folder, now, rank=rank, texts=stacks_frames.texts_of(folder))
    else:
        told = found(folder, now, rank=rank)
    if not told:
        what = "No rank has started yet." if rank is None else f"There is no rank {rank} now."
        return StackReport(time_ns=time_ns, cause="asked", headline=what)
    return stacks_judge.judge(told, cause="asked", time_ns=time_ns)


def found(folder: RunDir, now: RunSnapshot | None = None, *, rank: int | None = None) -> list[RankStack]:
    """Where the ranks of this machine stand, by rank.

    Args:
        now: the state of the run; read from its folder where it is not given.
    """
    asked = [t for t in targets(folder, now or snapshot.load(folder)) if rank in {None, t.rank}]
    texts = stacks_frames.texts_of(folder)
    told = take(asked, texts=texts) if asked else []
    return [_with_native(one) for one in _with_quiet(asked, told, texts, now_s=time.time())]


def targets(folder: RunDir, now: RunSnapshot) -> list[Target]:
    """The ranks of the current round, as the journal tells of them."""
    found = [
        Target(
            rank=worker.rank,
            local_rank=worker.local_rank,
            node=worker.node,
            pid=worker.pid,
            start_ticks=worker.start_ticks,
            folder=folder.rank(worker.round, worker.local_rank, node=folder.level(worker.node)),
            ended=worker.state.value if worker.state.is_final else "",
            held=worker.held_text or "held" if worker.state is WorkerState.HELD else "",
        )
        for worker in now.workers
    ]
    return sorted(found, key=lambda t: t.rank)


def take(
    asked: Sequence[Target], *, texts: Texts, window_s: float = WINDOW_S, is_gentle: bool = False
) -> list[RankStack]:
    """Take the stacks of ranks at the same time, in the order given.

    Args:
        window_s: how long the use of CPUs is measured before.
        is_gentle: send no signal; who has no process group then has no frames.
    """
    before = {t.pid: stacks_proc.look(t.pid) for t in asked if not t.ended}
    time.sleep(window_s)
    alive = [t for t in asked if not t.ended]
    now = {t.pid: stacks_proc.look(t.pid) for t in alive}
    identities = {t.pid: ProcessId(t.pid, t.start_ticks) for t in alive}
    told = stacks_ask.ask([(identities[t.pid], t.folder) for t in alive], is_gentle=is_gentle)
    answers = dict(zip([t.pid for t in alive], told, strict=True))
    return [
        stacks_told.gone(t.rank, t.pid, t.ended)
        if t.ended
        else _stack(t, before[t.pid], now[t.pid], answers[t.pid], texts, window_s=window_s, is_gentle=is_gentle)
        for t in asked
    ]


def _stack(
    target: Target,
    before: Look | None,
    now: Look | None,
    answer: Answer,
    texts: Texts,
    *,
    window_s: float,
    is_gentle: bool,
) -> RankStack:
    """Put together what is known of one rank."""
    if before is None or now is None or answer.why == "it is gone":
        return stacks_told.gone(target.rank, target.pid, "")
    plain = RankStack(rank=target.rank, pid=target.pid, state="silent", doing="")
    frames = texts.fill(stacks_frames.without_own(answer.main))
    share = (now.run_ns - before.run_ns + now.delay_ns - before.delay_ns) / (window_s * 1e9)
    is_busy = share >= BUSY_SHARE
    flight = stacks_flight.read(answer.flight)
    one = replace(plain, frames=tuple(f for f in frames if not stacks_frames.is_own(f)), flight=flight, is_busy=is_busy)
    if target.held:
        return replace(one, state="held", doing=f"is held: {target.held}")
    if now.state in "Tt":
        return replace(one, state="stopped", doing="is stopped (SIGSTOP)", kind="stopped")
    if now.state == "D" and before.state == "D" and not frames:
        where = f" ({now.wchan})" if now.wchan else ""
        return replace(one, state="stuck", doing=f"hangs in the kernel{where}", kind="stuck")
    if not frames:
        return _without_frames(one, now, answer, is_busy=is_busy, is_starting=bool(answer.main))
    one = _with_wait(one, frames, now, answer, is_busy=is_busy)
    children = () if is_gentle else _children(target, one, texts)
    return replace(one, notes=(*one.notes, *_threads(answer), *children))


def _without_frames(one: RankStack, now: Look, answer: Answer, *, is_busy: bool, is_starting: bool) -> RankStack:
    """A rank that told no stack: what the kernel tells of it."""
    if is_starting:
        return replace(one, state="busy" if is_busy else "waiting", doing="is starting, or ending", kind="start")
    wait = stacks_waits.recognise(
        (), wchan=now.wchan, awaited=stacks_proc.awaited_file(one.pid), is_busy=is_busy, pending_op="", has_gpu=False
    )
    doing = wait.doing if wait else "computes" if is_busy else "waits"
    state = "busy" if is_busy else "waiting" if wait else "silent"
    note = f"No Python stack: {answer.why or 'none was told'}."
    return replace(one, state=state, doing=doing, kind=wait.kind if wait else "", notes=(note,))


def _with_wait(one: RankStack, frames: Sequence[Frame], now: Look, answer: Answer, *, is_busy: bool) -> RankStack:
    """What a rank whose frames are known does."""
    pending = one.flight.pending[0].op if one.flight and one.flight.pending else ""
    wait = stacks_waits.recognise(
        frames,
        wchan=now.wchan,
        awaited="" if is_busy else stacks_proc.awaited_file(one.pid),
        is_busy=is_busy,
        pending_op="" if is_busy else pending,
        has_gpu=stacks_proc.has_gpu(one.pid),
    )
    user = stacks_frames.users_frame(frames) or frames[-1]
    one = replace(one, user=user, places=tuple((f.file, f.line) for f in frames if stacks_frames.is_users(f)))
    is_others = wait is not None and wait.is_for_others
    if answer.is_deaf and not is_others:
        doing = "is in native code that holds Python's lock (the GIL)"
        return replace(one, state="busy" if is_busy else "waiting", doing=doing, kind="gil")
    if wait is not None:
        return replace(one, state="waiting", doing=wait.doing, kind=wait.kind, is_for_others=is_others)
    if not is_busy:
        return replace(one, state="waiting", doing="waits", kind="")
    doing = "computes in native code" if answer.is_native else "computes"
    return replace(one, state="busy", doing=doing, kind="native" if answer.is_native else "loop")


def _threads(answer: Answer) -> tuple[str, ...]:
    """A sentence for each other thread that is in the user's code."""
    found = []
    for thread in answer.others:
        frames = stacks_frames.without_own(thread.frames)
        if user := stacks_frames.users_frame(frames):
            where = stacks_frames.place(user)
            inner = frames[-1]
            via = f", in {inner.name} of {stacks_frames.short_name(inner)}" if inner is not user else ""
            found.append(f"Thread {thread.name or '?'}: {where}, in {user.name}{via}.")
    return tuple(found[:MAX_THREADS])


def _children(target: Target, one: RankStack, texts: Texts) -> tuple[str, ...]:
    """A sentence for each process that the rank started, where it may be these that it waits for."""
    if one.kind not in WITH_CHILDREN:
        return ()
    found = []
    for child in stacks_proc.children(target.pid)[:MAX_CHILDREN]:
        identity = ProcessId.of(child.pid)
        if identity is None:
            found.append(f"Its child process {child.pid} ({child.name}) is dead.")
            continue
        (answer,) = stacks_ask.ask([(identity, target.folder)])
        frames = texts.fill(stacks_frames.without_own(answer.main))
        wait = stacks_waits.recognise(
            frames,
            wchan=child.wchan,
            awaited=stacks_proc.awaited_file(child.pid),
            is_busy=child.state == "R",
            pending_op="",
            has_gpu=False,
        )
        doing = (
            "is stopped (SIGSTOP)"
            if child.state in "Tt"
            else wait.doing
            if wait
            else "computes"
            if child.state == "R"
            else "waits"
        )
        where = stacks_frames.place(stacks_frames.users_frame(frames))
        found.append(f"Its child process {child.pid} ({child.name}) {doing}{', ' + where if where else ''}.")
    return tuple(found)


def _with_quiet(asked: Sequence[Target], found: Sequence[RankStack], texts: Texts, *, now_s: float) -> list[RankStack]:
    """Add for how long each rank has told nothing, and, where it computes, whether its code moves."""
    quiet = {t.rank: now_s - max(map(_changed_s, _told_in(t))) for t in asked if not t.ended}
    busy = [t for t, s in zip(asked, found, strict=True) if s.state == "busy" and quiet.get(t.rank, 0.0) >= QUIET_S]
    if busy:
        time.sleep(MOVES_S)
    later = {s.rank: s for s in (take(busy, texts=texts, window_s=0.05) if busy else [])}
    told = []
    for one in found:
        seconds = quiet.get(one.rank, 0.0)
        note = f"It has told nothing for {seconds:.0f} s" if seconds >= QUIET_S else ""
        if note and one.rank in later:
            has_moved = later[one.rank].places != one.places
            note += ", but its code moves" if has_moved else ", and its code stood at the same line twice"
        told.append(replace(one, notes=(*one.notes, f"{note}.")) if note else one)
    return told


def _told_in(target: Target) -> tuple[Path, ...]:
    folder = target.folder
    return folder.stdout, folder.stderr, folder.metrics, folder.outputs, folder.worker_json


def _changed_s(path: Path) -> float:
    try:
        return path.stat(follow_symlinks=False).st_mtime
    except OSError:
        return 0.0


def _with_native(one: RankStack) -> RankStack:
    """Add native frames by py-spy, where it is installed and may look."""
    if one.state in {"gone", "held"} or not one.pid:
        return one
    note = stacks_native.note(one.pid)
    return replace(one, notes=(*one.notes, note)) if note else one
