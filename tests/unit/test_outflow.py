"""What goes out over a link: bounded, in order, and never in the way of whoever sends.

A user would lose: the kernel's memory to a payload on a slow network, and all nodes to one that takes nothing.
"""

from __future__ import annotations

import threading

import pytest

from nb_elastic.engines import outflow
from nb_elastic.engines.outflow import FULL_BYTES, MOST_BYTES, Outflow
from tests.support.until import until


class Slow:
    """An end that takes one item each time it is told to."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.why: list[str] = []
        self.gate = threading.Semaphore(0)
        self.out: Outflow[int] = Outflow(self._write, name="slow", on_end=self.why.append)
        self.out.start()

    def _write(self, item: int) -> None:
        self.gate.acquire()
        self.taken.append(item)

    def close(self) -> None:
        self.out.end()
        self.gate.release(1000)
        self.out.join(10)


@pytest.fixture
def slow():
    found = Slow()
    yield found
    found.close()


def test_small_items_never_wait_and_keep_their_order(slow):
    for number in range(1000):
        slow.out.put(number, 100)
    slow.gate.release(1000)
    until(lambda: slow.taken == list(range(1000)))


def test_big_items_wait_while_much_is_under_way(slow):
    for number in range(40):
        slow.out.put(number, FULL_BYTES // 40)
    waits = threading.Thread(target=slow.out.put, args=(40, 1 << 20))
    waits.start()
    slow.out.put(41, 100)  # what is small goes by
    assert waits.is_alive()
    slow.gate.release(100)
    waits.join(20)
    assert not waits.is_alive()
    until(lambda: sorted(slow.taken) == list(range(42)))


def test_one_item_of_any_size_goes_out_alone(slow):
    slow.out.put(1, MOST_BYTES * 10)
    slow.gate.release(1)
    until(lambda: slow.taken == [1])


def test_an_end_that_takes_nothing_is_given_up(slow, monkeypatch):
    monkeypatch.setattr(outflow, "PATIENCE_S", 0.2)
    slow.out.put(1, FULL_BYTES)
    slow.out.put(2, FULL_BYTES)
    assert slow.why == ["it took nothing for 0.2 s"]
    slow.out.put(3, 1)  # dropped, without a word
    slow.gate.release(10)
    slow.out.join(10)
    assert slow.taken == [1]


def test_the_end_of_the_other_side_is_told_once():
    why: list[str] = []

    def write(_item: int) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    out: Outflow[int] = Outflow(write, name="gone", on_end=why.append)
    out.start()
    out.put(1, 1)
    until(lambda: why)
    out.put(2, 1)
    out.end()
    out.join(10)
    assert why == ["Broken pipe"]


def test_nothing_to_write_is_a_time_for_a_sign_of_life():
    beats: list[int] = []
    out: Outflow[int] = Outflow(
        lambda _item: None, name="idle", on_end=lambda _why: None, idle=lambda: beats.append(1), idle_s=0.01
    )
    out.start()
    until(lambda: len(beats) >= 3)
    out.end()
    out.join(10)
