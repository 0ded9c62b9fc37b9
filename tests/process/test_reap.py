"""``reap`` ends what a dead run left behind, proven by pid and start time, and nothing else.

A user would lose either the memory that a forgotten process holds, or, far worse, a process that has nothing to do with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nb_elastic import events, lifeline, machine, opening, reap, rundir, seals, snapshot
from nb_elastic.cli_reap import reap_all
from nb_elastic.lifeline import ProcessId
from nb_elastic.rundir import RunDir
from nb_elastic.supervisor.roll import Roll
from tests.support import supervise
from tests.support.until import until

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
GONE = ProcessId(4_000_000, 17)
"""A supervisor that is no more: the pid is above what Linux gives."""


@pytest.fixture
def sleepers() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Three processes with one and the same command line, each in a session of its own."""
    made = [subprocess.Popen(SLEEP, start_new_session=True) for _ in range(3)]
    yield made
    for one in made:
        one.kill()
        one.wait()


def identity(process: subprocess.Popen[bytes]) -> ProcessId:
    """Who a child of ours is."""
    found = ProcessId.of(process.pid)
    assert found is not None
    return found


def dead_run(workers: list[ProcessId], *, where: str = "", supervisor: ProcessId = GONE, **more: object) -> RunDir:
    """The folder of a run without a last word whose supervisor wrote down these ranks."""
    run = rundir.create()
    rundir.write_json(run.run_json, {"run_id": run.run_id})
    journal = rundir.Journal(run.journal)
    for event in written(workers, where=where, supervisor=supervisor, **more):
        journal.append(event)
    journal.close()
    return run


def written(
    workers: list[ProcessId], *, where: str = "", supervisor: ProcessId = GONE, **more: object
) -> list[events.Event]:
    """What a supervisor writes down of these ranks."""
    boot_id, namespace = (where or machine.here()).split(" ")
    here = {"boot_id": boot_id, "pid_namespace": int(namespace)}
    return [
        events.make("run_created", run_id="run", nproc=1),
        events.make("supervisor_started", pid=supervisor.pid, start_ticks=supervisor.start_ticks, **here, **more),
        *(
            events.make(
                "worker_started", pid=w.pid, start_ticks=w.start_ticks, round=0, attempt=0, rank=r, local_rank=r
            )
            for r, w in enumerate(workers)
        ),
    ]


def test_only_who_is_written_down_with_pid_and_start_time_is_ended(sleepers: list[subprocess.Popen[bytes]]):
    ours, same_words, recycled = map(identity, sleepers)
    run = dead_run([ours, ProcessId(recycled.pid, recycled.start_ticks - 1)])
    assert [(one.process, one.what) for one in reap.left_by(run)] == [(ours, "rank 0 of round 0")]
    assert ours.is_alive
    told = reap_all(is_dry=False).splitlines()
    assert told[0].split() == ["RUN", "PID", "WHAT", "COMMAND"]
    assert told[1].split()[:5] == [run.run_id, str(ours.pid), "rank", "0", "of"]
    assert told[2:] == ["Ended 1 process of 1 run(s).", f"Marked as lost: {run.run_id}."]
    assert (sleepers[0].wait(10), same_words.is_alive, recycled.is_alive) == (-signal.SIGKILL, True, True)
    assert snapshot.load(run).state.value == "lost"
    assert reap_all(is_dry=False).startswith("Nothing is left of dead runs (1 looked at in ")


@pytest.mark.parametrize("where", ["another boot", "another container"])
def test_pids_of_another_boot_or_container_prove_nothing(where: str, sleepers: list[subprocess.Popen[bytes]]):
    boot, container = machine.here().split(" ")
    other = f"{'0' * len(boot)} {container}" if where == "another boot" else f"{boot} 1"
    ours = identity(sleepers[0])
    run = dead_run([ours], where=other)
    run.processes().write_text(json.dumps({"machine": other, "processes": [[ours.pid, ours.start_ticks]]}) + "\n")
    assert reap.end_left(run) == []
    assert ours.is_alive


def test_a_run_whose_supervisor_lives_is_never_touched(sleepers: list[subprocess.Popen[bytes]]):
    ours, supervisor, _ = map(identity, sleepers)
    run = dead_run([ours], supervisor=supervisor)
    assert (reap.end_left(run), reap.mark_lost(run)) == ([], False)
    assert ours.is_alive


def test_who_asks_is_never_ended_even_below_a_rank():
    own, parent = ProcessId.of(os.getpid()), ProcessId.of(os.getppid())
    assert own is not None and parent is not None
    assert [one.process for one in reap.left_by(dead_run([own, parent])) if one.process in {own, parent}] == []


@pytest.mark.parametrize("garbage", ["", "{", "[]", "null", '{"machine": 1}', '{"machine": HERE, "processes": [[1, 1], [true, 1], ["x", 2], [-1, 5], [7]]}'])  # fmt: skip
def test_a_garbled_roll_proves_nothing(garbage: str):
    run = dead_run([])
    run.processes().write_text(garbage.replace("HERE", json.dumps(machine.here())) + "\n")
    assert reap.left_by(run) == []


