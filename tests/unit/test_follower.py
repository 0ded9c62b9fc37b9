"""Following a run that this process did not start: one that is lost is told so, one elsewhere is left alone."""

from __future__ import annotations

import json
import math
import time

import pytest

from nb_elastic import events, rundir, snapshot
from nb_elastic.errors import OptionError
from nb_elastic.run import attach
from nb_elastic.rundir import Journal, RunDir

MINUTE_NS = 60 * 10**9


def made(*told: events.Event) -> RunDir:
    run = rundir.create()
    rundir.write_json(run.run_json, {})
    journal = Journal(run.journal)
    for event in told:
        journal.append(event)
    journal.close()
    return run


def created(*, age_ns: int = 0) -> events.Event:
    return events.make(
        "run_created",
        time_ns=time.time_ns() - age_ns,
        run_id="r",
        nproc=1,
        min_nodes=1,
        max_nodes=1,
        max_restarts=0,
        entry="x",
    )


def kinds(run: RunDir) -> list[str]:
    return [json.loads(line)["event"] for line in run.journal.read_text().splitlines()]


def test_a_run_of_another_machine_on_a_shared_home_is_not_declared_dead():
    run = made(created(), events.make("supervisor_started", pid=2**22 - 1, start_ticks=1, host="some-other-machine"))
    assert attach(run.run_id).wait(1.5).value == "starting"
    assert kinds(run) == ["run_created", "supervisor_started"]


def test_a_run_whose_supervisor_is_gone_ends_as_lost_with_a_reason_on_disk():
    import socket

    run = made(created(), events.make("supervisor_started", pid=2**22 - 1, start_ticks=1, host=socket.gethostname()))
    assert attach(run.run_id).wait(30).value == "lost"
    assert kinds(run)[-1] == "run_lost"
    assert "without a last word" in snapshot.load(run).text


def test_a_run_whose_supervisor_never_reported_does_not_hang_its_follower():
    run = made(created(age_ns=10 * MINUTE_NS))
    assert attach(run.run_id).wait(30).value == "lost"


@pytest.mark.parametrize("grace_s", [math.nan, math.inf, -1.0])
def test_a_grace_that_is_no_time_is_refused(grace_s: float):
    run = made(created())
    with pytest.raises(OptionError, match="grace"):
        attach(run.run_id).stop(grace_s)
    assert not run.stop_json.exists()


def test_a_stop_before_the_supervisor_reported_is_written_down_for_it():
    run = made(created())
    attach(run.run_id).stop(2.0, by="test")
    assert rundir.read_json(run.stop_json) == {"grace_s": 2.0, "by": "test"}
