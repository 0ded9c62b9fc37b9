"""A run that stands still in a real JupyterLab: stacks while the cell is busy, a hang and a held rank as they come.

A user would lose: the only answer that a frozen cell can give.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import expect

from nb_elastic import snapshot
from nb_elastic.rundir import RunDir, read_json
from tests.browser.lab import LabPage
from tests.support.until import until

SLEEPS = """%%elastic_launch -n 2 --name sleepy
import time
print("here", flush=True)
while True:
    time.sleep(0.1)
"""
WAITS = """%%elastic_launch -n 2 --name waits --hang-after 2 --hold
import os
rank = int(os.environ["RANK"])
os.mkfifo(f"door{rank}")
open(f"door{rank}").read()
if rank == 1:
    raise ValueError("no")
"""


@pytest.fixture
def sleepy(lab: LabPage) -> LabPage:
    """A notebook whose cell 1 is busy with ranks that sleep."""
    lab.new("%load_ext nb_elastic", SLEEPS).run(0).start(1)
    expect(lab.dashboard(1)).to_contain_text("wrote")
    return lab


def folder_of(lab: LabPage) -> RunDir:
    """Folder of the only run."""
    (run,) = lab.server.home.glob("*/run.json")
    return RunDir(run.parent)


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


def test_a_hang_and_a_held_rank_come_and_go_in_the_dashboard(lab: LabPage) -> None:
    lab.new("%load_ext nb_elastic", WAITS).run(0).start(1)
    dashboard = lab.dashboard(1)
    expect(dashboard.locator(".nbe-hang .nbe-card-title")).to_contain_text("Nothing has moved for 2 s", timeout=60_000)
    expect(dashboard.locator(".nbe-hang")).to_contain_text("Cell In[2], line 5")
    cwd = Path(read_json(folder_of(lab).run_json)["cwd"])
    for rank in range(2):
        (cwd / f"door{rank}").write_text("come in")
    expect(dashboard.locator(".nbe-hang")).to_have_count(0)
    expect(dashboard.locator(".nbe-held")).to_contain_text("Rank 1 is held at its exception")
    expect(dashboard.locator(".nbe-held")).to_contain_text(f"%elastic debug {folder_of(lab).run_id}")
    lab.until_ended(1)
    expect(lab.cell(1)).to_contain_text("The group is held")
    lab.stop_button(1).click()
    expect(dashboard.locator(".nbe-held")).to_have_count(0)
    until(lambda: snapshot.load(folder_of(lab)).state.is_final, what="the end of the held run")


def test_a_first_launch_tells_that_torch_is_imported_first(lab: LabPage) -> None:
    lab.new("%load_ext nb_elastic\nget_ipython().run_cell_magic('elastic_launch', '-n 1', '1 + 1')").run(0)
    lines = folder_of(lab).journal.read_text().splitlines()
    texts = [e["text"] for e in map(json.loads, lines) if e.get("name") == "waits"]
    assert texts == ["importing torch (first launch of this kernel)"]
