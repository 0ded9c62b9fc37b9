"""The lab extension against a kernel that speaks from fixed data: links, renderer, list, tab, commands, settings.

A user would lose: a dashboard that lives through a reload, and Stop while the cell is busy.
"""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.lab import MIME, LabPage
from tests.support.until import until

LOAD = "from tests.browser.fake_monitor import FakeMonitor, FakeRun\nfake = FakeMonitor()"
BLOCK = "fake.run.cell = 'fake.show_and_wait()'\nfake.show_and_wait()"


def test_a_reload_in_the_middle_of_a_busy_cell_brings_the_dashboard_back(lab: LabPage) -> None:
    lab.new(LOAD, BLOCK).run(0).start(1)
    expect(lab.dashboard(1)).to_contain_text("running")
    lab.until_saved()
    lab.reload()
    expect(lab.dashboard(1)).to_contain_text(re.compile("live|running"))
    expect(lab.stop_button(1)).to_be_visible()
    lab.stop_button(1).click()
    expect(lab.dashboard(1)).to_contain_text("stopped")
    # The cell's own last word cannot reach this page: the dashboard asks for it, and the notebook keeps it.
    lab.page.wait_for_function(
        "([i, mime]) => jupyterapp.shell.currentWidget.content.widgets[i].model.outputs.get(0)?.data[mime].snapshot.state === 'stopped'",
        arg=[1, MIME],
    )
    outputs = lab.save()["cells"][1]["outputs"]
    assert len(outputs) == 1, outputs
    [output] = outputs
    assert output["data"][MIME]["snapshot"]["state"] == "stopped"
    assert "html of fake-1" in "".join(output["data"]["text/html"])


def test_a_kernel_that_restarts_is_found_again_and_keeps_no_subshell_behind(lab: LabPage) -> None:
    lab.new(LOAD, BLOCK).run(0)
    panel = lab.show_runs()
    expect(panel.locator("li")).to_have_count(1)
    assert len(lab.subshells()) == 1
    lab.restart()
    expect(panel.locator("li")).to_have_count(0)
    lab.run(0)
    expect(panel.locator("li")).to_have_count(1)
    assert len(lab.subshells()) == 1
    lab.reload().until_idle()
    lab.page.wait_for_function("() => document.querySelector('#nb-elastic-runs li')")
    assert len(lab.subshells()) == 1


def test_kernels_without_nb_elastic_are_left_alone(lab: LabPage) -> None:
    complaints: list[str] = []

    def hear(text: str) -> None:
        if "nb-elastic" in text and "ms to activate" not in text:  # how long that takes is the machine's matter
            complaints.append(text)

    lab.page.on("pageerror", lambda error: complaints.append(str(error)))
    lab.page.on("console", lambda message: hear(message.text))
    lab.new("1 + 1", "import os; os._exit(1)").run(0)
    panel = lab.show_runs()
    expect(panel).to_contain_text("%load_ext nb_elastic")
    assert lab.subshells() == []
    lab.page.evaluate(
        """() => {
            const { kernel } = jupyterapp.shell.currentWidget.sessionContext.session;
            kernel.statusChanged.connect((_, status) => { window.__died ||= status === 'autorestarting'; });
        }"""
    )
    lab.start(1)
    lab.page.wait_for_function("() => window.__died")
    lab.until_idle()
    assert complaints == []


def test_the_list_of_runs_opens_filters_and_stops(lab: LabPage) -> None:
    lab.new(LOAD, BLOCK).run(0).start(1)
    panel = lab.show_runs()
    row = panel.locator("li[data-run='fake-1']")
    expect(row).to_contain_text("running")
    expect(row).to_contain_text("1 rank")
    filter_box = panel.get_by_role("searchbox")
    filter_box.fill("failed")
    expect(panel).to_contain_text("No run matches the filter.")
    filter_box.fill("cell fake")
    row.get_by_role("button", name="Open run fake").click()
    expect(lab.page.locator(".nbe-lab-tab .nbe")).to_contain_text("running")
    row.get_by_role("button", name="Stop run fake").click()
    expect(row).to_contain_text("stopped")
    expect(row.get_by_role("button", name="Stop run fake")).to_be_hidden()
    expect(lab.page.locator(".nbe-lab-tab .nbe")).to_contain_text("stopped")


