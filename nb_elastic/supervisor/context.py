"""Our PContext: starts the ranks of one round, and ends them.

Runs in: the supervisor. Private names of torch stand here and in ``agent`` only.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping

from torch.distributed.elastic.multiprocessing import LogsSpecs, PContext, RunProcsResult
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from nb_elastic import steady
from nb_elastic.errors import LaunchError
from nb_elastic.lifeline import DEATH_SIGNALS, blocked_signals
from nb_elastic.model import WorkerSpec
from nb_elastic.supervisor.channel import EventLog
from nb_elastic.supervisor.crew import ForkServer
from nb_elastic.supervisor.stopping import Stopper
from nb_elastic.supervisor.watch import Watch

SETTLE_S = 0.05
"""After a first failure the others may fail by themselves for this long before the agent ends them."""

KILL_S = 10.0
"""How long a process may take to vanish after SIGKILL (uninterruptible sleep) before it is given up."""

TERM_S = 0.2
"""Between SIGTERM and SIGKILL when a run is stopped."""


class RankContext(PContext):
    """The processes of one round, started and ended through the forkserver.

    Args:
        make_spec: (local rank, environment, stdout path, stderr path) -> what the rank needs.
        start_method: for the journal.
        has_sessions: signals reach all processes of a rank's session, as a terminal's Ctrl-C would.
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
        super().__init__(name=name, entrypoint=name, args={r: () for r in envs}, envs=envs, logs_specs=logs_specs)  # noqa: C420
        self.watch = Watch(server=server, stopper=stopper, log=log, node=node)
        self._make_spec = make_spec
        self._server = server
        self._stopper = stopper
        self._log = log
        self._start_method = start_method
        self._has_sessions = has_sessions
        self._is_settled = False
        self._is_closed = False

    # -- torch's hooks -----------------------------------------------------------------------

    def start(self) -> None:
        """See base class. Signals stay ours: older torch takes them whatever TORCHELASTIC_SIGNALS_TO_HANDLE says."""
        with blocked_signals():
            handlers = {number: signal.getsignal(number) for number in DEATH_SIGNALS}
            try:
                super().start()
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)

    def _start(self) -> None:
        specs = [self._make_spec(r, self.envs[r], self.stdouts[r], self.stderrs[r]) for r in sorted(self.envs)]
        started = self._server.start(specs)
        self._server.watch_deaths(started)
        self.watch.add(specs, started, start_method=self._start_method)

    def _poll(self) -> RunProcsResult | None:
        self.watch.look()
        if self.watch.is_holding:
            return None  # whatever else fails meanwhile: nobody's frames are taken away
        if self.watch.failed:
            self._settle()
        elif not self.watch.alive:
            # torch takes a rank without an entry here for one that it lost
            values = {r.spec.local_rank: None for r in self.watch.ranks}
            return RunProcsResult(return_values=values, stdouts=self.stdouts, stderrs=self.stderrs)
        else:
            return None
        return RunProcsResult(
            failures={
                r.spec.local_rank: ProcessFailure(
                    local_rank=r.spec.local_rank,
                    pid=r.started.pid,
                    exitcode=r.exit.exit_code if r.exit else 1,
                    error_file=self.error_files[r.spec.local_rank],
                )
                for r in self.watch.failed
            },
            stdouts=self.stdouts,
            stderrs=self.stderrs,
        )

    def pids(self) -> dict[int, int]:
        """See base class."""
        return {r.spec.local_rank: r.started.pid for r in self.watch.ranks}

    def _close(self, death_sig: signal.Signals, timeout: int = 30) -> None:
        """End what still runs: the group's end, or the stop's three steps. The second time nothing is left to do."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self.watch.look()
            if not self._stopper.is_requested:
                self._end_group(death_sig, timeout)
            if self._stopper.is_requested:
                self._stop()
            self._signal(signal.SIGKILL)
            end = time.monotonic() + KILL_S
            self._wait_gone(lambda: end)
            self._server.sweep()
            self.watch.look()
        except LaunchError:  # the forkserver is gone, and with it every rank
            self.watch.lose()
        self._server.ignore_deaths()
        self._tell_stuck()
        self.watch.judge()

    # -- steps -------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Let failures that come at the same time arrive, then tell them, before any rank is ended."""
        if self._is_settled:
            return
        self._is_settled = True
        deadline = time.monotonic() + SETTLE_S
        while self.watch.alive and (left := deadline - time.monotonic()) > 0:
            self._server.wait(left)
            self.watch.look()
        self.watch.judge()

    def _signal(self, number: int) -> None:
        alive = self.watch.alive
        for rank in alive:
            rank.signals.append((number, steady.wall_ns()))
            self.watch.tell("signal_sent", rank.spec, signal=signal.Signals(number).name)
        has_session = number == signal.SIGKILL or self._has_sessions
        self._server.signal([r.started.pid for r in alive], number, has_session=has_session)

    def _end_group(self, death_sig: signal.Signals, timeout_s: float) -> None:
        """One rank failed, or the group re-forms: the others get the chance to end. A stop cuts the wait short."""
        self._signal(death_sig)
        end = time.monotonic() + timeout_s
        self._wait_gone(lambda: 0.0 if self._stopper.is_requested else end)

    def _stop(self) -> None:
        """SIGINT, so that user code can save; after the grace SIGTERM; a moment later the caller sends SIGKILL."""
        if not self.watch.alive:
            return
        grace_s = max(0.0, (self._stopper.until or 0.0) - time.monotonic())
        self._stopper.acknowledge(grace_s + TERM_S + KILL_S)
        self._signal(signal.SIGINT)
        self._wait_gone(lambda: self._stopper.until or 0.0)
        self._signal(signal.SIGTERM)
        end = time.monotonic() + TERM_S
        self._wait_gone(lambda: end)

    def _wait_gone(self, until: Callable[[], float]) -> None:
        """Wait for the last rank's end, until a time (``time.monotonic``) that may change meanwhile."""
        while self.watch.alive and (left := until() - time.monotonic()) > 0:
            self._server.wait(min(left, 0.1))
            self.watch.look()

    def _tell_stuck(self) -> None:
        for rank in self.watch.alive:
            self._log.note(
                f"Rank {rank.spec.rank} (pid {rank.started.pid}) did not end after SIGKILL: it hangs in the kernel, "
                "most often on a GPU or a network disk. The machine may need a restart.",
                level="warning",
            )
