"""Wires the parts of one node's share of a run, and sees to the order of their end.

Runs in: the supervisor.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.events.handlers import get_logging_handler
from torch.distributed.elastic.metrics import initialize_metrics
from torch.distributed.elastic.metrics.api import MetricsConfig
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.rendezvous import RendezvousError as TorchRendezvousError

from nb_elastic import lifeline, machine
from nb_elastic.errors import ElasticError, LaunchError
from nb_elastic.model import LaunchSpec
from nb_elastic.rundir import RunDir
from nb_elastic.supervisor import agent as agents
from nb_elastic.supervisor import failures_words, run_verdict
from nb_elastic.supervisor import placement as placing
from nb_elastic.supervisor.agent import Agent
from nb_elastic.supervisor.channel import EventLog, FrameDecoder, FrameReader
from nb_elastic.supervisor.crew import ForkServer, ForkServerLostError
from nb_elastic.supervisor.hang_words import BY_HANG, HANG_AFTER_S, hang_text
from nb_elastic.supervisor.hangs import HangWatch
from nb_elastic.supervisor.logs import RunLogs, load_specs
from nb_elastic.supervisor.pulse import Pulse
from nb_elastic.supervisor.rendezvous_c10d import GroupIsOverError
from nb_elastic.supervisor.run_verdict import Verdict
from nb_elastic.supervisor.stopping import LOST_GRACE_S, Stopper, timeout_text
from nb_elastic.supervisor.upkeep import Upkeep
from nb_elastic.supervisor.vigil import owner_of

SUCCEEDED, FAILED, STOPPED, NOT_STARTED = 0, 1, 2, 3
"""Exit codes of a supervisor."""

RETRY_S, DETACHED_RETRY_S = 2.0, 30.0
"""How long a last word waits for room in the journal; of a detached run nobody else has heard it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What was made ready before the first thread.

    Attributes:
        server: starts the ranks.
        can_fork: ranks may be forked from the warm state.
        decoder: holds what was read of stdin already.
        started_at: when (``time.monotonic``) the launch came.
        received_ns: the same in nanoseconds since the epoch.
        notes: (level, text) to tell the user once.
    """

    server: ForkServer
    can_fork: bool
    decoder: FrameDecoder
    started_at: float
    received_ns: int = 0
    notes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    code: int
    state: str
    text: str = ""
    root_rank: int | None = None
    verdict: Verdict = run_verdict.NONE

    def tell(self, log: EventLog) -> None:
        """The run's last word."""
        log.tell(
            "run_finished",
            state=self.state,
            root_rank=self.root_rank,
            text=self.text,
            category=self.verdict.category,
            reasons=list(self.verdict.reasons),
        )


def run(spec: LaunchSpec, ground: Ground) -> int:
    """Run one node's share of a run to its end; returns the supervisor's exit code."""
    folder = RunDir(Path(spec.run_dir))
    log = EventLog(folder, node=spec.node)
    log.tell("mark", time_ns=ground.received_ns, name="received")
    timeout_s = spec.options.timeout
    stopper = Stopper(
        folder,
        make_exception=agents.death_exception,
        on_request=lambda by, grace_s: log.tell("stop_requested", by=by, grace_s=grace_s),
        on_stuck=lambda: _give_up(spec, log, ground.server, stopper, pulse),
        timeout_s=None if timeout_s is None else max(0.0, ground.started_at + timeout_s - time.monotonic()),
    )
    hangs = HangWatch(
        folder,
        log=log,
        stopper=stopper,
        after_s=spec.options.hang_after or HANG_AFTER_S,
        is_stop=spec.options.on_hang == "stop",
        has_others=not spec.options.is_one_node,
        is_driven=bool(spec.driven_by),
    )
    pulse = Pulse(folder, node=spec.level, hangs=hangs)
    stopper.install(spec.options.signals_to_handle)
    stopper.start()

    def on_message(message: Mapping[str, Any]) -> None:
        if message.get("type") == "stop":
            stopper.request(by=str(message.get("by") or "somebody"), grace_s=_seconds(message.get("grace_s")))

    def on_end() -> None:
        if not spec.is_detached:
            stopper.request(by="the end of whoever started it", grace_s=LOST_GRACE_S)

    is_alone = bool(spec.driven_by) or spec.options.is_one_node  # a driver gives each node a journal of its own
    upkeep = Upkeep(folder, log, stopper, is_alone=is_alone)
    with FrameReader(on_message, on_end, decoder=ground.decoder, owner=owner_of(spec)), upkeep:
        _tell_start(log, ground)
        stopper.heed()  # whoever comes later knows our pid
        try:
            end = _run_agent(spec, ground, stopper, log, pulse)
            if end.code == SUCCEEDED:  # every rank is gone and what it left was swept: nobody need wait for our own end
                stopper.close()
                end.tell(log)
                log.hang_up(timeout_s=1.0)
        finally:
            ground.server.close()
            stopper.close()
        if end.code != SUCCEEDED:
            end.tell(log)
    log.flush(timeout_s=1.0)
    log.retry(DETACHED_RETRY_S if spec.is_detached else RETRY_S)
    if is_alone:
        log.release()
    pulse.close()
    return end.code


