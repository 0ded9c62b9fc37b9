"""Tails: what a user would lose is the end of a log, the count of its lines, or the kernel's memory."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from nb_elastic.model import LogChunk
from nb_elastic.render.tails import LOOK_BYTES, Tails

MIB = 1 << 20


def chunk(data: bytes, *, rank: int = 0, skipped: int = 0) -> LogChunk:
    """New bytes of a rank."""
    return LogChunk(rank=rank, local_rank=rank, round=0, stream="stdout", offset=0, data=data, skipped=skipped)


def seen(tails: Tails, rank: int = 0) -> list[str]:
    """Lines of a rank's tail."""
    return [line.text for line in tails.lines(rank)]


@given(st.lists(st.sampled_from([b"a\n", b"b\nc\n", b"\n", b"open", b"d" * 50, b"e\n" * 40]), max_size=30))
def test_however_a_log_is_cut_into_pieces_its_tail_is_its_end(pieces: list[bytes]):
    tails = Tails(lines=7)
    for piece in pieces:
        tails.append([chunk(piece)])
    whole = b"".join(pieces).decode().split("\n")
    assert seen(tails) == [*whole[:-1], *filter(None, whole[-1:])][-7:]
    assert tails.count(0) == len(whole) - 1


def test_of_a_large_piece_the_end_is_kept_and_all_is_counted():
    tails = Tails(lines=500)
    tails.append([chunk(b"an unfinished")])
    tails.append([chunk(b" line\n" + b"".join(b"line %d\n" % n for n in range(100_000)) + b"open")])
    assert seen(tails) == [*(f"line {n}" for n in range(99_501, 100_000)), "open"]
    assert tails.count(0) == 100_001


def test_a_long_line_alone_is_shown_though_it_is_longer_than_a_look():
    tails = Tails()
    tails.append([chunk(b"x" * 3 * LOOK_BYTES + b"\n")])
    (line,) = seen(tails)
    assert line.startswith("xxx")
    assert "more bytes on this line" in line


def test_what_comes_after_a_gap_is_not_joined_to_what_stood_before_it():
    tails = Tails()
    tails.append([chunk(b"whole\nhalf a li")])
    tails.append([chunk(b"after the gap\n", skipped=1_000)])
    assert seen(tails) == ["whole", "after the gap"]


def test_a_gigabyte_takes_no_memory():
    tails = Tails()
    lines, endless = (b"x" * 99 + b"\n") * (MIB // 100), b"y" * MIB
    tracemalloc.start()
    try:
        for _ in range(500):
            tails.append([chunk(lines), chunk(endless, rank=1)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB
    assert tails.count(0) == 500 * (MIB // 100)
