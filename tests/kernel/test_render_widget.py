"""The dashboard in a real kernel: that it draws, that Stop works while the cell is busy, and what is saved."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from nb_elastic.render import html
from tests.support.kernel import Cell, Kernel, Message

VIEW = "application/vnd.jupyter.widget-view+json"


class Browser:
    """What a front end with widgets does: sends cells that may be asked, keeps the widgets' states, clicks."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.client = kernel._client
        self._subshell = ""

    def start(self, code: str) -> Cell:
        """Send a cell as JupyterLab does."""
        return Cell(self.client.execute(code, allow_stdin=True), time.monotonic())

    def subshell(self) -> str:
        """A subshell of the kernel, as JupyterLab makes for widgets."""
        request = self.client.session.msg("create_subshell_request", {})
        self.client.control_channel.send(request)
        reply = self.client.get_control_msg(timeout=60)
        return str(reply["content"]["subshell_id"])

    def click(self, button: str, *, subshell: str) -> None:
        """Click a button of this id."""
        content = {"comm_id": button, "data": {"method": "custom", "content": {"event": "click"}}}
        message = self.client.session.msg("comm_msg", content)
        message["header"]["subshell_id"] = subshell
        self.client.shell_channel.send(message)


def states(messages: list[Message]) -> dict[str, dict[str, Any]]:
    """The widgets' states by id, as a browser has them after these messages."""
    found: dict[str, dict[str, Any]] = {}
    for message in messages:
        data = message.content.get("data", {})
        if message.kind == "comm_open":
            found[message.content["comm_id"]] = dict(data["state"])
        elif message.kind == "comm_msg" and data.get("method") == "update":
            found.setdefault(message.content["comm_id"], {}).update(data["state"])
    return found


def wait_for(browser: Browser, cell: Cell, view: str, needle: str) -> dict[str, Any]:
    """Wait until a widget of this view holds this text; returns its state."""
    deadline = time.monotonic() + 120
    while True:
        for model_id, state in states(cell.messages).items():
            if state.get("_view_name") == view and needle in str(state):
                return {"id": model_id, **state}
        assert not cell.is_idle, f"the cell ended without {needle!r}:\n{cell.text}"
        browser.kernel._receive(cell, deadline)


@pytest.fixture
def browser(notebook: Kernel) -> Iterator[Browser]:
    """A browser on the shared kernel."""
    return Browser(notebook)


def test_the_dashboard_is_live_and_then_gives_way_to_one_that_needs_no_kernel(browser: Browser) -> None:
    cell = browser.start(
        "%%elastic_launch -n 2\nimport os\nprint('<i>hello</i> from', os.environ['RANK'])\nimport time; time.sleep(3)\n7"
    )
    wait_for(browser, cell, "HTMLView", "&lt;i&gt;hello&lt;/i&gt; from 1")
    browser.kernel.wait(cell)
    assert cell.is_ok, cell.error
    first = next(m for m in cell.messages if m.kind == "display_data")
    last = [m for m in cell.messages if m.kind == "update_display_data"][-1]
    assert VIEW in first.content["data"]
    assert last.content["transient"] == first.content["transient"]
    assert set(last.content["data"]) == {html.MIME, "text/html", "text/plain"}
    assert "ranks 0-1: 7" in last.text
    assert "<i>hello" not in last.content["data"]["text/html"]
    assert not [m for m in cell.messages if m.kind == "stream"]
    opened = {m.content["comm_id"] for m in cell.messages if m.kind == "comm_open"}
    assert {m.content["comm_id"] for m in cell.messages if m.kind == "comm_close"} == opened


@pytest.fixture
def _slow_pace(notebook: Kernel) -> Iterator[None]:
    """Minutes between two drawings: only those that do not wait are seen."""
    notebook.ok("from nb_elastic.render import widget\npace = widget.DRAW_S\nwidget.DRAW_S = widget.CLOCK_S = 300.0")
    yield
    notebook.ok("widget.DRAW_S, widget.CLOCK_S = pace, 1.0")


@pytest.mark.usefixtures("_slow_pace")
def test_the_first_line_of_each_rank_is_drawn_at_once(browser: Browser) -> None:
    cell = browser.start(
        "%%elastic_launch -n 2\nimport os, time\ntime.sleep(2 * int(os.environ['RANK']))\n"
        "os.write(1, b'first of ')\ntime.sleep(0.2)\nprint(os.environ['RANK'], flush=True)\ntime.sleep(600)"
    )
    for rank in (0, 1):
        wait_for(browser, cell, "HTMLView", f"[rank {rank}] first of {rank}")
    browser.kernel.interrupt()
    browser.kernel.wait(cell, timeout_s=60)
    assert cell.reply["ename"] == "RunStoppedError"