def _run_agent(spec: LaunchSpec, ground: Ground, stopper: Stopper, log: EventLog, pulse: Pulse) -> _End:
    """Build the agent, let it run, and say how that ended."""
    agent: Agent | None = None
    try:
        agent = _make_agent(spec, ground, stopper, log, pulse)
        if agent.run_to_end():
            agent.end_round("success")
            return _End(code=SUCCEEDED, state="succeeded")
        return _failure(agent)
    except SignalException:
        return _stopped(spec, agent, stopper, pulse)
    except ForkServerLostError as e:
        text = f"{e}\nLogs of all ranks: {spec.run_dir}"
        if agent is not None:
            agent.end_round("failure", text=text)
        return _End(code=FAILED, state="failed", text=text, verdict=run_verdict.of_lost_server(ground.server.pid))
    except ElasticError as e:
        if spec.driven_by and isinstance(e, GroupIsOverError) and not (agent and agent.has_begun):
            return _End(code=SUCCEEDED, state="succeeded", text="The run was over before this node could take part.")
        return _End(code=NOT_STARTED, state="failed", text=str(e), verdict=run_verdict.of_error(e))
    except TorchRendezvousError as e:
        return _lost_group(spec, agent, e)
    except Exception as e:  # noqa: BLE001  the border of the process: torch or a plugin raised something we do not know
        import traceback

        traceback.print_exc()
        text = f"The agent failed: {type(e).__name__}: {e}\nIts own log is {RunDir(Path(spec.run_dir)).supervisor_log}"
        return _End(code=NOT_STARTED, state="failed", text=text, verdict=run_verdict.of_error(e))
    finally:
        pulse.end()
        if agent is not None:
            agent.leave(is_stopped=stopper.is_requested)


def _failure(agent: Agent) -> _End:
    agent.end_round("failure")
    root = agent.failures[0].rank if agent.failures else None
    verdict = run_verdict.of_failures(agent.failures)
    return _End(code=FAILED, state="failed", text=agent.text, root_rank=root, verdict=verdict)


def _lost_group(spec: LaunchSpec, agent: Agent | None, error: TorchRendezvousError) -> _End:
    """The nodes can't agree (any more): that ends a run that has begun, or keeps it from beginning."""
    text = (
        f"The rendezvous failed ({type(error).__name__}: {error}): this node lost the place where the nodes of the run "
        f"meet, or could not use it. Does the node that hosts it (--rdzv-endpoint) still run, and can it be reached?\n"
        f"Logs of all ranks: {spec.run_dir}"
    )
    has_begun = agent is not None and agent.has_begun
    if agent is not None:
        agent.end_round("failure", text=text)
    verdict = run_verdict.of_lost_meeting(error)
    return _End(code=FAILED if has_begun else NOT_STARTED, state="failed", text=text, verdict=verdict)


