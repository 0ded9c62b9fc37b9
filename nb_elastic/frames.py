"""From an exception to text a user can read: frames, message and traceback with the notebook's lines.

Runs in: a worker. Whatever the exception does (its ``__str__`` raises, it is a group, it refers to
itself, memory is short), the answer is text.
"""

from __future__ import annotations

import linecache
import re
import traceback
from dataclasses import dataclass
from types import TracebackType

from nb_elastic import frames_values
from nb_elastic.model import Frame

MAX_FRAMES = 100
MAX_VALUE_FRAMES = 3
MAX_TEXT = 256_000
"""Most characters of a traceback that are kept; its middle goes first."""

OPENING = "[nb_elastic: the rank was still loading what it was to run]"
"""Ends the traceback of an exception that came before the first line of the user's code."""

_CELL_LINE = re.compile(r'^(?P<indent>[ |+-]*)File "(?P<file>Cell In\[[^"]*)", line', re.MULTILINE)
_OURS = re.compile(
    r"nb_elastic[/\\](worker|payload|cell|entry|frames|rankshell|supervisor)\b|^<frozen (runpy|importlib)|[/\\]runpy\.py$"
)
_ENTRY = re.compile(r"nb_elastic[/\\]entry\.py$")


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


def tell(exc: BaseException, *, has_values: bool = False) -> Told:
    """Tell an exception without the frames of this package above the user's code.

    Args:
        has_values: with the values of variables in the notebook's innermost frames.
    """
    kind = type(exc).__name__
    try:
        tb = skip_own(exc.__traceback__)
        return Told(
            error_type=kind,
            message=message_of(exc),
            text=shorten(_format(exc, tb) + (f"{OPENING}\n" if _is_opening(exc.__traceback__) else "")),
            frames=_frames(tb, has_values=has_values),
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


def relabel(text: str) -> str:
    """Turn ``File "Cell In[12]", line 7`` into ``Cell In[12], line 7`` everywhere in a formatted traceback."""
    return _CELL_LINE.sub(r"\g<indent>\g<file>, line", text)


def _is_opening(tb: TracebackType | None) -> bool:
    """True if it was raised where ``entry`` opens the user's code, or looks a function up."""
    last: TracebackType | None = None
    while tb is not None:
        if tb.tb_frame.f_code.co_name == "open_entry" and _ENTRY.search(tb.tb_frame.f_code.co_filename):
            return True
        last, tb = tb, tb.tb_next
    return last is not None and bool(_ENTRY.search(last.tb_frame.f_code.co_filename))


def _format(exc: BaseException, tb: TracebackType | None) -> str:
    try:
        lines = traceback.format_exception(type(exc), exc, tb)
    except RecursionError:
        lines = [*traceback.format_tb(tb, limit=-20), f"{type(exc).__name__}: {message_of(exc)}\n"]
    return relabel("".join(lines))


def _frames(tb: TracebackType | None, *, has_values: bool) -> tuple[Frame, ...]:
    found: list[TracebackType] = []
    while tb is not None:
        found.append(tb)
        if len(found) > MAX_FRAMES:
            del found[MAX_FRAMES // 2]
        tb = tb.tb_next
    notebook = [one for one in found if one.tb_frame.f_code.co_filename.startswith("Cell In[")] if has_values else []
    return tuple(_frame(one, has_values=one in notebook[-MAX_VALUE_FRAMES:]) for one in found)


def _frame(tb: TracebackType, *, has_values: bool) -> Frame:
    code, line = tb.tb_frame.f_code, tb.tb_lineno
    text = shorten(linecache.getline(code.co_filename, line, tb.tb_frame.f_globals).strip(), 500)
    values = frames_values.of_frame(tb.tb_frame, line) if has_values else {}
    return Frame(file=code.co_filename, line=line, name=code.co_name, text=text, values=values)
