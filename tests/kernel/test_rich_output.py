"""What ranks display: figures, tables, pictures, progress bars and updates reach the run's folder as a notebook shows them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from nb_elastic import rundir
from nb_elastic.rundir import RunDir
from tests.support.kernel import Cell, Kernel


@pytest.fixture
def launch(notebook: Kernel, notebook_home: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a body in ranks; gives the cell and the run's folder."""
    monkeypatch.setenv("NB_ELASTIC_HOME", str(notebook_home))

    def run(body: str, *, nproc: int = 1, flags: str = "") -> tuple[Cell, RunDir]:
        cell = notebook.ok(f"%%elastic_launch --nproc {nproc} {flags}\n{body}")
        return cell, rundir.find()

    return run


def shown(run: RunDir, rank: int = 0) -> list[dict[str, Any]]:
    """What a rank displayed, in order."""
    path = run.rank(0, rank).outputs
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def out(run: RunDir, rank: int = 0) -> str:
    return run.rank(0, rank).stdout.read_text()


LOADED = "import sys\nprint([m for m in ('IPython', 'matplotlib', 'PIL', 'nb_elastic.outputs', 'nb_elastic.rankshell_display') if m in sys.modules])"


def test_a_rank_that_displays_nothing_loads_nothing_of_it(launch) -> None:
    _, run = launch(LOADED)
    assert (out(run), run.rank(0, 0).outputs.exists()) == ("[]\n", False)


def test_display_needs_no_ipython_and_keeps_the_text_in_the_log(launch) -> None:
    _, run = launch(f"import os\ndisplay({{'rank': int(os.environ['RANK'])}})\n{LOADED}", nproc=2)
    for rank in range(2):
        assert [(o["rank"], o["data"]) for o in shown(run, rank)] == [(rank, {"text/plain": f"{{'rank': {rank}}}"})]
        assert out(run, rank) == f"{{'rank': {rank}}}\n['nb_elastic.outputs', 'nb_elastic.rankshell_display']\n"


def test_ipython_s_own_functions_do_the_same(launch) -> None:
    body = (
        "from IPython.display import HTML, Image, clear_output, display, publish_display_data, update_display\n"
        "display(HTML('<b>bold</b>'))\nhandle = display('one', display_id='x')\nupdate_display('two', display_id='x')\n"
        "publish_display_data({'text/markdown': '# raw'})\nhandle.update('three')\nclear_output()\ndisplay('last')"
    )
    _, run = launch(body)
    told = shown(run)
    assert [(o["kind"], o["display_id"]) for o in told][:4] == [
        ("display", ""),
        ("display", "x"),
        ("update", "x"),
        ("display", ""),
    ]
    assert (told[0]["data"]["text/html"], told[2]["data"]) == ("<b>bold</b>", {"text/plain": "'two'"})
    assert [o["kind"] for o in told[-2:]] == ["clear", "display"]
    assert out(run) == "<IPython.core.display.HTML object>\n'one'\n'last'\n"


def test_functions_of_the_notebook_display_in_the_ranks(notebook: Kernel, launch) -> None:
    notebook.ok(
        "from IPython.display import HTML, update_display\ndef tell(x):\n    display(HTML(f'<i>{x}</i>'), display_id='t')\n    update_display(HTML('<i>new</i>'), display_id='t')"
    )
    _, run = launch("tell(5)")
    assert [(o["kind"], o["data"]["text/html"]) for o in shown(run)] == [
        ("display", "<i>5</i>"),
        ("update", "<i>new</i>"),
    ]


def test_figures_are_shown_by_show_and_at_the_cell_s_end_once(launch) -> None:
    body = (
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\nplt.figure()\nplt.plot([2, 1])\n"
        "plt.figure()  # nothing is drawn in it\n1"
    )
    _, run = launch(body)
    told = shown(run)
    assert [list(o["data"]) for o in told] == [["image/png", "text/plain"]] * 2
    assert all(base64.b64decode(o["data"]["image/png"]).startswith(b"\x89PNG") for o in told)
    assert out(run) == "<Figure size 640x480 with 1 Axes>\n" * 2


