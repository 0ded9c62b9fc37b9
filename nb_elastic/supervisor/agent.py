"""Our agent: torch's LocalElasticAgent, telling each step to the journal and starting ranks in our way.

Runs in: the supervisor. Private names of torch stand here and in ``context`` only.
"""

from __future__ import annotations

import inspect
import os
import signal
import socket
from collections.abc import Mapping
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.events import Event, EventSource
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.utils import macros

from nb_elastic import model
from nb_elastic.model import LaunchSpec, WorkerFailure
from nb_elastic.supervisor import failures, rank_env
from nb_elastic.supervisor.channel import EventLog
from nb_elastic.supervisor.context import RankContext
from nb_elastic.supervisor.crew import ForkServer
from nb_elastic.supervisor.logs import FilteredLog, RunLogs, line_prefix
from nb_elastic.supervisor.rendezvous import HandlerBundle
from nb_elastic.supervisor.rank_env import Place
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
        nproc: ranks of this node.
        start_method: how ranks are started, for the journal.
        is_exec: start a new interpreter for each rank.
    """

    def __init__(
        self,
        launch: LaunchSpec,
        *,
        bundle: HandlerBundle,
        nproc: int,
        logs: RunLogs,
        server: ForkServer,
        stopper: Stopper,
        log: EventLog,
        plan: Any,
        start_method: str,
        is_exec: bool,
    ) -> None:
        options = launch.options
        spec = WorkerSpec(
            **_accepted(
                WorkerSpec,
                role=options.role,
                local_world_size=nproc,
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
        self._plan = plan
        self._method = start_method
        self._is_exec = is_exec
        self._end_s = options.shutdown_timeout
        self._round = -1
        self._attempt = 0
        self._ranks: dict[int, int] = {}
        self._filtered: list[FilteredLog] = []
        self._is_round_open = False
        self.failures: list[WorkerFailure] = []
        self.text = ""

    # -- the life of a round -----------------------------------------------------------------

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        self._round += 1
        self._attempt = worker_group.spec.max_restarts - self._remaining_restarts
        self._is_round_open = True
        where = {"round": self._round, "attempt": self._attempt}
        self._log.tell("rendezvous_started", **where, backend=self._bundle.backend)
        with self._stopper.interruptible():
            super()._rendezvous(worker_group)
        self._log.tell(
            "rendezvous_finished",
            **where,
            group_rank=worker_group.group_rank,
            group_world_size=worker_group.group_world_size,
            world_size=worker_group.workers[0].world_size,
            master_addr=worker_group.master_addr,
            master_port=worker_group.master_port,
        )

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
        try:
            context.start()
        finally:
            self._stopper.install(self._launch.options.signals_to_handle)
        self._open_filtered(context)
        return context.pids()

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        context = self._context
        wait_s = self._launch.options.monitor_interval
        with self._stopper.interruptible():
            self._server.wait(wait_s if context.all_ready else min(wait_s, READY_POLL_S))
        for one in self._filtered:
            one.pump()
        self._log.flush()
        return super()._monitor_workers(worker_group)

    def _stop_workers(self, worker_group: WorkerGroup, *args: Any, **kwargs: Any) -> None:
        self._shutdown(timeout=self._end_s)

    def _shutdown(
        self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30, *args: Any, **kwargs: Any
    ) -> None:
        super()._shutdown(death_sig, timeout)
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
            super()._exit_barrier()

    def end_round(self, cause: str) -> None:
        """Tell the journal why the round ended, with the whole story of a failure; once a round."""
        if not self._is_round_open:
            return
        self._is_round_open = False
        self.failures, self.text = [], ""
        if isinstance(self._pcontext, RankContext):
            self.failures = self._context.tell_failures()
            if cause != "success":
                others = self._context.others() if cause == "failure" else []
                self.text = (
                    failures.text_of(self.failures, others=others, run_dir=self._launch.run_dir)
                    if self.failures or cause == "failure"
                    else ""
                )
        self._log.tell("round_ended", round=self._round, attempt=self._attempt, cause=cause, text=self.text)

    @property
    def has_failed(self) -> bool:
        """True if a rank of the last round failed."""
        return isinstance(self._pcontext, RankContext) and bool(self._pcontext.failed)

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
        """torch's looks up the host's full name in the DNS each time, which may hang; nobody reads it by default."""
        if self._launch.options.event_log_handler == "null":
            return Event(
                name=f"torchelastic.worker.status.{state}", source=source, metadata={"hostname": socket.gethostname()}
            )
        return super()._construct_event(state, source, *args, **kwargs)

    def _env_of(self, group: WorkerGroup, worker: Any) -> dict[str, str]:
        spec = group.spec
        place = Place(
            rank=worker.global_rank,
            local_rank=worker.local_rank,
            role_rank=worker.role_rank,
            world_size=worker.world_size,
            role_world_size=worker.role_world_size,
            local_world_size=spec.local_world_size,
            group_rank=group.group_rank or 0,
            group_world_size=group.group_world_size or 1,
            master_addr=group.master_addr or "",
            master_port=group.master_port or 0,
            restart_count=self._attempt,
            uses_agent_store=bool(spec.rdzv_handler.use_agent_store),
        )
        return rank_env.build(
            self._launch,
            place,
            folder=self._logs.rank(worker.local_rank),
            defaults=self._bundle.env,
            cpus=rank_env.allowed_cpus(),
            devices=self._devices_of(worker.local_rank),
        )

    def _devices_of(self, local_rank: int) -> str | None:
        return rank_env.visible_devices(self._launch, local_rank)

    def _make_spec(self, local_rank: int, env: Mapping[str, str], stdout: str, stderr: str) -> model.WorkerSpec:
        launch = self._launch
        argv = tuple(macros.substitute(list(launch.entrypoint.argv), str(local_rank)))
        cpus, binding, device = (), "", env.get("CUDA_VISIBLE_DEVICES", "")
        if self._plan is not None:
            cpus, binding = tuple(self._plan.cpus[local_rank]), self._plan.text[local_rank]
            device = self._plan.devices[local_rank] if self._plan.devices else ""
        entrypoint = model.Entrypoint(kind=launch.entrypoint.kind, target=launch.entrypoint.target, argv=argv)
        rank = self._ranks[local_rank]
        return model.WorkerSpec(
            run_id=launch.run_id,
            rank=rank,
            local_rank=local_rank,
            round=self._round,
            attempt=self._attempt,
            entrypoint=entrypoint,
            rank_dir=str(self._logs.rank(local_rank).path),
            env=env,
            cwd=launch.cwd,
            sys_path=launch.sys_path,
            umask=launch.umask,
            payload=launch.payload,
            buffers_fd=launch.buffers_fd,
            pull=launch.options.pull if rank == 0 else (),
            cpus=cpus,
            binding=binding,
            device=device,
            stdout=stdout,
            stderr=stderr,
            is_exec=self._is_exec,
        )

    def _open_filtered(self, context: RankContext) -> None:
        options = self._launch.options
        prefixes = {
            local_rank: line_prefix(
                options.log_line_prefix_template, role=options.role, rank=rank, local_rank=local_rank
            )
            for local_rank, rank in self._ranks.items()
        }
        wanted = (
            ("filtered_stdout.log", options.duplicate_stdout_filters, context.stdouts),
            ("filtered_stderr.log", options.duplicate_stderr_filters, context.stderrs),
        )
        self._filtered = [
            FilteredLog(self._logs.round_dir / name, sources=sources, filters=filters, prefixes=prefixes)
            for name, filters, sources in wanted
            if filters
        ]


def _accepted(cls: type[Any], **kwargs: Any) -> dict[str, Any]:
    """Leave out what an older torch's constructor does not take."""
    known = inspect.signature(cls).parameters
    return {k: v for k, v in kwargs.items() if k in known}
