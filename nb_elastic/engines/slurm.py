"""Slurm as a place to run: one srun starts a node program on each node, of an allocation that is there or of its own.

Runs in: the kernel or the command line (``settle``) and the driver (all else).

An allocation of its own is made by the srun that also runs in it, so that both end together, whoever ends. Nothing but Slurm's
commands is needed, neither a folder that all nodes share nor a Python package.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence

from nb_elastic.engines.base import Order, Settled, Wanted
from nb_elastic.engines.slurm_ask import Slurm, no_command, own_job
from nb_elastic.engines.slurm_settings import Settings, parse, share
from nb_elastic.engines.slurm_step import Step
from nb_elastic.errors import EngineError

LOOKS_S = (0.5, 1.0, 2.0, 4.0, 10.0)
"""Pauses between looks into the queue: slurmctld answers everybody on the cluster."""
PATIENCE_S = 5.0
"""A step in an allocation that takes longer to start is told of."""
END_S = 5.0
"""The node programs may take so long to end."""
AGAIN_S, MOST_S = 5.0, 320.0
"""Before more nodes are asked for; twice as long after each time that Slurm refused them, up to the second."""


class SlurmEngine:
    """Starts node programs with srun."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._lock = threading.Lock()
        self._asking: threading.Thread | None = None
        self._failure: EngineError | None = None
        self._not_before, self._pause_s = 0.0, AGAIN_S
        self._is_closing = threading.Event()

    def settle(self, wanted: Wanted, environ: Mapping[str, str]) -> Settled:
        """Find the allocation, or see whether Slurm would give one.

        Raises:
            OptionError: for settings that srun would not know.
            EngineError: if there is no Slurm, no such allocation, or none to be had.
        """
        settings = parse(wanted.settings)
        if shutil.which("srun", path=environ.get("PATH", os.defpath)) is None:
            raise EngineError(no_command("srun"))
        slurm = Slurm(environ)
        if settings.job or (own_job(environ) and not settings.options):
            return _existing(slurm, settings, wanted, own_job(environ))
        return _new(slurm, settings, wanted)

    def open(self, order: Order) -> None:
        """Start node programs, up to the most that are wanted, and wait until Slurm has let the first one start.

        Raises:
            EngineError: if Slurm refuses.
        """
        value, low = order.settled.value, order.nodes
        # All that can be had at once: a group that grows right after its start would begin twice.
        high = max(low, order.wanted.max_nodes)
        if value["job"]:
            free = [name for name in value["nodes"] if name not in self._used()]
            if len(free) > low:  # one that is down would keep srun from starting
                free = Slurm(os.environ).are_up(free)
            if len(free) < low:
                raise EngineError(
                    f"{order.settled.label} has {len(free)} nodes that are up and free; {low} are needed."
                )
            self._wait(self._start(order, _in_job(value["job"], free[:high], value["per_node"])), order)
        else:
            self._wait(self._start(order, [*_count(low, high), *value["ask"]], is_own=True), order)
        self._not_before = time.monotonic() + AGAIN_S  # until then it is known that they are there

    def grow(self, order: Order) -> None:
        """Use nodes of the allocation that are free again; for an allocation of our own, queue for others.

        Raises:
            EngineError: if Slurm refuses.
        """
        if (self._asking is not None and self._asking.is_alive()) or time.monotonic() < self._not_before:
            return
        with self._lock:
            if any(step.is_starting for step in self._steps):
                return
        failure, self._failure = self._failure, None
        if failure is not None:
            self._pause_s = min(2 * self._pause_s, MOST_S)
            self._not_before = time.monotonic() + self._pause_s
            raise failure
        words = self._free(order)
        is_own = not words and not order.settled.value["job"]
        if is_own:
            words = [*_count(1, order.nodes), *_but_not(order.settled.value["ask"], self._used())]
        if not words:
            self._not_before = time.monotonic() + AGAIN_S
            return
        step = self._start(order, words, is_own=is_own)
        self._asking = threading.Thread(
            target=self._wait_aside, args=(step, order), name="nb-elastic-slurm-grow", daemon=True
        )
        self._asking.start()

    def close(self) -> None:
        """End all that was started; jobs of our own end with it."""
        self._is_closing.set()
        if self._asking is not None:
            self._asking.join()
        with self._lock:
            steps, self._steps = self._steps, []
        for step in steps:
            step.end()
        deadline = time.monotonic() + END_S
        for step in steps:
            _end(step, deadline - time.monotonic())

    def _used(self) -> set[str]:
        """Nodes on which a node program runs."""
        with self._lock:
            self._steps = [step for step in self._steps if not step.is_over.is_set()]
            return set().union(*(step.used for step in self._steps))

    def _free(self, order: Order) -> list[str]:
        """Options for nodes of an allocation that we have, and on which nothing of ours runs (any more)."""
        value, used, slurm = order.settled.value, self._used(), Slurm(os.environ)
        with self._lock:
            own = {step.job: {task.node for task in step.tasks} for step in self._steps if step.mark and step.tasks}
        for job, names in {value["job"]: value["nodes"]}.items() if value["job"] else own.items():
            free = sorted(set(names) - used)
            up = slurm.are_up(free) if free else []
            if up and (there := slurm.allocation(job)).state == "RUNNING":
                up = [name for name in up if name in there.nodes]
                if up:
                    return _in_job(job, up[: order.nodes], value["per_node"])
        return []

    def _start(self, order: Order, words: Sequence[str], *, is_own: bool = False) -> Step:
        python = order.settled.value["python"] or sys.executable
        mark = f"nb_elastic:{secrets.token_hex(8)}" if is_own else ""
        own = [f"--comment={mark}"] if is_own else []
        env = {**Slurm(os.environ).env, **order.env}
        try:
            step = Step([*words, *own], (python, *order.arguments), env=env, log=order.log, tell=order.tell, mark=mark)
        except OSError as e:
            raise EngineError(f"srun can't be started: {e.strerror or e}. Nothing was started.") from e
        with self._lock:
            self._steps.append(step)
        return step

    def _wait(self, step: Step, order: Order) -> None:
        """Wait until a node program has started, and say what for."""
        begun, looks, told = time.monotonic(), 0, ""
        look_at = begun + LOOKS_S[0]
        while not step.has_started.wait(0.05):
            if step.is_over.is_set() and not step.has_started.is_set():
                raise EngineError(f"Slurm started no nodes: {step.why or step.said}. See {order.log}.")
            if order.is_over.is_set() or self._is_closing.is_set():
                break
            if time.monotonic() < look_at:
                continue
            looks += 1
            text = _waits_for(step, order, time.monotonic() - begun)
            if text and text != told:
                order.tell(text)
                told = text
            look_at = time.monotonic() + LOOKS_S[min(looks, len(LOOKS_S) - 1)]
        if order.is_over.is_set() or self._is_closing.is_set():
            _end(step)
        else:
            order.on_link(step)

    def _wait_aside(self, step: Step, order: Order) -> None:
        try:
            self._wait(step, order)
        except EngineError as e:
            self._failure = e
        else:
            self._pause_s = AGAIN_S
            self._not_before = time.monotonic() + AGAIN_S  # as above


