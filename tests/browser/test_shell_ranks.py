"""The ranks: who runs, how far, who is slow, silent or dead; from one rank to hundreds."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.shell import Shell


@pytest.fixture
def shell(bare_page: Any) -> Shell:
    return Shell(bare_page)


def test_a_card_tells_all_of_its_rank(shell: Shell) -> None:
    page = shell.show("four")
    tile = page.locator(".nbe-tile[data-rank='2']")
    for words in [
        "rank 2",
        "running",
        "cuda:2",
        "pid 41202 · NUMA 0, CPUs 8-11",
        "CPU103 %",
        "Mem1.6 GiB",
        "GPU97 %",
        "VRAM33.8/80 GiB",
        "step 117/1000 440 ms/step",
        "epoch 0 | step 122 | loss 1.5367",
    ]:
        expect(tile).to_contain_text(words)
    assert float(tile.get_by_role("progressbar").get_attribute("aria-valuenow")) == 12
    assert tile.locator(".nbe-meter-spark svg").count() == 4


def test_a_rank_bound_to_nothing_tells_its_cpus_alone(shell: Shell) -> None:
    page = shell.show("four")
    shell.change("run.setWorker(1, {binding: 'CPU binding is off: there is one NUMA node to run on.'})")
    expect(page.locator(".nbe-tile[data-rank='1'] .nbe-tile-place")).to_have_text("pid 41201 · CPUs 4-7")


def test_a_rank_that_has_ended_tells_the_most_that_it_used(shell: Shell) -> None:
    page = shell.show(
        "one", before="run.usages.set(0, [3, 9, 1].map(n => ({rank: 0, cpu_percent: 5, memory_bytes: n * 2 ** 30})))"
    )
    tile = page.locator(".nbe-tile").first
    expect(tile).to_contain_text("Mem1.0 GiB")
    shell.change("run.setWorker(0, {state: 'succeeded', ended_ns: run.now_ns})")
    expect(tile).to_contain_text("Peak9.0 GiB")
    expect(tile).to_contain_text("CPU–")


def test_the_slowest_stands_out_and_no_other(shell: Shell) -> None:
    page = shell.show("four")
    expect(page.locator(".nbe-tile.nbe-slow")).to_have_count(1)
    expect(page.locator(".nbe-tile.nbe-slow")).to_contain_text("slowest: 1.8x the median step")
    expect(page.locator(".nbe-summary")).to_contain_text("slowest rank 2 (1.8x the median step)")


def test_a_rank_that_is_silent_while_others_write_is_marked(shell: Shell) -> None:
    page = shell.show("eight")
    expect(page.locator(".nbe-tile.nbe-silent")).to_contain_text("silent for 42 s")
    shell.change("run.lastLines.set(5, {...run.lastLines.get(5), time_ns: run.now_ns}); run.change('logs')")
    expect(page.locator(".nbe-tile.nbe-silent")).to_have_count(0)


def test_silence_is_noticed_though_nothing_comes_any_more(shell: Shell) -> None:
    page = shell.show("four", before="run.progresses.clear()")
    expect(page.locator(".nbe-silent")).to_have_count(0)
    shell.change(
        "run.now_ns += 60e9;"
        "for (const rank of [0, 1, 3]) run.lastLines.set(rank, {...run.lastLines.get(rank), time_ns: run.now_ns})"
    )
    expect(page.locator(".nbe-tile.nbe-silent")).to_contain_text("silent for 1 min 00 s")


def test_a_tqdm_bar_is_a_real_bar_with_label_and_rate(shell: Shell) -> None:
    page = shell.show("bars")
    tile = page.locator(".nbe-tile[data-rank='1']")
    expect(tile.locator(".nbe-progress-text")).to_have_text("epoch 1 430/938")
    expect(tile).to_contain_text("41.2it/s, loss=0.312")
    expect(tile).not_to_contain_text("█")
    expect(tile.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "46")


def test_success_shows_the_value_and_failure_its_reason(shell: Shell) -> None:
    page = shell.show("succeeded")
    expect(page.locator(".nbe-tile[data-rank='1']")).to_contain_text("returned {'loss': 0.211, 'accuracy': 0.93}")
    shell.change("run.setWorker(1, {state: 'failed', signal: 'SIGSEGV', exit_code: null})")
    expect(page.locator(".nbe-tile[data-rank='1']")).to_contain_text("killed by SIGSEGV")
    shell.change("run.setWorker(1, {state: 'failed', signal: '', exit_code: 3})")
    expect(page.locator(".nbe-tile[data-rank='1']")).to_contain_text("exit code 3")


def test_a_click_selects_a_rank_for_all_parts_and_a_second_lets_it_go(shell: Shell) -> None:
    spy = (
        "[{id: 'spy', title: 'Spy', parts: [], count: () => '', view: (data, host) => {"
        "host.selection.onChange(rank => asked.push(rank ?? null));"
        "return {element: document.createElement('p'), update() {}, dispose() {}} }}]"
    )
    page = shell.show("four", tabs=spy)
    page.locator(".nbe-tile[data-rank='3']").click()
    expect(page.locator(".nbe-tile.nbe-selected")).to_have_attribute("data-rank", "3")
    page.get_by_role("button", name="Rank 3:").click()
    expect(page.locator(".nbe-tile.nbe-selected")).to_have_count(0)
    page.get_by_text("slowest rank 2").click()
    assert shell.asked() == [3, None, 2]


def test_sixty_four_ranks_are_cells_with_the_odd_one_shown_below(shell: Shell) -> None:
    page = shell.show("sixtyfour")
    expect(page.locator(".nbe-cell")).to_have_count(64)
    expect(page.locator(".nbe-cell.nbe-slow")).to_have_text("37")
    expect(page.locator(".nbe-picked .nbe-tile")).to_have_attribute("data-rank", "37")
    page.locator(".nbe-cell[data-rank='11']").click()
    expect(page.locator(".nbe-picked .nbe-tile")).to_contain_text("rank 11")


def test_cells_of_many_nodes_fold_and_the_fold_tells_how_the_node_is(shell: Shell) -> None:
    page = shell.show("nodes")
    expect(page.locator(".nbe-cell")).to_have_count(256)
    expect(page.locator(".nbe-group")).to_have_count(8)
    expect(page.locator(".nbe-group.nbe-odd summary")).to_contain_text("node 3")
    expect(page.locator(".nbe-group summary").first).to_contain_text("32 running · step 118–122 of 1000 · CPU ")
    expect(page.locator(".nbe-cell[data-rank='0']")).to_be_hidden()
    expect(page.locator(".nbe-cell[data-rank='101']")).to_be_visible()
    page.locator(".nbe-group summary").nth(3).click()
    shell.change("run.change('state')")
    expect(page.locator(".nbe-cell[data-rank='101']")).to_be_hidden()
    page.locator(".nbe-group summary").first.click()
    expect(page.locator(".nbe-cell[data-rank='0']")).to_be_visible()


def test_a_cell_tells_its_state_by_colour_sign_and_name(shell: Shell) -> None:
    page = shell.show("sixtyfour")
    look = "e => e.querySelector('path').getAttribute('d') + ' ' + getComputedStyle(e).backgroundColor"
    cell = page.locator(".nbe-cell[data-rank='5']")
    before = cell.evaluate(look)
    shell.change("run.setWorker(5, {state: 'failed', exit_code: 1})")
    after = cell.evaluate(look)
    assert before.split(" rgb")[0] != after.split(" rgb")[0]
    assert before != after
    expect(cell).to_have_attribute(
        "aria-label", "Rank 5: failed, step 118/1000 244 ms/step, CPU 103 %, memory 1.6 GiB, exit code 1"
    )


def test_arrow_keys_go_from_cell_to_cell_with_one_tab_stop(shell: Shell) -> None:
    page = shell.show("sixtyfour")
    assert page.locator(".nbe-cell[tabindex='0']").count() == 1
    page.locator(".nbe-cell[data-rank='0']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    columns = page.evaluate(
        "getComputedStyle(document.querySelector('.nbe-cells')).gridTemplateColumns.split(' ').length"
    )
    expect(page.locator(f".nbe-cell[data-rank='{1 + columns}']")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".nbe-picked .nbe-tile")).to_have_attribute("data-rank", str(1 + columns))


def test_the_table_sorts_by_any_column(shell: Shell) -> None:
    page = shell.show("eight")
    page.get_by_role("button", name="Table").click()
    ranks = page.locator(".nbe-table tbody tr")
    expect(ranks).to_have_count(8)
    page.locator(".nbe-table").get_by_role("button", name="progress").click()
    expect(ranks.last).to_have_attribute("data-rank", "5")
    expect(page.locator("th[aria-sort='descending']")).to_have_text("progress")
    page.locator(".nbe-table").get_by_role("button", name="progress").click()
    expect(ranks.first).to_have_attribute("data-rank", "5")
    ranks.first.click()
    expect(page.locator("tr.nbe-selected")).to_have_attribute("data-rank", "5")


def test_nothing_jumps_when_ranks_start_write_and_end(shell: Shell) -> None:
    page = shell.show("starting")
    height = "document.querySelector('.nbe-ranks').offsetHeight"
    heights = {page.evaluate(height)}
    expect(page.locator(".nbe-tile:visible")).to_have_count(4)
    for scene in ["bars", "restart", "failure", "succeeded"]:
        shell.change(
            f"const to = nbe.SCENES[{scene!r}]();"
            "for (const name of ['snapshot', 'now_ns', 'lines', 'names']) run[name] = to[name];"
            "for (const name of ['lastLines', 'progresses', 'usages']) to[name].forEach((v, k) => run[name].set(k, v));"
            "run.change('state', 'logs', 'usage', 'metrics')"
        )
        heights.add(page.evaluate(height))
    assert len(heights) == 1


def test_256_ranks_are_drawn_at_most_five_times_a_second(shell: Shell) -> None:
    page = shell.show("nodes")
    shell.change(
        "window.reads = 0; const last = run.logs.last; run.logs.last = rank => { reads += rank === 0; return last(rank) };"
        "for (let i = 0; i < 100; i++) run.change('logs')"
    )
    page.wait_for_function("reads > 0")
    assert page.evaluate("reads") < 10
