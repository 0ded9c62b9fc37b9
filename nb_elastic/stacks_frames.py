"""Which frames of a rank's stack are the user's, and how a place in them is named.

Runs in: the kernel or command line, and the supervisor.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nb_elastic import rundir, untrusted
from nb_elastic.model import Frame
from nb_elastic.rundir import RunDir
from nb_elastic.stacks_nouns import RankStack

OWN = str(Path(__file__).parent) + os.sep
MAX_SOURCE_BYTES = 4 << 20
MAX_LINE_CHARS = 300
_LIBRARY = re.compile(
    r"[/\\](site-packages|dist-packages)[/\\]|[/\\]lib(64)?[/\\]python3(\.\d+)?[/\\]|^<(?!string>|stdin>)|^\?\?\?$"
)
_CALLED = frozenset(
    {"rankshell.py", "rankshell_hooks.py", "rankshell_display.py", "report.py", "outputs.py", "rankstacks.py"}
)
"""Modules of this package that the user's code calls; frames of all others stand above it."""
_RUNNERS = re.compile(
    r"^<frozen |[/\\](runpy|threading)\.py$|[/\\]multiprocessing[/\\](process|popen_\w+|context|spawn|forkserver)\.py$"
)


def without_own(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """Leave out what stands above the user's code: this package, runpy, the start of a thread or a child."""
    own = [i for i, f in enumerate(frames) if is_own(f) and os.path.basename(f.file) not in _CALLED]
    first = own[-1] + 1 if own else 0
    while first < len(frames) and _RUNNERS.search(frames[first].file):
        first += 1
    return tuple(frames[first:])


def is_own(frame: Frame) -> bool:
    """True for a frame of this package, and for the line of ``python -c`` that starts one of its processes."""
    return frame.file.startswith(OWN)


def is_users(frame: Frame) -> bool:
    """True for code that is neither this package's nor in a library's folder."""
    return not is_own(frame) and not _LIBRARY.search(frame.file)


def users_frame(frames: Sequence[Frame]) -> Frame | None:
    """The user's innermost frame; None where there is none."""
    return next((f for f in reversed(frames) if is_users(f)), None)


def place(frame: Frame | None, *, file: str = "") -> str:
    """Name a line: ``Cell In[12], line 31``; only ``line 31`` where the file was named already."""
    if frame is None:
        return ""
    return f"line {frame.line}" if frame.file == file else f"{short_name(frame)}, line {frame.line}"


def short_name(frame: Frame) -> str:
    """A notebook's label, or a file's name without its folder."""
    return frame.file if frame.file.startswith(("Cell In[", "<")) else os.path.basename(frame.file)


class Texts:
    """Reads the lines that frames stand at: from the notebook's cells as the run folder has them, else from the disk.

    Args:
        cells: sources by label.
    """

    def __init__(self, cells: Mapping[str, object]) -> None:
        self._lines: dict[str, list[str]] = {
            str(k): v.splitlines() for k, v in cells.items() if isinstance(v, str) and len(v) <= MAX_SOURCE_BYTES
        }

    def fill(self, frames: Sequence[Frame]) -> tuple[Frame, ...]:
        """The frames with their lines' texts, where these are to be had."""
        return tuple(replace(f, text=self.line(f)) for f in frames)

    def fill_gaps(self, one: RankStack) -> RankStack:
        """The same stack; lines that its node could not read have their texts, where these are to be had."""
        return replace(one, frames=tuple(f if f.text else replace(f, text=self.line(f)) for f in one.frames))

    def line(self, frame: Frame) -> str:
        """Text of a frame's line, or ""."""
        if frame.file not in self._lines:
            self._lines[frame.file] = _read(frame.file)
        lines = self._lines[frame.file]
        return lines[frame.line - 1].strip()[:MAX_LINE_CHARS] if 0 < frame.line <= len(lines) else ""


def texts_of(folder: RunDir) -> Texts:
    """Reads lines of the notebook's cells as ``run.json`` keeps them, and of files."""
    asked = rundir.read_json(folder.run_json, max_bytes=64 << 20)
    sources, entry, cell = asked.get("sources"), asked.get("entry"), asked.get("cell")
    cells: dict[str, object] = dict(sources) if isinstance(sources, dict) else {}
    if isinstance(entry, dict) and entry.get("kind") == "cell" and isinstance(cell, str):
        above = min(max(0, untrusted.integer(asked.get("cell_offset"))), 1_000)
        cells[str(entry.get("target"))] = "\n" * above + cell
    return Texts(cells)


def _read(path: str) -> list[str]:
    """The lines of a source file; none of what is no plain file, for the name came from a rank."""
    if not os.path.isabs(path) or not path.endswith((".py", ".pyw")):
        return []
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as f:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return []
            return f.read(MAX_SOURCE_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return []
