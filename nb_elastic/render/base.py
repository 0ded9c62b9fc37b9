"""What every renderer is: fed with snapshots and log bytes, never asking.

Runs in: the kernel or command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from nb_elastic.errors import OptionError
from nb_elastic.model import LogChunk, Stream
from nb_elastic.model_options import LaunchOptions
from nb_elastic.snapshot import RunSnapshot

STDOUT_BIT, STDERR_BIT = 1, 2
"""torchrun's numbers for ``--redirects`` and ``--tee``."""


class Renderer(Protocol):
    """Draws one run. All calls come from one thread, in the order in which things happened.

    Attributes:
        needs_logs: it wants the bytes of the logs; else ``append`` gets none.
    """

    needs_logs: bool

    def update(self, snapshot: RunSnapshot) -> None:
        """Draw a new state of the run."""

    def append(self, chunks: Sequence[LogChunk]) -> None:
        """Draw new bytes of the logs. Without chunks it tells that time has passed."""

    def show(self, outputs: Sequence[Mapping[str, Any]]) -> None:
        """Show what rank 0 displays: rows of its outputs.jsonl, as they came."""

    def close(self, snapshot: RunSnapshot) -> None:
        """Draw the last state and let go of everything; also where following ends early.

        Called once, and again where an interrupt cut it short: then to do what was not done.
        """


def aside(renderer: Renderer) -> AbstractContextManager[object]:
    """Take a live view off the screen while somebody is asked there; the faces that draw none stay as they are."""
    found: AbstractContextManager[object] = getattr(renderer, "aside", nullcontext)()
    return found


class SilentRenderer:
    """Draws nothing (``--render none``)."""

    needs_logs = False

    def update(self, snapshot: RunSnapshot) -> None:
        """Draw nothing."""

    def append(self, chunks: Sequence[LogChunk]) -> None:
        """Draw nothing."""

    def show(self, outputs: Sequence[Mapping[str, Any]]) -> None:
        """Draw nothing."""

    def close(self, snapshot: RunSnapshot) -> None:
        """Draw nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Which streams are shown, as torchrun's ``--redirects``, ``--tee`` and ``--local-ranks-filter`` mean it.

    What is not shown is in its file all the same.
    """

    redirects: Mapping[int, int] = field(default_factory=dict)
    tee: Mapping[int, int] = field(default_factory=dict)
    local_ranks: frozenset[int] = frozenset()

    @classmethod
    def of(cls, options: LaunchOptions | None) -> Shown:
        """Read the options of a run; everything is shown where there are none.

        Raises:
            OptionError: if ``redirects`` or ``tee`` is no value of torchrun's.
        """
        if options is None:
            return cls()
        return cls(
            redirects=_bits("--redirects", options.redirects),
            tee=_bits("--tee", options.tee),
            local_ranks=frozenset(options.local_ranks_filter),
        )

    def has(self, local_rank: int, stream: Stream) -> bool:
        """True if this stream of this local rank is shown."""
        if self.local_ranks and local_rank not in self.local_ranks:
            return False
        bit = STDOUT_BIT if stream == "stdout" else STDERR_BIT
        redirected = self.redirects.get(local_rank, self.redirects.get(-1, 0))
        teed = self.tee.get(local_rank, self.tee.get(-1, 0))
        return not redirected & bit or bool(teed & bit)

    def chunks(self, chunks: Sequence[LogChunk]) -> list[LogChunk]:
        """Only the chunks that are shown."""
        return [c for c in chunks if self.has(c.local_rank, c.stream)]


def _bits(flag: str, text: str) -> dict[int, int]:
    """Read ``3`` (all local ranks, as key -1) or ``0:1,1:3`` (some)."""
    found: dict[int, int] = {}
    for part in text.split(","):
        rank, _, bits = part.rpartition(":")
        if bits not in {"0", "1", "2", "3"} or (rank and not rank.isdecimal()):
            raise OptionError(
                f"{flag} {text!r} makes no sense: give 0, 1, 2 or 3, or pairs such as 0:1,1:3 (local rank : streams)."
            )
        found[int(rank) if rank else -1] = int(bits)
    return found
