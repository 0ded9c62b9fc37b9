"""Our PContext: the ranks of one round, from their start to the last one's end.

Runs in: the supervisor. Private names of torch stand here and in ``agent`` only.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import LogsSpecs, PContext, RunProcsResult
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from nb_elastic import rundir
from nb_elastic.errors import LaunchError
from nb_elastic.model import WorkerFailure, WorkerSpec, WorkerState, to_json
from nb_elastic.rundir import RankDir
from nb_elastic.supervisor import failures
from nb_elastic.supervisor.channel import EventLog
from nb_elastic.supervisor.crew import Exit, ForkServer, Started
from nb_elastic.supervisor.stopping import Stopper

SETTLE_S = 0.05
"""After a first failure the others may fail by themselves for this long before the agent ends them."""

STUCK_S = 5.0
"""A rank that told its exception and does not exit (threads of its own) counts as failed after this time."""

KILL_S = 10.0
"""How long a process may take to vanish after SIGKILL (uninterruptible sleep) before it is given up."""

TERM_S = 1.0
"""Between SIGTERM and SIGKILL when a run is stopped."""


@dataclass(slots=True, kw_only=True)
class Rank:
    """One rank of the round as the supervisor sees it; changes as things happen to it."""

    spec: WorkerSpec
    started: Started
    is_ready: bool = False
    signalled_ns: int | None = None
    exit: Exit | None = None
    state: WorkerState = WorkerState.STARTING
    told_at: float | None = None
    failure: WorkerFailure | None = None

    @property
    def folder(self) -> RankDir:
        """Its folder."""
        return RankDir(Path(self.spec.rank_dir))


class RankContext(PContext):
    """The processes of one round, started, watched and ended through the forkserver.

    Args:
        make_spec: (local rank, environment, stdout path, stderr path) -> what the rank needs.
        start_method: for the journal.
    """

    def __init__(
        self,
        *,
        name: str,
        envs: dict[int, dict[str, str]],
        logs_specs: LogsSpecs,
        make_spec: Callable[[int, Mapping[str, str], str, str], WorkerSpec],
        server: ForkServer,
        stopper: Stopper,
        log: EventLog,
        start_method: str,
        node: int,
        has_sessions: bool,
    ) -> None:
        super().__init__(name=name, entrypoint=name, args={r: () for r in envs}, envs=envs, logs_specs=logs_specs)
        self.ranks: dict[int, Rank] = {}
        self._make_spec = make_spec
        self._server = server
        self._stopper = stopper
        self._log = log
        self._start_method = start_method
        self._node = node
        self._has_sessions = has_sessions
        self._told: dict[int, WorkerFailure] = {}
        self._oom_kills = failures.oom_kill_count()
        self._is_settled = False
        self._is_closed = False
        self._is_lost = False

    # -- torch's hooks -----------------------------------------------------------------------

    def _start(self) -> None:
        specs = [self._make_spec(r, self.envs[r], self.stdouts[r], self.stderrs[r]) for r in sorted(self.envs)]
        for one, spec in zip(self._server.start(specs), specs, strict=True):
            self.ranks[spec.local_rank] = Rank(spec=spec, started=one)
            self._tell(
                "worker_started",
                spec,
                attempt=spec.attempt,
                pid=one.pid,
                start_ticks=one.start_ticks,
                start_method=self._start_method,
            )

    def _poll(self) -> RunProcsResult | None:
        self.look()
        if not self.failed:
            if all(r.exit for r in self.ranks.values()):
                return RunProcsResult(
                    return_values=dict.fromkeys(self.ranks), stdouts=self.stdouts, stderrs=self.stderrs
                )
            return None
        self._settle()
        return RunProcsResult(
            failures={
                r.spec.local_rank: ProcessFailure(
                    local_rank=r.spec.local_rank,
                    pid=r.started.pid,
                    exitcode=r.exit.exit_code if r.exit else 1,
                    error_file=self.error_files[r.spec.local_rank],
                )
                for r in self.failed
            },
            stdouts=self.stdouts,
            stderrs=self.stderrs,
        )

    def pids(self) -> dict[int, int]:
        """See base class."""
        return {local_rank: r.started.pid for local_rank, r in self.ranks.items()}

    def _close(self, death_sig: signal.Signals, timeout: int = 30) -> None:
        """End what still runs: the group's end, or the stop's three steps."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self.look()
            if not self._stopper.is_requested:
                self._signal(death_sig)
                end = time.monotonic() + timeout
                self._wait_gone(lambda: 0.0 if self._stopper.is_requested else end)
            if self._stopper.is_requested:
                self._stop()
            self._signal(signal.SIGKILL)
            end = time.monotonic() + KILL_S
            self._wait_gone(lambda: end)
            self._server.sweep()
            self.look()
        except LaunchError:  # the forkserver is gone, and with it every rank
            self._lose()
        self._tell_stuck()
        self.tell_failures()

    # -- what the agent asks -----------------------------------------------------------------

    @property
    def failed(self) -> list[Rank]:
        """Ranks that failed by themselves, or follow one that did."""
        return [r for r in self.ranks.values() if r.state is WorkerState.FAILED]

    @property
    def all_ready(self) -> bool:
        """True when every rank has told what it got, or is gone."""
        return all(r.is_ready or r.exit for r in self.ranks.values())

    def look(self) -> None:
        """See which ranks became ready, ended, or told an exception; tell the journal.

        Raises:
            ForkServerLostError: if the forkserver is gone.
        """
        for rank in self.ranks.values():
            if not rank.is_ready and not rank.exit:
                self._see_ready(rank)
        by_pid = {r.started.pid: r for r in self.ranks.values() if r.exit is None}
        for one in self._server.exits():
            if rank := by_pid.get(one.pid):
                self._see_exit(rank, one)
        for rank in self.ranks.values():
            self._see_stuck(rank)

    def tell_failures(self) -> list[WorkerFailure]:
        """Judge all failures of the round anew, tell the journal those that are new or changed, and return them."""
        found: list[WorkerFailure] = []
        for rank in self.ranks.values():
            failure = self._failure_of(rank)
            if failure is not None:
                found.append(failure)
        judged = failures.judge(found)
        for failure in judged:
            if self._told.get(failure.local_rank) != failure:
                self._told[failure.local_rank] = failure
                self._log.tell(
                    "worker_failed",
                    time_ns=failure.time_ns,
                    round=failure.round,
                    rank=failure.rank,
                    local_rank=failure.local_rank,
                    failure=to_json(failure),
                )
        return judged

    def others(self) -> list[str]:
        """One line for each rank that has no failure of its own."""
        words = {
            WorkerState.SUCCEEDED: "finished",
            WorkerState.ENDED: "ended by the agent",
            WorkerState.STOPPED: "stopped",
        }
        return [
            f"rank {r.spec.rank}: {words.get(r.state, r.state.value)}"
            for r in self.ranks.values()
            if r.spec.local_rank not in self._told
        ]

    # -- seeing ------------------------------------------------------------------------------

    def _see_ready(self, rank: Rank) -> None:
        worker = rundir.read_json(rank.folder.worker_json)
        if worker:
            rank.is_ready = True
            rank.state = WorkerState.RUNNING
            self._tell("worker_ready", rank.spec, worker=worker)

    def _see_exit(self, rank: Rank, one: Exit) -> None:
        if not rank.is_ready:
            self._see_ready(rank)
        rank.exit = one
        rank.state = self._state_of(rank, one)
        worker = rundir.read_json(rank.folder.worker_json)
        self._tell(
            "worker_exited",
            rank.spec,
            time_ns=one.time_ns,
            pid=one.pid,
            exit_code=one.exit_code,
            signal=failures.signal_name(one.exit_code),
            state=rank.state.value,
            has_result=rank.folder.result.exists(),
            result=worker.get("result"),
            pull=worker.get("pull"),
        )

    def _state_of(self, rank: Rank, one: Exit) -> WorkerState:
        was_signalled = rank.signalled_ns is not None and one.time_ns > rank.signalled_ns
        if was_signalled and self._stopper.is_requested:
            return WorkerState.STOPPED
        if one.exit_code == 0:
            return WorkerState.SUCCEEDED
        if not was_signalled:
            return WorkerState.FAILED
        told = self._exception_of(rank)
        is_own = told is not None and rank.signalled_ns is not None and told.time_ns < rank.signalled_ns
        return WorkerState.FAILED if is_own else WorkerState.ENDED

    def _see_stuck(self, rank: Rank) -> None:
        """A rank that told its exception but does not exit, because it waits for a thread of its own, has failed."""
        if rank.exit or rank.state is WorkerState.FAILED or not rank.folder.failure_json.exists():
            return
        now = time.monotonic()
        rank.told_at = rank.told_at or now
        if now - rank.told_at > STUCK_S and rank.signalled_ns is None:
            rank.state = WorkerState.FAILED

    def _exception_of(self, rank: Rank) -> WorkerFailure | None:
        spec = rank.spec
        return failures.read_exception(rank.folder, rank=spec.rank, local_rank=spec.local_rank, round_number=spec.round)

    def _failure_of(self, rank: Rank) -> WorkerFailure | None:
        """The rank's failure; also of a rank that told one and still runs, or told one while it was being ended."""
        told = self._exception_of(rank)
        if rank.state is not WorkerState.FAILED and told is None:
            return None
        if rank.state is WorkerState.SUCCEEDED:
            return None
        is_late = told is not None and rank.signalled_ns is not None and told.time_ns >= rank.signalled_ns
        if rank.state is not WorkerState.FAILED and is_late and told and told.error_type == "KeyboardInterrupt":
            return None
        failure = failures.explain(
            rank.folder,
            rank=rank.spec.rank,
            local_rank=rank.spec.local_rank,
            round_number=rank.spec.round,
            pid=rank.started.pid,
            exit_code=rank.exit.exit_code if rank.exit else None,
            time_ns=rank.exit.time_ns if rank.exit else time.time_ns(),
            oom_kills=failures.oom_kill_count() - self._oom_kills,
            node=self._node,
        )
        if is_late and rank.state is not WorkerState.FAILED:
            failure = replace(failure, followed="raised while it was being ended")
        return failure

    # -- ending ------------------------------------------------------------------------------

    @property
    def _alive(self) -> list[Rank]:
        return [r for r in self.ranks.values() if r.exit is None]

    def _settle(self) -> None:
        if self._is_settled:
            return
        self._is_settled = True
        deadline = time.monotonic() + SETTLE_S
        while self._alive and (left := deadline - time.monotonic()) > 0:
            self._server.wait(left)
            self.look()
        self.tell_failures()

    def _signal(self, number: int) -> None:
        """Signal all that live; SIGKILL reaches their whole sessions."""
        alive = self._alive
        for rank in alive:
            rank.signalled_ns = rank.signalled_ns or time.time_ns()
            self._tell("signal_sent", rank.spec, signal=signal.Signals(number).name)
        has_session = number == signal.SIGKILL or self._has_sessions
        self._server.signal([r.started.pid for r in alive], number, has_session=has_session)

    def _stop(self) -> None:
        """SIGINT, so that user code can save; after the grace SIGTERM, a second later SIGKILL (by the caller)."""
        if not self._alive:
            return
        self._stopper.acknowledge((self._stopper.until or 0.0) - time.monotonic() + TERM_S + KILL_S)
        self._signal(signal.SIGINT)
        self._wait_gone(lambda: self._stopper.until or 0.0)
        self._signal(signal.SIGTERM)
        end = time.monotonic() + TERM_S
        self._wait_gone(lambda: end)

    def _wait_gone(self, until: Callable[[], float]) -> None:
        """Wait for the last rank's end, until a time (``time.monotonic``) that may change meanwhile."""
        while self._alive and (left := until() - time.monotonic()) > 0:
            self._server.wait(min(left, 0.1))
            self.look()

    def _lose(self) -> None:
        for rank in self._alive:
            rank.state = WorkerState.ENDED
            self._tell(
                "worker_exited",
                rank.spec,
                pid=rank.started.pid,
                exit_code=None,
                signal="",
                state="ended",
                has_result=False,
            )
            rank.exit = Exit(pid=rank.started.pid, exit_code=-signal.SIGKILL, time_ns=time.time_ns())

    def _tell_stuck(self) -> None:
        for rank in self._alive:
            self._log.note(
                f"Rank {rank.spec.rank} (pid {rank.started.pid}) did not end after SIGKILL: it hangs in the kernel, "
                "most often on a GPU or a network disk. The machine may need a restart.",
                level="warning",
            )

    def _tell(self, kind: str, spec: WorkerSpec, *, time_ns: int | None = None, **data: Any) -> None:
        self._log.tell(kind, time_ns=time_ns, round=spec.round, rank=spec.rank, local_rank=spec.local_rank, **data)
