"""Only processes that are proven ours are ever signalled, and a dead parent is noticed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from nb_elastic.lifeline import HeldInterrupts, ProcessId, descendants, is_doomed
from tests.support.until import until


def test_a_recycled_pid_is_not_the_process_it_was():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    found = ProcessId.of(child.pid)
    assert found is not None and found.is_alive
    other = ProcessId(found.pid, found.start_ticks + 1)
    assert [other.is_alive, other.signal(signal.SIGKILL), child.poll()] == [False, False, None]
    assert found.signal(signal.SIGKILL)
    assert child.wait(30) == -signal.SIGKILL
    assert [found.is_alive, found.signal(signal.SIGKILL)] == [False, False]
    assert child.stdin is not None
    child.stdin.close()


def test_a_process_that_was_killed_is_known_to_end_before_it_has():
    """It still holds its sockets then, and takes what is sent there with it."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert not is_doomed(child.pid)
    os.kill(child.pid, signal.SIGKILL)
    assert is_doomed(child.pid)
    until(lambda: os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), 30)
    assert is_doomed(child.pid)
    child.wait()
    assert not is_doomed(child.pid)
    assert child.stdin is not None
    child.stdin.close()


def test_a_process_dies_with_the_parent_that_was_killed():
    code = (
        "import os, sys, signal\nfrom nb_elastic.lifeline import die_with_parent\nparent = os.getpid()\n"
        "if os.fork() == 0:\n    signal.signal(signal.SIGINT, signal.SIG_IGN)\n    die_with_parent(parent=parent)\n"
        "    print(os.getpid(), flush=True)\nsignal.pause()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = ProcessId.of(int(parent.stdout.readline()))
    assert child is not None and child.pid in descendants(parent.pid)
    parent.kill()
    parent.wait()
    until(lambda: not child.is_alive, 30)
    parent.stdout.close()
    assert child.pid not in descendants(os.getpid())


def test_an_interrupt_is_held_back_and_then_arrives():
    before, done = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt), HeldInterrupts():
        os.kill(os.getpid(), signal.SIGINT)
        done.append("whole")
    assert [done, signal.getsignal(signal.SIGINT)] == [["whole"], before]


def test_a_released_interrupt_is_counted_and_not_raised():
    with HeldInterrupts() as held:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert [held.release(), held.release()] == [2, 0]


def test_a_second_interrupt_gets_through_where_one_is_held_back():
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), HeldInterrupts(most=1):
        signal.raise_signal(signal.SIGINT)
        done.append("the first one waits")
        signal.raise_signal(signal.SIGINT)
        done.append("never")
    assert done == ["the first one waits"]


def test_a_second_interrupt_goes_to_who_has_a_handler_of_their_own_and_raises_nothing():
    heard: list[str] = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append("once"))
    try:
        with HeldInterrupts(most=1):
            signal.raise_signal(signal.SIGINT)
            assert heard == []
            signal.raise_signal(signal.SIGINT)
            assert heard == ["once"]
        assert heard == ["once", "once"]
    finally:
        signal.signal(signal.SIGINT, before)


def test_where_interrupts_are_ignored_they_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with HeldInterrupts() as held:
            signal.raise_signal(signal.SIGINT)
            assert held.count == 0
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_who_has_a_handler_of_their_own_hears_of_a_held_interrupt():
    """A supervisor, say: an exception in its midst would end the run."""
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        with HeldInterrupts():
            signal.raise_signal(signal.SIGINT)
            assert heard == []
        assert heard == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)
