"""The dashboard in a real kernel, spoken to as pages speak: live, stopped, reloaded, and what is saved."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from nb_elastic.dashboard.monitor import TARGET
from nb_elastic.render import html
from tests.support.dashboards import DashboardStory
from tests.support.kernel import Kernel
from tests.support.pages import FrontEnd, Page

VIEW = "application/vnd.jupyter.widget-view+json"
ENDLESS = "%%elastic_launch -n 2\nimport time\nprint('in the loop', flush=True)\ntime.sleep(600)"
WIDGET = "jupyter.widget"
CHARTS = b"export const charts = 1;"
THREADS = "import threading; print(sorted(t.name for t in threading.enumerate() if t.name.startswith('nb-elastic-') and t.name != 'nb-elastic-wakes'))"


@pytest.fixture(scope="module")
def front_end(notebook: Kernel, tmp_path_factory: pytest.TempPathFactory) -> FrontEnd:
    """A front end on the shared kernel; the widget's script is a made-up one, so that no Node is needed."""
    static = tmp_path_factory.mktemp("static")
    (static / "widget.js").write_text("export default { render() {} };")
    (static / "widget.css").write_text(".nbe {}")
    (static / "charts.js").write_bytes(CHARTS)
    notebook.ok(
        f"from nb_elastic.render import widget; from pathlib import Path; widget.STATIC = Path({str(static)!r})"
    )
    made = FrontEnd(notebook)
    made.ask_comms()
    return made


@pytest.fixture
def front(front_end: FrontEnd) -> Iterator[FrontEnd]:
    """No page of an earlier test is open."""
    front_end.pages.clear()
    yield front_end
    if not front_end.cell.is_idle:
        front_end.kernel.interrupt()
        front_end.end(front_end.cell)


def opened(front: FrontEnd, code: str, *, needle: str = "in the loop") -> Page:
    """Start a cell, open a page on its widget, and wait until a line of rank 0 is there."""
    page = front.page()
    front.start(code)
    front.until(lambda: front.cell.messages and front.comm(WIDGET))
    page.open()
    front.until(lambda: needle in page.text("0/0/0/stdout"))
    return page


def test_the_dashboard_is_live_and_then_gives_way_to_one_that_needs_no_kernel(front: FrontEnd) -> None:
    code = "%%elastic_launch -n 2\nimport os\nprint('<i>hello</i> from', os.environ['RANK'])\nimport time; time.sleep(3)\n7"
    page = opened(front, code, needle="<i>hello</i> from 0\n")
    comm = page.comm
    front.until(lambda: page.snapshot["state"] == "running")
    assert page.about["can_stop"]
    assert page.about["cell"].startswith("import os\n")
    front.end(front.cell)
    assert front.cell.is_ok, front.cell.error
    assert page.is_over
    assert page.snapshot["state"] == "succeeded"
    assert page.text("0/0/1/stdout") == "<i>hello</i> from 1\n"
    assert not page.gaps
    first = next(m for m in front.cell.messages if m.kind == "display_data")
    assert set(first.content["data"]) == {html.MIME, VIEW, "text/html", "text/plain"}
    (last,) = [m for m in front.cell.messages if m.kind == "update_display_data"]
    assert last.content["transient"] == first.content["transient"]
    assert set(last.content["data"]) == {html.MIME, "text/html", "text/plain"}
    assert "ranks 0-1: 7" in last.text
    assert "<i>hello" not in last.content["data"]["text/html"]
    assert not [m for m in front.cell.messages if m.kind == "stream"]
    assert comm in front.closed
    assert {c for c, t in front.comms.items() if t == WIDGET} <= set(front.closed)


def test_stop_works_while_the_cell_is_busy(front: FrontEnd) -> None:
    page = opened(front, ENDLESS)
    page.say({"type": "stop", "grace_s": 3})
    front.end(front.cell)
    assert front.cell.reply["ename"] == "RunStoppedError"
    assert "stopped by dashboard" in front.cell.text
    (stopping,) = [m for m in page.others if m["type"] == "stopping"]
    assert stopping["ok"]
    assert front.run("print(1 + 1)").stdout == "2\n"


def test_an_interrupt_leaves_the_saved_dashboard_and_no_thread(front: FrontEnd) -> None:
    opened(front, ENDLESS)
    front.kernel.interrupt()
    front.end(front.cell)
    assert front.cell.reply["ename"] == "RunStoppedError"
    saved = [m for m in front.cell.messages if m.kind == "update_display_data"][-1].content["data"][html.MIME]
    assert [saved["snapshot"]["state"], *(w["state"] for w in saved["snapshot"]["workers"])] == ["stopped"] * 3
    assert front.run(THREADS).stdout == "[]\n"


