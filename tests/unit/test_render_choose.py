"""Which face a run gets, and that a face that can't be had is refused before anything is drawn."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from nb_elastic.errors import OptionError
from nb_elastic.model_options import LaunchOptions
from nb_elastic.render.base import SilentRenderer
from nb_elastic.render.choose import choose, show
from nb_elastic.render.plain import PlainRenderer
from nb_elastic.rundir import RunDir
from tests.support import stories
from tests.support.stories import Story


def test_a_pipe_gets_plain_text(tmp_path: Path) -> None:
    assert isinstance(choose("auto", run=RunDir(tmp_path)), PlainRenderer)


def test_none_draws_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    story = Story(tmp_path)
    renderer = choose("none", run=story.folder)
    assert isinstance(renderer, SilentRenderer)
    story.renderer = renderer
    stories.succeeding(story)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("widget", "needs a Jupyter kernel"),
        ("terminal", "stdout is no terminal"),
        ("fancy", "'fancy' is none of auto, widget"),
    ],
)
def test_a_face_that_cannot_be_had_is_refused_with_the_reason(tmp_path: Path, mode: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        choose(mode, run=RunDir(tmp_path))


def test_in_a_pipe_the_ranks_own_stdout_stays_clean(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    story = Story(tmp_path, ranks=1)
    story.renderer = choose("auto", run=story.folder, options=LaunchOptions())
    story.start()
    story.write(story.chunk(0, "data\n"))
    story.end([0])
    story.finish()
    out, err = capfd.readouterr()
    assert out == "data\n"
    assert err.startswith("Run 20231114-221320-ab12: 1 rank; logs in ")


def test_show_tells_a_finished_run_from_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    story = Story(tmp_path)
    story.renderer = SilentRenderer()
    stories.failing(story)
    show(story.folder)
    out = capsys.readouterr().out
    assert "ValueError: the labels are <b>wrong</b>" in out
    assert out.endswith("Failed after 1.2 s.\n")


@pytest.mark.parametrize(("term", "expected"), [("xterm-256color", "TerminalRenderer"), ("dumb", "PlainRenderer")])
def test_a_terminal_gets_the_live_view_unless_it_is_dumb(tmp_path: Path, term: str, expected: str) -> None:
    code = (
        "import sys; from nb_elastic.render.choose import choose; from nb_elastic.rundir import RunDir; from pathlib import Path;"
        "r = choose('auto', run=RunDir(Path(sys.argv[1]))); print(type(r).__name__, file=sys.stderr)"
    )
    master, slave = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            stdout=slave,
            stderr=subprocess.PIPE,
            env={**os.environ, "TERM": term},
            text=True,
            timeout=120,
            check=True,
        )
    finally:
        os.close(slave)
        os.close(master)
    assert done.stderr.split() == [expected]
