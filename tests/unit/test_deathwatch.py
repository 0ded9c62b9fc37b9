"""The moment of a rank's death is known before the kernel has freed its memory, and of nobody who lives.

A user would lose: the right rank, where two are killed, or leave by ``os._exit``, within a few milliseconds.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from nb_elastic.model import WorkerFailure
from nb_elastic.supervisor import failures_verdict
from nb_elastic.supervisor.crew import Exit
from nb_elastic.supervisor.deathwatch import DeathWatch
from nb_elastic.supervisor.watch import near_deaths
from tests.support import supervise


def scene(name):
    """What a scene of dying ranks showed; skips where the system marks no deaths."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.dying_ranks", name],
        capture_output=True, text=True, cwd=supervise.ROOT, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    if found == "none":
        pytest.skip("this system has no robust locks that many processes can share")
    return found


def test_deaths_one_after_the_other_have_spans_that_do_not_overlap():
    assert scene("one_by_one") is True


def test_deaths_of_one_look_overlap_and_the_one_that_is_told_first_ends_first():
    (early, end), (early_too, end_too) = scene("at_one_look")
    assert early == early_too < 101_000_000
    assert 105_000_000 <= end < end_too < 105_001_000


def test_of_ranks_whose_threads_came_late_the_likely_order_is_told_and_that_it_is_not_sure():
    first, second, third, seen_ns = scene("woken_late")
    assert first[1] < second[1], "each was woken at a time of its own"
    assert second[0] < first[1], "but nobody saw the second alive when the first was dead"
    assert third[0] > seen_ns, "as everybody saw the third"


def test_a_thread_that_was_woken_much_later_than_its_rank_was_seen_dead_is_not_believed():
    first, second = scene("woken_much_too_late")
    assert first[1] < second[1] and second[0] < first[1]


def test_no_death_is_put_before_the_last_look_at_the_living():
    """On starved CPUs a thread may think that it was woken seconds ago: a rank would take the blame for others' failures."""
    found = scene("woken_too_early")
    assert found == sorted(found)


def test_of_two_ranks_of_one_thread_the_one_it_noted_first_was_first():
    first, second = scene("two_of_one_thread")
    assert first[1] < second[1] and second[0] < first[1]


def test_a_rank_that_dies_as_soon_as_it_begins_is_seen_round_after_round():
    assert scene("dies_at_once") == [True] * 20


def test_a_rank_that_becomes_another_program_is_not_dead():
    assert scene("becomes_a_program") == [None, None]


def test_the_death_of_a_ranks_child_is_not_the_ranks():
    assert scene("loses_a_child") == [True, None]


def test_a_rank_that_marks_another_one_as_dead_is_not_believed():
    assert scene("lies") == [None, True]


def test_the_thread_goes_while_ranks_live():
    assert scene("lives_on") == [True, None]


def test_where_no_thread_can_be_had_the_others_are_watched_and_nothing_fails():
    assert scene("few_threads") == [True, None]


def test_where_the_system_forbids_it_nothing_is_known_and_nothing_waits():
    assert scene("is_forbidden") is None
    watch = DeathWatch(None)
    watch.begin({0: 1})
    assert watch.span(1) is None
    watch.end()


# -- what is said of deaths that are too near to each other ------------------------------------


def death(rank, **more):
    return WorkerFailure(rank=rank, local_rank=rank, round=0, time_ns=0, exit_code=-9, signal="SIGKILL", **more)


def exit_between(early_ms, late_ms):
    late_ns = late_ms * 1_000_000
    return Exit(pid=1, exit_code=-9, time_ns=late_ns, early_ns=early_ms * 1_000_000, found_ns=late_ns)


@pytest.mark.parametrize(
    ("judged", "exits", "told"),
    [
        ([death(0), death(1)], [exit_between(0, 50), exit_between(3, 53)], ((1, 3),)),
        ([death(1), death(0)], [exit_between(0, 50), exit_between(0, 50)], ((0, 1),)),
        ([death(0), death(1)], [exit_between(10, 10), exit_between(11, 11)], ()),
        ([death(0), death(1)], [exit_between(0, 50), exit_between(51, 101)], ()),
        ([death(0, error_type="ValueError"), death(1)], [exit_between(0, 50), exit_between(3, 53)], ()),
        ([death(0), death(1, error_type="ValueError")], [exit_between(0, 50), exit_between(3, 53)], ()),
        ([death(0), death(1, followed="lost")], [exit_between(0, 50), exit_between(3, 53)], ()),
        ([death(0)], [], ()),
        ([], [], ()),
    ],
)  # fmt: skip
def test_only_silent_deaths_that_may_have_come_in_either_order_are_near(judged, exits, told):
    assert near_deaths(judged, dict(enumerate(exits))) == told


@pytest.mark.parametrize(
    ("near", "told"),
    [
        (((1, 3),), "Rank 1 was found dead within 3 ms of rank 0, and the order of the two can't be told."),
        (((1, 3), (5, 7)), "Ranks 1, 5 were found dead within 7 ms of rank 0, and the order of these deaths can't be told."),
    ],
)  # fmt: skip
def test_one_of_several_silent_deaths_is_not_blamed_as_if_it_were_known(near, told):
    company = failures_verdict.Company(near=near)
    assert failures_verdict.give(death(0), company=company).reasons[1] == told
    assert not any("can't be told" in reason for reason in failures_verdict.give(death(0)).reasons)