def test_two_pages_see_the_same_run_and_a_reloaded_one_gets_the_whole_log(front: FrontEnd) -> None:
    body = (
        "for i in range(20_000):\n    print('line', i)\nprint('in the loop', flush=True)\nimport time; time.sleep(600)"
    )
    first = opened(front, f"%%elastic_launch -n 2\n{body}")
    other, again = front.page(), front.page()
    other.open()
    front.until(lambda: "in the loop" in other.text("0/0/1/stdout"))
    again.open()
    front.until(lambda: "in the loop" in again.text("0/0/1/stdout") and "in the loop" in first.text("0/0/1/stdout"))
    assert first.files["0/0/1/stdout"] == other.files["0/0/1/stdout"] == again.files["0/0/1/stdout"]
    assert again.seqs[0] == 1
    first.say({"type": "stop", "grace_s": 1})
    front.end(front.cell)
    assert all(page.is_over and not page.gaps for page in (first, other, again))


def test_a_flood_reaches_the_page_whole_in_pieces_of_a_megabyte(front: FrontEnd) -> None:
    body = "for i in range(50_000):\n    print('line', i)\nprint('in the loop')"
    page = opened(front, f"%%elastic_launch -n 2\n{body}")
    front.end(front.cell)
    lines = "".join(f"line {i}\n" for i in range(50_000)) + "in the loop\n"
    assert [page.text(f"0/0/{rank}/stdout") for rank in "01"] == [lines] * 2
    assert page.is_over
    assert not page.gaps


def test_a_page_that_never_answers_holds_nobody_up(front: FrontEnd) -> None:
    """Its window fills, then it gets nothing more; the cell ends all the same, at most a second later."""
    body = (
        "import os\nfor i in range(60):\n    os.write(1, b'x' * 1_000_000 + b'\\n')\nprint('in the loop', flush=True)"
    )
    page = front.page()
    page.is_deaf = True
    front.start(f"%%elastic_launch -n 2\nimport time; time.sleep(1)\n{body}")
    front.until(lambda: front.cell.messages and front.comm(WIDGET))
    page.open()
    front.end(front.cell)
    assert front.cell.is_ok, front.cell.error
    assert not page.is_over
    assert len(page.seqs) <= 21


def test_pages_that_cannot_be_heard_are_shown_the_run_blindly(front: FrontEnd) -> None:
    page = front.page()
    front.start("%%elastic_launch -n 2\nprint('in the loop', flush=True)\nimport time; time.sleep(2)")
    front.until(lambda: "in the loop" in page.text("0/0/0/stdout") and page.snapshot)
    assert page.kinds[0] == "hello"
    assert [page.kinds[1], page.bytes[1]] == ["asset", CHARTS]
    front.end(front.cell)
    assert front.cell.is_ok, front.cell.error


def test_where_no_page_speaks_a_tail_stands_in_until_one_does(front: FrontEnd) -> None:
    front.start("%%elastic_launch -n 2\nprint('<b>in the loop', flush=True)\nimport time; time.sleep(600)")

    def tails() -> list[str]:
        found = [m for m in front.cell.messages if "html" in str(m.content.get("data", {}))]
        return [m.content["data"]["text/html"] for m in found if VIEW not in m.content["data"]]

    front.until(lambda: any("&lt;b&gt;in the loop" in tail for tail in tails()))
    assert all(len(tail) < 20_000 for tail in tails())
    page = front.page()
    page.open()
    front.until(lambda: tails()[-1] == "")
    page.say({"type": "stop", "grace_s": 1})
    front.end(front.cell)


def test_a_users_own_flood_of_prints_changes_nothing_in_what_a_page_gets(front: FrontEnd) -> None:
    """The page notes no gap, for the kernel drops nothing; what a server drops is healed by ``have``."""
    code = (
        "import threading, nb_elastic\n"
        "t = threading.Thread(target=lambda: [print('user ' * 40) for _ in range(5_000)]); t.start()\n"
        "def f():\n    import time\n    for i in range(1_000): print('line', i)\n    print('in the loop', flush=True)\n    time.sleep(1)\n"
        "nb_elastic.launch(f, nproc_per_node=2); t.join()"
    )
    page = opened(front, code)
    front.end(front.cell)
    assert page.is_over
    assert not page.gaps
    assert page.text("0/0/1/stdout").splitlines()[:1000] == [f"line {i}" for i in range(1_000)]


