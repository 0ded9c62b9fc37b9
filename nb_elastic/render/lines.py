"""Log bytes to shown lines: splitting, progress bars, bytes that are no text, and lines without end.

Runs in: the kernel or command line, under every renderer. Memory is bounded for each stream, whatever a rank writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from nb_elastic.model import LogChunk, Stream

LINE_CHARS = 2_000
"""A longer line is cut in the view; the file has it whole."""
KEPT_BYTES = 8 * LINE_CHARS
"""Bytes of an unfinished line that are remembered: enough for LINE_CHARS characters and their colours."""

_CONTROL_BYTES = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae]|\xe2\x81[\xa6-\xa9]")
"""What a stream must not contain to be taken as it is: C0 and C1 controls, line separators, direction overrides."""
_ESCAPE = re.compile(
    "\x1b(?:"
    r"\[[0-?]*[ -/]*[@-~]"  # CSI ... final byte
    "|[]PX^_][^\x07\x1b]*(?:\x07|\x1b\\\\|$)"  # OSC, DCS, SOS, PM, APC ... until BEL, ST or the end
    r"|[ -/]+[0-~]|[0-OQ-WYZ\\`-~]"  # two-character sequences
    ")"
)
_COLOUR = re.compile("\x1b\\[[0-9;:]{0,64}m")
_UNSAFE = re.compile(
    "[\x00-\x08\x0a-\x1a\x1c-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]|\x1b(?!\\[[0-9;:]{0,64}m)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of one rank, ready to be shown: no line ends, no control characters."""

    rank: int
    local_rank: int
    node: int
    round: int
    stream: Stream
    text: str


def clean(raw: bytes | str, *, has_colour: bool = False, limit: int = LINE_CHARS, dropped_bytes: int = 0) -> str:
    """Make one line harmless: escapes go, other control characters become visible, the too long is cut.

    Args:
        raw: the line; bytes are taken as UTF-8, what is none is replaced.
        has_colour: keep colours (SGR sequences; reset at the end); all other escapes go in any case.
        limit: most characters kept; colours count.
        dropped_bytes: bytes of this line that were dropped before, for the note about the cut.
    """
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    if "\x1b" in text:
        text = _ESCAPE.sub(_keep_colour if has_colour else "", text)
    if "\b" in text:
        text = _backspaced(text)
    text = _UNSAFE.sub(_visible, text)
    if len(text) > limit or dropped_bytes:
        more = len(text[limit:].encode("utf-8", "replace")) + dropped_bytes
        text = f"{text[:limit]} [... {more:,} more bytes on this line, see the log file]"
    return f"{text}\x1b[0m" if "\x1b" in text else text


class LineSplitter:
    """Splits one stream, piece by piece, into shown lines.

    A progress bar that redraws itself with carriage returns is one line: its last state, when the line ends.
    """

    def __init__(self, *, has_colour: bool = False) -> None:
        self._has_colour = has_colour
        self._rest = b""
        self._dropped = 0
        self._is_at_start = False

    @property
    def pending(self) -> str:
        """The line that has not ended yet, as it looks now; "" if there is none."""
        return self._shown() if self._rest else ""

    def feed(self, data: bytes) -> list[str]:
        """Take new bytes and return the lines that they complete."""
        is_plain = not self._rest and not self._is_at_start and not _CONTROL_BYTES.search(data)
        *ended, last = data.split(b"\n")
        if is_plain:
            lines = b"\n".join(ended).decode("utf-8", "replace").split("\n") if ended else []
            lines = [clean(line) if len(line) > LINE_CHARS else line for line in lines]
        else:
            lines = [self._end_line(piece) for piece in ended]
        if last:
            self._grow(last)
        return lines

    def flush(self) -> list[str]:
        """Return the unfinished line, if any: nothing more will come."""
        return [self._end_line(b"")] if self._rest else []

    def _end_line(self, piece: bytes) -> str:
        self._grow(piece)
        line = self._shown()
        self._rest, self._dropped, self._is_at_start = b"", 0, False
        return line

    def _grow(self, piece: bytes) -> None:
        """Add bytes without a line end; whatever comes after a carriage return takes the place of what stood there."""
        body = piece.rstrip(b"\r")
        _, has_return, drawing = body.rpartition(b"\r")
        if body and (has_return or self._is_at_start):
            self._rest, self._dropped = b"", 0
        room = KEPT_BYTES - len(self._rest)
        self._rest += drawing[:room]
        self._dropped += max(0, len(drawing) - room)
        self._is_at_start = len(body) < len(piece) or (self._is_at_start and not body)

    def _shown(self) -> str:
        return clean(self._rest, has_colour=self._has_colour, dropped_bytes=self._dropped)


class LogLines:
    """Splits the chunks of a whole run into lines, a splitter for each worker and stream."""

    def __init__(self, *, has_colour: bool = False) -> None:
        self._has_colour = has_colour
        self._splitters: dict[tuple[int, int, int, Stream], tuple[LogChunk, LineSplitter]] = {}

    def feed(self, chunks: Iterable[LogChunk]) -> list[LogLine]:
        """Return the lines that these chunks complete, in the chunks' order."""
        lines: list[LogLine] = []
        for chunk in chunks:
            key = (chunk.node, chunk.round, chunk.local_rank, chunk.stream)
            if key not in self._splitters:
                self._splitters[key] = (chunk, LineSplitter(has_colour=self._has_colour))
            lines += _lines_of(chunk, self._splitters[key][1].feed(chunk.data))
        return lines

    def cut(self, chunk: LogChunk) -> list[LogLine]:
        """Return the unfinished line of this chunk's stream: its rest was passed over."""
        key = (chunk.node, chunk.round, chunk.local_rank, chunk.stream)
        return _lines_of(chunk, self._splitters[key][1].flush()) if key in self._splitters else []

    def flush(self) -> list[LogLine]:
        """Return every unfinished line: nothing more will come."""
        return [line for chunk, splitter in self._splitters.values() for line in _lines_of(chunk, splitter.flush())]


def _lines_of(chunk: LogChunk, texts: Iterable[str]) -> list[LogLine]:
    return [
        LogLine(
            rank=chunk.rank,
            local_rank=chunk.local_rank,
            node=chunk.node,
            round=chunk.round,
            stream=chunk.stream,
            text=text,
        )
        for text in texts
    ]


def _backspaced(text: str) -> str:
    """Let each backspace take the character before it, as spinners mean it."""
    kept: list[str] = []
    for character in text:
        if character != "\b":
            kept.append(character)
        elif kept:
            kept.pop()
    return "".join(kept)


def _keep_colour(match: re.Match[str]) -> str:
    return match[0] if _COLOUR.fullmatch(match[0]) else ""


def _visible(match: re.Match[str]) -> str:
    """Unicode's picture of a C0 control character; the number of any other."""
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
