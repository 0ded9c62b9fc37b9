"""The head of the dashboard: which run, its state, and what can be done to it."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.shell import Shell

WORDS = ["starting", "running", "restarting", "stopping", "succeeded", "failed", "stopped", "lost"]


@pytest.fixture
def shell(bare_page: Any) -> Shell:
    return Shell(bare_page)


def test_the_head_names_the_run_its_state_size_attempt_and_machine(shell: Shell) -> None:
    page = shell.show("restart")
    expect(page.locator(".nbe-name")).to_have_text("finetune-resnet50")
    expect(page.locator(".nbe-state-chip")).to_have_text("running")
    expect(page.locator(".nbe-elapsed")).to_have_text("42 s")
    expect(page.locator(".nbe-facts > *")).to_have_text(["Cell In[12]", "4 ranks", "gpu-node-07", "attempt 2 of 4"])


def test_a_run_without_a_name_goes_by_its_id_and_nodes_are_counted(shell: Shell) -> None:
    page = shell.show("nodes", before="run.snapshot = {...run.snapshot, name: ''}")
    expect(page.locator(".nbe-name")).to_have_text("1126-101500-ab12cd")
    expect(page.locator(".nbe-facts")).to_contain_text("256 ranks on 8 nodes")


def test_each_state_has_a_word_a_sign_and_a_colour(shell: Shell) -> None:
    page = shell.show("four")
    seen = set()
    for word in WORDS:
        shell.change(f"run.set({{state: {word!r}}})")
        chip = page.locator(".nbe-state-chip")
        expect(chip).to_have_text(word)
        seen.add(chip.evaluate("e => e.querySelector('path').getAttribute('d') + getComputedStyle(e).backgroundColor"))
    assert len(seen) >= len(WORDS) - 1  # stopping and stopped share the square, in two colours


def test_the_time_goes_on_while_the_run_lasts_and_stands_when_it_is_over(shell: Shell) -> None:
    page = shell.show("four")
    shell.change("run.now_ns += 61e9")
    expect(page.locator(".nbe-elapsed")).to_have_text("1 min 43 s")
    shell.change("run.set({state: 'succeeded', finished_ns: run.snapshot.created_ns + 50e9}); run.now_ns += 100e9")
    expect(page.locator(".nbe-elapsed")).to_have_text("50 s")


def test_stop_says_what_it_does_and_a_second_click_kills(shell: Shell) -> None:
    page = shell.show("four")
    stop = page.locator(".nbe-stop")
    does = "Sends KeyboardInterrupt (SIGINT) to all ranks; after 5 s SIGTERM, then SIGKILL"
    expect(stop).to_have_attribute("title", does)
    stop.click()
    expect(stop).to_have_text("Kill now")
    expect(page.locator(".nbe-message")).to_have_text("Stopping…")
    stop.click()
    assert page.evaluate("run.stops") == [5, 0]


def test_a_stop_that_nobody_answers_points_to_the_interrupt_button(shell: Shell) -> None:
    page = shell.show("four")
    page.locator(".nbe-stop").click()
    expect(page.locator(".nbe-message")).to_contain_text("use the notebook’s own interrupt button")
    shell.change("run.set({state: 'stopping'})")
    expect(page.locator(".nbe-message")).to_have_text("Stopping…")


def test_a_stop_that_was_refused_tells_why_and_can_be_tried_again(shell: Shell) -> None:
    page = shell.show("four")
    page.locator(".nbe-stop").click()
    shell.change("run.stopping = {ok: false, text: 'not your run'}; run.change('stopping')")
    expect(page.locator(".nbe-message")).to_have_text("Not stopped: not your run")
    page.locator(".nbe-stop").click()
    assert page.evaluate("run.stops") == [5, 5]


def test_a_stop_from_elsewhere_offers_the_kill_here(shell: Shell) -> None:
    page = shell.show("four")
    shell.change("run.set({state: 'stopping', stop_by: 'Ctrl-C'})")
    expect(page.locator(".nbe-stop")).to_have_text("Kill now")


@pytest.mark.parametrize(
    ("scene", "before"),
    [("succeeded", ""), ("stopped", ""), ("saved", ""), ("four", "run.about = {...run.about, can_stop: false}")],
)
def test_stop_is_away_where_it_could_do_nothing(shell: Shell, scene: str, before: str) -> None:
    page = shell.show(scene, before=before)
    expect(page.locator(".nbe-stop")).to_be_hidden()


def test_the_link_tells_when_what_is_drawn_may_be_old(shell: Shell) -> None:
    page = shell.show("four")
    link = page.locator(".nbe-linkstate")
    expect(link).to_be_hidden()
    told = {
        "connecting": "connecting…",
        "silent": "reconnecting…",
        "deaf": "kernel busy: to stop, use interrupt",
        "saved": "saved, read-only",
    }
    for state, words in told.items():
        shell.change(f"run.link = {state!r}; run.change('link')")
        expect(link).to_have_text(words)
    shell.change("run.link = 'live'; run.change('link')")
    expect(link).to_be_hidden()


def test_torchrun_line_and_folder_are_copied_and_the_folder_opened(shell: Shell) -> None:
    host = "{openFolder: path => asked.push(path), openTab: id => asked.push(id)}"
    before = "navigator.clipboard.writeText = async text => void asked.push('copied ' + text)"
    shell.page.evaluate(
        "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async () => {}}, configurable: true})"
    )
    page = shell.show("four", before=before, host=host)
    page.get_by_role("button", name="Copy as torchrun").click()
    expect(page.get_by_role("button", name="Copy as torchrun")).to_contain_text("Copied")
    page.get_by_role("button", name="Folder").click()
    page.get_by_role("button", name="Open in a tab").click()
    folder = "/home/ada/.local/state/nb_elastic/runs/1126-101500-ab12cd"
    torchrun = "torchrun --standalone --nproc-per-node 4 train.py"
    assert shell.asked() == [f"copied {torchrun}", folder, f"copied {folder}", "1126-101500-ab12cd"]


def test_the_cell_is_a_link_where_the_page_can_show_it(shell: Shell) -> None:
    page = shell.show("four", host="{openCell: (label, line) => asked.push([label, line])}")
    page.locator(".nbe-facts").get_by_role("button", name="Cell In[12]").click()
    assert shell.asked() == [["Cell In[12]", 1]]


def test_notes_are_told_warnings_first_and_many_are_folded(shell: Shell) -> None:
    notes = "[['info', 'a'], ['info', 'b'], ['warning', 'CPU binding is off'], ['info', 'd']]"
    page = shell.show("four", before=f"run.snapshot = {{...run.snapshot, notes: {notes}}}")
    lines = page.locator(".nbe-notes > .nbe-note")
    expect(lines).to_have_text(["Warning: CPU binding is off", "Note: a"])
    expect(page.locator(".nbe-notes summary")).to_have_text("2 more notes")


def test_a_short_note_alone_stands_in_the_head_where_it_moves_nothing(shell: Shell) -> None:
    page = shell.show("four")
    before = page.locator(".nbe-tiles").first.bounding_box()
    shell.change("run.set({notes: [['info', 'CPU binding is off: there is one NUMA node to run on.']]})")
    expect(page.locator(".nbe-facts > *").last).to_have_text("CPU binding is off: there is one NUMA node to run on.")
    expect(page.locator(".nbe-notes")).to_be_hidden()
    assert page.locator(".nbe-tiles").first.bounding_box() == before


def test_no_other_button_comes_to_stand_where_stop_was(shell: Shell) -> None:
    page = shell.show("four")
    box = page.locator(".nbe-stop").bounding_box()
    shell.change("run.set({state: 'stopped', finished_ns: run.now_ns})")
    expect(page.locator(".nbe-stop")).to_be_hidden()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    assert page.evaluate("([x, y]) => document.elementFromPoint(x, y).closest('button')", [x, y]) is None


def test_a_dashboard_that_goes_leaves_nothing_behind(shell: Shell) -> None:
    page = shell.show("four")
    page.evaluate("dashboard.dispose()")
    assert page.evaluate("[run.listeners, root.childElementCount, root.className]") == [0, 0, ""]