def _stopped(spec: LaunchSpec, agent: Agent | None, stopper: Stopper, pulse: Pulse) -> _End:
    if agent is not None:
        agent.end_round("failure" if stopper.is_timeout else "stopped")
    if stopper.is_timeout:
        text, verdict = _time_is_up(spec, stopper, pulse)
        where = ""
        if agent is not None and stopper.by != BY_HANG:  # a hang's text names the places already
            where = failures_words.where_text(agent.interrupted())
        return _End(code=FAILED, state="failed", text=f"{text}\n{where}".rstrip(), verdict=verdict)
    return _End(code=STOPPED, state="stopped", text=f"stopped by {stopper.by}")


def _time_is_up(spec: LaunchSpec, stopper: Stopper, pulse: Pulse) -> tuple[str, Verdict]:
    """The run's last word when it took too long, or hung."""
    if stopper.by == BY_HANG:
        return hang_text(pulse.hang_text), run_verdict.of_hang(spec.options.hang_after or HANG_AFTER_S)
    return timeout_text(spec.options.timeout), run_verdict.of_timeout(spec.options.timeout)


def _make_agent(spec: LaunchSpec, ground: Ground, stopper: Stopper, log: EventLog, pulse: Pulse) -> Agent:
    from nb_elastic.supervisor import rendezvous

    options = spec.options
    for name, value in {**spec.env, **options.env}.items():
        if name.startswith(("TORCHELASTIC_", "TORCH_ELASTIC_")) or name == "TORCH_DISABLE_SHARE_RDZV_TCP_STORE":
            os.environ[name] = value
    # torch's PContext would replace our handlers by ones that raise anywhere, also half-way through a step
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGWINCH"
    try:
        get_logging_handler(options.event_log_handler)
    except KeyError:
        raise LaunchError(f"--event-log-handler {options.event_log_handler}: torch knows no such handler.") from None
    initialize_metrics(MetricsConfig(dict(options.metrics_cfg)))
    placement = placing.place(spec, note=log.note)
    logs = RunLogs(
        RunDir(Path(spec.run_dir)),
        node=spec.level,
        extra=load_specs(options.logs_specs),
    )
    with stopper.interruptible():  # it may wait for the node that hosts the rendezvous
        bundle = rendezvous.make_handler(
            options,
            rdzv_id=spec.rdzv_id,
            key=bytes.fromhex(spec.key_hex),
            nproc=placement.nproc,
            note=log.note,
            is_driven=bool(spec.driven_by),
        )
    is_exec = options.start_method == "spawn" or not ground.can_fork
    return Agent(
        replace(spec, rdzv_id=bundle.handler.get_run_id()),  # the id that all nodes share
        bundle=bundle,
        placement=placement,
        logs=logs,
        server=ground.server,
        stopper=stopper,
        log=log,
        pulse=pulse,
        start_method="spawn" if is_exec else options.start_method,
        is_exec=is_exec,
    )


def _tell_start(log: EventLog, ground: Ground) -> None:
    identity = lifeline.ProcessId.of(os.getpid())
    log.tell(
        "supervisor_started",
        pid=os.getpid(),
        start_ticks=identity.start_ticks if identity else 0,
        host=socket.gethostname(),
        boot_id=machine.boot_id(),
        pid_namespace=machine.pid_namespace(),
        torch=torch.__version__,
        python=platform.python_version(),
        executable=sys.executable,
    )
    for level, text in ground.notes:
        log.note(text, level=level)


def _give_up(spec: LaunchSpec, log: EventLog, server: ForkServer, stopper: Stopper, pulse: Pulse) -> None:
    """The main thread hangs in native code: end everything from the watchdog's thread."""
    server.abandon()
    pulse.end()
    end = _End(code=STOPPED, state="stopped", text=f"stopped by {stopper.by}")
    if stopper.is_timeout:
        text, verdict = _time_is_up(spec, stopper, pulse)
        end = _End(code=FAILED, state="failed", text=text, verdict=verdict)
    end.tell(log)
    log.flush(timeout_s=1.0)
    os._exit(end.code)


def _seconds(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 5.0
