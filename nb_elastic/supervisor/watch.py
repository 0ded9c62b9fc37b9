"""The ranks of one round as the supervisor sees them: who is ready, who ended and how, and who is to blame.

Runs in: the supervisor.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nb_elastic import rundir, steady, untrusted
from nb_elastic.model import WorkerFailure, WorkerSpec, WorkerState, to_json
from nb_elastic.rundir import RankDir
from nb_elastic.supervisor import failures, failures_judge, failures_verdict, failures_words
from nb_elastic.supervisor.channel import EventLog
from nb_elastic.supervisor.crew import Exit, ForkServer, Started
from nb_elastic.supervisor.evidence import Evidence, Witness
from nb_elastic.supervisor.stopping import Stopper
from nb_elastic.supervisor.ways import BY_AGENT, way_to_end

STUCK_S = 5.0
"""A rank that told its exception and does not exit (it waits for a thread of its own) counts as failed after this."""

JUDGE_S = 0.2
"""So long after a failed rank was first seen to be held it is told who failed first: others may fail with it."""

MAX_HELD_BYTES = 64_000

LOOK_S = 0.1
"""How often files of living ranks are looked at; exits are seen at once."""


@dataclass(slots=True, kw_only=True)
class Rank:
    """One rank of the round; changes as things happen to it.

    Attributes:
        signals: (signal, nanoseconds since the epoch) of each that it was sent, the first one first.
        how: its way to its end, or "" before that.
        told_at: when (``time.monotonic``) its own failure file was first seen.
        held: why it waits to be looked at (``failure`` or ``breakpoint``) and the number of that stop, or None.
    """

    spec: WorkerSpec
    started: Started
    is_ready: bool = False
    signals: list[tuple[int, int]] = field(default_factory=list)
    exit: Exit | None = None
    how: str = ""
    state: WorkerState = WorkerState.STARTING
    told_at: float | None = None
    held: tuple[str, int] | None = None

    @property
    def signalled_ns(self) -> int | None:
        """When the agent first signalled it, or None."""
        return self.signals[0][1] if self.signals else None

    @property
    def folder(self) -> RankDir:
        """Its folder."""
        return RankDir(Path(self.spec.rank_dir))


class Watch:
    """Sees what happens to the ranks of a round, and tells the journal; ``told`` has each failure, by local rank, as it was told."""

    def __init__(self, *, server: ForkServer, stopper: Stopper, log: EventLog, node: int) -> None:
        self.ranks: list[Rank] = []
        self._server = server
        self._stopper = stopper
        self._log = log
        self._node = node
        self.told: dict[int, WorkerFailure] = {}
        self._witness = Witness()
        self._evidence: dict[int, Evidence] = {}
        self._next_look = 0.0
        self._judge_at: float | None = None
        self._is_hold_over = False

    @property
    def alive(self) -> list[Rank]:
        """Ranks whose end was not seen yet."""
        return [r for r in self.ranks if r.exit is None]

    @property
    def failed(self) -> list[Rank]:
        """Ranks that failed, not ended by the agent."""
        return [r for r in self.ranks if r.state is WorkerState.FAILED]

    @property
    def is_holding(self) -> bool:
        """True while failed ranks wait to be looked at. Once one of them has gone on, the group ends as any failed one."""
        has_held = any(r.held and r.held[0] == "failure" for r in self.alive)
        return has_held and not self._is_hold_over

    @property
    def all_ready(self) -> bool:
        """True when every rank has told what it got, or is gone."""
        return all(r.is_ready or r.exit for r in self.ranks)

    def add(self, specs: Sequence[WorkerSpec], started: Sequence[Started], *, start_method: str) -> None:
        """Watch ranks that were just started."""
        for spec, one in zip(specs, started, strict=True):
            self.ranks.append(Rank(spec=spec, started=one))
            self.tell(
                "worker_started",
                spec,
                attempt=spec.attempt,
                pid=one.pid,
                start_ticks=one.start_ticks,
                start_method=start_method,
            )
        self._witness.look([one.pid for one in started])

    def look(self) -> None:
        """See which ranks became ready, ended, or told an exception.

        Raises:
            ForkServerLostError: if the forkserver is gone.
        """
        by_pid = {r.started.pid: r for r in self.ranks if r.exit is None}
        for one in self._server.exits():
            if rank := by_pid.get(one.pid):
                self._see_exit(rank, one)
                self._next_look = 0.0  # its end must not take away others that are held, and were not seen yet
        for rank in self.alive:
            if not rank.is_ready:
                self._see_ready(rank)
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_S
            self._witness.look([r.started.pid for r in self.alive])
            for rank in self.alive:
                self._see_held(rank, now)
                self._see_stuck(rank, now)
            if self._judge_at is not None and now >= self._judge_at:
                self._judge_at = None
                self.judge()

    def lose(self) -> None:
        """The forkserver is gone, and with it every rank: nobody saw how they ended."""
        for rank in self.alive:
            rank.state = WorkerState.ENDED
            rundir.remove_halves(rank.folder.path, rank.started.pid)
            rank.exit = Exit.unseen(rank.started.pid)
            self._tell_exit(rank, exit_code=None)

    def judge(self) -> list[WorkerFailure]:
        """Judge all failures of the round anew, tell those that are new or changed, and return them, the root first."""
        found = [f for f in map(self._failure_of, self.ranks) if f is not None]
        judged = [self._add_hint(f) for f in failures_judge.judge(found)]
        near = near_deaths(judged, {r.spec.local_rank: r.exit for r in self.ranks if r.exit})
        judged = [self._give_verdict(f, near if n == 0 else ()) for n, f in enumerate(judged)]
        for failure in judged:
            if self.told.get(failure.local_rank) != failure:
                self.told[failure.local_rank] = failure
                self._log.tell(
                    "worker_failed",
                    time_ns=failure.time_ns,
                    round=failure.round,
                    rank=failure.rank,
                    local_rank=failure.local_rank,
                    failure=to_json(failure),
                )
        return judged

    def _give_verdict(self, failure: WorkerFailure, near: tuple[tuple[int, int], ...]) -> WorkerFailure:
        return failures_verdict.give(failure, self._evidence[failure.local_rank], company_of(self.ranks, near))

    def _add_hint(self, failure: WorkerFailure) -> WorkerFailure:
        """A lost connection that nobody's failure explains: somebody left before the others were done."""
        left = [r.spec.rank for r in self.ranks if r.state is WorkerState.SUCCEEDED]
        if failure.followed or not left or not failures_judge.is_lost_peer(failure):
            return failure
        who = f"Rank {left[0]}" if len(left) == 1 else f"Ranks {', '.join(map(str, left))}"
        return replace(failure, hint=f"{who} had finished before: do all ranks take the same number of steps?")

    def interrupted(self) -> list[WorkerFailure]:
        """Where ranks were when they were interrupted; only those in Python code can tell."""
        told = [self._exception_of(r) for r in self.ranks]
        return [f for f in told if f is not None and f.error_type == "KeyboardInterrupt"]

    def others(self) -> list[str]:
        """One line for each rank that has no failure of its own."""
        words = {WorkerState.SUCCEEDED: "finished", WorkerState.ENDED: BY_AGENT, WorkerState.STOPPED: "stopped"}
        found = []
        for rank in (r for r in self.ranks if r.spec.local_rank not in self.told):
            text = words.get(rank.state, rank.state.value)
            has_more = rank.state in {WorkerState.ENDED, WorkerState.STOPPED} and rank.how not in {"", text}
            found.append(f"rank {rank.spec.rank}: {text}{f': {rank.how}' if has_more else ''}")
        return found

    def tell(self, kind: str, spec: WorkerSpec, *, time_ns: int | None = None, **data: Any) -> None:
        """Tell an event of one rank."""
        self._log.tell(kind, time_ns=time_ns, round=spec.round, rank=spec.rank, local_rank=spec.local_rank, **data)

    def _see_ready(self, rank: Rank) -> None:
        if worker := rundir.read_json(rank.folder.worker_json):
            rank.is_ready = True
            rank.state = WorkerState.RUNNING
            self.tell("worker_ready", rank.spec, worker=worker)

    def _see_exit(self, rank: Rank, one: Exit) -> None:
        if not rank.is_ready:
            self._see_ready(rank)
        rank.exit = one
        self._forget_held(rank)
        rank.state = self._state_of(rank, one)
        if one.exit_code:  # killed, or interrupted, in the midst of writing one
            rundir.remove_halves(rank.folder.path, one.pid)
        self._tell_exit(rank, exit_code=one.exit_code)

    def _tell_exit(self, rank: Rank, *, exit_code: int | None) -> None:
        time_ns = rank.exit.time_ns if rank.exit else steady.wall_ns()
        found_ns = rank.exit.found_ns if rank.exit else time_ns
        rank.how = way_to_end(rank.signals, exit_code=exit_code, time_ns=found_ns, is_stop=self._stopper.is_requested)
        self.tell(
            "worker_exited",
            rank.spec,
            time_ns=time_ns,
            pid=rank.started.pid,
            exit_code=exit_code,
            signal=failures_words.signal_name(exit_code),
            state=rank.state.value,
            has_result=rank.folder.result.exists(),
            how=rank.how,
            **_left_by(rank.folder, exit_code),
        )

    def _state_of(self, rank: Rank, one: Exit) -> WorkerState:
        was_signalled = rank.signalled_ns is not None and one.found_ns > rank.signalled_ns
        is_ours = self._stopper.is_requested or any(number == signal.SIGKILL for number, _ in rank.signals)
        if was_signalled and one.exit_code == -signal.SIGKILL and not is_ours:
            was_signalled = False  # we only asked it to end: somebody else killed it, and its end was long in coming
        if was_signalled and self._stopper.is_requested:
            return WorkerState.STOPPED
        if one.exit_code == 0:
            return WorkerState.SUCCEEDED
        if not was_signalled:
            return WorkerState.FAILED
        told = self._exception_of(rank)
        is_own = told is not None and rank.signalled_ns is not None and told.time_ns < rank.signalled_ns
        return WorkerState.FAILED if is_own else WorkerState.ENDED

    def _see_held(self, rank: Rank, now: float) -> None:
        """A rank that waits at its exception or breakpoint says so in a file, which it takes away when it goes on."""
        told = rundir.read_json(rank.folder.held_json, max_bytes=MAX_HELD_BYTES) if rank.is_ready else {}
        why = "failure" if told.get("why") == "failure" else "breakpoint"
        held = (why, untrusted.integer(told.get("number"))) if told else None
        if held == rank.held:
            return
        if held is None:
            self._forget_held(rank)
            rank.state = WorkerState.RUNNING
            self.tell("worker_released", rank.spec)
            return
        rank.held, rank.state = held, WorkerState.HELD
        self.tell("worker_held", rank.spec, why=why, text=untrusted.text(told.get("text"), limit=4_000))
        if why == "failure":
            self._judge_at = self._judge_at or now + JUDGE_S

    def _forget_held(self, rank: Rank) -> None:
        if rank.held and rank.held[0] == "failure":
            self._is_hold_over = True
        rank.held = rank.told_at = None

    def _see_stuck(self, rank: Rank, now: float) -> None:
        if rank.held or rank.state is WorkerState.FAILED or not rank.folder.failure_json.exists():
            return
        rank.told_at = rank.told_at or now
        if now - rank.told_at > STUCK_S and rank.signalled_ns is None:
            rank.state = WorkerState.FAILED

    def _exception_of(self, rank: Rank) -> WorkerFailure | None:
        spec = rank.spec
        return failures.read_exception(rank.folder, rank=spec.rank, local_rank=spec.local_rank, round_number=spec.round)

    def _failure_of(self, rank: Rank) -> WorkerFailure | None:
        """The rank's failure, or None.

        Also that of a rank which told one and still runs, or told one while it was being ended (a file
        that it could not save, say; but not the KeyboardInterrupt that we sent).
        """
        if rank.state is WorkerState.SUCCEEDED:
            return None
        told = self._exception_of(rank)
        is_failed = rank.state is WorkerState.FAILED
        if not is_failed and told is None:
            return None
        is_late = told is not None and rank.signalled_ns is not None and told.time_ns >= rank.signalled_ns
        if told and not is_failed and is_late and told.error_type in {"KeyboardInterrupt", "SystemExit"}:
            return None
        evidence = self._evidence[rank.spec.local_rank] = self._witness.evidence(
            rank.folder,
            pid=rank.started.pid,
            local_rank=rank.spec.local_rank,
            round_number=rank.spec.round,
            tail=failures.tail_of(rank.folder.stderr),
        )
        failure = failures.explain(
            rank.folder,
            rank=rank.spec.rank,
            local_rank=rank.spec.local_rank,
            round_number=rank.spec.round,
            pid=rank.started.pid,
            exit_code=rank.exit.exit_code if rank.exit else None,
            time_ns=rank.exit.time_ns if rank.exit else steady.wall_ns(),
            found=evidence,
            is_ended=rank.signalled_ns is not None,
            node=self._node,
        )
        return replace(failure, followed="raised while it was being ended") if is_late and not is_failed else failure


