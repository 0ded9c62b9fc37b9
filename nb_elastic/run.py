"""The handle of a run: its state, logs, results and failures, all read from the run folder.

Runs in: the kernel or the command line.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nb_elastic import debugging, payload, run_end, rundir, sight, snapshot, stacks
from nb_elastic.dashboard import plainjson, saved
from nb_elastic.errors import DescriptorsError, ElasticError, OptionError, PayloadError
from nb_elastic.follower import Follower
from nb_elastic.lifeline import HeldInterrupts, ProcessId
from nb_elastic.model import RunState, StackReport, Stream, WorkerFailure
from nb_elastic.render.base import aside
from nb_elastic.rundir import RankDir, RunDir
from nb_elastic.snapshot import EMPTY, RunSnapshot

if TYPE_CHECKING:
    from nb_elastic.debugging import Attendant
    from nb_elastic.engines.seat import Channel
    from nb_elastic.render.base import Renderer

GRACE_S = 5.0
"""Seconds between the SIGINT and the SIGTERM of a stop, unless the caller says otherwise."""
LOG_BYTES = 1 << 30
"""A longer log is read from its file, not as one string."""
METRICS_BYTES = 256 << 20
"""Most bytes that are read of one rank's metrics."""
EARLY_S = 3.0
"""Seconds that a stop waits for a supervisor which has not reported yet, to reach it by a signal, too."""


class Run(debugging.Looks):
    """One launch, live or finished. Made by ``launch``, ``attach``, ``runs`` and ``last_run``.

    Everything it tells comes from the run folder, so that a run can be read after every process
    is gone, and by a process that did not start it.
    """

    def __init__(self, folder: RunDir, *, channel: Channel | None = None) -> None:
        self._folder = folder
        self._channel = channel
        self._follower = Follower(folder, channel=channel)
        self._drawn = EMPTY

    def __repr__(self) -> str:
        """Tell id, name and state."""
        name = f" {self.name!r}" if self.name else ""
        return f"<Run {self.id}{name}: {self.state.value}, {self.snapshot.world_size or '?'} ranks>"

    @property
    def id(self) -> str:
        """The run's id, which is its folder's name."""
        return self._folder.run_id

    @property
    def dir(self) -> Path:
        """The run folder."""
        return self._folder.path

    @property
    def name(self) -> str:
        """The name given with ``--name``, or ""."""
        return self.snapshot.name

    @property
    def snapshot(self) -> RunSnapshot:
        """State of the run now."""
        return self._follower.snapshot()

    @property
    def state(self) -> RunState:
        """State of the run now."""
        return self.snapshot.state

    @property
    def failures(self) -> tuple[WorkerFailure, ...]:
        """Failures of the last round, in the order in which the ranks failed."""
        return self.snapshot.failures

    @property
    def root_cause(self) -> WorkerFailure | None:
        """The failure that came first and did not merely follow another one."""
        now = self.snapshot
        return next((f for f in now.failures if f.rank == now.root_rank), None)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """What the ranks told with ``nb_elastic.report``, one dict a call, in order of time."""
        return sorted(_metrics(self._folder), key=lambda row: row["time_ns"])

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """What the ranks displayed, one dict an output, in order of time.

        Each has ``round``, ``rank``, ``time_ns``, ``kind`` (display, update or clear), ``display_id``, ``data`` (a MIME
        bundle; images are base64), ``metadata``, and ``note``: why something is missing, or "".
        """
        return sorted(_outputs(self._folder), key=lambda one: one["time_ns"])

    def stacks(self, rank: int | None = None) -> StackReport:
        """Where all ranks, or one, stand now: their Python stacks, equal ones grouped, the odd one first."""
        return stacks.report(self._folder, rank=rank)

    def logs(self, rank: int = 0, stream: Stream = "stdout") -> str:
        """Text that a rank of the last round wrote so far; bytes that are no UTF-8 are replaced.

        Raises:
            ElasticError: if there is no such rank or stream (stdout and stderr are), or it is more than a string should hold.
        """
        if stream not in {"stdout", "stderr"}:
            raise ElasticError(f"There is no stream {stream!r}; a rank has 'stdout' and 'stderr'.")
        return _text_of(self._rank_dir(rank).stream(stream))

    def result(self, rank: int = 0) -> Any:
        """Return value of a rank of the last round. Unpickles a file that the rank wrote.

        Raises:
            PayloadError: if the rank left no result, and why.
            ElasticError: if there is no such rank.
        """
        folder = self._rank_dir(rank)
        if os.path.lexists(folder.result):
            return payload.load_result(folder.result)
        worker = next(w for w in self.snapshot.workers if w.rank == rank)
        if worker.result_error:
            raise PayloadError(
                f"Rank {rank}'s result can't be sent back: {worker.result_error} The run itself is {self.state.value}."
            )
        raise PayloadError(f"Rank {rank} left no result: it is {worker.state.value}. Its logs lie in {folder.path}.")

    @property
    def results(self) -> dict[int, Any]:
        """Return values by rank, of all ranks of the last round that left one."""
        found: dict[int, Any] = {}
        for worker in sorted(self.snapshot.workers, key=lambda w: w.rank):
            folder = self._rank_dir(worker.rank)
            if os.path.lexists(folder.result):
                found[worker.rank] = payload.load_result(folder.result)
        return found

    def pulled(self, names: Sequence[str]) -> dict[str, Any]:
        """Variables of rank 0 of these names, which ``--pull`` asked for; those that rank 0 never bound are left out.

        Raises:
            PayloadError: if they could not be sent back, and why.
        """
        folder = self._rank_dir(0)
        told = rundir.read_json(folder.worker_json).get("pull")
        error = str(told.get("error") or "") if isinstance(told, dict) else "rank 0 left none."
        if error:
            raise PayloadError(f"--pull: {error} The run itself is {self.state.value}; its results are in run.results.")
        values = payload.load_result(folder.pulled) if os.path.lexists(folder.pulled) else {}
        return {name: values[name] for name in names if name in values} if isinstance(values, dict) else {}

    def wait(self, timeout_s: float | None = None) -> RunState:
        """Wait until the run is over or the time is up, and return its state then."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not (now := self._follower.look()).state.is_final:
            if deadline is not None and time.monotonic() >= deadline:
                break
            self._follower.pause()
        if now.state.is_final:
            self._follower.close()
        return now.state

    def stop(self, grace_s: float = GRACE_S, *, by: str = "user") -> None:
        """Ask the run to stop: SIGINT to the ranks, after ``grace_s`` seconds SIGTERM, then SIGKILL.

        Does not wait for the end; a second call with a shorter grace hurries. Nothing happens to a finished run.

        Raises:
            OptionError: if the grace is no number of seconds.
        """
        if not (math.isfinite(grace_s) and grace_s >= 0):
            raise OptionError(f"The grace of a stop is {grace_s}: give seconds, 0 or more. Nothing was stopped.")
        now = self.snapshot
        if now.state.is_final:
            return
        if self._channel is not None:
            self._channel.send({"type": "stop", "grace_s": grace_s, "by": by})
            _wake(now, signal.SIGCONT)
            return
        # A supervisor looks for this file when it reports, and once a second: it may be where no signal of ours gets.
        with contextlib.suppress(OSError):  # a full disk, or a folder that was deleted: the signal is enough
            rundir.write_json(self._folder.stop_json, {"grace_s": grace_s, "by": by})
        deadline = time.monotonic() + EARLY_S
        while not (now := self._follower.look()).supervisor_pid and not now.state.is_final:
            if time.monotonic() > deadline:
                return
            self._follower.pause()
        _wake(now, signal.SIGINT, signal.SIGCONT)

    def dashboard(self, *, on_stop: Callable[[float], object] | None = None) -> None:
        """Show the run as it is now, and follow it while it is live; an interrupt ends the following, not the run.

        Args:
            on_stop: called, from any thread, with the grace in seconds when the user presses Stop; no button without it.
        """
        from nb_elastic.render.choose import choose

        with HeldInterrupts() as held:
            renderer = choose("auto", run=self._folder, on_stop=on_stop)
            Run(self._folder).follow(renderer, held=held)

    def follow(
        self,
        renderer: Renderer,
        *,
        on_interrupt: Callable[[int], bool] | None = None,
        held: HeldInterrupts | None = None,
        attendant: Attendant | None = None,
    ) -> RunState:
        """Feed a renderer until the run is over.

        Args:
            renderer: gets snapshots and log bytes, and is closed at the end, whatever that is.
            on_interrupt: called with 1, 2, ... at each KeyboardInterrupt; True goes on following. Without it that ends.
            held: interrupts that are held back until the renderer is in good hands.
            attendant: answers ranks at breakpoints; ends the following where a group is held at its failure.
        """
        interrupts = 0
        self._drawn = snapshot.EMPTY
        try:
            while True:
                try:
                    if held is not None and (early := held.release()):
                        interrupts = early - 1
                        raise KeyboardInterrupt
                    if _feed_whole(self, renderer):
                        break
                    if attendant and attendant.serve(self._drawn, aside(renderer)):
                        return self.state
                    self._follower.pause()
                except KeyboardInterrupt:
                    interrupts += 1
                    if on_interrupt is None or not on_interrupt(interrupts):
                        raise
        finally:
            with HeldInterrupts(most=1):  # in the midst of a look at a file it would keep that open
                _close(renderer, self)
        self._follower.close()
        return self.state

    def raise_for_state(self) -> None:
        """Raise the error that tells how the run ended; nothing for one that succeeded or still runs.

        Raises:
            WorkerFailedError: ranks failed.
            RunStoppedError: the run was stopped.
            RunLostError: its supervisor vanished.
        """
        if (error := run_end.error(self.snapshot, self._folder)) is not None:
            raise error

    def _rank_dir(self, rank: int) -> RankDir:
        now = self.snapshot
        if (worker := now.worker(rank)) is None:
            known = ", ".join(str(w.rank) for w in now.workers) or "none yet"
            raise ElasticError(f"Run {self.id} has no rank {rank}; its ranks are: {known}.")
        return self._folder.rank(worker.round, worker.local_rank, node=self._folder.level(worker.node))

    def _feed(self, renderer: Renderer) -> bool:
        """One look at journal and logs; True when the run is over and all is drawn."""
        was = self._drawn
        now = self._drawn = self._follower.look()
        if now is not was:
            renderer.update(now)
        chunks = self._follower.logs() if renderer.needs_logs else []
        renderer.append(chunks)  # without chunks it tells that time passes: lines that wait to be folded must come out
        if outputs := self._follower.outputs():
            renderer.show(outputs)
        return now.state.is_final and not chunks and not outputs and self._follower.is_all_shown()


def _wake(now: RunSnapshot, *signals: int) -> None:
    """Signal a run's supervisor; with SIGCONT, since one that somebody stopped could heed nothing."""
    for number in signals:
        if now.supervisor_pid and sight.has_our_pids(now):
            ProcessId(now.supervisor_pid, now.supervisor_start_ticks).signal(number)


