"""Folders that nobody but this user can enter or exchange: how they are made, and how one that exists is judged.

Runs in: the kernel or command line. A folder is judged by a descriptor of it, so that it can't be exchanged in between;
the umask plays no part.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from nb_elastic.errors import OptionError

_LOOK = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
ELSEWHERE = "Choose another with --log-dir or NB_ELASTIC_HOME."


def make(folder: Path) -> None:
    """Make a folder (and its parents) that only this user can enter; one that exists becomes such.

    Raises:
        OptionError: if it can't be made, is a file or a symlink, belongs to somebody else, or lies where others could exchange it.
    """
    make_parents(folder.parent)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        pass  # told below, more exactly
    except OSError as e:
        raise OptionError(f"The folder {folder} can't be made: {e.strerror or e}. {ELSEWHERE}") from e
    close_to_others(folder)


def make_parents(folder: Path) -> None:
    """Make what is missing of a folder and its parents, each for this user alone, and see that nobody can exchange what lies in it.

    Raises:
        OptionError: if it can't be made, or anybody may rename what lies in it.
    """
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        for path in reversed(missing):
            path.mkdir(mode=0o700)
            close_to_others(path)
        about = folder.stat()
    except OSError as e:
        raise OptionError(f"The folder {folder} can't be made: {e.strerror or e}. {ELSEWHERE}") from e
    if not stat.S_ISDIR(about.st_mode):
        raise OptionError(f"{folder} is not a folder. {ELSEWHERE}")
    if about.st_mode & stat.S_IWOTH and not about.st_mode & stat.S_ISVTX:
        raise OptionError(
            f"Everybody may write to the folder {folder} and so exchange what lies in it, your runs among it: "
            f"`chmod o-w {folder}` or `chmod +t {folder}` would end that. {ELSEWHERE}"
        )


def close_to_others(folder: Path) -> None:
    """Give a folder of this user the mode 0700.

    Raises:
        OptionError: if it is a file or a symlink, or belongs to somebody else.
    """
    try:
        fd = os.open(folder, _LOOK)
    except OSError as e:
        raise OptionError(f"{folder} is not a folder of its own (a file or a symlink). {ELSEWHERE}") from e
    try:
        about = os.fstat(fd)
        if about.st_uid != os.geteuid():
            raise OptionError(f"The folder {folder} belongs to user {about.st_uid}, not to you. {ELSEWHERE}")
        if stat.S_IMODE(about.st_mode) != 0o700:
            os.chmod(f"/proc/self/fd/{fd}" if sys.platform == "linux" else folder, 0o700)
    except OSError as e:
        raise OptionError(f"The folder {folder} can't be closed to others: {e.strerror or e}. {ELSEWHERE}") from e
    finally:
        os.close(fd)


def is_ours(folder: Path) -> bool:
    """True for a folder of this user that is no symlink."""
    try:
        about = folder.lstat()
    except (OSError, ValueError):
        return False
    return stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid()


def real(folder: Path) -> Path:
    """Where a folder of the user's choice (``--log-dir``) really lies.

    Raises:
        OptionError: if its name is a link that another user made.
    """
    try:
        about = folder.lstat()
    except OSError:
        return folder
    if not stat.S_ISLNK(about.st_mode):
        return folder
    if about.st_uid not in {0, os.geteuid()}:
        raise OptionError(f"{folder} is a symlink that user {about.st_uid} made, not you. {ELSEWHERE}")
    return Path(os.path.realpath(folder))
