"""When a run counts as hanging, and what is said of one that was ended because of it.

Runs in: the supervisor and the driver.
"""

from __future__ import annotations

HANG_AFTER_S = 60.0
"""Where nothing is asked for."""
BUSY_TIMES = 5
"""A rank that computes, and a run of several nodes whose others can't be seen, is stopped only after so many times as long."""
BY_HANG = "hang"
"""Who asked for the end of a run that hangs."""
MOVING = frozenset({"busy", "gone", "held"})
"""Ranks that are all in one of these states do not hang: they compute, or have nothing more to do."""


def hang_text(headline: str) -> str:
    """The run's last word when it was ended because it hung."""
    return f"timeout: nothing moved any more. {headline}\nRaise --hang-after if the ranks only needed longer."


def hang_reason(hang_after_s: float) -> str:
    """Why it counts as one."""
    return (
        f"Nothing had moved for --hang-after, {hang_after_s:g} s, and --on-hang stop ended the run; no rank had failed."
    )
