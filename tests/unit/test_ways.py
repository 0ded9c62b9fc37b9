"""Each rank's way to its end is told in one true phrase."""

from __future__ import annotations

import signal

import pytest

from nb_elastic.supervisor.ways import way_to_end

S = 10**9
INT, TERM, KILL = ((signal.SIGINT, 10 * S), (signal.SIGTERM, 15 * S), (signal.SIGKILL, 15 * S + S // 4))


@pytest.mark.parametrize(
    ("sent", "exit_code", "at_s", "is_stop", "way"),
    [
        ([], 0, 5, False, "left by itself"),
        ([], 3, 5, False, "left by itself"),
        ([], -9, 5, False, "died of SIGKILL"),
        ([], 0, 5, True, "gone before"),
        ([INT], 0, 9, True, "gone before"),
        ([INT], 130, 12, True, "saved and left by itself"),
        ([INT], 0, 12, True, "saved and left by itself"),
        ([INT], -2, 12, True, "ended after SIGINT"),
        ([INT], -11, 12, True, "died of SIGSEGV after SIGINT"),
        ([INT], -9, 12, True, "died of SIGKILL after SIGINT"),
        ([INT, TERM], -15, 16, True, "ended after SIGTERM"),
        ([INT, TERM], 0, 16, True, "ended after SIGTERM"),
        ([INT, TERM, KILL], -9, 16, True, "killed after 6 s"),
        ([TERM], -15, 16, False, "ended by the agent"),
        ([TERM], 1, 16, False, "ended by the agent"),
        ([TERM, KILL], -9, 15.5, False, "killed after 0.5 s"),
        ([TERM], None, 16, False, "nobody saw its end"),
        ([INT], -64, 12, True, "died of signal 64 after SIGINT" if signal.SIGRTMAX != 64 else "died of SIGRTMAX after SIGINT"),
    ],
)  # fmt: skip
def test_the_way(sent, exit_code, at_s, is_stop, way):
    assert way_to_end(sent, exit_code=exit_code, time_ns=int(at_s * S), is_stop=is_stop) == way
