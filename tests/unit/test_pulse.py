"""What watches the ranks never takes a run's last word: not where a look hangs, and not where two threads end it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nb_elastic.rundir import RunDir
from nb_elastic.supervisor import pulse as pulses
from nb_elastic.supervisor.pulse import Pulse, Subject


@pytest.fixture
def pulse(tmp_path: Path) -> Pulse:
    run = RunDir(tmp_path)
    run.rank(0, 0).path.mkdir(parents=True)
    made = Pulse(run, node=None)
    made.begin(0, [Subject(rank=0, local_rank=0, pid=os.getpid(), folder=run.rank(0, 0))])
    return made


def test_a_look_that_hangs_is_not_waited_for(pulse: Pulse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulses, "LAST_LOOK_S", 0.05)
    watched = pulse._round
    assert watched is not None
    with watched._looking:
        pulse.end()
    pulse.close()


def test_the_watchdog_may_end_what_the_main_thread_is_ending(pulse: Pulse) -> None:
    watched, ends = pulse._round, []
    assert watched is not None
    end = watched.end

    def twice() -> None:
        ends.append(1)
        pulse.end()
        end()

    watched.end = twice  # type: ignore[method-assign]
    pulse.end()
    pulse.close()
    assert ends == [1]


def test_a_run_of_weeks_does_not_fill_the_disk_with_what_it_used():
    at = [n * pulses.RARER_BYTES for n in range(9)]
    assert [pulses.rarity_s(size) for size in at] == [0.0, 1.5, 3.5, 7.5, 15.5, 31.5, 59.5, 59.5, 59.5]
