"""Real launches in a real JupyterLab.

A user would lose: Stop while the cell is busy, the dashboard after a reload, lines in a flood, a failure that leads to its line.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.lab import MIME, LabPage
from tests.support.until import until

LOAD = "%load_ext nb_elastic"
LAUNCH = "%%elastic_launch -n 2 --name mine\n"
TALKS = (
    LAUNCH
    + """import os, time
print("hello from", os.environ["RANK"], flush=True)
for step in range(4000):
    print("step", step, flush=True)
    time.sleep(0.05)
"""
)
FAILS = (
    LAUNCH
    + """import os
x = 41
if os.environ["RANK"] == "1":
    raise ValueError("the needle")
"""
)
DETACHED = """%%elastic_launch -n 2 --name mine --detach
import nb_elastic, time
for step in range(4000):
    print("step", step, flush=True)
    nb_elastic.report(step=step, loss=1 / (step + 1))
    time.sleep(0.05)
"""
STATE = "print(nb_elastic.last_run().state.value)"
IMPORT = "import nb_elastic"


@pytest.fixture
def busy(lab: LabPage) -> LabPage:
    """A notebook whose cell 1 is busy with a launch that talks."""
    return start_talking(lab)


def start_talking(lab: LabPage) -> LabPage:
    lab.new(f"{LOAD}\n{IMPORT}", TALKS, STATE).run(0).start(1)
    expect(lab.dashboard(1)).to_contain_text("step 3")
    return lab


def until_stopped(lab: LabPage) -> None:
    lab.until_ended(1)
    expect(lab.dashboard(1)).to_contain_text(re.compile("stopped", re.IGNORECASE))
    lab.run(2)
    expect(lab.output(2)).to_contain_text("stopped")


def test_stop_in_the_dashboard_ends_a_run_whose_cell_is_busy(busy: LabPage) -> None:
    busy.stop_button(1).click()
    until_stopped(busy)


def test_stop_in_the_list_ends_a_run_whose_cell_is_busy(busy: LabPage) -> None:
    row = busy.show_runs().locator("li").first
    expect(row).to_contain_text("running")
    row.get_by_role("button", name="Stop run mine").click()
    until_stopped(busy)
    expect(row).to_contain_text("stopped")


def test_interrupting_the_kernel_ends_the_run(busy: LabPage) -> None:
    busy.interrupt()
    until_stopped(busy)


def test_a_reload_in_the_middle_brings_back_the_live_dashboard_with_the_whole_log(busy: LabPage) -> None:
    busy.until_saved()
    busy.reload()
    expect(busy.stop_button(1)).to_be_visible()
    expect(busy.dashboard(1)).to_contain_text("step ")
    busy.dashboard(1).get_by_placeholder(re.compile("filter|search", re.IGNORECASE)).first.fill("hello from")
    expect(busy.dashboard(1)).to_contain_text("hello from 0")  # the first line of all
    busy.stop_button(1).click()
    expect(busy.dashboard(1)).to_contain_text(re.compile("stopped", re.IGNORECASE))
    busy.until_idle()
    until(lambda: saved_state(busy, 1) == "stopped", what="the notebook to hold the end")


def test_a_print_flood_of_the_user_loses_nothing_in_the_dashboard(lab: LabPage) -> None:
    """The server drops every message, the dashboard's as well, while a flood is on."""
    flood = (
        "import contextlib, threading, time\ndef has_begun():\n    with contextlib.suppress(nb_elastic.ElasticError):\n"
        "        return 'mark 20' in nb_elastic.last_run().logs(0)\n"
        "def flood():\n    while not has_begun():  # the dashboard is there\n        time.sleep(0.05)\n"
        "    for n in range(30_000):\n        print('x' * 200)\nt = threading.Thread(target=flood)"
    )
    launch = (
        LAUNCH + "import time\nfor step in range(400):\n    print('mark', step, flush=True)\n    time.sleep(0.01)\n"
    )
    lab.new(f"{LOAD}\n{IMPORT}\n{flood}", "t.start()", launch).run(0).run(1).run(2)
    expect(lab.dashboard(2)).to_contain_text(re.compile("succeeded", re.IGNORECASE))
    lab.dashboard(2).get_by_placeholder(re.compile("filter|search", re.IGNORECASE)).first.fill("mark")
    expect(lab.dashboard(2)).to_contain_text(re.compile(r"\b800\b"))  # hits: 400 of each rank


