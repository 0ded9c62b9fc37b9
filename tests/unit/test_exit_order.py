"""Ranks that are found dead together are told in the order in which they died.

A user would lose: the right rank, whenever the machine is so busy that two deaths are seen at one look.
"""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from nb_elastic import lifeline
from nb_elastic.supervisor.exit_order import ExitOrder
from tests.support.until import until


@pytest.fixture
def order():
    made = ExitOrder()
    yield made
    made.close()


@pytest.mark.parametrize("turn", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_deaths_keep_their_order_however_late_one_looks(order, turn):
    children = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
    pids = [one.pid for one in children]
    for pid in pids:
        order.add(pid)
    for number in turn:
        os.kill(pids[number], signal.SIGKILL)
        until(lambda pid=pids[number]: lifeline.stat_fields(pid)[0] == "Z")
    assert order.sort(pids) == [pids[number] for number in turn]
    order.forget([pids[turn[0]]])
    assert order.sort(pids[::-1])[:2] == [pids[number] for number in turn[1:]]
    for one in children:
        one.wait()


def test_no_descriptor_is_left(order):
    before = set(os.listdir("/proc/self/fd"))
    child = subprocess.Popen(["sleep", "60"])
    order.add(child.pid)
    child.kill()
    child.wait()
    order.close()
    assert set(os.listdir("/proc/self/fd")) == before