def _existing(slurm: Slurm, settings: Settings, wanted: Wanted, own: str) -> Settled:
    """The allocation that the user has."""
    job = settings.job or own
    found = slurm.allocation(job)
    label = f"Slurm allocation {job}"
    if found.uid != os.getuid():
        raise EngineError(f"{label} is somebody else's. Nothing was started.")
    if found.state != "RUNNING":
        hint = "" if settings.job else " (SLURM_JOB_ID says that this is it)"
        raise EngineError(f"{label}{hint} does not run: it is {found.state}. Nothing was started.")
    if len(found.nodes) < wanted.min_nodes:
        has = f"{len(found.nodes)} node{'s' * (len(found.nodes) != 1)} ({', '.join(found.nodes)})"
        raise EngineError(f"{label} has {has}, and --nnodes wants {wanted.min_nodes}. Nothing was started.")
    if found.gpus >= 0 and wanted.gpus > found.gpus:
        raise EngineError(
            f"{label} has {found.gpus} GPUs on each node, and {wanted.gpus} are wanted. Nothing was started."
        )
    # Said aloud, since an overlapping step of a job that counts its GPUs over all nodes would get one a node.
    gpus = found.gpus if wanted.gpus <= 0 else wanted.gpus
    per_node = [f"--gpus-per-node={gpus}"] if gpus > 0 else []
    return Settled(
        label=label,
        value={
            "job": found.job,
            "nodes": list(found.nodes),
            "per_node": per_node,
            "ask": [],
            "python": settings.python,
        },
    )


