"""What text faces write: a first line that comes late, lines lost between what is shown and what is counted, a kernel that a flood fills."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nb_elastic.model import LogChunk
from nb_elastic.render.feed import FIRST_S, WINDOW_LINES, WINDOW_S, Feed, FoldedLine
from nb_elastic.rundir import RunDir
from tests.support.stories import Story

MIB = 1 << 20


class Fed:
    """A feed of a run of these ranks, by a clock of the test's own."""

    def __init__(self, folder: Path, *, ranks: int = 4, lines_shown: int = 1_000) -> None:
        self.now_s = 100.0
        self.feed = Feed(RunDir(folder), lines_shown=lines_shown, clock=lambda: self.now_s)
        story = Story(folder / "story", ranks=ranks)
        story.start()
        self.feed.update(story.snapshot)

    def append(self, *written: tuple[int, str]) -> list[str]:
        """Ranks write; what is to be written now."""
        return texts(self.feed.append([chunk(rank, text.encode()) for rank, text in written]))

    def after(self, seconds: float) -> list[str]:
        """Time passes."""
        self.now_s += seconds
        return self.append()


def chunk(rank: int, data: bytes, *, stream: str = "stdout", skipped: int = 0) -> LogChunk:
    """New bytes of a rank."""
    return LogChunk(rank=rank, local_rank=rank, round=0, stream=stream, offset=0, data=data, skipped=skipped)  # type: ignore[arg-type]


def texts(lines: list[FoldedLine]) -> list[str]:
    """Lines with their prefixes."""
    return [line.prefix + line.text for line in lines]


def test_a_lone_first_line_waits_a_hundredth_of_a_second_at_most(tmp_path: Path):
    fed = Fed(tmp_path)
    assert fed.append((2, "hello\n")) == []
    assert FIRST_S < 0.01
    assert fed.after(FIRST_S) == ["[rank 2] hello"]


def test_a_line_that_all_living_ranks_wrote_waits_for_nobody(tmp_path: Path):
    fed = Fed(tmp_path)
    assert fed.append((0, "hello\n"), (1, "hello\n"), (3, "hello\n")) == []
    assert fed.append((2, "hello\n")) == ["[ranks 0-3] hello"]
    assert fed.append(*[(rank, "again\n") for rank in range(4)]) == ["[ranks 0-3] again"]


def test_the_only_rank_waits_for_nobody(tmp_path: Path):
    assert Fed(tmp_path, ranks=1).append((0, "hello\n")) == ["[rank 0] hello"]


def test_first_lines_that_come_apart_by_a_little_are_still_one(tmp_path: Path):
    fed = Fed(tmp_path)
    lines = []
    for rank in range(4):
        lines += fed.append((rank, "hello\n")) + fed.after(FIRST_S / 10)
    assert lines == ["[ranks 0-3] hello"]


def test_later_lines_meet_in_two_looks_that_follow_each_other(tmp_path: Path):
    fed = Fed(tmp_path)
    fed.append(*[(rank, "hello\n") for rank in range(4)])
    assert fed.append((1, "loss 0.5\n")) == []
    assert fed.after(WINDOW_S / 2) == []
    fed.now_s += WINDOW_S * 0.6
    assert fed.append((0, "loss 0.5\n"), (2, "loss 0.5\n")) == ["[ranks 0-2] loss 0.5"]


def test_the_first_line_of_a_late_rank_is_as_quick_as_the_others(tmp_path: Path):
    fed = Fed(tmp_path)
    fed.append((0, "hello\n"))
    fed.after(1.0)
    assert fed.append((0, "more\n"), (3, "late\n")) == []
    assert fed.after(FIRST_S) == ["[rank 0] more", "[rank 3] late"]


def test_a_rank_that_comes_to_its_limit_line_by_line_is_told_of(tmp_path: Path):
    fed = Fed(tmp_path, ranks=1, lines_shown=3)
    lines = [line for n in range(5) for line in fed.append((0, f"{n}\n")) + fed.after(1)]
    place = f"{tmp_path}/round_0/0"
    assert lines == [
        *(f"[rank 0] {n}" for n in range(3)),
        f"[rank 0] ... more than 3 lines; what follows is in {place}",
    ]
    assert texts(fed.feed.close()) == [
        f"[rank 0] ... 2 more lines are in {place}; the last of them:",
        "[rank 0] 3",
        "[rank 0] 4",
    ]


def test_what_came_too_fast_to_be_read_is_told_of(tmp_path: Path):
    fed = Fed(tmp_path, ranks=1, lines_shown=3)
    assert fed.append((0, "one\nunfin")) == ["[rank 0] one"]
    lines = fed.feed.append([chunk(0, b"later\n", skipped=5_000_000)])
    place = f"{tmp_path}/round_0/0"
    assert texts(lines or fed.feed.drain()) == [
        "[rank 0] unfin",
        f"[rank 0] ... 5,000,000 bytes came too fast to be shown; they are in {place}",
        "[rank 0] later",
    ]
    fed.feed.append([chunk(0, b"third\nfourth\n"), chunk(0, b"last\n", skipped=7)])
    assert texts(fed.feed.close()) == [
        f"[rank 0] ... 3 more lines and 5,000,007 bytes that nobody counted are in {place}; the last of them:",
        "[rank 0] last",
    ]


def test_a_window_that_fills_is_written_at_once(tmp_path: Path):
    fed = Fed(tmp_path, ranks=2, lines_shown=10**6)
    fed.append((0, "first\n"))
    fed.after(1)
    count = WINDOW_LINES + 10
    assert len(fed.append((0, "".join(f"{n}\n" for n in range(count))))) == count


def test_a_gigabyte_of_lines_and_a_line_of_a_gigabyte_take_no_memory(tmp_path: Path):
    fed = Fed(tmp_path, ranks=2)
    lines = (b"x" * 99 + b"\n") * (MIB // 100)
    endless = b"y" * MIB
    tracemalloc.start()
    try:
        shown = 0
        for _ in range(1_000):
            shown += len(fed.feed.append([chunk(0, lines), chunk(1, endless)]))
        shown += len(fed.feed.close())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 1_000 < shown < 1_100
    assert peak < 8 * MIB


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["stdout", "stderr"]), st.sampled_from(["a\n", "b\nc\n", "\n", "open", "d", "e\n\n"])
        ),
        max_size=12,
    ),
    st.integers(1, 6),
)
def test_every_line_is_shown_or_counted(tmp_path_factory: pytest.TempPathFactory, written: list, lines_shown: int):
    feed = Feed(RunDir(Path("/nowhere")), lines_shown=lines_shown, clock=lambda: 0.0)
    lines: list[FoldedLine] = []
    for stream, text in written:
        lines += feed.append([chunk(0, text.encode(), stream=stream)])
    lines += feed.close()
    whole = [("".join(t for s, t in written if s == stream)) for stream in ("stdout", "stderr")]
    total = sum(text.count("\n") + (not text.endswith("\n") and bool(text)) for text in whole)
    counted = [int(found[1]) for line in lines if (found := re.search(r"(\d+) more lines", line.text))]
    ours = [n for n, line in enumerate(lines) if line.is_ours and "the last of them" in line.text]
    shown = [line for line in (lines[: ours[0]] if ours else lines) if not line.is_ours]
    assert len(shown) == min(total, lines_shown)
    assert sum(counted) == total - len(shown)
