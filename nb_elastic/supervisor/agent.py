"""Our agent: torch's LocalElasticAgent, telling each step to the journal and starting ranks in our way.

Runs in: the supervisor. Private names of torch stand here and in ``context`` only.
"""

from __future__ import annotations

import inspect
import os
import signal
import socket
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.events.api import Event, EventSource
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.utils.api import macros

from nb_elastic import model
from nb_elastic.model import LaunchSpec, WorkerFailure
from nb_elastic.supervisor import failures_words, rank_env
from nb_elastic.supervisor.channel import EventLog
from nb_elastic.supervisor.context import RankContext
from nb_elastic.supervisor.crew import ForkServer
from nb_elastic.supervisor.logs import FilteredLog, RunLogs, open_filtered
from nb_elastic.supervisor.placement import Placement
from nb_elastic.supervisor.pulse import Pulse, Subject
from nb_elastic.supervisor.regrouping import meet, misses_a_node, wait_for_ends
from nb_elastic.supervisor.rendezvous import HandlerBundle
from nb_elastic.supervisor.rendezvous_c10d import GroupIsOverError
from nb_elastic.supervisor.stopping import Stopper

TICK_S = 0.001
"""torch's own sleep between two looks; we wait for exits instead, and are told at once."""

READY_POLL_S = 0.02
"""How often a rank that is starting is looked at."""


def death_exception(number: int) -> SignalException:
    """What torch's agent takes as the order to end."""
    sigval = signal.Signals(number)
    return SignalException(f"Process {os.getpid()} got signal: {sigval}", sigval=sigval)