def test_stop_works_while_the_cell_is_busy(browser: Browser) -> None:
    subshell = browser.subshell()
    cell = browser.start("%%elastic_launch -n 2\nimport time\nprint('in the loop', flush=True)\ntime.sleep(600)")
    wait_for(browser, cell, "HTMLView", "in the loop")
    button = wait_for(browser, cell, "ButtonView", "Stop")
    browser.click(button["id"], subshell=subshell)
    browser.kernel.wait(cell, timeout_s=60)
    assert cell.reply["ename"] == "RunStoppedError"
    assert "stopped by dashboard" in cell.text
    assert browser.kernel.ok("print(1 + 1)").stdout == "2\n"


def test_an_interrupt_leaves_the_saved_dashboard_and_no_thread(browser: Browser) -> None:
    cell = browser.start("%%elastic_launch -n 2\nimport time\nprint('in the loop', flush=True)\ntime.sleep(600)")
    wait_for(browser, cell, "HTMLView", "in the loop")
    browser.kernel.interrupt()
    browser.kernel.wait(cell, timeout_s=60)
    assert cell.reply["ename"] == "RunStoppedError"
    saved = [m for m in cell.messages if m.kind == "update_display_data"][-1].content["data"][html.MIME]
    assert [saved["snapshot"]["state"], *(w["state"] for w in saved["snapshot"]["workers"])] == ["stopped"] * 3
    threads = (
        "import threading; print([t.name for t in threading.enumerate() if t.name.startswith('nb-elastic-widget')])"
    )
    assert browser.kernel.ok(threads).stdout == "[]\n"


def test_a_flood_reaches_the_browser_in_small_portions_and_its_end_is_seen(browser: Browser) -> None:
    cell = browser.start(
        "%%elastic_launch -n 2\nfor i in range(50_000):\n    print('line', i)\nimport time; time.sleep(3)"
    )
    wait_for(browser, cell, "HTMLView", "line 49999")
    browser.kernel.wait(cell)
    values = [
        str(m.content["data"]["state"]) for m in cell.messages if m.kind == "comm_msg" and "state" in m.content["data"]
    ]
    assert max(map(len, values)) < 200_000
    assert sum(map(len, values)) < 5_000_000


def test_a_batch_run_gets_text_as_it_comes_and_the_same_saved_dashboard(browser: Browser) -> None:
    cell = browser.kernel.ok("%%elastic_launch -n 2\nprint('hello')\n7")
    assert re.findall(r"\[(rank.*)\] hello\n", cell.stdout) in (
        ["ranks 0-1"],
        ["rank 0", "rank 1"],
        ["rank 1", "rank 0"],
    )
    (shown,) = [m for m in cell.messages if m.kind == "display_data"]
    assert set(shown.content["data"]) == {html.MIME, "text/html", "text/plain"}
    assert shown.content["data"][html.MIME]["snapshot"]["state"] == "succeeded"


def test_show_brings_the_dashboard_back_from_the_folder_alone(browser: Browser) -> None:
    cell = browser.kernel.ok("%elastic show")
    (shown,) = [m for m in cell.messages if m.kind == "display_data"]
    assert "ranks 0-1: 7" in shown.text


def test_a_line_is_shown_though_nothing_comes_after_it(browser: Browser) -> None:
    cell = browser.kernel.start("%%elastic_launch -n 2\nimport time\nprint('in the loop', flush=True)\ntime.sleep(600)")
    browser.kernel.wait_for(cell, "in the loop")
    browser.kernel.interrupt()
    browser.kernel.wait(cell, timeout_s=60)
    assert cell.reply["ename"] == "RunStoppedError"


def test_a_face_that_cannot_be_had_starts_nothing(browser: Browser) -> None:
    before = browser.kernel.ok("import nb_elastic; print(len(nb_elastic.runs()))").stdout
    cell = browser.kernel.run("%%elastic_launch -n 2 --render terminal\n1")
    assert "--render terminal does not work in a notebook" in cell.text
    assert browser.kernel.ok("print(len(nb_elastic.runs()))").stdout == before
