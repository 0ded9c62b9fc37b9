"""The nodes of a run: which ranks are where, which node was lost, since when and why, and which came late; one or dozens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.shell import Shell
from tests.browser.test_shell_tabs import CONTRAST

SAVED = Path(__file__).parents[2] / "labextension" / "core" / "golden" / "saved_nodes.json"


@pytest.fixture
def shell(bare_page: Any) -> Shell:
    return Shell(bare_page)


def test_ranks_stand_below_the_heading_of_their_node(shell: Shell) -> None:
    page = shell.show("two_nodes")
    expect(page.locator(".nbe-facts")).to_contain_text("4 ranks on 2 nodes")
    expect(page.locator(".nbe-facts")).to_contain_text("ada, babbage")
    groups = page.locator(".nbe-nodes .nbe-group")
    expect(groups.locator("summary")).to_contain_text(["node 0ada", "node 1babbage"])
    expect(groups.nth(1).locator("summary")).to_contain_text("2 running · step 119–122 of 1000 · CPU 20")
    expect(groups.nth(1).locator("summary")).to_contain_text("GPU ")
    expect(groups.nth(1).locator(".nbe-tile")).to_contain_text(["rank 2", "rank 3"])
    expect(groups.nth(1).locator(".nbe-tile").first).to_contain_text("local rank 0 · pid 41202")
    expect(page.locator(".nbe-node-badge:visible")).to_have_count(0)


def test_a_run_of_one_machine_has_no_heading_and_says_nothing_of_nodes(shell: Shell) -> None:
    page = shell.show("four")
    expect(page.locator(".nbe-tile:visible")).to_have_count(4)
    expect(page.locator(".nbe-group")).to_have_count(0)
    expect(page.locator("#root")).not_to_contain_text("node 0")
    expect(page.locator(".nbe-log-node:visible")).to_have_count(0)


def test_a_lost_node_is_dimmed_with_since_when_and_why(shell: Shell) -> None:
    page = shell.show("node_lost")
    gone = page.locator(".nbe-group.nbe-gone")
    expect(gone).to_have_count(1)
    expect(gone.locator(".nbe-node-badge")).to_have_text("lost 12 s ago")
    expect(gone.locator("summary")).to_contain_text("nothing was heard of it for 8 s")
    expect(gone.locator(".nbe-tile").first).to_contain_text("its node was lost")
    assert float(gone.locator(".nbe-tile").first.evaluate("e => getComputedStyle(e).opacity")) < 1
    expect(page.locator(".nbe-summary")).to_contain_text("node 1 lost")
    expect(page.locator(".nbe-failure .nbe-card-title")).to_have_text(
        "Node 1 (host babbage) was lost, 30 s after the start, with ranks 2, 3"
    )
    shell.change("run.now_ns += 60e9; run.change('state')")
    expect(gone.locator(".nbe-node-badge")).to_have_text("lost 1 min 12 s ago")


def test_a_node_is_lost_and_heard_again(shell: Shell) -> None:
    page = shell.show("two_nodes")
    for scene, badge in (("node_lost", "lost 12 s ago"), ("node_back", "joined again 3 s ago")):
        shell.change(f"run.set(nbe.SCENES.{scene}().snapshot)")
        expect(page.locator(".nbe-node-badge:visible")).to_have_text(badge)
    expect(page.locator(".nbe-gone")).to_have_count(0)
    expect(page.locator(".nbe-failure")).to_have_count(0)
    expect(page.locator(".nbe-tile[data-state='running']")).to_have_count(4)


def test_a_new_node_takes_its_place_and_the_lost_one_keeps_its_heading(shell: Shell) -> None:
    page = shell.show("node_alone")
    expect(page.locator(".nbe-group")).to_have_count(2)
    expect(page.locator(".nbe-group.nbe-bare .nbe-node-badge")).to_have_text("lost 12 s ago")
    shell.change("run.set(nbe.SCENES.node_joined().snapshot)")
    groups = page.locator(".nbe-group")
    expect(groups.locator("summary")).to_contain_text(["node 0ada", "node 1babbage", "node 2curie"])
    expect(groups.nth(2).locator(".nbe-node-badge")).to_have_text("joined 6 s ago")
    expect(groups.nth(2).locator(".nbe-tile")).to_contain_text(["rank 2", "rank 3"])
    expect(page.locator(".nbe-earlier")).to_contain_text("node 1 (host babbage) was lost")


def test_the_timeline_tells_of_nodes_and_rounds(shell: Shell) -> None:
    page = shell.show("node_joined")
    page.get_by_role("tab", name="Timeline").click()
    titles = ["run", "round 0", "round 1", "round 2", "node 0", "node 1", "node 2", *(f"rank {n}" for n in range(4))]
    expect(page.locator(".nbe-time-title")).to_have_text(titles)
    lost = page.locator(".nbe-time-row", has=page.get_by_text("node 1", exact=True)).locator(".nbe-time-mark")
    lost.hover()
    expect(page.locator(".nbe-time-detail")).to_have_text(
        "Node 1 (host babbage) was lost after 30 s: nothing was heard of it for 8 s"
    )
    page.locator(".nbe-time-mark.nbe-joined").focus()
    expect(page.locator(".nbe-time-detail")).to_have_text("node 2 (host curie) joined")


def test_the_failure_names_node_local_rank_and_host(shell: Shell) -> None:
    page = shell.show("failure_on_node")
    expect(page.locator(".nbe-card-title")).to_contain_text("Rank 3 (node 2, local rank 1, host curie) failed first")


def test_a_run_that_lost_too_many_nodes_says_so_first(shell: Shell) -> None:
    page = shell.show("too_few_nodes")
    card = page.locator(".nbe-failure")
    expect(card.locator(".nbe-card-title")).to_contain_text("Node 1 (host babbage) was lost")
    expect(card).to_contain_text("The run needs at least 2 node(s), and 1 is left.")
    expect(card).to_contain_text("rank 0: RuntimeError: Connection closed by peer")
    expect(page.locator(".nbe-node-badge:visible")).to_have_text("lost after 30 s")


def test_the_table_names_the_node_of_each_rank(shell: Shell) -> None:
    page = shell.show("node_joined")
    page.get_by_role("button", name="Table").click()
    expect(page.locator(".nbe-table tbody tr td:nth-child(2)")).to_have_text(["0 ada", "0 ada", "2 curie", "2 curie"])


def test_logs_are_filtered_by_node(bare_page: Any) -> None:
    """A rank of round 2 is not where the same number was in round 0."""
    saved = json.loads(SAVED.read_text())
    bare_page.evaluate(
        "saved => nbe.mountDashboard(document.getElementById('root'), nbe.openRun(nbe.savedSource(saved), saved.run_id), {}, nbe.TABS)",
        saved,
    )
    lines = bare_page.locator(".nbe-log-text")
    expect(lines).to_have_count(6)
    choice = bare_page.get_by_label("Node", exact=True)
    expect(choice.locator("option")).to_have_text(["all nodes", "node 0 ada", "node 1 babbage", "node 2 curie"])
    choice.select_option("2")
    expect(lines).to_have_text(["step 4 on curie", "step 5 on curie", "step 6 on curie"])
    bare_page.locator(".nbe-tile[data-rank='0']").click()
    expect(lines.first).to_have_text("step 4 on ada")
    expect(choice).to_have_value("")


def test_sixty_four_nodes_are_a_line_each_and_the_lost_one_comes_first(shell: Shell) -> None:
    page = shell.show("many_nodes")
    groups = page.locator(".nbe-group")
    expect(groups).to_have_count(64)
    expect(groups.first.locator("summary")).to_contain_text("node 17gpu-017lost 12 s ago")
    expect(page.locator(".nbe-cell:visible")).to_have_count(8)
    heights = page.evaluate("[...document.querySelectorAll('.nbe-group:not([open])')].map(e => e.offsetHeight)")
    assert max(heights) <= 26
    assert page.evaluate("document.querySelector('.nbe-ranks').offsetHeight") < 720
    groups.nth(5).locator("summary").click()
    expect(page.locator(".nbe-cell:visible")).to_have_count(16)
    shell.change(
        "run.set({nodes: run.snapshot.nodes.map(n => n.node === 40 ? {...n, state: 'lost', lost_ns: run.now_ns} : n)})"
    )
    expect(groups.nth(1).locator("summary")).to_contain_text("node 40gpu-040lost 0 s ago")
    expect(page.locator(".nbe-cell:visible")).to_have_count(16)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("scene", ["node_lost", "node_joined", "many_nodes"])
def test_nodes_can_be_read_in_both_themes(shell: Shell, theme: str, scene: str) -> None:
    shell.page.evaluate(f"document.body.dataset.jpThemeLight = {('true' if theme == 'light' else 'false')!r}")
    page = shell.show(scene)
    page.evaluate(
        "dashboard && document.querySelectorAll('.nbe-gone .nbe-tile, .nbe-gone .nbe-cells').forEach(e => e.style.opacity = 1)"
    )
    assert page.evaluate(CONTRAST) == []


def test_nodes_fit_a_narrow_page(shell: Shell) -> None:
    shell.page.set_viewport_size({"width": 360, "height": 800})
    for scene in ("node_joined", "many_nodes"):
        page = shell.show(scene)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        shell.change("dashboard.dispose()")
