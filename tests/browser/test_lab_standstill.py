"""A run that stands still in a real JupyterLab: stacks while the cell is busy, a hang and a held rank as they come.

A user would lose: the only answer that a frozen cell can give.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from playwright.sync_api import expect

from nb_elastic import events
from nb_elastic.model import to_json
from nb_elastic.rundir import RunDir
from tests.browser.lab import LabPage
from tests.support.dashboards import stack_report
from tests.support.until import until

STACKS = """\
import importlib.util, sys, time, types
if importlib.util.find_spec("nb_elastic.stacks") is None:  # which part of the project is not here yet
    from nb_elastic.model import Frame, StackGroup, StackReport
    def report(folder, *, rank=None):
        frame = Frame(file="Cell In[2]", line=5, name="<module>", text="    time.sleep(0.1)")
        group = StackGroup(ranks=(0, 1), state="waiting", doing="sleeps, Cell In[2], line 5", frames=(frame,))
        return StackReport(time_ns=time.time_ns(), cause="asked", headline="All ranks sleep.", groups=(group,))
    sys.modules["nb_elastic.stacks"] = types.ModuleType("nb_elastic.stacks")
    sys.modules["nb_elastic.stacks"].report = report
"""
SLEEPS = """%%elastic_launch -n 2 --name sleepy
import time
print("here", flush=True)
while True:
    time.sleep(0.1)
"""


@pytest.fixture
def sleepy(lab: LabPage) -> LabPage:
    """A notebook whose cell 1 is busy with ranks that sleep."""
    lab.new(f"%load_ext nb_elastic\n{STACKS}", SLEEPS).run(0).start(1)
    expect(lab.dashboard(1)).to_contain_text("wrote")
    return lab


def folder_of(lab: LabPage) -> RunDir:
    """Folder of the only run."""
    (run,) = lab.server.home.glob("*/run.json")
    return RunDir(run.parent)


def tell(folder: RunDir, kind: str, **data: Any) -> None:
    """An event is written into the journal of a live run, as its supervisor would."""
    with open(folder.journal, "ab") as journal:
        journal.write(events.encode(events.make(kind, **data)))


def until_stopped(lab: LabPage) -> None:
    lab.stop_button(1).click()
    lab.until_ended(1)
    expect(lab.dashboard(1)).to_contain_text(re.compile("stopped", re.IGNORECASE))


def test_stacks_are_shown_while_the_cell_is_busy_by_keyboard_and_again(sleepy: LabPage) -> None:
    page, dashboard = sleepy.page, sleepy.dashboard(1)
    button = dashboard.get_by_role("button", name="Stacks")
    sleepy.stop_button(1).focus()
    page.keyboard.press("Tab")
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    card = dashboard.locator(".nbe-stacks")
    expect(card.locator(".nbe-card-title")).to_contain_text("Where the ranks are")
    expect(card.locator(".nbe-rank-chip")).to_have_text(["rank 0", "rank 1"])
    first = card.locator(".nbe-card-title").inner_text()
    until(lambda: time.strftime("%H:%M:%S") not in first, what="another second")
    page.keyboard.press("Space")
    expect(card.locator(".nbe-card-title")).not_to_have_text(first)
    card.get_by_role("button", name="Cell In[2], line 5").first.click()
    editor = sleepy.cell(1).locator(".cm-editor")
    expect(editor).to_have_class(re.compile("cm-focused"))
    until_stopped(sleepy)


def test_the_palette_asks_for_the_stacks_of_the_newest_run(sleepy: LabPage) -> None:
    sleepy.command("nb-elastic:stacks-newest")
    tab = sleepy.page.locator(".nbe-lab-tab")
    expect(tab.locator(".nbe-stacks .nbe-card-title")).to_contain_text("Where the ranks are")
    sleepy.page.evaluate("path => jupyterapp.commands.execute('docmanager:open', { path })", sleepy.path)
    until_stopped(sleepy)


def test_a_hang_and_a_held_rank_come_and_go_in_the_dashboard_of_a_busy_cell(sleepy: LabPage) -> None:
    folder, dashboard = folder_of(sleepy), sleepy.dashboard(1)
    tell(folder, "hang_found", round=0, report=to_json(stack_report(time.time_ns())))
    expect(dashboard.locator(".nbe-hang .nbe-card-title")).to_contain_text("Nothing has moved for")
    expect(dashboard.locator(".nbe-hang .nbe-odd")).to_contain_text("is held at its exception")
    tell(folder, "hang_over", round=0)
    expect(dashboard.locator(".nbe-hang")).to_have_count(0)
    at = {"round": 0, "rank": 1, "local_rank": 1}
    tell(folder, "worker_held", **at, why="failure", text="ValueError: no")
    expect(dashboard.locator(".nbe-held")).to_contain_text("Rank 1 is held at its exception")
    expect(dashboard.locator(".nbe-held")).to_contain_text(f"%elastic debug {folder.run_id}")
    tell(folder, "worker_released", **at)
    expect(dashboard.locator(".nbe-held")).to_have_count(0)
    until_stopped(sleepy)


def test_a_first_launch_tells_that_torch_is_imported_first(lab: LabPage) -> None:
    lab.new("%load_ext nb_elastic\nget_ipython().run_cell_magic('elastic_launch', '-n 1', '1 + 1')").run(0)
    lines = folder_of(lab).journal.read_text().splitlines()
    texts = [e["text"] for e in map(json.loads, lines) if e.get("name") == "waits"]
    assert texts == ["importing torch (first launch of this kernel)"]
