r"""Reads what faulthandler wrote: the threads in a dump, whole or torn.

Runs in: the kernel or command line, and the supervisor. Any bytes make some answer; the writer may be hostile.

faulthandler writes a name's characters beyond ASCII as ``\xe4``, ``\u4e2d`` or ``\U0001f600``, cuts names at 500 characters and
stacks at 100 frames, and opens a thread's frames with ``Stack``, ``Thread 0x...`` or ``Current thread 0x...``, Python 3.14's with the
thread's name in brackets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nb_elastic.model import Frame

MAX_BYTES = 1 << 20
MAX_FRAMES = 100
MAX_NAME = 1_000

_HEAD = re.compile(
    r"^(?P<kind>Stack|Thread 0x[0-9a-fA-F]+|Current thread 0x[0-9a-fA-F]+)(?: \[(?P<name>.*)\])? \(most recent call first\):$"
)
_FRAME = re.compile(r'^  File (?:"(?P<file>.*)"|\?\?\?), line (?P<line>\d{1,9}|\?\?\?) in (?P<name>.*)$')
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadStack:
    """One thread's Python frames, outermost first."""

    name: str
    frames: tuple[Frame, ...]
    is_current: bool = False


def parse(data: bytes) -> list[ThreadStack]:
    """Read the threads of a dump, in the order in which they stand there; what is torn or nonsense is passed over."""
    found: list[ThreadStack] = []
    frames: list[Frame] | None = None
    for line in data[:MAX_BYTES].decode("ascii", "replace").split("\n"):
        if head := _HEAD.match(line):
            frames = []
            kind = head["kind"]
            is_current = not kind.startswith("Thread")
            found.append(ThreadStack(name=head["name"] or "", frames=(), is_current=is_current))
        elif frames is not None and len(frames) < MAX_FRAMES and (one := _FRAME.match(line)):
            frames.append(_frame(one))
            last = found[-1]
            found[-1] = ThreadStack(name=last.name, frames=tuple(reversed(frames)), is_current=last.is_current)
    return found


def main_thread(threads: Sequence[ThreadStack]) -> ThreadStack | None:
    """The main thread of a dump: the one that had the signal, else the last, for later threads come first."""
    known = [t for t in threads if t.frames]
    return next((t for t in reversed(known) if t.is_current), known[-1] if known else None)


def _frame(match: re.Match[str]) -> Frame:
    line = match["line"]
    return Frame(
        file=_unescape(match["file"] or "???"),
        line=int(line) if line.isdecimal() else 0,
        name=_unescape(match["name"]),
    )


def _unescape(text: str) -> str:
    def plain(match: re.Match[str]) -> str:
        number = int(match[1] or match[2] or match[3], 16)
        return chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else "?"

    return _ESCAPE.sub(plain, text[:MAX_NAME])