def company_of(ranks: Sequence[Rank], near: tuple[tuple[int, int], ...]) -> failures_verdict.Company:
    """What the ranks beside a failed one did."""
    return failures_verdict.Company(
        finished=tuple(r.spec.rank for r in ranks if r.state is WorkerState.SUCCEEDED),
        waiting=tuple(r.spec.rank for r in ranks if r.exit is None or r.state is WorkerState.ENDED),
        near=near,
    )


def near_deaths(judged: Sequence[WorkerFailure], exits: Mapping[int, Exit]) -> tuple[tuple[int, int], ...]:
    """Ranks that may as well have died before the root cause, each with the milliseconds between both.

    Only of deaths without a word: an exception has a time of its own.

    Args:
        judged: the root cause first.
        exits: local rank -> how it ended.
    """
    silent = [
        (f.rank, exits[f.local_rank]) for f in judged if not f.error_type and not f.followed and f.local_rank in exits
    ]
    if not silent or silent[0][0] != judged[0].rank:
        return ()
    root = silent[0][1]
    near = [(rank, one) for rank, one in silent[1:] if one.early_ns <= root.time_ns and root.early_ns <= one.time_ns]
    return tuple((rank, max(1, -(-abs(one.time_ns - root.time_ns) // 1_000_000))) for rank, one in near)


def _left_by(folder: RankDir, exit_code: int | None) -> dict[str, Any]:
    """What a rank told of its result; one that could write nothing, on a full disk, can't have told."""
    worker = rundir.read_json(folder.worker_json)
    found: dict[str, Any] = {key: worker[key] for key in ("result", "pull") if key in worker}
    if not found and exit_code == 0 and not folder.result.exists() and (hint := failures.disk_hint(folder)):
        found["result"] = {"text": "", "size_bytes": 0, "error": hint}
    return found
