"""Numbers that follow each other, as spans: what 0, 1, 2 and 5 are in short.

Runs in: every process.
"""

from __future__ import annotations

from collections.abc import Iterable


def spans(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """First and last number of each run of following ones, rising; equal ones count once."""
    found: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def is_one(found: list[tuple[int, int]]) -> bool:
    """True for a single number."""
    return len(found) == 1 and found[0][0] == found[0][1]
