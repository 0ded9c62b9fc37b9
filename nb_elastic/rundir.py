"""How the files of a run are made, written, read and found again.

Runs in: every process. ``rundir_paths`` says where each lies. The run folder is the truth: what must outlive a process is a file here.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nb_elastic import events, opening, private, seals
from nb_elastic.errors import ElasticError, OptionError
from nb_elastic.events import Event
from nb_elastic.lifeline import HeldInterrupts
from nb_elastic.rundir_paths import RankDir, RunDir

__all__ = [
    "Journal",
    "JournalReader",
    "LineReader",
    "LineWriter",
    "RankDir",
    "RunDir",
    "all_runs",
    "create",
    "data_after",
    "find",
    "home",
    "new_run_id",
    "read_at",
    "read_json",
    "read_tail",
    "read_whole",
    "remove",
    "write_atomic",
    "write_json",
]

READ_BYTES = 1 << 20
"""Most bytes that one look at one log file reads."""
LINE_BYTES = 4 << 20
"""A longer line is none that we wrote: the largest is an output of a rank."""
MAX_HALVES = 10_000
"""Most files of one folder that are looked at for halves."""
LOOK_BYTES = 32 << 20
"""Most bytes of a journal that a thread reads at one look, if it has more to do. A run's is far smaller."""
FORGED = "The journal has lines that the run's own supervisor did not write (a rank may have): they are passed over."


