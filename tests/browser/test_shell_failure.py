"""Why a run ended: the failure card, stopped and lost runs, earlier rounds, the timeline."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.shell import Shell


@pytest.fixture
def shell(bare_page: Any) -> Shell:
    return Shell(bare_page)


def test_the_root_cause_comes_first_with_hint_and_time(shell: Shell) -> None:
    page = shell.show("failure")
    card = page.locator(".nbe-failure")
    expect(card.locator(".nbe-card-title")).to_have_text("Rank 2 failed first, 30 s after the start")
    expect(card.locator(".nbe-error")).to_have_text("ValueError: loss is nan at step 118")
    expect(card.locator(".nbe-hint")).to_contain_text("a smaller learning rate")
    assert page.evaluate("root.children[2].contains(document.querySelector('.nbe-failure'))")


def test_the_notebooks_lines_stand_out_in_their_cell_with_values(shell: Shell) -> None:
    page = shell.show("failure")
    frame = page.locator(".nbe-of-notebook").last
    expect(frame.locator(".nbe-current")).to_contain_text('raise ValueError(f"loss is nan at step {step}")')
    expect(frame.locator(".nbe-source-line")).to_have_count(5)
    expect(frame.locator(".nbe-values")).to_contain_text("loss")
    expect(frame.locator(".nbe-values")).to_contain_text("tensor(nan, device='cuda:2', grad_fn=<MeanBackward0>)")
    expect(frame.locator(".nbe-py-keyword").first).to_have_text("if")


def test_frames_of_libraries_are_folded(shell: Shell) -> None:
    page = shell.show("failure")
    expect(page.locator(".nbe-of-library").first).to_be_hidden()
    page.get_by_text("2 frames in torch").click()
    expect(page.locator(".nbe-of-library").first).to_be_visible()


def test_what_a_reader_unfolded_stays_while_the_run_ends(shell: Shell) -> None:
    page = shell.show("failure")
    page.get_by_text("2 frames in torch").click()
    shell.change("run.set({last_ns: run.snapshot.last_ns + 1}); run.change('logs')")
    expect(page.locator(".nbe-of-library").first).to_be_visible()


def test_a_line_of_a_cell_is_a_link_where_the_page_can_show_it(shell: Shell) -> None:
    page = shell.show("failure", host="{openCell: (label, line) => asked.push([label, line])}")
    page.get_by_role("button", name="Cell In[12], line 8").click()
    assert shell.asked() == [["Cell In[12]", 8]]


def test_without_such_a_page_it_is_text(shell: Shell) -> None:
    page = shell.show("failure")
    expect(page.get_by_text("Cell In[12], line 8", exact=True)).to_be_visible()
    assert page.locator(".nbe-traceback .nbe-link").count() == 0


def test_the_last_lines_and_the_others_follow(shell: Shell) -> None:
    page = shell.show("failure")
    expect(page.locator(".nbe-tail")).to_contain_text("epoch 0 | step 121")
    assert len(page.locator(".nbe-tail").inner_text().splitlines()) == 10
    others = page.locator(".nbe-others li")
    expect(others).to_have_text(
        [
            "ranks 1, 3: ended by the agent, because of this",
            "rank 0: lost its peer, rank 2 · DistBackendError: Connection closed by peer [10.0.0.3]:43210",
        ]
    )


def test_lines_that_come_after_the_failure_are_shown(shell: Shell) -> None:
    page = shell.show("failure", before="run.tails.clear()")
    expect(page.locator(".nbe-tail")).to_be_hidden()
    shell.change("run.tails.set(2, [{stream: 'stderr', text: '\\u001b[31mlast words\\u001b[0m'}]); run.change('logs')")
    expect(page.locator(".nbe-tail")).to_have_text("last words")


def test_a_killed_rank_tells_its_signal(shell: Shell) -> None:
    page = shell.show("killed")
    expect(page.locator(".nbe-error")).to_have_text("killed by SIGKILL")
    expect(page.locator(".nbe-hint")).to_contain_text("rank 2 used 61 GiB")


def test_the_report_is_copied_as_text(shell: Shell) -> None:
    shell.page.evaluate(
        "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async text => { window.copied = text }}, configurable: true})"
    )
    page = shell.show("failure")
    page.get_by_role("button", name="Copy report").click()
    page.wait_for_function("window.copied !== undefined")
    report = page.evaluate("copied")
    assert report == page.evaluate("nbe.reportText(run)")
    assert "Python 3.12.8, PyTorch 2.13.0" in report


def test_copying_works_without_a_clipboard_api(shell: Shell) -> None:
    shell.page.evaluate(
        "Object.defineProperty(navigator, 'clipboard', {value: undefined, configurable: true});"
        "document.addEventListener('copy', () => { window.copied = String(document.activeElement.value) })"
    )
    page = shell.show("failure")
    page.get_by_role("button", name="Copy report").click()
    page.wait_for_function("(window.copied ?? '').includes('Rank 2 failed first')")


def test_a_restarted_run_tells_the_earlier_failure(shell: Shell) -> None:
    page = shell.show("restart")
    expect(page.locator(".nbe-earlier li")).to_have_text(
        "Round 0 (attempt 1) after 14 s: rank 2 failed first: ValueError: loss is nan at step 118"
    )


def test_a_stopped_run_tells_by_whom_and_a_lost_one_why(shell: Shell) -> None:
    page = shell.show("stopped")
    expect(page.locator(".nbe-stopped")).to_have_text("Stopped by the Stop button after 42 s")
    shell.change("dashboard.dispose()")
    page = shell.show("lost")
    expect(page.locator(".nbe-lost")).to_contain_text("The run is lost: its supervisor is gone")
    expect(page.locator(".nbe-lost")).to_contain_text("the supervisor (pid 41100) vanished without a last word")


def test_a_run_that_failed_before_any_rank_says_so(shell: Shell) -> None:
    page = shell.show(
        "starting",
        before="run.snapshot = {...run.snapshot, state: 'failed', text: 'No module named train', finished_ns: run.now_ns}",
    )
    expect(page.locator(".nbe-failure")).to_contain_text("No module named train")
    expect(page.locator(".nbe-summary")).to_have_text("No rank was started.")


def test_the_timeline_draws_rounds_with_their_causes(shell: Shell) -> None:
    page = shell.show("restart")
    page.get_by_role("tab", name="Timeline").click()
    rows = page.locator(".nbe-time-row")
    expect(rows.locator(".nbe-time-title")).to_have_text(
        ["run", "round 0", "round 1", "rank 0", "rank 1", "rank 2", "rank 3"]
    )
    expect(rows.nth(1)).to_contain_text("rank 2 failed: ValueError: loss is nan at step 118")
    page.locator(".nbe-time-mark").first.hover()
    expect(page.locator(".nbe-time-detail")).to_have_text("rank 2 failed: ValueError: loss is nan at step 118")
    page.locator(".nbe-time-bar[data-kind='rendezvous']").last.focus()
    expect(page.locator(".nbe-time-detail")).to_have_text("rendezvous of round 1: 1.5 s, 4 ranks")


def test_hostile_text_is_only_text(shell: Shell) -> None:
    evil = "<script>window.hit=1</script><img src=x onerror=window.hit=1>\\u202egnp.exe"
    before = (
        f"const evil = '{evil}';"
        "const frames = run.snapshot.failures[0].frames.map(f => ({...f, file: evil, name: evil, text: evil, values: {[evil]: evil}}));"
        "const failure = {...run.snapshot.failures[0], error_type: evil, message: evil, hint: evil, traceback: evil, frames};"
        "const workers = run.snapshot.workers.map(w => ({...w, device: evil, binding: evil, result_text: evil, signal: evil}));"
        "run.snapshot = {...run.snapshot, name: evil, host: evil, text: evil, failures: [failure], workers, notes: [['warning', evil]],"
        " rounds: [{...run.snapshot.rounds[0], text: evil, failures: [failure]}]};"
        "run.about = {...run.about, label: evil, dir: evil, torchrun: evil, cell: evil};"
        "run.tails.set(2, [{stream: 'stdout', text: evil}]);"
        "run.lastLines.set(1, {stream: 'stdout', text: evil, time_ns: run.now_ns, bar: {label: evil, done: 1, detail: evil}})"
    )
    page = shell.show(
        "failure", before=before.replace("<script>", "<scr' + 'ipt>").replace("</script>", "</scr' + 'ipt>")
    )
    page.get_by_role("tab", name="Timeline").click()
    page.get_by_role("button", name="Table").click()
    assert page.evaluate("document.querySelectorAll('#root script, #root img').length") == 0
    assert page.evaluate("window.hit") is None
    assert "\u202e" not in page.evaluate("root.textContent")
    assert "\\u202e" in page.evaluate("root.textContent")


def test_an_exception_needs_no_exit_code_and_a_signal_is_told_once(shell: Shell) -> None:
    page = shell.show("failure")
    card = page.locator(".nbe-failure")
    expect(card).not_to_contain_text("The process ended")
    shell.change(
        "const [root, ...rest] = run.snapshot.failures;"
        "const died = {...root, error_type: '', message: 'killed from outside (SIGKILL)', signal: 'SIGKILL', exit_code: null};"
        "run.set({failures: [died, ...rest]})"
    )
    expect(card).to_contain_text("killed from outside (SIGKILL)")
    expect(card).not_to_contain_text("The process ended")
    shell.change(
        "run.set({failures: [{...run.snapshot.failures[0], error_type: 'ValueError', signal: '', exit_code: 3}]})"
    )
    expect(card).to_contain_text("The process ended: exit code 3")
