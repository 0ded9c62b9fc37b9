"""Log bytes to lines: what a user would lose is output, or the terminal it is shown in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nb_elastic.model import LogChunk
from nb_elastic.render.lines import KEPT_BYTES, LINE_CHARS, LineSplitter, LogLine, LogLines, clean


def split(*pieces: bytes, has_colour: bool = False) -> list[str]:
    """All lines of a stream that arrives in these pieces."""
    splitter = LineSplitter(has_colour=has_colour)
    return [line for piece in pieces for line in splitter.feed(piece)] + splitter.flush()


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        (b"", []),
        (b"a\nb\n", ["a", "b"]),
        (b"a\n\nb", ["a", "", "b"]),
        (b"dos\r\nlines\r\n", ["dos", "lines"]),
        (b"\r 10%\r 50%\r100%\n", ["100%"]),
        (b"\r 10%\r 50%", [" 50%"]),
        (b"bar 100%\r", ["bar 100%"]),
        (b"\r10%|#\r\x1b[K\rdone\n", ["done"]),
        (b"\r\r\r\n", [""]),
        (b"old\rnew\nnext\n", ["new", "next"]),
        ("na\u00efve \u2713\n".encode(), ["na\u00efve \u2713"]),
        (b"bad \xff\xfe utf-8\n", ["bad \ufffd\ufffd utf-8"]),
        (b"nul \x00 bell \x07 del \x7f\n", ["nul \u2400 bell \u2407 del \u2421"]),
        (b"tab\tstays\n", ["tab\tstays"]),
        (b"\x1b[31mred\x1b[0m \x1b[2J\x1b[1;1Hcleared \x1b]0;title\x07done\n", ["red cleared done"]),
        ("c1 \x9b31m bidi \u202e sep \u2028\n".encode(), ["c1 \\x9b31m bidi \\u202e sep \\u2028"]),
        (b"wait /\b-\b|\b done\n", ["wait  done"]),
        (b"lone \x1b\n", ["lone \u241b"]),
    ],
)
def test_what_a_rank_wrote_is_shown_and_harms_no_terminal(written: bytes, lines: list[str]) -> None:
    assert split(written) == lines
    assert split(*[written[n : n + 1] for n in range(len(written))]) == lines


def test_colours_are_kept_where_asked_and_never_leak_into_the_next_line() -> None:
    assert split(b"\x1b[31mred\x1b[2J\nplain\n", has_colour=True) == ["\x1b[31mred\x1b[0m", "plain"]
    assert clean("\x1b[31", has_colour=True) == "\u241b[31"


def test_a_line_of_50_mb_is_cut_and_costs_no_memory() -> None:
    splitter = LineSplitter()
    for _ in range(50):
        assert splitter.feed(b"x" * 1_000_000) == []
        assert len(splitter._rest) <= KEPT_BYTES
    (line,) = splitter.feed(b"\n")
    assert line == "x" * LINE_CHARS + f" [... {50_000_000 - LINE_CHARS:,} more bytes on this line, see the log file]"
    assert splitter.feed(b"next\n") == ["next"]


def test_a_long_line_in_one_piece_is_cut_too() -> None:
    assert split(b"y" * 3_000 + b"\nz\n") == [
        "y" * LINE_CHARS + " [... 1,000 more bytes on this line, see the log file]",
        "z",
    ]


def test_a_bar_shows_its_present_state_before_it_ends() -> None:
    splitter = LineSplitter()
    splitter.feed(b"\r 10%")
    assert splitter.pending == " 10%"
    splitter.feed(b"\r 20%\r")
    assert splitter.pending == " 20%"
    assert (splitter.feed(b"\r100%\n"), splitter.pending) == (["100%"], "")


def chunk(rank: int, data: bytes, *, round_number: int = 0, stream: str = "stdout") -> LogChunk:
    """New bytes of a rank."""
    return LogChunk(rank=rank, local_rank=rank, round=round_number, stream=stream, offset=0, data=data)  # type: ignore[arg-type]


def test_ranks_streams_and_rounds_do_not_mix() -> None:
    lines = LogLines()
    first = lines.feed(
        [chunk(0, b"a"), chunk(1, b"b\n"), chunk(0, b"e\n", stream="stderr"), chunk(0, b"r1", round_number=1)]
    )
    base = {"node": 0}
    assert first == [
        LogLine(rank=1, local_rank=1, round=0, stream="stdout", text="b", **base),
        LogLine(rank=0, local_rank=0, round=0, stream="stderr", text="e", **base),
    ]
    assert [(line.round, line.text) for line in lines.flush()] == [(0, "a"), (1, "r1")]
    assert lines.flush() == []


@given(
    st.lists(st.binary(max_size=40) | st.sampled_from([b"\r", b"\n", b"\x1b[31m", b"\x08", b"\xe2\x82"]), max_size=20)
)
def test_how_a_stream_is_cut_into_pieces_does_not_change_its_lines(pieces: list[bytes]) -> None:
    whole = split(b"".join(pieces))
    assert split(*pieces) == whole
    assert not any(c in line for line in whole for c in "\n\r\x1b\x00\x07")


@given(st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=200))
def test_ordinary_text_arrives_as_it_was_written(text: str) -> None:
    assert split(text.encode() + b"\n") == [text]