def home() -> Path:
    """Folder of all runs: ``$NB_ELASTIC_HOME``, else the platform's user state folder."""
    if chosen := os.environ.get("NB_ELASTIC_HOME"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "nb_elastic"
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "nb_elastic"


def write_atomic(path: Path, data: bytes) -> None:
    """Write aside, then rename: a reader sees the old file or the new one, never half of it. An interrupt waits."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    with HeldInterrupts():
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(fd, "wb") as f:
                os.fchmod(fd, 0o600)  # whatever the umask took away
                f.write(data)
            aside.rename(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


def remove_halves(folder: Path, pid: int) -> None:
    """Delete what a process that was killed in ``write_atomic`` left of it; a folder that became a link is left alone."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with os.scandir(fd) as entries:
                for entry in itertools.islice(entries, MAX_HALVES):
                    if entry.name.startswith(".") and f".{pid}." in entry.name:
                        os.unlink(entry.name, dir_fd=fd)
        finally:
            os.close(fd)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically."""
    write_atomic(path, json.dumps(value, indent=1, default=str).encode())


def read_json(path: Path, *, max_bytes: int = 4 << 20) -> dict[str, Any]:
    """Read a JSON object; an empty dict where the file is absent, too large or no object.

    The file may have been written by a hostile rank, so it is opened with care.
    """
    try:
        with opening.reading(path) as fd, open(fd, "rb", closefd=False) as f:
            raw = f.read(max_bytes + 1)
        value = json.loads(raw) if len(raw) <= max_bytes else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def new_run_id(*, wanted: str = "") -> str:
    """Make a run id: the user's own text made safe for a file name, or time plus four random letters."""
    if wanted:
        return re.sub(r"[^A-Za-z0-9._-]+", "-", wanted).strip(".-")[:80] or "run"
    return time.strftime("%Y%m%d-%H%M%S-") + os.urandom(2).hex()


def create(*, wanted_id: str = "", log_dir: str | None = None) -> RunDir:
    """Make a new run folder, 0700, under ``log_dir`` or the home; the id gets a suffix if taken.

    With ``log_dir`` the home keeps a pointer file ``<run_id>.json``, so that ``runs`` finds it.

    Raises:
        OptionError: if the folder can't be made.
    """
    private.make(home())
    base = home()
    if log_dir:
        base = private.real(Path(log_dir).expanduser().absolute())
        try:
            private.make_parents(base)
        except OptionError as e:
            raise OptionError(f"--log-dir {log_dir} can't be used: {e} Nothing was started.") from e
    first = new_run_id(wanted=wanted_id)
    for n in range(1, 10_000):
        run_id = first if n == 1 else f"{first}-{n}"
        path = base / run_id
        if (home() / f"{run_id}.json").exists() or (home() / run_id).exists():
            continue
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            continue
        except OSError as e:
            where = f"--log-dir {log_dir}" if log_dir else str(base)
            raise OptionError(f"{where} can't be used: {e.strerror or e}. Nothing was started.") from e
        private.close_to_others(path)
        if log_dir:
            write_json(home() / f"{run_id}.json", {"dir": str(path)})
        return RunDir(path)
    raise OptionError(f"No free run id near {first!r}. Nothing was started.")


def all_runs() -> list[RunDir]:
    """Every run on this machine that this user can see, newest first.

    Raises:
        DescriptorsError: if this process has too many files open to look.
    """
    found: list[tuple[float, RunDir]] = []
    try:
        with opening.wants_told(f"{home()} can't be listed"):
            entries = list(home().iterdir())
    except OSError:
        return []
    for entry in entries:
        path = entry
        if entry.suffix == ".json" and not entry.name.startswith("."):
            path = Path(str(read_json(entry).get("dir", "")) or "/nonexistent")
        if not private.is_ours(path):
            continue
        try:
            run = RunDir(path)
            found.append((run.run_json.lstat().st_mtime_ns, run))
        except OSError:
            continue
    return [run for _, run in sorted(found, key=lambda pair: (pair[0], pair[1].run_id), reverse=True)]


def find(wanted: str = "") -> RunDir:
    """Find a run by id, unique prefix of an id, or name; the newest where ``wanted`` is empty.

    Raises:
        ElasticError: if there is none, or several fit.
    """
    runs = all_runs()
    if not runs:
        sought = f"No run is called {wanted!r}: there" if wanted else "There"
        raise ElasticError(f"{sought} is no run in {home()}. Launch one with %%elastic_launch or `nb-elastic run`.")
    if not wanted:
        return runs[0]
    if exact := [r for r in runs if r.run_id == wanted]:
        return exact[0]
    if named := [r for r in runs if read_json(r.run_json).get("name") == wanted]:
        return named[0]
    fitting = [r for r in runs if r.run_id.startswith(wanted)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ElasticError(
            f"{wanted!r} fits {len(fitting)} runs: {', '.join(r.run_id for r in fitting[:5])}. Give more of the id."
        )
    raise ElasticError(f"No run is called {wanted!r} in {home()}. `nb-elastic runs` lists them.")


def remove(run: RunDir) -> None:
    """Delete a run's folder and the pointer to it; links inside are not followed."""
    shutil.rmtree(run.path, ignore_errors=True)
    with contextlib.suppress(OSError):  # a process without a descriptor left can list no folder
        for path in (run.run_json, run.payload, run.journal, run.supervisor_log):
            path.unlink(missing_ok=True)
        run.path.rmdir()
    (home() / f"{run.run_id}.json").unlink(missing_ok=True)
    seals.forget(run.path)


class LineWriter:
    """Appends lines to an open file, each one write. A full disk may cut a line: the next then begins a line of its own.

    Args:
        fd: of ``opening.to_append``; closed by ``close``.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        size = os.fstat(fd).st_size
        self._is_torn = bool(size) and os.pread(fd, 1, size - 1) != b"\n"

    def write(self, line: bytes) -> int:
        """Append a line; returns how many bytes that took.

        Raises:
            OSError: if it could not be written, or not to its end: the disk is full.
        """
        whole = b"\n" + line if self._is_torn else line
        written = os.write(self.fd, whole)
        self._is_torn = written < len(whole)
        if self._is_torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)


class Journal:
    """Appends events to a run's journal; each is one write to a descriptor in append mode, sealed where the run's key is known."""

    def __init__(self, path: Path) -> None:
        self._lines = LineWriter(opening.to_append(path))
        key = seals.key_of(path.parent)
        self._sealer = seals.Sealer(key) if key else None

    @property
    def fd(self) -> int:
        """Descriptor of the file."""
        return self._lines.fd

    def append(self, event: Event) -> None:
        """Append one event.

        Raises:
            OSError: if it is not there, or not whole: the disk is full.
        """
        line = events.encode(event)
        self._lines.write(line if self._sealer is None else self._sealer.seal(line))

    def close(self) -> None:
        """Close the descriptor."""
        self._lines.close()


class LineReader:
    """Reads a file from its start and follows it: a torn last line waits for its rest, one without end is passed over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._rest = b""
        self._is_too_long = False

    def read(self, limit_bytes: int = sys.maxsize) -> Iterator[bytes]:
        """Yield the whole lines that were appended since the last call (none if there is no file), of so many bytes at most."""
        end = self._offset + limit_bytes
        while self._offset < end and (data := read_at(self.path, self._offset)):
            self._offset += len(data)
            first, end_of_line, more = data.partition(b"\n")
            self._grow(first)
            if end_of_line:
                found = [] if self._is_too_long else [self._rest]
                *whole, rest = more.split(b"\n")
                self._rest, self._is_too_long = b"", False
                self._grow(rest)
                yield from (*found, *whole)
            if len(data) < READ_BYTES:
                return
            if self._is_too_long:
                self._offset = max(self._offset, data_after(self.path, self._offset))

    def _grow(self, piece: bytes) -> None:
        self._is_too_long = self._is_too_long or len(self._rest) + len(piece) > LINE_BYTES
        self._rest = b"" if self._is_too_long else self._rest + piece


class JournalReader:
    """Reads a journal from its start and follows it. Of a run whose key this process has, sealed lines alone are believed."""

    def __init__(self, path: Path) -> None:
        self._lines = LineReader(path)
        key = seals.key_of(path.parent)
        self._checker = seals.Checker(key) if key else None
        self._has_warned = False

    def read(self) -> list[Event]:
        """Return the events that were appended since the last call (none if there is no file)."""
        return list(self.events())

    def events(self, limit_bytes: int = sys.maxsize) -> Iterator[Event]:
        """Yield the same, one by one: a journal that a rank filled must not fill the memory, too.

        Args:
            limit_bytes: leave what is beyond so many bytes to the next call; for a thread that has more to do.
        """
        for line in self._lines.read(limit_bytes):
            if self._checker is not None and not self._checker.is_genuine(line):
                yield from self._warn(line)
            elif (event := events.decode(line)) is not None:
                yield event

    def _warn(self, line: bytes) -> Iterator[Event]:
        """Say once that there are words of others; another reader's guess that the run is lost, and torn lines, are none."""
        if self._has_warned:
            return
        event = events.decode(line)
        if event is not None and event.kind != "run_lost":
            self._has_warned = True
            yield events.make("note", level="warning", text=FORGED)


def read_at(path: Path, offset: int, size: int = READ_BYTES) -> bytes:
    """Read at most ``size`` bytes; none where the file is absent, a link or a pipe: a rank may have put it there.

    Raises:
        DescriptorsError: if this process has too many files open to look.
    """
    try:
        with opening.wants_told(f"{path} can't be read"), opening.reading(path) as fd:
            return os.pread(fd, size, offset)
    except OSError:
        return b""


def data_after(path: Path, offset: int) -> int:
    """Where a file has bytes again after a hole (or its end): a rank can make a file of a terabyte that holds nothing."""
    with contextlib.suppress(OSError), opening.reading(path) as fd:
        try:
            return os.lseek(fd, offset, os.SEEK_DATA) if hasattr(os, "SEEK_DATA") else offset
        except OSError as e:
            return os.fstat(fd).st_size if e.errno == errno.ENXIO else offset
    return offset


def read_tail(path: Path, size: int) -> bytes:
    """The last bytes of a file, as ``read_at`` reads it."""
    try:
        return read_at(path, max(0, path.lstat().st_size - size), size)
    except OSError:
        return b""


def read_whole(path: Path) -> bytes:
    """Read a whole file as ``read_at`` reads it."""
    data = bytearray()
    while piece := read_at(path, len(data)):
        data += piece
    return bytes(data)