def _new(slurm: Slurm, settings: Settings, wanted: Wanted) -> Settled:
    """An allocation that Slurm would give."""
    names = settings.get("partition") or slurm.env.get("SLURM_PARTITION", "")
    kinds = [
        (cpus, gpus)
        for name, is_default, cpus, gpus in slurm.partitions()
        if (name in names.split(",") if names else is_default)
    ]
    ask = [*settings.words, *share(settings, wanted, kinds)]
    if not settings.get("job-name"):
        ask.append("--job-name=nb_elastic")
    where = f"Slurm partition {names}" if names else "Slurm"
    refusal = slurm.refuses([*_count(wanted.min_nodes, wanted.max_nodes), "--ntasks-per-node=1", *ask])
    if refusal:
        shown = " ".join([*_count(wanted.min_nodes, wanted.max_nodes), *ask[:-1]])
        raise EngineError(f"{where} would not give nodes for {shown}: {refusal}. Nothing was started.")
    per_node = [word for word in ask if word.startswith("--gpus-per-node=")]
    return Settled(
        label=where,
        has_queue=True,
        value={"job": "", "nodes": [], "per_node": per_node, "ask": ask, "python": settings.python},
        notes=(f"Slurm is asked for {' '.join([*_count(wanted.min_nodes, wanted.max_nodes), *ask])}.",),
    )


def _count(low: int, high: int) -> list[str]:
    return [f"--nodes={low}" if low >= high else f"--nodes={low}-{high}"]


def _in_job(job: str, names: Sequence[str], per_node: Sequence[str]) -> list[str]:
    """Options of a step beside whatever else runs in the job: without --overlap it would wait until that ends."""
    return [
        f"--jobid={job}", "--overlap", "--mem=0", f"--nodes={len(names)}", f"--nodelist={','.join(names)}", *per_node,
    ]  # fmt: skip


def _but_not(ask: Sequence[str], used: Iterable[str]) -> list[str]:
    """Options for nodes beside those that we have."""
    excluded = [word.partition("=")[2] for word in ask if word.startswith("--exclude=")]
    others = [word for word in ask if not word.startswith(("--exclude=", "--nodelist="))]
    return [*others, f"--exclude={','.join([*excluded, *sorted(used)])}"]


def _waits_for(step: Step, order: Order, waited_s: float) -> str:
    """What a step waits for, in one sentence; "" if that isn't worth one."""
    if not step.mark:
        return f"{order.settled.label} has not started the nodes yet." if waited_s > PATIENCE_S else ""
    with contextlib.suppress(EngineError):  # slurmctld is busy: it is asked again
        if found := Slurm(os.environ).waiting(step.mark):
            if found.state == "PENDING":
                return f"Slurm job {found.job} waits in the queue of partition {found.partition} ({found.reason})."
            if waited_s > PATIENCE_S:
                return f"Slurm job {found.job} has its nodes, which are not ready yet ({found.state})."
    return ""


def _end(step: Step, timeout_s: float = 0.0) -> None:
    """End a step, and the job that it made."""
    step.close(timeout_s)
    if step.was_killed and step.mark:
        slurm = Slurm(os.environ)
        with contextlib.suppress(EngineError):
            if found := slurm.waiting(step.mark):
                slurm.cancel(found.job)
