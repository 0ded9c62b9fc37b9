"""One episode: a run of some shape, the faults that hit it, and what whoever launched got of it.

Runs in: the chaos test. All is drawn from the episode's own seed; only the machine's timing is not.
"""

from __future__ import annotations

import queue
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

from nb_elastic import snapshot
from nb_elastic.lifeline import ProcessId
from tests.chaos import draws, faults, programs
from tests.chaos.programs import Program
from tests.chaos.scene import Deed, Fault, Scene
from tests.chaos.world import World, text_of
from tests.support.kernel import Cell

END_S = 2.5
"""A run that would go on for ever is ended so long after the last fault."""

DRIVER = "the last fault"
"""Stage of what the driver does to end a run."""

HOLDING = {"rank stops", "forkserver stops", "supervisor stops"}
"""A run lasts while one of these does."""

BLOCK = 12
"""So many episodes in a row have a kernel of one kind: a new one takes as long as an episode."""

COMPANION = (
    "get_ipython().run_cell_magic('elastic_launch', '--nproc 2 --detach --name companion-{number}', "
    "'import os, time\\ntime.sleep(0.7)\\nint(os.environ[\"RANK\"]) + 100')\n"
)
STOP_S = 5.0 + 1.0
"""Grace of a stop, and what SIGTERM gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to happen.

    Attributes:
        way: how it is launched: ``cell``, ``detach`` (a cell with --detach), ``pair`` (another, detached run is launched in the
            same cell right before) or ``command``.
        has_stdin: the command line has a descriptor 0.
        has_shim: in a kernel whose wall clock and disk can be changed.
    """

    seed: int
    number: int
    program: Program
    nproc: int
    way: str = "cell"
    has_shim: bool = False
    restarts: int = 0
    start_method: str = "warm"
    has_stdin: bool = True
    faults: tuple[Fault, ...] = ()

    @property
    def name(self) -> str:
        """Of the run."""
        return f"episode-{self.number}"

    @property
    def options(self) -> list[str]:
        """Words of the launch."""
        words = ["--nproc", str(self.nproc), "--name", self.name]
        words += ["--max-restarts", str(self.restarts)] if self.restarts else []
        words += ["--start-method", self.start_method] if self.start_method != "warm" else []
        return words + (["--detach"] if self.way == "detach" else [])

    def __str__(self) -> str:
        hit = "; ".join(map(str, self.faults)) or "nothing"
        return f"{self.program.name} by {self.way}, {' '.join(self.options)}: {hit}"

    @property
    def lasts(self) -> bool:
        """True for a run that somebody must end."""
        is_held = any(f.kind in HOLDING and f.again_s < 0 for f in self.faults)
        return not self.program.ends or is_held


def draw(seed: int, number: int, *, only: str = "") -> Plan:
    """Draw an episode from its seed and number."""
    rng = random.Random(f"{seed}/{number}")
    nproc = rng.choice([1, 2, 2, 2, 3, 4])
    restarts = rng.choice([0, 0, 0, 1])
    makers = [maker for maker, _ in programs.KINDS]
    maker = rng.choices(makers, [weight for _, weight in programs.KINDS])[0]
    if restarts and rng.random() < 0.3:
        maker = programs.fails_once
    program = maker(rng, nproc)
    count = rng.choice([0, 1, 1, 1, 1, 1, 2, 2, 3])
    count = max(1, count) if only else count
    has_shim = random.Random(f"{seed}/{number // BLOCK}/shim").random() < 0.4
    drawn = [draws.draw(rng, nproc, only=only, may_end=bool(program.ends)) for _ in range(count)]
    if not only and has_shim and rng.random() < 0.5:
        drawn.append(draws.draw(rng, nproc, only=rng.choice(["clock", "slow"]), may_end=bool(program.ends)))
    return Plan(
        seed=seed,
        has_shim=has_shim or only in {"clock", "slow"},
        number=number,
        program=program,
        nproc=nproc,
        way=rng.choices(["cell", "detach", "command", "pair"], [8, 1.5, 1.5, 1])[0],
        restarts=restarts,
        start_method=rng.choices(["warm", "spawn"], [12, 1])[0],
        has_stdin=rng.random() < 0.7,
        faults=tuple(drawn),
    )


@dataclass(kw_only=True)
class Record:
    """What happened.

    Attributes:
        error: class name of the error that whoever launched got; "" for none, "dead" if it died.
        text: all that its reader saw.
        ended_s: seconds until it ended.
        driver_stopped: the driver ended a run that would have gone on for ever.
        hung: what did not happen in time, or "".
    """

    scene: Scene
    error: str = ""
    text: str = ""
    ended_s: float = 0.0
    driver_stopped: bool = False
    hung: str = ""
    more: list[str] = field(default_factory=list)

    @property
    def deeds(self) -> list[Deed]:
        """What was done, in order."""
        return sorted(self.scene.deeds, key=lambda d: d.at_s)


