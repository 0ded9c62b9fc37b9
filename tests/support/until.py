"""Waits for a condition: the one place in the tests that sleeps.

Runs in: the tests.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], timeout_s: float = 30.0, what: str = "") -> T:
    """Call ``condition`` until what it returns is true, and return that.

    Args:
        condition: cheap to call; an AssertionError it raises counts as "not yet".
        timeout_s: generous, for two slow cores: a passing test never waits this long.
        what: what is waited for, in words, for the failure's text.

    Raises:
        AssertionError: if it is still false after ``timeout_s``; tells the last value or error.
    """
    deadline = time.monotonic() + timeout_s
    pause = 0.002
    while True:
        last: object
        try:
            value = condition()
        except AssertionError as e:
            last = e
        else:
            if value:
                return value
            last = value
        if time.monotonic() >= deadline:
            text = f"still waiting after {timeout_s:g} s for {what or condition}; last: {last!r}"
            raise AssertionError(text) from (last if isinstance(last, AssertionError) else None)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)
