"""Real launches in a real Notebook 7.

A user would lose: Stop while the cell is busy, and the dashboard after a reload.
"""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.lab import LabPage
from tests.browser.test_lab import start_talking, until_stopped


def test_stop_ends_a_run_whose_cell_is_busy(notebook7: LabPage) -> None:
    start_talking(notebook7)
    notebook7.stop_button(1).click()
    until_stopped(notebook7)


def test_after_a_reload_in_the_middle_the_run_goes_on_and_can_be_stopped(notebook7: LabPage) -> None:
    start_talking(notebook7)
    notebook7.until_saved()
    notebook7.reload()
    expect(notebook7.dashboard(1)).to_contain_text("step ")
    notebook7.stop_button(1).click()
    expect(notebook7.dashboard(1)).to_contain_text(re.compile("stopped", re.IGNORECASE))
    expect(notebook7.show_runs().locator("li")).to_contain_text("stopped")
