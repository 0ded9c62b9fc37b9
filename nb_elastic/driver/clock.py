"""How far a node's clock is from the driver's, told by when its signs of life were made and when they came.

Runs in: the driver.
"""

from __future__ import annotations

from collections import deque

KEPT = 40
"""Signs of life that are looked at, about a minute's: the quickest of them was hardly under way."""

WORTH_NS = 500_000_000
"""What could as well be a slow network, or a busy machine, is taken for no difference."""


class NodeClock:
    """A node's clock.

    Attributes:
        behind_ns: nanoseconds by which it is behind the driver's; less than 0 if it is ahead, 0 if that can't be told.
    """

    def __init__(self) -> None:
        self.behind_ns = 0
        self._gaps: deque[int] = deque(maxlen=KEPT)

    def hear(self, sent_ns: int, now_ns: int) -> None:
        """Take a sign of life.

        Args:
            sent_ns: when it was made, by the node's clock; 0 where it doesn't say.
            now_ns: when it came, by the driver's. Both are nanoseconds since the epoch.
        """
        if sent_ns > 0:
            self._gaps.append(now_ns - sent_ns)
            least = min(self._gaps)
            self.behind_ns = least if abs(least) >= WORTH_NS else 0

    def words(self, where: str) -> str:
        """What to tell of it in a sentence or two; "" while there is nothing.

        Args:
            where: the node's name.
        """
        if not self.behind_ns:
            return ""
        seconds, side = abs(self.behind_ns) / 1e9, "behind" if self.behind_ns > 0 else "ahead of"
        return (
            f"The clock of {where} is {seconds:.{1 if seconds < 10 else 0}f} s {side} the notebook's machine's. The times of its "
            "events are put right; those in its logs and files are its own."
        )
