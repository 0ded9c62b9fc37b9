"""Whether a supervisor still lives: a run that reads as running for ever, or as lost while it runs, misleads its user."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nb_elastic import events, machine, rundir, sight, snapshot
from nb_elastic.lifeline import ProcessId
from nb_elastic.model import RunState
from nb_elastic.run import attach
from nb_elastic.rundir import Journal, RunDir
from tests.support.until import until

HOUR_S = 3600
DEAD = ProcessId(2**22 - 1, 1)


@pytest.fixture
def process() -> Iterator[ProcessId]:
    """A process of the test's own, in the place of a supervisor."""
    with subprocess.Popen(["sleep", "600"]) as child:
        found = ProcessId.of(child.pid)
        assert found
        yield found
        child.kill()


def made(*told: events.Event, age_s: float = 0.0) -> RunDir:
    run = rundir.create()
    rundir.write_json(run.run_json, {})
    journal = Journal(run.journal)
    at_ns = time.time_ns() - int(age_s * 1e9)
    created = {"run_id": run.run_id, "nproc": 2, "boot_id": machine.boot_id()}
    for event in (events.make("run_created", time_ns=at_ns, **created), *told):
        journal.append(event)
    journal.close()
    os.utime(run.journal, ns=(at_ns, at_ns))
    return run


def supervisor(
    who: ProcessId, *, boot: str | None = None, namespace: int | None = None, host: str | None = None
) -> events.Event:
    return events.make(
        "supervisor_started",
        pid=who.pid,
        start_ticks=who.start_ticks,
        host=os.uname().nodename if host is None else host,
        boot_id=machine.boot_id() if boot is None else boot,
        pid_namespace=machine.pid_namespace() if namespace is None else namespace,
    )


def rank(number: int, who: ProcessId) -> events.Event:
    return events.make(
        "worker_started", round=0, rank=number, local_rank=number, pid=who.pid, start_ticks=who.start_ticks
    )


def test_a_supervisor_that_lives_is_left_alone_whatever_the_machine_is_called_now(process: ProcessId):
    assert snapshot.load(made(supervisor(process, host="renamed"), age_s=HOUR_S)).state is RunState.STARTING


def test_another_process_with_the_supervisors_pid_does_not_keep_its_run_alive(process: ProcessId):
    run = made(supervisor(ProcessId(process.pid, process.start_ticks - 1)))
    assert snapshot.load(run).state is RunState.LOST


def test_a_handle_tells_a_lost_run_as_the_list_does_though_nobody_waits_for_it():
    run = made(supervisor(DEAD))
    assert [attach(run.run_id).state, snapshot.load(run).state] == [RunState.LOST] * 2
    assert b"run_lost" not in run.journal.read_bytes()  # a look at the state is no writer


def test_ranks_that_outlived_their_supervisor_are_told(process: ProcessId):
    run = made(supervisor(DEAD), rank(0, process), rank(1, DEAD))
    told = snapshot.load(run)
    assert told.state is RunState.LOST
    assert "vanished without a last word. 1 of its ranks may still run: `%elastic reap`" in told.text


def test_what_ran_before_the_machine_restarted_is_lost_though_its_pid_is_taken(process: ProcessId):
    before = supervisor(process, boot="another")
    assert snapshot.load(made(before, age_s=5)).state is RunState.STARTING  # two machines may have one name
    told = snapshot.load(made(before, age_s=sight.RESTART_S + 5))
    assert (told.state, told.text) == (
        RunState.LOST,
        f"the machine was restarted, and the supervisor (pid {process.pid}) went with that",
    )


def test_a_run_elsewhere_that_was_silent_for_long_reads_as_lost_and_its_journal_is_left_alone(process: ProcessId):
    elsewhere = supervisor(process, boot="another", host="far-away")
    assert snapshot.load(made(elsewhere, age_s=sight.SILENT_S - 60)).state is RunState.STARTING
    run = made(elsewhere, age_s=sight.SILENT_S + 60)
    before = run.journal.read_bytes()
    assert attach(run.run_id).wait(30) is RunState.LOST
    assert "nothing was heard of the supervisor" in snapshot.load(run).text
    assert "far-away" in snapshot.load(run).text
    assert run.journal.read_bytes() == before


def test_a_signal_never_goes_to_a_pid_of_another_container(process: ProcessId):
    run = made(supervisor(process, namespace=1))
    rundir.write_json(run.run_json, {})
    held = os.open(run.supervisor_log, os.O_WRONLY | os.O_CREAT, 0o600)
    machine.hold(held)
    attach(run.run_id).stop(0.0)
    assert process.is_alive
    assert rundir.read_json(run.stop_json) == {"grace_s": 0.0, "by": "user"}
    os.close(held)
    told = snapshot.load(run)
    assert (told.state, "container" in told.text) == (RunState.LOST, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a namespace of pids")
def test_a_supervisor_in_a_container_is_seen_by_its_log_alone(tmp_path: Path):
    log = tmp_path / "supervisor.log"
    code = (
        "import os, sys, time\nfrom nb_elastic import machine\nfd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY, 0o600)\n"
        "machine.hold(fd)\nprint(os.getpid(), machine.pid_namespace(), machine.boot_id(), flush=True)\ntime.sleep(600)"
    )
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", code, str(log)], stdout=subprocess.PIPE
    ) as contained:
        assert contained.stdout
        words = contained.stdout.readline().split()
        if not words:
            pytest.skip("no right to make a namespace")
        pid, namespace = int(words[0]), int(words[1])
        run = made(supervisor(ProcessId(pid, 1), namespace=namespace, host="container"), age_s=HOUR_S)
        log.rename(run.supervisor_log)
        assert (pid, words[2].decode()) == (1, machine.boot_id())
        assert namespace != machine.pid_namespace()
        assert snapshot.load(run).state is RunState.STARTING
        contained.send_signal(signal.SIGKILL)
        until(lambda: snapshot.load(run).state is RunState.LOST, 30)


def test_a_supervisor_killed_before_its_first_word_leaves_no_run_that_starts_for_ever():
    run = made(age_s=sight.FIRST_S + 1)
    held = os.open(run.supervisor_log, os.O_WRONLY | os.O_CREAT, 0o600)
    machine.hold(held)
    with subprocess.Popen(["sleep", "600"], stderr=held) as starting:
        os.close(held)
        assert snapshot.load(run).state is RunState.CREATED  # it imports, say
        starting.kill()
    told = snapshot.load(run)
    assert (told.state, told.text.partition(":")[0]) == (RunState.LOST, "no supervisor ever reported")


def test_a_run_that_is_being_made_is_not_lost():
    run = rundir.create()
    rundir.write_json(run.run_json, {})
    assert snapshot.load(run).state is RunState.CREATED
    assert snapshot.load(made()).state is RunState.CREATED


def test_a_folder_that_was_deleted_by_halves_does_not_read_as_a_run_that_will_come():
    """Its supervisor may make a folder in it in the midst of the deletion; journal and run.json are gone."""
    run = made()
    run.journal.unlink()
    run.run_json.unlink()
    run.round(0).mkdir()
    past = time.time() - HOUR_S
    os.utime(run.path, (past, past))
    assert snapshot.load(run).state is RunState.LOST