def test_the_list_of_runs_takes_the_colours_of_labs_theme(lab: LabPage) -> None:
    """Labs theme counts, not the system's: a dark Lab on a light desktop had the light theme's letters in the list."""
    lab.page.emulate_media(color_scheme="light")
    lab.new(LOAD)
    panel = lab.show_runs()
    expect(panel).to_have_attribute("data-theme", "light")
    lab.page.evaluate("jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
    expect(panel).to_have_attribute("data-theme", "dark")


def test_a_tab_and_the_list_are_restored_with_the_layout(lab: LabPage) -> None:
    lab.new(LOAD, BLOCK).run(0)
    expect(lab.show_runs().locator("li")).to_have_count(1)
    lab.command("nb-elastic:open-newest")
    tab = lab.page.locator(".nbe-lab-tab")
    expect(tab.locator(".nbe")).to_contain_text("running")
    until(lambda: _has_saved_layout(lab), what="the layout to be saved")
    lab.page.reload()
    expect(tab.locator(".nbe")).to_contain_text("running")
    expect(lab.page.locator("#nb-elastic-runs")).to_be_visible()


def test_the_palette_and_the_status_bar_reach_the_runs(lab: LabPage) -> None:
    lab.new(LOAD, BLOCK).run(0).start(1)
    status = lab.page.locator(".nbe-lab-status")
    expect(status).to_contain_text("1 running")
    status.click()
    expect(lab.page.locator("#nb-elastic-runs")).to_be_visible()
    lab.command("apputils:activate-command-palette")
    palette = lab.page.locator(".lm-CommandPalette")
    palette.get_by_placeholder("SEARCH").fill("stop the newest run")
    palette.get_by_text("Stop the Newest Run of This Notebook").click()
    lab.until_ended(1)
    expect(status).to_contain_text("idle")


def test_the_cell_toolbar_puts_the_magic_on_and_takes_it_off(lab: LabPage) -> None:
    lab.server.settings(
        "nb-elastic:plugin", {"launchOptions": "-n 3 --name mine", "showStatus": False, "panelSide": "left"}
    )
    lab.new("x = 1\nprint(x)", LOAD)
    lab.page.evaluate("() => { jupyterapp.shell.currentWidget.content.activeCellIndex = 0; }")
    button = (
        lab.cell(0)
        .locator("[data-command='nb-elastic:toggle-launch'], [data-jp-item-name='nb-elastic-launch'] jp-button")
        .first
    )
    button.click()
    expect(lab.page.locator(".jp-toastContainer")).to_contain_text("%load_ext nb_elastic")
    assert lab.source(0) == "%%elastic_launch -n 3 --name mine\nx = 1\nprint(x)"
    button.click()
    assert lab.source(0) == "x = 1\nprint(x)"
    lab.run(1)
    expect(lab.show_runs().locator("li")).to_have_count(1)
    expect(lab.page.locator("#jp-left-stack #nb-elastic-runs")).to_be_visible()
    expect(lab.page.locator(".nbe-lab-status")).to_be_hidden()


def test_a_link_to_a_cell_selects_its_line(lab: LabPage) -> None:
    shown = "fake.run.log += b'Cell In[2], line 2\\n'\nfake.show_and_wait(0.1, is_replaced=False)"
    lab.new(LOAD, "# one\n# two\n# three", shown).run(0).run(1).run(2)
    lab.dashboard(2).locator(".nbe-log-link", has_text="Cell In[2], line 2").click()
    lab.page.wait_for_function(
        """() => {
            const panel = jupyterapp.shell.currentWidget;
            const editor = panel.content.activeCell.editor;
            const { start } = editor.getSelection();
            return panel.content.activeCellIndex === 1 && start.line === 1;
        }"""
    )


def test_a_run_in_a_code_console_is_live_as_well(lab: LabPage) -> None:
    lab.new("1")
    lab.page.evaluate(
        """async cells => {
            const kernelPreference = { name: 'python3', shouldStart: true };
            const panel = await jupyterapp.commands.execute('console:create', { kernelPreference, activate: true });
            await panel.sessionContext.ready;
            window.__run = cells.reduce((before, cell) => before.then(() => panel.console.inject(cell)), Promise.resolve());
        }""",
        [LOAD, BLOCK],
    )
    dashboard = lab.page.locator(".jp-CodeConsole .nbe")
    expect(dashboard).to_contain_text("running")
    dashboard.get_by_role("button", name="Stop").first.click()
    expect(dashboard).to_contain_text("stopped")


def test_what_is_no_run_and_a_run_of_nobody_are_told_calmly(lab: LabPage) -> None:
    outputs = {
        0: [{"output_type": "display_data", "metadata": {}, "data": {MIME: {"version": 9}, "text/plain": "plain"}}],
        1: [{"output_type": "display_data", "metadata": {}, "data": {MIME: "<script>", "text/plain": "plain"}}],
    }
    path = lab.write("1", "2", LOAD, outputs=outputs)
    errors: list[str] = []
    lab.page.on("pageerror", lambda error: errors.append(str(error)))
    lab.open(path)
    expect(lab.output(0)).to_contain_text("no run that can be shown")
    expect(lab.output(1)).to_contain_text("no run that can be shown")
    assert errors == []


def _has_saved_layout(lab: LabPage) -> bool:
    data = lab.workspace()
    layout = data.get("layout-restorer:data", {})
    is_tab_saved = "nb-elastic-runs:fake-1" in data and "nb-elastic-runs:fake-1" in str(layout.get("main"))
    return is_tab_saved and layout["right"].get("current") == "nb-elastic-runs"
