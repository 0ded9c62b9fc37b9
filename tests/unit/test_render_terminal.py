"""The live view of a terminal: what scrolls by, what stays below, and that it fits."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from nb_elastic.render.terminal import TerminalRenderer
from tests.support import stories
from tests.support.stories import Story

GOLDEN = Path(__file__).parent / "golden"


def console(*, width: int = 100, height: int = 30, is_terminal: bool = False) -> Console:
    """A console that keeps what is printed; without a terminal, frames of the live view are left out."""
    return Console(
        record=True,
        width=width,
        height=height,
        file=io.StringIO(),
        force_terminal=is_terminal,
        highlight=False,
        color_system="standard",
        legacy_windows=False,
    )


def drawn_by(story: Story, screen: Console, **how: bool) -> TerminalRenderer:
    """A renderer on this screen, which the story feeds."""
    renderer = TerminalRenderer(story.folder, console=screen, clock=story.clock, now_ns=story.wall_ns, **how)
    story.renderer = renderer
    return renderer


def check_golden(name: str, text: str, folder: Path) -> None:
    """Compare with the golden file; GOLDEN=1 in the environment writes it anew."""
    text = "".join(f"{line.rstrip()}\n" for line in text.replace(str(folder), "ROOT").splitlines())
    if os.environ.get("GOLDEN"):
        (GOLDEN / name).write_text(text)
    assert text == (GOLDEN / name).read_text()


@pytest.mark.parametrize("plot", [stories.succeeding, stories.failing, stories.restarting])
def test_what_stays_in_the_terminals_history_reads_well(tmp_path: Path, plot: Callable[[Story], None]) -> None:
    ranks, restarts = (2, 2) if plot is stories.restarting else (4, 0)
    story = Story(tmp_path, ranks=ranks, max_restarts=restarts)
    screen = console()
    drawn_by(story, screen, has_report=True)
    plot(story)
    check_golden(f"terminal_{plot.__name__}.txt", screen.export_text(), tmp_path)


@pytest.mark.parametrize(("width", "height"), [(30, 10), (60, 20), (100, 24), (200, 50)])
@pytest.mark.parametrize("ranks", [1, 8, 64])
def test_the_live_view_fits_any_terminal(tmp_path: Path, ranks: int, width: int, height: int) -> None:
    story = Story(tmp_path, ranks=ranks)
    renderer = drawn_by(story, console(width=width, height=height))
    story.start()
    story.write(*[story.chunk(r, "x" * 500 + "\n") for r in range(ranks)])
    screen = console(width=width, height=height)
    screen.print(renderer.view(width=width, height=height))
    lines = screen.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= height // 2 + 3
    story.finish()


def test_a_failed_rank_is_in_view_even_if_it_is_the_last_of_64(tmp_path: Path) -> None:
    story = Story(tmp_path, ranks=64)
    renderer = drawn_by(story, console())
    story.start()
    story.fail(63, error_type="ValueError")
    screen = console(height=12)
    screen.print(renderer.view(width=100, height=12))
    text = screen.export_text()
    assert re.search(r"^63 +failed", text, re.MULTILINE)
    assert "ranks 5-62: running" not in text.splitlines()[0]
    assert text.splitlines()[-1].strip() == "ranks 4-62: running"
    story.finish("failed")


def test_the_bar_of_a_rank_moves_in_place(tmp_path: Path) -> None:
    story = Story(tmp_path, ranks=2)
    renderer = drawn_by(story, console())
    story.start()
    story.write(story.chunk(1, "\r 10%|#"), story.chunk(0, "hello\n"))
    story.write(story.chunk(1, "\r 20%|##"))
    screen = console()
    screen.print(renderer.view(width=100, height=30))
    assert [line.split()[-1] for line in screen.export_text().splitlines()[2:]] == ["hello", "20%|##"]
    story.finish()


def test_a_rank_cannot_draw_over_the_users_terminal(tmp_path: Path) -> None:
    story = Story(tmp_path, ranks=2)
    screen = console(is_terminal=True)
    drawn_by(story, screen)
    story.start()
    raw = screen.file
    assert isinstance(raw, io.StringIO)
    before = len(raw.getvalue())
    story.write(story.chunk(0, b"\x1b[2J\x1b]0;mine\x07[bold]not markup[/bold] \x1b[31mred\x1b[0m\n"))
    written = raw.getvalue()[before:]
    assert "\x1b[2J" not in written
    assert "\x1b]0;" not in written
    assert "[bold]not markup[/bold] \x1b[31mred\x1b[0m" in written
    story.finish()


def test_the_cursor_is_given_back_where_following_ends_early(tmp_path: Path) -> None:
    story = Story(tmp_path, ranks=2)
    screen = console(is_terminal=True)
    renderer = drawn_by(story, screen)
    story.start()
    renderer.close(story.snapshot)
    raw = screen.file
    assert isinstance(raw, io.StringIO)
    assert raw.getvalue().count("\x1b[?25l") == raw.getvalue().count("\x1b[?25h") == 1
    assert "it goes on" in raw.getvalue()