class Episode:
    """Plays one plan in a world."""

    def __init__(self, plan: Plan, world: World) -> None:
        self.plan, self.world = plan, world
        self._is_ended = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._cell: Cell | None = None

    def play(self) -> Record:
        """Launch, do the faults, wait for the end; all that was taken from the machine is given back."""
        began = time.monotonic()
        self.scene = Scene(
            world=self.world,
            before=self.world.runs(),
            began=began,
            starter=_identity(self.world.kernel.pid),
            name=self.plan.name,
        )
        for fault in self.plan.faults:
            if fault.stage == "before" and self.plan.way != "command":
                faults.carry_out(self.scene, fault, give_up_s=60, is_ended=lambda: False)
        self.scene.began = began = time.monotonic()
        self._launch()
        if self._process:
            self.scene.starter = _identity(self._process.pid)
        record = Record(scene=self.scene)
        threads = [
            threading.Thread(target=self._fault, args=(fault,)) for fault in self.plan.faults if fault.stage != "before"
        ]
        for thread in threads:
            thread.start()
        try:
            self._wait(record, threads)
        finally:
            self._is_ended.set()
            for thread in threads:
                thread.join()
            for take_back in reversed(self.scene.took_back):  # of two limits of a kind the first one knows what it was
                take_back()
        record.ended_s = time.monotonic() - began
        self._tell(record)
        return record

    def _launch(self) -> None:
        plan, world = self.plan, self.world
        if plan.way == "command":
            script = world.work / "body.py"
            script.write_text(plan.program.body + "\n")
            no_stdin = [] if plan.has_stdin else ["sh", "-c", 'exec "$@" <&-', "sh"]
            self._process = subprocess.Popen(
                [*no_stdin, sys.executable, "-m", "nb_elastic", "run", *plan.options, str(script)],
                env=world.environ, cwd=world.work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, start_new_session=True,
            )  # fmt: skip
            self._reader = threading.Thread(target=self._read)
            self._reader.start()
        elif plan.way == "pair":
            words = ("elastic_launch", " ".join(plan.options), plan.program.body)
            own = f"get_ipython().run_cell_magic({', '.join(map(repr, words))})"
            self._cell = world.kernel.start(COMPANION.format(number=plan.number) + own)
        else:
            self._cell = world.kernel.start(f"%%elastic_launch {' '.join(plan.options)}\n{plan.program.body}")

    def _read(self) -> None:
        assert self._process and self._process.stdout
        self._output = self._process.stdout.read()

    def _fault(self, fault: Fault) -> None:
        give_up_s = (self.plan.program.seconds + 8) * self.world.pace + (10 if self._is_cold else 0)
        faults.carry_out(self.scene, fault, give_up_s=give_up_s, is_ended=self._is_ended.is_set)

    @property
    def _is_cold(self) -> bool:
        return self.plan.way == "command" or self.plan.start_method == "spawn"

    def _has_ended(self, timeout_s: float) -> bool:
        """True when whoever launched is done, or dead, and a detached run is over."""
        if self._process is not None:
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return False
        elif self._cell is not None:
            if not self.world.kernel.has_ended(self._cell, timeout_s) and self.world.is_alive:
                return False
        # Of a folder that was deleted while others wrote there, parts may be left; without a journal nobody takes them for a run.
        if self.plan.way == "detach" and (folder := self.scene.folder) and folder.journal.exists():
            if snapshot.load(folder).state.is_final:
                return True
            time.sleep(min(timeout_s, 0.05))
            return False
        return True

    def _wait(self, record: Record, threads: list[threading.Thread]) -> None:
        plan = self.plan
        paced = self.world.pace
        patience_s = (plan.program.seconds * 4 + 40) * paced
        calm_since: float | None = None
        asked = 0
        deadline = time.monotonic() + patience_s
        while not self._has_ended(0.1):
            now, pace = time.monotonic(), self.world.pace
            if pace > paced:  # meanwhile others need the machine, too
                deadline += patience_s * (pace / paced - 1)
                patience_s *= pace / paced
                paced = pace
            if any(t.is_alive() for t in threads):
                deadline = now + patience_s
                continue
            calm_since = calm_since or now
            is_due = plan.lasts and now > calm_since + (END_S + asked) * pace
            if is_due and asked < 2:
                record.driver_stopped = True
                asked += 1
                self._stop()
                deadline = now + (STOP_S + 15) * pace
            elif now > deadline:
                what = "the driver's stop" if asked else "the last fault"
                record.hung = f"{patience_s if not asked else (STOP_S + 15) * pace:.0f} s after {what} it still ran"
                self._hurry(record)
                return

    def _stop(self) -> None:
        kind = "stop" if self.plan.way == "detach" else "interrupt"
        faults.do(self.scene, Fault(kind=kind, stage=DRIVER, after_s=END_S, amount=0.0))

    def _hurry(self, record: Record) -> None:
        """It hangs: keep what can be seen, and end it."""
        for process in sorted(self.world.processes(), key=lambda p: p.pid):
            record.more.append(_where(process))
        self.scene.starter.signal(signal.SIGKILL)

    def _tell(self, record: Record) -> None:
        if self._process is not None:
            self._process.wait(30)
            self._reader.join(30)
            record.text = self._output
            names = {0: "", 1: "failed", 130: "stopped"}
            code = self._process.returncode
            record.error = "dead" if code < 0 else names.get(code, f"exit code {code}")
        elif self._cell is not None and self._cell.is_idle and self.world.is_alive:
            record.text = self._cell.text
            try:
                self.world.kernel.wait(self._cell, 30)
            except queue.Empty:  # interrupted in the moment after the cell, ipykernel sends no reply
                record.error = "no reply"
                return
            record.error = "" if self._cell.is_ok else str(self._cell.reply.get("ename"))
            record.more.append(f"the cell: {text_of(self._cell)}")
        else:
            record.error = "dead"


def _identity(pid: int) -> ProcessId:
    return ProcessId.of(pid) or ProcessId(pid, 0)


def _where(process: ProcessId) -> str:
    """What a process that should be gone is doing."""
    from pathlib import Path

    from tests.support import leaks

    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
        state = next(line for line in status.splitlines() if line.startswith("State"))
        wchan = Path(f"/proc/{process.pid}/wchan").read_text()
    except (OSError, StopIteration):
        state, wchan = "", ""
    return f"  {leaks.describe(process)} {state} {wchan}"