class Agent(LocalElasticAgent):
    """Runs the ranks of one node, round after round.

    Args:
        launch: what the user asked for.
        bundle: the rendezvous.
        placement: how many ranks, and what each one gets.
        start_method: how ranks are started, for the journal.
        is_exec: start a new interpreter for each rank.
    """

    def __init__(
        self,
        launch: LaunchSpec,
        *,
        bundle: HandlerBundle,
        placement: Placement,
        logs: RunLogs,
        server: ForkServer,
        stopper: Stopper,
        log: EventLog,
        pulse: Pulse,
        start_method: str,
        is_exec: bool,
    ) -> None:
        options = launch.options
        spec = WorkerSpec(
            **_accepted(
                WorkerSpec,
                role=options.role,
                local_world_size=placement.nproc,
                entrypoint=launch.entrypoint.target or launch.entrypoint.kind,
                args=tuple(launch.entrypoint.argv),
                rdzv_handler=bundle.handler,
                max_restarts=options.max_restarts,
                monitor_interval=TICK_S,
                master_addr=bundle.master_addr,
                master_port=bundle.master_port,
                local_addr=bundle.local_addr,
                event_log_handler=options.event_log_handler,
                virtual_local_rank=options.virtual_local_rank,
            )
        )
        super().__init__(
            spec,
            logs,
            **_accepted(
                LocalElasticAgent,
                log_line_prefix_template=options.log_line_prefix_template,
                shutdown_timeout=options.shutdown_timeout,
            ),
        )
        self._launch = launch
        self._bundle = bundle
        self._logs = logs
        self._server = server
        self._stopper = stopper
        self._log = log
        self._pulse = pulse
        self._placement = placement
        self._method = start_method
        self._is_exec = is_exec
        self._end_s = options.shutdown_timeout
        self._round, self._attempt, self._is_round_open = -1, 0, False
        self._ranks: dict[int, int] = {}
        self._filtered: list[FilteredLog] = []
        self.failures: list[WorkerFailure] = []
        self.text = ""

    # -- the life of a round -----------------------------------------------------------------

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        group = self._bundle.group
        with self._stopper.interruptible():
            # All nodes call a round by the same number, also one that came late.
            self._round = max(self._round + 1, group.coming_round() if group else 0)
        self._attempt = worker_group.spec.max_restarts - self._remaining_restarts
        self._is_round_open = True
        self._log.tell("rendezvous_started", **self._number, backend=self._bundle.backend)
        with self._stopper.interruptible():
            meet(self._bundle.handler, partial(super()._rendezvous, worker_group))
            if group:
                self._round, self._attempt = group.group_round, group.agree(self._attempt)
        self._remaining_restarts = max(0, worker_group.spec.max_restarts - self._attempt)
        self._log.tell("rendezvous_finished", **self._number, **_meeting_of(worker_group))

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self._stopper.check()
        self._logs.begin(self._round)
        envs = {w.local_rank: self._env_of(worker_group, w) for w in worker_group.workers}
        for hook in ("_setup_local_watchdog", "_setup_healthcheck"):
            if method := getattr(self, hook, None):
                method(**({"envs": envs} if hook == "_setup_local_watchdog" else {}))
        self._pcontext = context = RankContext(
            name=self._launch.options.role,
            envs=envs,
            logs_specs=self._logs,
            make_spec=self._make_spec,
            server=self._server,
            stopper=self._stopper,
            log=self._log,
            start_method=self._method,
            node=self._launch.node,
            has_sessions=self._launch.entrypoint.kind == "program",
        )
        self._ranks = {w.local_rank: w.global_rank for w in worker_group.workers}
        context.start()
        subjects = _subjects(context.pids(), self._ranks, self._logs, self._placement)
        self._pulse.begin(self._round, subjects, gpus=self._placement.gpus)
        self._filtered = open_filtered(
            self._launch.options, self._logs.round_dir, self._ranks, stdouts=context.stdouts, stderrs=context.stderrs
        )
        return context.pids()

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        context = self._context
        wait_s = self._launch.options.monitor_interval
        with self._stopper.interruptible():
            self._server.wait(wait_s if context.watch.all_ready else min(wait_s, READY_POLL_S))
        for one in self._filtered:
            one.pump()
        self._log.flush()
        result: RunResult = super()._monitor_workers(worker_group)
        has_failed = result.state in {WorkerState.FAILED, WorkerState.UNHEALTHY}
        if has_failed and misses_a_node(self._bundle.group, self._context.watch.told.values(), self._stopper):
            return RunResult(state=WorkerState.HEALTHY)  # torch then sees that the group has changed
        return result

    def _stop_workers(self, worker_group: WorkerGroup) -> None:  # noqa: ARG002  torch's signature
        self._shutdown()

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:  # noqa: ARG002
        if self._pcontext:  # here, because torch 2.9 takes no time-out and passes none on; closing twice does no harm
            self._pcontext.close(death_sig, self._end_s)
        super()._shutdown(death_sig)
        for one in self._filtered:
            one.close()
        self._filtered = []

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        is_membership = worker_group.state == WorkerState.HEALTHY
        self._stop_workers(worker_group)
        self.end_round("membership" if is_membership else "failure")
        super()._restart_workers(worker_group)

    def _exit_barrier(self) -> None:
        with self._stopper.interruptible():
            if self._bundle.group:
                wait_for_ends(self._bundle.group)
            else:
                super()._exit_barrier()  # type: ignore[no-untyped-call]

    def end_round(self, cause: str, *, text: str = "") -> None:
        """Tell the journal why the round ended, with the whole story of a failure; once a round.

        Args:
            text: the story where the ranks themselves know none.
        """
        if not self._is_round_open:
            return
        self._is_round_open = False
        self._pulse.end()
        self.failures, self.text = [], text
        if isinstance(self._pcontext, RankContext):
            self.failures = self._pcontext.watch.judge()
        if not text and (cause == "failure" or (self.failures and cause != "success")):
            others = self._context.watch.others() if cause == "failure" and self._pcontext else []
            self.text = failures_words.text_of(self.failures, others=others, run_dir=self._launch.run_dir)
        self._log.tell("round_ended", **self._number, cause=cause, text=self.text)

    @property
    def _number(self) -> dict[str, int]:
        return {"round": self._round, "attempt": self._attempt}

    @property
    def has_begun(self) -> bool:
        """True once ranks were started."""
        return isinstance(self._pcontext, RankContext)

    def interrupted(self) -> list[WorkerFailure]:
        """What the ranks of the last round told when they were interrupted."""
        return self._context.watch.interrupted() if self.has_begun else []

    def run_to_end(self) -> bool:
        """Run round after round until the ranks are done; True if they succeeded.

        Raises:
            SignalException: when the run is to be stopped.
            GroupIsOverError: if the rendezvous was closed before this node could take part.
        """
        result: RunResult | None = self.run()
        if result is None:  # torch's way to tell a graceful exit
            raise GroupIsOverError("The rendezvous was closed: the run was already over when this node came.")
        has_failed = isinstance(self._pcontext, RankContext) and bool(self._pcontext.watch.failed)
        return result.state == WorkerState.SUCCEEDED and not has_failed

    def leave(self, *, is_stopped: bool) -> None:
        """Leave the rendezvous. A stopped node does not close it for the others, as torch does it."""
        if not is_stopped:
            self._bundle.handler.shutdown()

    # -- parts -------------------------------------------------------------------------------

    @property
    def _context(self) -> RankContext:
        if not isinstance(self._pcontext, RankContext):
            raise TypeError("no rank was started")
        return self._pcontext

    def _construct_event(self, state: str, source: EventSource, *args: Any, **kwargs: Any) -> Event:
        """Torch's looks up the host's full name in the DNS each time, which may hang; nobody reads it by default."""
        if self._launch.options.event_log_handler == "null":
            return Event(
                name=f"torchelastic.worker.status.{state}", source=source, metadata={"hostname": socket.gethostname()}
            )
        return super()._construct_event(state, source, *args, **kwargs)

    def _env_of(self, group: WorkerGroup, worker: Any) -> dict[str, str]:
        place = rank_env.place_of(group, worker, restart_count=self._attempt)
        return rank_env.build(
            self._launch,
            place,
            folder=self._logs.rank(worker.local_rank),
            defaults=self._bundle.env,
            cpus=self._placement.usable_cpus,
            cuda_visible=self._placement.cuda_visible(worker.local_rank),
        )

    def _make_spec(self, local_rank: int, env: Mapping[str, str], stdout: str, stderr: str) -> model.WorkerSpec:
        return rank_env.worker_spec(
            self._launch,
            self._placement,
            rank=self._ranks[local_rank],
            local_rank=local_rank,
            round_number=self._round,
            attempt=self._attempt,
            argv=macros.substitute(list(self._launch.entrypoint.argv), str(local_rank)),
            env=env,
            folder=self._logs.rank(local_rank),
            stdout=stdout,
            stderr=stderr,
            is_exec=self._is_exec,
        )


def _meeting_of(group: WorkerGroup) -> dict[str, Any]:
    """What the rendezvous settled for this node."""
    return {
        "group_rank": group.group_rank,
        "group_world_size": group.group_world_size,
        "world_size": group.workers[0].world_size,
        "master_addr": group.master_addr,
        "master_port": group.master_port,
    }


def _subjects(pids: Mapping[int, int], ranks: Mapping[int, int], logs: RunLogs, placement: Placement) -> list[Subject]:
    """The ranks of a round, for the pulse; ``pids`` and ``ranks`` are by local rank."""
    return [
        Subject(rank=ranks[local], local_rank=local, pid=pid, folder=logs.rank(local), gpu=placement.gpu(local))
        for local, pid in pids.items()
    ]


def _accepted(cls: type[Any], **kwargs: Any) -> dict[str, Any]:
    """Leave out what an older torch's constructor does not take."""
    known = inspect.signature(cls).parameters
    return {k: v for k, v in kwargs.items() if k in known}