def _feed_whole(run: Run, renderer: Renderer) -> bool:
    """An interrupt in the midst would lose what was read, and keep files open; a second one gets through."""
    with HeldInterrupts(most=1):
        return run._feed(renderer)  # noqa: SLF001  of this module


def _close(renderer: Renderer, run: Run) -> None:
    """Draw the last state. Whatever fails there, the run's own end is what its user must hear of."""
    try:
        try:
            renderer.close(run.snapshot)
        except KeyboardInterrupt:  # it may have come before anything was closed
            renderer.close(run.snapshot)
            raise
    except DescriptorsError as e:
        print(f"nb_elastic: the last drawing of run {run.id} failed; {run.dir} has all of it.\n{e}", file=sys.stderr)  # noqa: T201
    except Exception as e:  # noqa: BLE001  a border: the drawing is ours, and the run's error must not be lost with it
        where = "".join(traceback.format_exception(type(e), e, e.__traceback__)[-2:])
        told = f"nb_elastic: the last drawing of run {run.id} failed; {run.dir} has all of it.\n{where}"
        print(told, file=sys.stderr)  # noqa: T201


def _text_of(log: Path) -> str:
    if (size := plainjson.size_of(log)) > LOG_BYTES:
        raise ElasticError(f"{log} has {size:,} bytes, more than a string should hold: read it in pieces.")
    return rundir.read_whole(log).decode("utf-8", "replace")


def _metrics(run: RunDir) -> Iterator[dict[str, Any]]:
    for _, number, _, folder in run.ranks():
        for line in rundir.LineReader(folder.metrics).read(METRICS_BYTES):
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line)
                if isinstance(row, dict) and isinstance(row.get("time_ns"), int):
                    yield {"round": number, **row}


def _outputs(run: RunDir) -> Iterator[dict[str, Any]]:
    for _, number, _, folder in run.ranks():
        for row in plainjson.RowReader(folder.outputs).rows():
            if one := saved.output(row):
                yield {"round": number, **one}


def attach(run_id: str = "") -> Run:
    """Open a live or finished run by id, unique prefix or name; the newest where nothing is given.

    Raises:
        ElasticError: if there is none, or several fit.
    """
    return Run(rundir.find(run_id))


def runs() -> list[Run]:
    """All runs of this user on this machine, newest first."""
    return [Run(folder) for folder in rundir.all_runs()]


def remove(run: Run) -> None:
    """Delete a finished run's folder.

    Raises:
        ElasticError: if the run is not over.
    """
    if not snapshot.load(RunDir(run.dir)).state.is_final:
        raise ElasticError(f"Run {run.id} is {run.state.value}; stop it before you prune it.")
    rundir.remove(RunDir(run.dir))
