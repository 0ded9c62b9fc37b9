"""A notebook that was saved, and is opened where no kernel knows the run.

A user would lose: the result of last week's run, on their own machine, on GitHub, in a report.
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

from playwright.sync_api import expect

from tests.browser.lab import MIME, LabPage
from tests.browser.test_lab import FAILS, LOAD


def test_a_saved_notebook_shows_the_final_dashboard_everywhere(lab: LabPage, context: Any) -> None:
    lab.new(LOAD, FAILS).run(0).run(1)
    expect(lab.dashboard(1)).to_contain_text("ValueError: the needle")
    [data] = [o["data"] for o in lab.save()["cells"][1]["outputs"] if MIME in o.get("data", {})]
    assert "application/vnd.jupyter.widget-view+json" not in data
    assert data[MIME]["snapshot"]["state"] == "failed"
    lab.page.close()
    lab.server.end_sessions()

    with_ours = LabPage(context.new_page(), lab.server).open_without_kernel(lab.path)
    expect(with_ours.dashboard(1)).to_contain_text("ValueError: the needle")
    expect(with_ours.dashboard(1)).to_contain_text(re.compile("failed", re.IGNORECASE))
    assert lab.server.api("api/kernels") == []
    with_ours.page.close()

    with lab.server.disabled("nb-elastic", "anywidget"):
        without = LabPage(context.new_page(), lab.server).open_without_kernel(lab.path)
        expect(without.output(1)).to_contain_text("ValueError: the needle")
        assert "model not found" not in without.page.content()

    page = _as_html(lab)
    assert "ValueError: the needle" in page
    assert "model not found" not in page


def _as_html(lab: LabPage) -> str:
    """What nbconvert makes of the notebook."""
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--stdout", str(lab.server.root / lab.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout
