"""How the files of a run are made, written, read and found again.

Runs in: every process. ``rundir_paths`` says where each lies. The run folder is the truth: what must outlive a process is a file here.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nb_elastic import events
from nb_elastic.errors import ElasticError, OptionError
from nb_elastic.events import Event
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
    "find",
    "home",
    "make_private",
    "new_run_id",
    "read_at",
    "read_json",
    "read_whole",
    "remove",
    "write_atomic",
    "write_json",
]

READ_BYTES = 1 << 20
"""Most bytes that one look at one log file reads."""
LINE_BYTES = 4 << 20
"""A longer line is none that we wrote: the largest is an output of a rank."""


def home() -> Path:
    """Folder of all runs: ``$NB_ELASTIC_HOME``, else the platform's user state folder."""
    if chosen := os.environ.get("NB_ELASTIC_HOME"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "nb_elastic"
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "nb_elastic"


def make_private(folder: Path) -> None:
    """Make a folder (and its parents) that only this user can enter, whatever the umask.

    Raises:
        OptionError: if it can't be made, is a file or a symlink, or belongs to somebody else.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = folder.lstat()
    except OSError as e:
        raise OptionError(
            f"The folder {folder} can't be made: {e.strerror or e}. Choose another with --log-dir or NB_ELASTIC_HOME."
        ) from e
    if not stat.S_ISDIR(info.st_mode):
        raise OptionError(
            f"{folder} is not a folder of its own (a file or a symlink). Choose another with --log-dir or NB_ELASTIC_HOME."
        )
    if info.st_uid != os.getuid():
        raise OptionError(
            f"The folder {folder} belongs to user {info.st_uid}, not to you. Choose another with --log-dir or NB_ELASTIC_HOME."
        )
    if stat.S_IMODE(info.st_mode) != 0o700:
        folder.chmod(0o700)


def write_atomic(path: Path, data: bytes) -> None:
    """Write aside, then rename: a reader sees the old file or the new one, never half of it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(fd, "wb") as f:
            f.write(data)
        aside.rename(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically."""
    write_atomic(path, json.dumps(value, indent=1, default=str).encode())


def read_json(path: Path, *, max_bytes: int = 4 << 20) -> dict[str, Any]:
    """Read a JSON object; an empty dict where the file is absent, too large or no object.

    The file may have been written by a hostile rank, so it is opened without following links.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, "rb") as f:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return {}
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
    base = Path(log_dir).expanduser().absolute() if log_dir else home()
    if log_dir:
        try:
            base.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise OptionError(f"--log-dir {log_dir} can't be used: {e.strerror or e}. Nothing was started.") from e
    make_private(home())
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
        path.chmod(0o700)
        if log_dir:
            write_json(home() / f"{run_id}.json", {"dir": str(path)})
        return RunDir(path)
    raise OptionError(f"No free run id near {first!r}. Nothing was started.")


def all_runs() -> list[RunDir]:
    """Every run on this machine that this user can see, newest first."""
    found: list[tuple[float, RunDir]] = []
    try:
        entries = list(home().iterdir())
    except OSError:
        return []
    for entry in entries:
        path = entry
        if entry.suffix == ".json" and not entry.name.startswith("."):
            path = Path(str(read_json(entry).get("dir", "")) or "/nonexistent")
        try:
            run = RunDir(path)
            found.append((run.run_json.stat().st_mtime_ns, run))
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
    (home() / f"{run.run_id}.json").unlink(missing_ok=True)


class LineWriter:
    """Appends lines to an open file, each one write. A full disk may cut a line: the next then begins a line of its own.

    Args:
        fd: in append mode; closed by ``close``.
    """

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        size = os.fstat(fd).st_size
        self._is_torn = bool(size) and read_at(path, size - 1, 1) != b"\n"

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
    """Appends events to a run's journal."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._lines = LineWriter(fd, path)

    @property
    def fd(self) -> int:
        """Descriptor of the file."""
        return self._lines.fd

    def append(self, event: Event) -> None:
        """Append one event.

        Raises:
            OSError: if it is not there, or not whole: the disk is full.
        """
        self._lines.write(events.encode(event))

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

    def read(self) -> Iterator[bytes]:
        """Yield the whole lines that were appended since the last call (none if there is no file)."""
        while data := read_at(self.path, self._offset):
            self._offset += len(data)
            first, end, more = data.partition(b"\n")
            self._grow(first)
            if end:
                found = [] if self._is_too_long else [self._rest]
                *whole, rest = more.split(b"\n")
                self._rest, self._is_too_long = b"", False
                self._grow(rest)
                yield from (*found, *whole)
            if len(data) < READ_BYTES:
                return

    def _grow(self, piece: bytes) -> None:
        self._is_too_long = self._is_too_long or len(self._rest) + len(piece) > LINE_BYTES
        self._rest = b"" if self._is_too_long else self._rest + piece


class JournalReader:
    """Reads a journal from its start and follows it."""

    def __init__(self, path: Path) -> None:
        self._lines = LineReader(path)

    def read(self) -> list[Event]:
        """Return the events that were appended since the last call (none if there is no file)."""
        return [event for event in map(events.decode, self._lines.read()) if event is not None]


def read_at(path: Path, offset: int, size: int = READ_BYTES) -> bytes:
    """Read at most ``size`` bytes; none where the file is absent, a link or a pipe: a rank may have put it there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.pread(fd, size, offset)
    except OSError:
        return b""
    finally:
        os.close(fd)


def read_whole(path: Path) -> bytes:
    """Read a whole file as ``read_at`` reads it."""
    data = bytearray()
    while piece := read_at(path, len(data)):
        data += piece
    return bytes(data)