def test_two_pages_on_one_notebook_follow_the_run_and_either_stops_it(busy: LabPage, context: Any) -> None:
    busy.until_saved()
    other = LabPage(context.new_page(), busy.server).open(busy.path, is_busy=True)
    expect(other.dashboard(1)).to_contain_text("step ")
    other.stop_button(1).click()
    expect(other.dashboard(1)).to_contain_text(re.compile("stopped", re.IGNORECASE))
    until_stopped(busy)


def test_a_kernel_restart_ends_the_run_and_the_next_one_is_followed(busy: LabPage) -> None:
    busy.restart().run(0).start(1)
    expect(busy.dashboard(1)).to_contain_text("step 3")
    rows = busy.show_runs().locator("li")
    expect(rows).to_have_count(2)
    expect(rows.filter(has_text="running")).to_have_count(1)
    busy.stop_button(1).click()
    until_stopped(busy)


def test_a_run_opens_in_a_tab_that_a_reload_restores(busy: LabPage) -> None:
    busy.until_saved()
    busy.show_runs().get_by_role("button", name="Open run mine").first.click()
    tab = busy.page.locator(".nbe-lab-tab .nbe")
    expect(tab).to_contain_text("step ")
    until(
        lambda: "nb-elastic-runs:" in str(busy.workspace()["layout-restorer:data"]["main"]),
        what="the layout to be saved",
    )
    busy.page.reload()
    expect(tab).to_contain_text("step ")
    busy.page.locator(".lm-TabBar-tab", has_text="mine").click()
    tab.get_by_role("button", name=re.compile("^Stop")).first.click()
    expect(tab).to_contain_text(re.compile("stopped", re.IGNORECASE))


def test_a_detached_run_is_followed_and_stopped_from_the_list_after_the_kernel_was_restarted(lab: LabPage) -> None:
    """No cell and no variable of the notebook knows of it any more."""
    lab.new(f"{LOAD}\n{IMPORT}", DETACHED).run(0).run(1)
    lab.restart().run(0)
    row = lab.show_runs().locator("li").first
    expect(row).to_contain_text("detached")
    row.get_by_role("button", name="Open run mine").click()
    tab = lab.page.locator(".nbe-lab-tab .nbe")
    expect(tab).to_contain_text("step 3")
    tab.get_by_role("tab", name="Metrics").click()
    expect(tab).to_contain_text("loss")
    tab.get_by_role("button", name=re.compile("^Stop")).first.click()
    expect(tab).to_contain_text(re.compile("stopped", re.IGNORECASE))
    expect(row).to_contain_text("stopped")


def test_a_failure_leads_to_its_line_in_the_notebook(lab: LabPage) -> None:
    lab.new(LOAD, FAILS).run(0).run(1)
    expect(lab.dashboard(1)).to_contain_text("ValueError: the needle")
    lab.page.evaluate("() => { jupyterapp.shell.currentWidget.content.activeCellIndex = 0; }")
    lab.dashboard(1).get_by_text(re.compile(r"Cell In\[2\], line 5")).first.click()
    lab.page.wait_for_function(
        """() => {
            const { content } = jupyterapp.shell.currentWidget;
            return content.activeCellIndex === 1 && content.activeCell.editor.getSelection().start.line === 4;
        }"""
    )


def test_without_the_lab_extension_the_widget_shows_and_stops_the_run(lab: LabPage) -> None:
    with lab.server.disabled("nb-elastic"):
        start_talking(lab)
        assert lab.page.evaluate("() => jupyterapp.commands.hasCommand('nb-elastic:open-runs')") is False
        expect(lab.dashboard(1).locator(".nbe-linkstate")).to_be_hidden()  # the page is heard
        expect(lab.output(1).locator(".nb-elastic:visible")).to_have_count(0)  # nor does the tail say all again
        lab.stop_button(1).click()
        lab.until_ended(1)
    expect(lab.output(1)).to_contain_text(re.compile("stopped", re.IGNORECASE))  # the HTML twin


def test_without_any_javascript_of_ours_the_tail_is_shown_as_html(lab: LabPage) -> None:
    with lab.server.disabled("nb-elastic", "anywidget"):
        lab.new(LOAD, TALKS, IMPORT).run(0).start(1)
        expect(lab.output(1)).to_contain_text("step 3")
        lab.interrupt()
        lab.until_ended(1)
    expect(lab.output(1)).to_contain_text(re.compile("stopped", re.IGNORECASE))


def saved_state(lab: LabPage, index: int) -> str:
    """State of the run that the page would save with the notebook."""
    for output in lab.outputs(index):
        if MIME in output.get("data", {}):
            return str(output["data"][MIME]["snapshot"]["state"])
    return ""