def test_a_page_goes_on_from_what_it_has(front: FrontEnd) -> None:
    page = opened(front, ENDLESS)
    again = front.page()
    again.open(have={"0/0/0/stdout": 3, "../../etc/passwd": 5, "0/9/9/stdout": 1})
    front.until(lambda: "0/0/0/stdout" in again.files and again.snapshot)
    front.until(lambda: again.text("0/0/0/stdout") == "in the loop\n"[3:])  # its end is a write of its own
    told = [(c["offset"], c["size"]) for c in again.chunks if c["file"] == "0/0/0/stdout"]
    assert [offset for offset, _ in told] == [3, *(offset + size for offset, size in told[:-1])]
    page.say({"type": "read", "id": 7, "file": "0/0/0/stdout", "offset": 3, "size": 4})
    page.say({"type": "read", "id": 8, "file": "../../../etc/passwd", "offset": 0, "size": 100})
    front.until(lambda: page.kinds.count("bytes") == 2)
    told = [(m["id"], m["size_bytes"], b) for m, b in zip(page.others, page.bytes, strict=True) if m["type"] == "bytes"]
    assert told == [(7, 12, b"the "), (8, 0, b"")]


def test_a_page_gets_the_charts_when_it_asks_for_them(front: FrontEnd) -> None:
    page = opened(front, ENDLESS)
    assert "asset" not in page.kinds
    page.say({"type": "asset", "name": "../../etc/passwd"})
    front.until(lambda: "asset" in page.kinds)
    at = page.kinds.index("asset")
    assert (page.others[at]["name"], page.bytes[at]) == ("charts.js", CHARTS)
    page.say({"type": "stop", "grace_s": 1})
    front.end(front.cell)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["running", "succeeded"])
def test_an_interrupt_at_any_moment_leaves_no_thread_view_or_comm(front: FrontEnd, tmp_path: Path, ending: str) -> None:
    story = DashboardStory(tmp_path, ending=ending)
    setup = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from nb_elastic.run import Run
