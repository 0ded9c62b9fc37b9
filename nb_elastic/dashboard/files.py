"""The append-only files of one run: their names in messages, where they lie, and how large they are.

Runs in: the kernel. A page names files by key only, and only keys of this list are ever opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nb_elastic.model import STREAMS
from nb_elastic.rundir import RunDir

OLD_LOOKS = 20
"""Files of earlier rounds hardly grow any more: they are looked at once in so many looks."""
LIMIT = 20_000
"""Files of one run at most: a run that restarts for days must not fill the kernel."""


@dataclass(slots=True, kw_only=True)
class File:
    """One file that is only ever appended to.

    Attributes:
        key: its name in messages: ``<node>/<round>/<local_rank>/<kind>`` or ``<node>/usage``.
        size: as last seen.
        time_ns: when it last grew, by its own clock.
        is_watched: its next growth will wake the board.
        is_seen: it was looked for at least once.
    """

    key: str
    kind: str
    path: Path
    node: int = 0
    round: int = 0
    local_rank: int = 0
    rank: int = 0
    size: int = 0
    time_ns: int = 0
    is_watched: bool = False
    is_seen: bool = False

    @property
    def is_log(self) -> bool:
        """True for what a rank printed."""
        return self.kind in STREAMS


class RunFiles:
    """All files of a run, known from its journal; looked at together, whoever reads them."""

    def __init__(self, folder: RunDir) -> None:
        self._folder = folder
        self._files: dict[str, File] = {}
        self._round = 0
        self._looks = 0

    def __iter__(self) -> Iterator[File]:
        return iter(self._files.values())

    def __len__(self) -> int:
        return len(self._files)

    def get(self, key: str) -> File | None:
        """The file of this name, or None: a page may ask for anything."""
        return self._files.get(key)

    def add(self, *, rank: int, local_rank: int, round_number: int, node: int) -> None:
        """Know one more worker, from its ``worker_started`` event."""
        if min(rank, local_rank, round_number, node) < 0 or len(self._files) >= LIMIT:
            return
        self._round = max(self._round, round_number)
        at: dict[str, Any] = {"node": node, "round": round_number, "local_rank": local_rank, "rank": rank}
        level = self._folder.level(node)
        self._add(File(key=f"{node}/usage", kind="usage", path=self._folder.usage(level), node=node))
        place = self._folder.rank(round_number, local_rank, node=level)
        for kind, path in (("metrics", place.metrics), ("outputs", place.outputs)):
            self._add(File(key=f"{node}/{round_number}/{local_rank}/{kind}", kind=kind, path=path, **at))
        for stream in STREAMS:
            path = place.stream(stream)
            self._add(File(key=f"{node}/{round_number}/{local_rank}/{stream}", kind=stream, path=path, **at))

    def growth(self) -> list[tuple[int, Path]]:
        """(node, file) of each node's growth.jsonl, which tells when its logs had which size."""
        nodes = sorted({f.node for f in self})
        return [(n, self._folder.growth(self._folder.level(n))) for n in nodes]

    def look(self, watch: Callable[[Path], None] | None = None, *, is_last: bool = False) -> None:
        """See how large each file is now.

        Args:
            watch: asked to wake the board at a file's next growth.
            is_last: the run is over: leave nothing out.
        """
        self._looks += 1
        is_whole = is_last or self._looks % OLD_LOOKS == 0
        for file in self:
            if file.is_seen and file.kind != "usage" and file.round < self._round and not is_whole:
                continue
            file.is_seen = True
            self._stat(file)
            if watch is not None and not file.is_watched:
                file.is_watched = True
                watch(file.path)
                self._stat(file)  # it may have grown just before

    def _add(self, file: File) -> None:
        self._files.setdefault(file.key, file)

    def _stat(self, file: File) -> None:
        """What is gone, or what a rank put in a file's place, holds nothing to be read."""
        try:
            seen = os.stat(file.path, follow_symlinks=False)
        except OSError:
            file.size = 0
            return
        size = seen.st_size if stat.S_ISREG(seen.st_mode) else 0
        if size != file.size or not file.time_ns:
            file.size, file.time_ns, file.is_watched = size, seen.st_mtime_ns, False