def test_who_has_the_runs_key_believes_only_what_is_sealed(sleepers: list[subprocess.Popen[bytes]]):
    """A rank can write to the same files: it must not say whom to kill."""
    ours, true, forged = map(identity, sleepers)
    run = dead_run([])
    seals.know(run.path, b"k" * 32)
    try:
        run.journal.unlink()
        sealed = rundir.Journal(run.journal)
        for event in written([ours]):
            sealed.append(event)
        sealed.close()
        roll = Roll(run.processes(), key=seals.key_of(run.path))
        roll.note([true])
        roll.close()
        plain = rundir.LineWriter(opening.to_append(run.journal))
        plain.write(events.encode(written([forged])[-1]))
        plain.close()
        roll = Roll(run.processes(), key=b"")
        roll.note([forged])
        roll.close()
        run.rank(0, 1).path.mkdir(parents=True)
        rundir.write_json(
            run.rank(0, 1).worker_json,
            {"machine": machine.here(), "pid": forged.pid, "start_ticks": forged.start_ticks},
        )
        assert {one.process for one in reap.left_by(run)} == {ours, true}
    finally:
        seals.forget(run.path)
    assert {one.process for one in reap.left_by(run)} == {ours, true, forged}, "without it the folder is all there is"


def test_a_journal_full_of_a_ranks_words_fills_no_memory():
    """Whoever reaps must not keep all that a rank wrote there."""
    run = dead_run([])
    line = events.encode(events.make("note", time_ns=1, text="x"))
    with run.journal.open("ab") as f:
        f.write(line * 200_000)
    code = (
        "import resource, sys; from nb_elastic import reap, rundir; from pathlib import Path\n"
        "run = rundir.RunDir(Path(sys.argv[1])); reap.left_by(rundir.RunDir(Path('/nonexistent')))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; reap.left_by(run)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    grown_kib = subprocess.run(
        [sys.executable, "-c", code, str(run.path)], check=True, capture_output=True, text=True, cwd=supervise.ROOT
    ).stdout
    assert int(grown_kib) < 30 << 10


RECYCLES = """
import os, subprocess, sys, time
sys.path.insert(0, {root!r})
from tests.process.test_reap import SLEEP, dead_run, identity
from nb_elastic import reap
first = subprocess.Popen(SLEEP)
was = identity(first)
run = dead_run([was])
assert [one.process for one in reap.left_by(run)] == [was]
first.kill()
first.wait()
time.sleep(0.05)  # a clock tick, as between any two processes of one pid
with open("/proc/sys/kernel/ns_last_pid", "w") as f:
    f.write(str(was.pid - 1))
second = subprocess.Popen(SLEEP)
assert second.pid == was.pid, (second.pid, was.pid)
assert reap.end_left(run) == []
assert second.poll() is None
second.kill()
second.wait()
print("spared")
"""


def test_a_process_that_got_a_dead_ranks_pid_is_spared():
    """In a pid namespace of its own, where pids can be given anew."""
    command = [
        "unshare",
        "--pid",
        "--fork",
        "--mount-proc",
        sys.executable,
        "-c",
        RECYCLES.format(root=str(supervise.ROOT)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=supervise.ROOT)
    if "Operation not permitted" in done.stderr:
        pytest.skip("no right to make a pid namespace")
    assert done.stdout == "spared\n", done.stderr


def test_what_is_left_when_supervisor_and_forkserver_die_at_once_is_ended():
    """Daemons in sessions of their own: only the roll tells of them."""
    program = supervise.entry("tests.programs.leaves_daemons:main")
    with supervise.start(program, nproc=1, is_detached=True) as one:
        one.until_event("worker_ready")
        until(lambda: one.out(0).endswith(b"\n"), 60)
        daemons = [ProcessId.of(int(pid)) for pid in one.out(0).split()]
        until(
            lambda: all(str(d.pid) in one.run.processes().read_text() for d in daemons), 60, "the daemons on the roll"
        )
        assert reap.left_by(one.run) == [], "its supervisor lives"
        (rank,) = one.of("worker_started")
        for pid in (one.process.pid, int(lifeline.stat_fields(rank["pid"])[1])):
            os.kill(pid, signal.SIGKILL)
        one.process.wait(30)
        until(
            lambda: not ProcessId(rank["pid"], rank["start_ticks"]).is_alive, 30, "the rank to go with the forkserver"
        )
        assert all(d.is_alive for d in daemons)
        assert str(daemons[0].pid) in reap_all(is_dry=True)
        assert all(d.is_alive for d in daemons)
        assert {e.process for e in reap.end_left(one.run)} == set(daemons)
        assert not any(d.is_alive for d in daemons)


def test_the_command_says_what_it_did(tmp_path: Path, sleepers: list[subprocess.Popen[bytes]]):
    run = dead_run([identity(sleepers[0])])
    command = [sys.executable, "-m", "nb_elastic", "reap"]
    dry = subprocess.run([*command, "--dry-run"], check=True, capture_output=True, text=True, cwd=supervise.ROOT)
    assert dry.stdout.splitlines()[2:] == ["Would end 1 process of 1 run(s).", f"Would mark as lost: {run.run_id}."]
    assert sleepers[0].poll() is None
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=supervise.ROOT)
    assert done.stdout.splitlines()[2:] == ["Ended 1 process of 1 run(s).", f"Marked as lost: {run.run_id}."]