from nb_elastic.rundir import RunDir
from tests.support import interrupts
def draw(): Run(RunDir(Path({str(story.folder.path)!r}))).dashboard()
"""
    assert front.run(setup).is_ok
    if ending == "succeeded":
        assert front.run("draw(); print(interrupts.moments(draw) > 3_000)").stdout == "True\n"
    points = "range(1, 20_000, 131)" if ending == "running" else "range(1, interrupts.moments(draw), 1_009)"
    cell = front.run(f"print(list(interrupts.left(draw, at={points})))")
    assert cell.is_ok, cell.error
    assert cell.stdout == "[]\n"


def test_nonsense_from_a_page_is_passed_over(front: FrontEnd) -> None:
    page = opened(front, ENDLESS)
    for data in (None, [], "x", {"type": "open"}, {"type": 5, "view": "a"}, {"type": "open", "view": [], "have": 7}):
        front.say(page.comm, {"method": "custom", "content": data})
    page.say({"type": "stop", "grace_s": "soon"})
    page.say({"type": "open", "have": {"0/0/0/stdout": 1e300}})
    page.say({"type": "read", "id": 1, "file": "0/0/0/stdout", "offset": -5, "size": 10**12})
    front.until(lambda: "bytes" in page.kinds)
    assert page.bytes[page.kinds.index("bytes")] == b"in the loop\n"


def test_the_panel_lists_runs_views_any_and_stops_them(front: FrontEnd) -> None:
    front.start(ENDLESS)
    front.until(lambda: front.cell.messages)
    lab = front.page(is_lab=True)
    lab.comm = front.comm(TARGET)
    lab.say({"type": "list"})
    front.until(lambda: any(r["state"] == "running" for m in lab.others if m["type"] == "runs" for r in m["runs"]))
    rows = [m for m in lab.others if m["type"] == "runs"][-1]["runs"]
    row = rows[0]
    assert (row["is_own"], row["can_stop"], row["state"]) == (True, True, "running")
    assert [r["created_ns"] for r in rows] == sorted((r["created_ns"] for r in rows), reverse=True)
    lab.run = row["run_id"]
    lab.open()
    front.until(lambda: "in the loop" in lab.text("0/0/0/stdout"))
    lab.say({"type": "stop", "grace_s": 1})
    front.end(front.cell)
    assert front.cell.reply["ename"] == "RunStoppedError"
    assert lab.is_over
    front.start("import time; time.sleep(2)")
    front.until(lambda: [m for m in lab.others if m["type"] == "runs"][-1]["runs"][0]["state"] == "stopped")
    front.end(front.cell)


def test_a_page_that_was_reloaded_gets_the_last_word_from_the_monitor(front: FrontEnd) -> None:
    run_id = front.run("print(nb_elastic.last_run().id)").stdout.strip()
    lab = front.page(run_id, is_lab=True)
    lab.open()
    lab.say({"type": "saved"})
    front.until(lambda: lab.is_over and "saved" in lab.kinds, may_end=True)
    bundle = next(m for m in lab.others if m["type"] == "saved")["bundle"]
    assert set(bundle) == {html.MIME, "text/html", "text/plain"}
    assert bundle[html.MIME]["snapshot"]["state"] == "stopped"
    stranger = front.page("../" + run_id, is_lab=True)
    stranger.open()
    front.until(lambda: "error" in stranger.kinds, may_end=True)


def test_a_comm_that_a_front_end_closed_is_opened_again(front: FrontEnd) -> None:
    before = front.comm(TARGET)
    front.say(before, {}, kind="comm_close")
    front.closed.append(before)
    front.run("1")
    front.until(lambda: front.comm(TARGET), may_end=True)
    assert front.comm(TARGET) != before


def test_what_rank_0_displays_stands_under_the_cell(front: FrontEnd, notebook_home: Path) -> None:
    """Written by hand here, as a rank writes it."""
    code = (
        "%%elastic_launch -n 2\nimport json, os, time\n"
        "from nb_elastic.report import METRICS_FILE\n"
        "path = os.path.join(os.path.dirname(os.environ[METRICS_FILE]), 'outputs.jsonl')\n"
        "def put(kind, **data):\n"
        "    row = {'time_ns': time.time_ns(), 'rank': int(os.environ['RANK']), 'kind': kind, 'display_id': 'a', 'data': data, 'metadata': {}, 'note': ''}\n"
        "    open(path, 'a').write(json.dumps(row) + chr(10))\n"
        "put('display', **{'text/plain': 'one ' + os.environ['RANK']})\nput('update', **{'text/plain': 'two'})\n"
    )
    front.start(code)
    front.end(front.cell)
    assert front.cell.is_ok, front.cell.error
    shown = [(m.kind, m.text) for m in front.cell.messages if m.text in {"one 0", "one 1", "two"}]
    assert shown == [("display_data", "one 0"), ("update_display_data", "two")]
    assert front.run(
        "print([(o['rank'], o['kind']) for o in nb_elastic.last_run().outputs if o['rank'] == 1])"
    ).stdout == ("[(1, 'display'), (1, 'update')]\n")


def test_a_batch_run_gets_text_as_it_comes_and_the_same_saved_dashboard(front: FrontEnd) -> None:
    front.start("%%elastic_launch -n 2\nprint('hello')\n7", is_browser=False)
    cell = front.end(front.cell)
    told = re.findall(r"\[(rank.*)\] hello\n", cell.stdout)
    assert told in (["ranks 0-1"], ["rank 0", "rank 1"], ["rank 1", "rank 0"])
    (shown,) = [m for m in cell.messages if m.kind == "display_data"]
    assert set(shown.content["data"]) == {html.MIME, "text/html", "text/plain"}
    assert shown.content["data"][html.MIME]["snapshot"]["state"] == "succeeded"


def test_show_brings_the_dashboard_back_from_the_folder_alone(front: FrontEnd) -> None:
    (shown,) = [m for m in front.run("%elastic show").messages if m.kind == "display_data"]
    assert "ranks 0-1: 7" in shown.text


def test_a_line_is_shown_though_nothing_comes_after_it(front: FrontEnd) -> None:
    front.start(ENDLESS, is_browser=False)
    front.until(lambda: "in the loop" in front.cell.text)
    front.kernel.interrupt()
    front.end(front.cell)
    assert front.cell.reply["ename"] == "RunStoppedError"


def test_without_the_built_widget_the_tail_is_the_face(front: FrontEnd) -> None:
    front.run("widget._widget_class.cache_clear(); made = widget._static; widget._static = lambda: ('', '')")
    cell = front.run("%%elastic_launch -n 2\nprint('hello', flush=True)\nimport time; time.sleep(3)\n7")
    front.run("widget._static = made; widget._widget_class.cache_clear()")
    assert cell.is_ok, cell.error
    assert not [m for m in cell.messages if VIEW in m.content.get("data", {})]
    shown = [m.content["data"].get("text/html", "") for m in cell.messages if m.kind.endswith("display_data")]
    assert any("hello" in page for page in shown[:-2])
    assert "ranks 0-1: 7" in cell.text


def test_a_face_that_cannot_be_had_starts_nothing(front: FrontEnd) -> None:
    before = front.run("print(len(nb_elastic.runs()))").stdout
    cell = front.run("%%elastic_launch -n 2 --render terminal\n1")
    assert "--render terminal does not work in a notebook" in cell.text
    assert front.run("print(len(nb_elastic.runs()))").stdout == before


def test_unloading_the_extension_closes_its_comm_and_ends_its_thread(front: FrontEnd) -> None:
    lab = front.page(is_lab=True)
    lab.comm = front.comm(TARGET)
    lab.say({"type": "list"})
    front.until(lambda: "runs" in lab.kinds, may_end=True)
    front.run("%unload_ext nb_elastic")
    front.until(lambda: lab.comm in front.closed, may_end=True)
    assert front.run(THREADS).stdout == "[]\n"