def test_a_figure_left_open_by_code_that_fails_is_shown_too(notebook: Kernel, launch) -> None:
    launch("1")
    notebook.run("%%elastic_launch --nproc 1\nimport matplotlib.pyplot as plt\nplt.plot([1])\n1 / 0")
    assert [list(o["data"]) for o in shown(rundir.find())] == [["image/png", "text/plain"]]


def test_a_backend_that_the_user_chose_stays(launch) -> None:
    show = "import matplotlib.pyplot as plt\nplt.plot([1])\nprint(plt.get_backend().lower())"
    _, by_code = launch(f"import matplotlib\nmatplotlib.use('agg')\n{show}")
    _, by_variable = launch(show, flags="--env MPLBACKEND=svg")
    assert [(out(run), shown(run)) for run in (by_code, by_variable)] == [("agg\n", []), ("svg\n", [])]


def test_magics_and_figures_go_together(launch) -> None:
    body = "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1])\nplt.show()\ndisplay([3])\nget_ipython().run_cell_magic('html', '', '<u>x</u>')"
    _, run = launch(body)
    told = [o["data"] for o in shown(run)]
    assert [sorted(data) for data in told] == [["image/png", "text/plain"], ["text/plain"], ["text/html", "text/plain"]]


def test_captured_displays_stay_captured(launch) -> None:
    body = "from IPython.utils.capture import capture_output\nget_ipython()\n%time 1\nwith capture_output() as kept:\n    display('inside')\nprint(len(kept.outputs))"
    _, run = launch(body)
    assert shown(run) == []
    assert "1\n" in out(run)


def test_a_table_is_shown_and_the_last_expression_is_the_result(notebook: Kernel, launch) -> None:
    _, run = launch(
        "import pandas as pd\ndisplay(pd.DataFrame({'a': [1, 2]}))\npd.DataFrame({'b': [7]})", flags="--out r"
    )
    (told,) = shown(run)
    assert "<table" in told["data"]["text/html"]
    assert told["data"]["text/plain"] == "   a\n0  1\n1  2"
    assert notebook.ok("print(r.result().b[0])").stdout == "7\n"


def test_a_picture_is_kept_as_png(launch) -> None:
    _, run = launch("from PIL import Image\ndisplay(Image.new('RGB', (8, 8), 'red'))")
    assert [sorted(o["data"]) for o in shown(run)] == [["image/png", "text/plain"]]


def test_the_notebook_s_progress_bars_are_drawn_as_text(launch) -> None:
    body = (
        "from tqdm.notebook import tqdm, trange\nfor _ in tqdm(range(3), desc='steps', display=True):\n    pass\n"
        "bar = trange(5)\nbar.update(5)\nbar.close()"
    )
    _, run = launch(body)
    drawn = run.rank(0, 0).stderr.read_text()
    assert "steps: 100%" in drawn
    assert "5/5" in drawn
    assert "Warning" not in drawn


def test_a_widget_is_shown_as_text(launch) -> None:
    _, run = launch("import ipywidgets\ndisplay(ipywidgets.IntSlider(3))")
    assert [o["data"] for o in shown(run)] == [{"text/plain": "IntSlider(value=3)"}]


def test_a_thousand_updates_of_a_rank_stay_few_lines(launch) -> None:
    _, run = launch("h = display(0, display_id=True)\nfor n in range(1000):\n    h.update(n)")
    told = shown(run)
    assert told[-1]["data"] == {"text/plain": "999"}
    assert len(told) < 200


@pytest.mark.parametrize(
    ("call", "name"), [("input('name? ')", "input"), ("import getpass\ngetpass.getpass()", "getpass")]
)
def test_a_question_gets_a_clear_error(notebook: Kernel, call: str, name: str) -> None:
    cell = notebook.run(f"%%elastic_launch --nproc 1\n{call}")
    assert (
        f"EOFError: A rank can't ask: {name}() has nobody to answer it. Pass the value from the notebook" in cell.text
    )


def test_code_that_reads_stdin_still_finds_its_end(launch) -> None:
    body = "import io, sys\nprint(repr(sys.stdin.read()))\nsys.stdin = io.StringIO('typed\\n')\nprint(input())"
    _, run = launch(body)
    assert out(run) == "''\ntyped\n"
