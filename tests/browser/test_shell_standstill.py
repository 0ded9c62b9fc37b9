"""A run that stands still: the hang card, stacks on demand, held ranks, the verdict, and how ranks ended."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.shell import Shell

EVIL = "<img src=x onerror=window.hit=1>\\u202egnp.exe"
CLIPBOARD = (
    "Object.defineProperty(navigator, 'clipboard',"
    " {value: {writeText: async text => { window.copied = text }}, configurable: true})"
)


@pytest.fixture
def shell(bare_page: Any) -> Shell:
    return Shell(bare_page)


def test_a_hang_names_the_odd_one_first_with_its_line_and_goes_when_something_moves(shell: Shell) -> None:
    page = shell.show("hang", host="{openCell: (label, line) => asked.push([label, line])}")
    card = page.locator(".nbe-hang")
    expect(card.locator(".nbe-card-title")).to_have_text("Nothing has moved for 62 s")
    expect(card.locator(".nbe-headline")).to_contain_text("rank 2 is in next(loader), line 6")
    groups = card.locator(".nbe-stack-group")
    expect(groups.nth(0).locator(".nbe-rank-chip")).to_have_text(["rank 2"])
    expect(groups.nth(0)).to_contain_text("the odd one out")
    expect(groups.nth(1).locator(".nbe-rank-chip")).to_have_text(["rank 0", "rank 1", "rank 3"])
    groups.nth(0).get_by_role("button", name="Cell In[12], line 6").first.click()
    assert shell.asked() == [["Cell In[12]", 6]]
    expect(groups.nth(0).locator(".nbe-source")).to_have_count(2)
    expect(groups.nth(0).locator(".nbe-source").first).to_be_hidden()
    groups.nth(0).get_by_text("Stack, 2 frames").click()
    expect(groups.nth(0).locator(".nbe-current").last).to_contain_text("loss = model(next(batches)).mean()")
    expect(card.locator(".nbe-hint .nbe-command")).to_have_text("%elastic stop")
    shell.change("run.set({hang: null})")
    expect(card).to_have_count(0)


def test_the_time_of_a_hang_goes_on_and_what_a_reader_unfolded_stays(shell: Shell) -> None:
    page = shell.show("hang")
    page.get_by_text("Stack, 3 frames").click()
    shell.change("run.now_ns += 30e9; run.set({last_ns: run.snapshot.last_ns + 1})")
    expect(page.locator(".nbe-hang .nbe-card-title")).to_have_text("Nothing has moved for 92 s")
    expect(page.locator(".nbe-stack-group").nth(1).locator(".nbe-source").first).to_be_visible()


def test_a_rank_of_a_group_can_be_selected_and_many_go_by_their_range(shell: Shell) -> None:
    page = shell.show("hang")
    page.locator(".nbe-rank-chip", has_text="rank 3").click()
    expect(page.locator(".nbe-tile.nbe-selected .nbe-tile-name")).to_have_text("rank 3")
    shell.change(
        "const ranks = Array.from({length: 400}, (_, i) => i);"
        "run.set({hang: nbe.fakeReport({groups: [nbe.fakeGroup(ranks)]})})"
    )
    expect(page.locator(".nbe-rank-chip")).to_have_text(["ranks 0-399"])


def test_stacks_are_asked_for_by_keyboard_answered_in_a_card_and_asked_for_again(shell: Shell) -> None:
    page = shell.show("four")
    button = page.get_by_role("button", name="Stacks")
    page.get_by_role("button", name="Stop").focus()
    page.keyboard.press("Tab")
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert page.evaluate("run.asks") == 1, "one that is under way is not asked for again"
    expect(page.locator(".nbe-ask-stacks")).to_have_text("Taking…")
    shell.change("run.setStacks({isAsked: false, report: nbe.fakeReport({cause: 'asked'})})")
    card = page.locator(".nbe-stacks")
    expect(card.locator(".nbe-card-title")).to_have_text(re.compile(r"^Where the ranks are, \d\d:\d\d:\d\d$"))
    expect(page.get_by_role("status").filter(has_text="Where the ranks are")).to_contain_text("wait in all_reduce")
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    assert page.evaluate("run.asks") == 2
    shell.change("run.setStacks({isAsked: false, report: nbe.fakeReport({cause: 'asked', headline: 'All go on.'})})")
    expect(card).to_have_count(1)
    expect(card.locator(".nbe-headline")).to_have_text("All go on.")
    card.get_by_role("button", name="Close").click()
    expect(card).to_have_count(0)


def test_stacks_that_cannot_be_taken_say_why_and_the_last_ones_stay(shell: Shell) -> None:
    page = shell.show("four")
    shell.change("run.setStacks({error: 'PermissionError: not yours'})")
    card = page.locator(".nbe-stacks")
    expect(card.locator(".nbe-message")).to_have_text("The stacks could not be taken. PermissionError: not yours")
    shell.change("run.setStacks({report: nbe.fakeReport(), error: 'gone'})")
    expect(card).to_contain_text("gone")
    expect(card.locator(".nbe-stack-group")).to_have_count(2)


def test_stacks_in_a_hang_are_shown_in_the_same_card_the_newer_ones(shell: Shell) -> None:
    page = shell.show("hang")
    newer = "nbe.fakeReport({time_ns: run.now_ns, cause: 'asked', headline: 'Now rank 1 sleeps.'})"
    shell.change(f"run.setStacks({{report: {newer}}})")
    card = page.locator(".nbe-stacks")
    expect(card).to_have_count(1)
    expect(card.locator(".nbe-headline")).to_have_text("Now rank 1 sleeps.")
    expect(card.locator(".nbe-still")).to_have_text("Nothing has moved for 62 s.")
    shell.change("run.set({hang: {...run.snapshot.hang, time_ns: run.now_ns + 1e9}})")
    expect(card.locator(".nbe-headline")).to_contain_text("rank 2 is in next(loader)")


def test_there_is_no_stacks_button_where_nothing_can_be_asked(shell: Shell) -> None:
    page = shell.show("four")
    button = page.get_by_role("button", name="Stacks")
    expect(button).to_be_visible()
    shell.change("run.about = {...run.about, can_stop: false}; run.change('about')")
    expect(button).to_be_hidden()
    shell.change("run.about = {...run.about, can_stop: true}; run.set({state: 'succeeded'})")
    expect(button).to_be_hidden()
    shell.change("dashboard.dispose()")
    expect(shell.show("starting").get_by_role("button", name="Stacks")).to_be_hidden()


def test_a_held_rank_has_its_place_and_commands_to_copy(shell: Shell) -> None:
    shell.page.evaluate(CLIPBOARD)
    page = shell.show("held")
    card = page.locator(".nbe-held")
    expect(card.locator(".nbe-card-title")).to_have_text("Rank 2 is held at its exception")
    expect(card.locator(".nbe-held-place")).to_contain_text("Cell In[12], line 8, in train")
    card.get_by_role("button", name="Copy %elastic debug 1126-101500-ab12cd").click()
    page.wait_for_function("window.copied === '%elastic debug 1126-101500-ab12cd'")
    card.get_by_role("button", name="Copy %elastic eval 1126-101500-ab12cd EXPR").click()
    page.wait_for_function("window.copied === '%elastic eval 1126-101500-ab12cd '")
    tile = page.locator(".nbe-tile[data-rank='2']")
    expect(tile.locator(".nbe-tile-state")).to_have_text("held")
    expect(tile.locator(".nbe-tile-last")).to_have_text("ValueError: loss is nan at step 118")
    page.get_by_role("button", name="Table").click()
    expect(page.locator("tr[data-rank='2']")).to_contain_text("held")
    page.get_by_role("tab", name="Timeline").click()
    expect(page.locator(".nbe-time-bar[data-kind='held']")).to_have_count(1)
    shell.change("run.setWorker(2, {state: 'running', held: '', held_text: ''})")
    expect(card).to_have_count(0)


def test_a_breakpoint_is_answered_in_the_cell(shell: Shell) -> None:
    page = shell.show("breakpoint")
    expect(page.locator(".nbe-held .nbe-card-title")).to_have_text("Rank 2 is at a breakpoint: answer in the cell")
    expect(page.locator(".nbe-held .nbe-command")).to_have_count(0)


def test_a_verdict_is_a_chip_with_its_reasons_and_followers_are_folded(shell: Shell) -> None:
    page = shell.show("verdict")
    card = page.locator(".nbe-failure")
    expect(card.locator(".nbe-card-title")).to_have_text("Rank 2 failed first, 30 s after the start")
    expect(card.locator(".nbe-category")).to_have_text("out of host memory")
    expect(card.locator(".nbe-reasons li")).to_have_count(3)
    follower = card.locator(".nbe-others li").first
    expect(follower).to_be_hidden()
    card.get_by_text("Ranks 0, 1, 3 only followed rank 2").click()
    expect(follower).to_be_visible()
    expect(follower).to_contain_text("rank 0: lost its peer, rank 2")


def test_a_run_that_failed_without_a_failed_rank_has_a_verdict(shell: Shell) -> None:
    page = shell.show("timeout")
    card = page.locator(".nbe-failure")
    expect(card.locator(".nbe-category")).to_have_text("timeout")
    expect(card.locator(".nbe-reasons .nbe-command")).to_have_text("--timeout 40")


def test_a_stopped_run_folds_how_its_ranks_ended(shell: Shell) -> None:
    page = shell.show("ways")
    expect(page.locator(".nbe-stopped")).to_have_text(
        "Stopped by the Stop button after 42 s: 3 saved and left by themselves, 1 killed after 5 s"
    )
    expect(page.locator(".nbe-tile[data-rank='3'] .nbe-tile-last")).to_have_text("killed after 5 s")
    page.get_by_role("button", name="Table").click()
    expect(page.locator("tr[data-rank='0']")).to_contain_text("saved and left by itself")


def test_a_lost_run_tells_what_to_do_about_what_it_left(shell: Shell) -> None:
    page = shell.show("lost")
    card = page.locator(".nbe-lost")
    expect(card.locator(".nbe-command")).to_have_text("%elastic reap")
    expect(card).to_contain_text("nobody saw how it ended")
    expect(page.locator(".nbe-tiles").first).not_to_contain_text("ended by the agent")


def test_a_first_launch_says_what_it_waits_for(shell: Shell) -> None:
    words = "importing torch (first launch of this kernel)"
    page = shell.show("starting", before=f"run.snapshot = {{...run.snapshot, state: 'created', waits_for: {words!r}}}")
    expect(page.locator(".nbe-state-chip")).to_have_text("launching")
    expect(page.locator(".nbe-facts")).to_contain_text(words)
    shell.change("run.set({state: 'starting', waits_for: ''})")
    expect(page.locator(".nbe-facts")).not_to_contain_text("importing")


def test_hostile_stacks_are_only_text(shell: Shell) -> None:
    evil = f"'{EVIL}'"
    before = (
        f"const evil = {evil}; const frame = {{file: evil, line: 1, name: evil, text: evil}};"
        "const group = nbe.fakeGroup([0], {state: evil, doing: evil + ' Cell In[3], line 4', notes: [evil, '`' + evil + '`'], frames: [frame]});"
        "run.snapshot = {...run.snapshot, hang: nbe.fakeReport({headline: evil, advice: evil, groups: [group]}),"
        " workers: run.snapshot.workers.map(w => ({...w, state: 'held', held: 'failure', held_text: evil, how: evil}))}"
    )
    page = shell.show("hang", before=before, host="{openCell() {}}")
    page.get_by_text("Stack, 1 frame").click()
    assert page.evaluate("document.querySelectorAll('#root img, #root script').length") == 0
    assert page.evaluate("window.hit") is None
    assert "\u202e" not in page.evaluate("root.textContent")


@pytest.mark.parametrize("scene", ["hang", "held", "verdict", "timeout", "lost"])
def test_the_cards_can_be_read_in_the_dark(shell: Shell, scene: str) -> None:
    """At least 4.5 to 1 between the words of a card and its ground, in both themes."""
    shell.page.evaluate("document.body.style.background = '#111418'")
    page = shell.show(scene)
    expect(page.locator("#root")).to_have_attribute("data-theme", "dark")
    for theme in ("dark", "light"):
        page.evaluate("theme => { root.dataset.theme = theme }", theme)
        assert page.evaluate(CONTRAST) == []


CONTRAST = """() => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const rgb = colours => {
        canvas.clearRect(0, 0, 1, 1);
        for (const colour of colours) {
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
        }
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = ([r, g, b]) => {
        const part = v => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
        return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
    };
    const bad = [];
    for (const element of document.querySelectorAll('.nbe-card *')) {
        const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
        if (!own || !element.offsetParent || element.closest('.nbe-of-library, .nbe-unseen')) {
            continue;
        }
        const grounds = [];
        for (let at = element; at; at = at.parentElement) {
            grounds.unshift(getComputedStyle(at).backgroundColor);
        }
        const [a, b] = [light(rgb(grounds)), light(rgb([...grounds, getComputedStyle(element).color]))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) {
            bad.push(`${element.className || element.tagName}: ${ratio.toFixed(2)}`);
        }
    }
    return [...new Set(bad)];
}"""
