"""Plain text: what a pipe, a CI log or a batch-run notebook would lose or get wrong."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nb_elastic.errors import OptionError
from nb_elastic.model_options import LaunchOptions
from nb_elastic.render.base import Shown
from nb_elastic.render.feed import Window
from nb_elastic.render.plain import PlainRenderer
from tests.support import stories
from tests.support.stories import Story

GOLDEN = Path(__file__).parent / "golden"


class Tagged(io.StringIO):
    """A stream that notes on each line which it is, in one common text."""

    def __init__(self, tag: str, common: list[str]) -> None:
        super().__init__()
        self.tag, self.common = tag, common

    def write(self, text: str) -> int:
        """Note every line."""
        self.common += [f"{self.tag}| {line}\n" for line in text.removesuffix("\n").split("\n")]
        return len(text)


def told(story: Story, plot: Callable[[Story], None], **how: object) -> str:
    """All that a plain renderer writes of a story: lines tagged out, err or own; the folder is ROOT."""
    common: list[str] = []
    out, err, own = (Tagged(tag, common) for tag in ("out", "err", "own"))
    story.renderer = PlainRenderer(
        out=out,
        err=err,
        own=own,
        folder=story.folder,
        clock=story.clock,
        now_ns=story.wall_ns,
        **how,  # type: ignore[arg-type]
    )
    plot(story)
    return "".join(common).replace(str(story.folder.path.parent), "ROOT")


def check_golden(name: str, text: str) -> None:
    """Compare with the golden file; GOLDEN=1 in the environment writes it anew."""
    path = GOLDEN / name
    if os.environ.get("GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_a_run_that_succeeds_reads_well(tmp_path: Path) -> None:
    check_golden("plain_success.txt", told(Story(tmp_path), stories.succeeding))


def test_a_failure_is_told_whole_where_no_error_will_tell_it(tmp_path: Path) -> None:
    check_golden("plain_failure.txt", told(Story(tmp_path), stories.failing, has_report=True))


def test_a_failure_is_told_in_one_line_where_an_error_follows(tmp_path: Path) -> None:
    last = told(Story(tmp_path), stories.failing).splitlines()[-1]
    assert last == "own| Failed after 1.2 s: rank 2 failed first (ValueError: the labels are <b>wrong</b>)."


def test_a_restart_is_told_after_the_last_lines_of_the_round(tmp_path: Path) -> None:
    check_golden("plain_restart.txt", told(Story(tmp_path, ranks=2, max_restarts=2), stories.restarting))


def test_one_rank_makes_no_noise(tmp_path: Path) -> None:
    def plot(story: Story) -> None:
        story.start()
        story.write(story.chunk(0, "hello\n"), story.chunk(0, "oh\n", "stderr"))
        story.end([0], result="None")
        story.finish()

    assert told(Story(tmp_path, ranks=1), plot) == (
        "own| Run 20231114-221320-ab12: 1 rank; logs in ROOT/20231114-221320-ab12\n"
        "out| hello\nerr| oh\nown| Succeeded after 0.6 s.\n"
    )


def test_a_flood_is_cut_told_of_and_its_end_shown(tmp_path: Path) -> None:
    def plot(story: Story) -> None:
        story.start()
        for n in range(0, 50, 10):
            story.write(story.chunk(0, "".join(f"line {i}\n" for i in range(n, n + 10))), story.chunk(1, f"step {n}\n"))
        story.end([0, 1])
        story.finish()

    text = told(Story(tmp_path, ranks=2), plot, lines_shown=5)
    place = "ROOT/20231114-221320-ab12/round_0/0"
    of_rank_0 = [line.split("| ", 1)[1] for line in text.splitlines() if "[rank 0]" in line]
    assert of_rank_0 == (
        [f"[rank 0] line {i}" for i in range(5)]
        + [f"[rank 0] ... more than 5 lines; what follows is in {place}"]
        + [f"[rank 0] ... 45 more lines are in {place}; the last of them:"]
        + [f"[rank 0] line {i}" for i in range(40, 50)]
    )
    assert [line for line in text.splitlines() if "[rank 1]" in line] == [
        f"out| [rank 1] step {n}" for n in range(0, 50, 10)
    ]


def test_exactly_as_many_lines_as_are_shown_are_not_called_too_many(tmp_path: Path) -> None:
    def plot(story: Story) -> None:
        story.start()
        story.write(story.chunk(0, "a\nb\n"))
        story.end([0, 1])
        story.finish()

    assert "more" not in told(Story(tmp_path, ranks=2), plot, lines_shown=2)


def test_lines_that_are_not_shown_are_counted_right(tmp_path: Path) -> None:
    def plot(story: Story) -> None:
        story.start()
        story.write(story.chunk(0, "1\n2\n3\n4"), story.chunk(1, "1\n2\nunfinished"))
        story.write(story.chunk(0, "4\n5\n"))
        story.end([0, 1])
        story.finish()

    text = told(Story(tmp_path, ranks=2), plot, lines_shown=2)
    assert "[rank 0] ... 3 more lines" in text
    assert text.index("[rank 0] 44\n") < text.index("[rank 0] 5\n")
    assert "[rank 1] ... 1 more lines" in text
    assert "[rank 1] unfinished\n" in text


def test_a_line_waits_no_longer_than_the_promise_of_200_ms(tmp_path: Path) -> None:
    story = Story(tmp_path, ranks=2)
    out = io.StringIO()
    story.renderer = PlainRenderer(out=out, err=out, own=io.StringIO(), folder=story.folder, clock=story.clock)
    story.start()
    story.renderer.append([story.chunk(0, "now\n")])
    assert out.getvalue() == ""
    story.wait(0.15)
    assert out.getvalue() == "[rank 0] now\n"


def test_a_terminal_without_utf_8_gets_escapes_not_an_error(tmp_path: Path) -> None:
    story = Story(tmp_path, ranks=1)
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    story.renderer = PlainRenderer(out=out, err=out, own=out, folder=story.folder, clock=story.clock)
    story.start()
    story.write(story.chunk(0, "\u2713\n"))
    assert raw.getvalue().endswith(b"\\u2713\n")


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({}, {"a out", "a err", "b out", "b err"}),
        ({"redirects": "1"}, {"a err", "b err"}),
        ({"redirects": "3", "tee": "2"}, {"a err", "b err"}),
        ({"redirects": "0:3,1:1"}, {"b err"}),
        ({"tee": "3"}, {"a out", "a err", "b out", "b err"}),
        ({"local_ranks_filter": (1,)}, {"b out", "b err"}),
    ],
)
def test_redirected_streams_stay_in_their_files(tmp_path: Path, options: dict[str, object], lines: set[str]) -> None:
    def plot(story: Story) -> None:
        story.start()
        for rank, name in enumerate("ab"):
            story.write(story.chunk(rank, f"{name} out\n"), story.chunk(rank, f"{name} err\n", "stderr"))
        story.finish()

    shown = Shown.of(LaunchOptions(**options))  # type: ignore[arg-type]
    text = told(Story(tmp_path, ranks=2), plot, shown=shown)
    assert {line.rpartition("] ")[2] for line in text.splitlines() if "| [" in line} == lines


@pytest.mark.parametrize("value", ["4", "x", "", "1:4", "a:1", "1:", "0:1,,"])
def test_a_redirect_that_makes_no_sense_is_refused(value: str) -> None:
    with pytest.raises(OptionError, match="--redirects"):
        Shown.of(LaunchOptions(redirects=value))


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc")), max_size=60))
def test_folding_loses_no_line_and_keeps_each_ranks_order(written: list[tuple[int, str]]) -> None:
    window = Window()
    for rank, text in written:
        window.add(rank=rank, stream="stdout", text=text)
    lines = window.take()
    for rank in range(4):
        assert [line.text for line in lines if rank in line.ranks] == [text for r, text in written if r == rank]
    assert all(len(set(line.ranks)) == len(line.ranks) for line in lines)
    assert len(window) == 0
