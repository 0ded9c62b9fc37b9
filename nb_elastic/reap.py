"""Ends what a dead run left behind: only processes that its folder proves to be the run's.

Runs in: the kernel or command line.

A process is proven by its pid and its start time together, both written down in the run's folder on this very boot of this
machine and in this container (``machine.here``). A rank can write there, too: who has the run's key believes what is sealed, and
of a rank's own words only what the process itself bears out. What descends from a proven process, or lives in its session, is the
run's, too. Where the session's leader is gone, the member must also carry the run's own environment, or write into its logs.
A name, a command line or a working folder proves nothing. A run whose supervisor lives is never touched: it sweeps for itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nb_elastic import events, killing, lifeline, machine, opening, rundir, seals, sight, snapshot, untrusted
from nb_elastic.events import Event
from nb_elastic.lifeline import ProcessId
from nb_elastic.rundir import JournalReader, LineReader, RunDir

LOOKS = 20
"""Most looks for what a process starts while the others are being stopped."""

GONE_S = 2.0
"""How long killed processes may take to vanish."""

MARK = "NB_ELASTIC_RUN_DIR"
"""Variable that every rank has, and what it starts inherits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A process that a dead run left behind.

    Attributes:
        run_id: of the run.
        what: how it is known to be the run's, in words.
        command: what ps shows of it.
    """

    run_id: str
    process: ProcessId
    what: str
    command: str


@dataclass(slots=True)
class _Proofs:
    """The processes of this machine that a folder tells of, with words; its supervisors apart."""

    known: dict[ProcessId, str] = field(default_factory=dict)
    supervisors: list[ProcessId] = field(default_factory=list)


def left_by(run: RunDir) -> list[Left]:
    """Find what a run whose supervisor is gone left behind on this machine; ends nothing."""
    proofs = _proofs(run)
    if any(one.is_alive for one in proofs.supervisors):
        return []
    return [
        Left(run_id=run.run_id, process=one, what=what, command=_command(one.pid))
        for one, what in sorted(_living(run, proofs).items(), key=lambda item: item[0].pid)
    ]


def end_left(run: RunDir) -> list[Left]:
    """Kill what a run whose supervisor is gone left behind on this machine; returns what that was.

    All are stopped first, so that none starts another one unseen. Who may not be signalled (it became another user's) stays.
    """
    ended: dict[ProcessId, Left] = {}
    for _ in range(LOOKS):
        new = [one for one in left_by(run) if one.process not in ended]
        # but not who frees their memory when they are gone, and starts nothing
        stopped = {
            one.process: one
            for one in new
            if killing.cleans_up(one.process.pid) or killing.signal_one(one.process, signal.SIGSTOP)
        }
        if not stopped:
            break
        ended.update(stopped)
    killing.kill_all(ended)
    deadline = time.monotonic() + GONE_S
    while any(process.is_alive for process in ended) and time.monotonic() < deadline:
        time.sleep(0.005)
    return list(ended.values())


def end_below() -> None:
    """Kill everything below this process: it adopted what a lost run left behind, and started nothing else."""
    for _ in range(LOOKS):
        if not (below := lifeline.descendants(os.getpid())):
            return
        killing.kill_pids(below)
        time.sleep(0.005)


def is_lost(run: RunDir) -> bool:
    """True for a run without a last word whose supervisor is gone, though nobody has written that down yet."""
    return bool(_loss(run))


def mark_lost(run: RunDir) -> bool:
    """Write down that a run is lost, if it is; True if that was done now."""
    if not (text := _loss(run)):
        return False
    journal = rundir.Journal(run.journal)
    try:
        journal.append(events.make("run_lost", text=text))
    finally:
        journal.close()
    return True


def _loss(run: RunDir) -> str:
    now = snapshot.EMPTY
    for event in JournalReader(run.journal).events():
        now = snapshot.fold(now, event)
    if now.state.is_final or any(one.is_alive for one in _proofs(run).supervisors):
        return ""
    found = sight.loss(now, run, now_ns=time.time_ns())
    return found.text if found is not None and found.is_certain else ""


def _proofs(run: RunDir) -> _Proofs:
    found, machines = _Proofs(), dict[int, str]()
    if not (here := machine.here()):
        return found
    for event in JournalReader(run.journal).events():
        if event.kind == "supervisor_started":
            machines[event.node] = machine.label(
                untrusted.text(event.get("boot_id")), untrusted.integer(event.get("pid_namespace"))
            )
        one = _identity(event.get("pid"), event.get("start_ticks"))
        if one is None or machines.get(event.node) != here:
            continue
        if event.kind == "supervisor_started":
            found.supervisors.append(one)
        elif event.kind == "worker_started":
            found.known[one] = f"rank {_number(event, 'rank')} of round {_number(event, 'round')}"
    for _, number, _, folder in run.ranks():  # each rank wrote it before any code of the user's ran
        told = rundir.read_json(folder.worker_json)
        one = _identity(told.get("pid"), told.get("start_ticks")) if told.get("machine") == here else None
        if one is not None and (not seals.key_of(run.path) or _carries(one.pid, run)):
            found.known.setdefault(one, f"rank {told.get('rank')} of round {number}")
    for one in _rolled(run, here):
        found.known.setdefault(one, "started by the run")
    return found


def _rolled(run: RunDir, here: str) -> Iterator[ProcessId]:
    with opening.wants_told(f"{run.path} can't be listed"):
        paths = [run.processes(), *run.path.glob("node_*/processes.jsonl")]
    key = seals.key_of(run.path)
    for path in paths:
        checker = seals.Checker(key) if key else None
        for line in LineReader(path).read():
            if checker is not None and not checker.is_genuine(line):
                continue
            try:
                record = json.loads(line)
                pairs = record["processes"] if record["machine"] == here else []
                found = [_identity(pid, ticks) for pid, ticks in pairs]
            except (ValueError, TypeError, KeyError, RecursionError):
                continue
            yield from (one for one in found if one is not None)


def _identity(pid: Any, start_ticks: Any) -> ProcessId | None:
    if type(pid) is int and type(start_ticks) is int and pid > 1 and start_ticks > 0:
        return ProcessId(pid, start_ticks)
    return None


def _number(event: Event, key: str) -> str:
    return str(event.get(key)) if type(event.get(key)) is int else "?"


def _living(run: RunDir, proofs: _Proofs) -> dict[ProcessId, str]:
    """Living processes that are proven the run's, but this one and those above it."""
    table = _table()
    spared = _own_line(table)
    found = {pid: what for one, what in proofs.known.items() if (pid := one.pid) in table and one.is_alive}
    dead = {one.pid: one for one in proofs.known if one.pid not in table}
    for pid, (_, session, ticks) in table.items():
        leader = dead.get(session)
        is_member = session in found or (leader is not None and ticks >= leader.start_ticks and _carries(pid, run))
        if pid not in found and is_member:
            found[pid] = "in a session of the run"
    has_grown = True
    while has_grown:
        below = {pid for pid, (parent, _, _) in table.items() if parent in found and pid not in found}
        found.update(dict.fromkeys(below, "below a process of the run"))
        has_grown = bool(below)
    return {ProcessId(pid, table[pid][2]): what for pid, what in found.items() if pid not in spared}


def _table() -> dict[int, tuple[int, int, int]]:
    """Living processes: pid to parent, session and start time."""
    found: dict[int, tuple[int, int, int]] = {}
    with opening.wants_told("/proc can't be listed"):
        names = os.listdir("/proc") if sys.platform == "linux" else []
    for name in names:
        if name.isdecimal() and (fields := lifeline.stat_fields(int(name))) and fields[0] not in "ZX":
            found[int(name)] = int(fields[1]), int(fields[3]), int(fields[19])
    return found


def _own_line(table: Mapping[int, tuple[int, int, int]]) -> set[int]:
    """This process and those above it: who asks is never ended, be it a rank's own child."""
    pid, found = os.getpid(), set[int]()
    while pid in table and pid not in found:
        found.add(pid)
        pid = table[pid][0]
    return found


def _carries(pid: int, run: RunDir) -> bool:
    """True if a process was started with the run's environment, or its stdout or stderr is a file of the run's."""
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/environ", "rb") as f:
            if os.fsencode(f"{MARK}={run.path}") in f.read().split(b"\0"):
                return True
        return any(os.readlink(f"/proc/{pid}/fd/{fd}").startswith(f"{run.path}/") for fd in (1, 2))
    return False


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f.read(4096).replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return ""
