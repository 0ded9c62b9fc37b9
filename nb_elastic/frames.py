"""From an exception to text a user can read: frames, message and traceback with the notebook's lines.

Runs in: a worker. Whatever the exception does (its ``__str__`` raises, it is a group, it refers to
itself, memory is short), the answer is text.
"""

from __future__ import annotations

import linecache
import re
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

from nb_elastic.model import Frame

MAX_FRAMES = 100
MAX_TEXT = 256_000
"""Most characters of a traceback that are kept; its middle goes first."""

_FILE_LINE = re.compile(r'^(?P<indent>[ |+-]*)File "(?P<file>[^"]*)", line (?P<line>\d+)', re.MULTILINE)
_OURS = re.compile(
    r"nb_elastic[/\\](worker|payload|cell|entry|frames|rankshell|supervisor)\b|^<frozen (runpy|importlib)|[/\\]runpy\.py$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An exception, told.

    Attributes:
        text: the formatted traceback.
    """

    error_type: str
    message: str
    text: str
    frames: tuple[Frame, ...]


def tell(exc: BaseException, *, labels: Mapping[str, str] | None = None) -> Told:
    """Tell an exception without the frames of this package above the user's code.

    Args:
        labels: file name -> what to call it, for code of the notebook (``Cell In[12]``).
    """
    labels = labels or {}
    kind = type(exc).__name__
    try:
        tb = skip_own(exc.__traceback__)
        return Told(
            error_type=kind, message=message_of(exc), text=shorten(_format(exc, tb, labels)), frames=_frames(tb, labels)
        )
    except Exception as e:  # noqa: BLE001  the user's exception may do anything; a short word is better than none
        return Told(error_type=kind, message=f"(it could not be told: {type(e).__name__})", text=f"{kind}\n", frames=())


def message_of(exc: BaseException) -> str:
    """The exception's text, shortened; a placeholder where its own ``__str__`` raises."""
    try:
        return shorten(str(exc))
    except Exception as e:  # noqa: BLE001  a user's __str__ may raise anything
        return f"<its __str__ raised {type(e).__name__}>"


def skip_own(tb: TracebackType | None) -> TracebackType | None:
    """Leave out this package's and runpy's frames at the top; all of them if there is nothing below."""
    while tb is not None and _OURS.search(tb.tb_frame.f_code.co_filename):
        tb = tb.tb_next
    return tb


def shorten(text: str, limit: int = MAX_TEXT) -> str:
    """Cut the middle out of a text that is too long, and make it writable as UTF-8."""
    if len(text) > limit:
        text = f"{text[: limit // 2]}\n[... {len(text) - limit} characters cut ...]\n{text[-(limit // 2) :]}"
    return text.encode("utf-8", "backslashreplace").decode()


def relabel(text: str, labels: Mapping[str, str]) -> str:
    """Turn ``File "<cell's file>", line 7`` into ``Cell In[12], line 7`` everywhere in a formatted traceback."""

    def label(match: re.Match[str]) -> str:
        name = match["file"]
        name = labels.get(name, name)
        return f"{match['indent']}{name}, line {match['line']}" if name.startswith("Cell In[") else match[0]

    return _FILE_LINE.sub(label, text)


def _format(exc: BaseException, tb: TracebackType | None, labels: Mapping[str, str]) -> str:
    try:
        lines = traceback.format_exception(type(exc), exc, tb)
    except RecursionError:
        lines = [*traceback.format_tb(tb, limit=-20), f"{type(exc).__name__}: {message_of(exc)}\n"]
    return relabel("".join(lines), labels)


def _frames(tb: TracebackType | None, labels: Mapping[str, str]) -> tuple[Frame, ...]:
    found: list[Frame] = []
    while tb is not None:
        code = tb.tb_frame.f_code
        text = linecache.getline(code.co_filename, tb.tb_lineno, tb.tb_frame.f_globals).strip()
        file = labels.get(code.co_filename, code.co_filename)
        found.append(Frame(file=file, line=tb.tb_lineno, name=code.co_name, text=shorten(text, 500)))
        if len(found) > MAX_FRAMES:
            del found[MAX_FRAMES // 2]
        tb = tb.tb_next
    return tuple(found)


def stack_text() -> str:
    """Formatted traceback of the exception being handled, for torch's error file."""
    return shorten("".join(traceback.format_exception(*sys.exc_info())))
