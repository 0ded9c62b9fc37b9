"""The log view in a real browser: following, scrolling, filtering, folding, hostile output, memory, millions of lines."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

# `feed.say` writes as a rank does; the page gets the chunk, and could read it back from `feed.files`.
FEED = r"""
window.startFeed = capBytes => {
  const encoder = new TextEncoder();
  const feed = { files: {}, offsets: {}, reads: 0, opened: [], copied: '' };
  let isDue = false;
  const tell = () => {
    if (!isDue) {
      isDue = true;
      requestAnimationFrame(() => { isDue = false; feed.view.update(new Set(['logs'])); });
    }
  };
  const read = async (file, offset, size) => {
    feed.reads += 1;
    const whole = feed.files[file];
    if (whole === undefined) throw new Error('no such file');
    return whole.slice(offset, offset + size);
  };
  feed.data = { about: { run_id: 'run7' }, snapshot: nbe.EMPTY, read };
  feed.data.logs = new nbe.LogStore({ read, changed: tell, nowMs: () => Date.now() }, capBytes);
  feed.view = nbe.logsView(feed.data, { openCell: (label, line) => feed.opened.push([label, line]) });
  feed.say = (rank, text, { stream = 'stdout', round = 0, skipped = 0, keep = false } = {}) => {
    const bytes = typeof text === 'string' ? encoder.encode(text) : Uint8Array.from(text);
    const file = `0/${round}/${rank}/${stream}`;
    const offset = (feed.offsets[file] ?? 0) + skipped;
    feed.offsets[file] = offset + bytes.length;
    if (keep) {
      const whole = new Uint8Array(offset + bytes.length);
      whole.set(feed.files[file] ?? []);
      whole.set(bytes, offset);
      feed.files[file] = whole;
    }
    feed.data.logs.take({ file, kind: stream, node: 0, round, local_rank: rank, rank, offset, size: bytes.length,
                          time_ns: Date.now() * 1e6, skipped }, bytes);
    tell();
  };
  feed.lines = (rank, from, to, text = '') => {
    let all = '';
    for (let line = from; line < to; line++) all += `line ${line}${text}\n`;
    feed.say(rank, all);
  };
  const root = document.getElementById('root');
  root.className = 'nbe';
  root.style.height = '400px';
  root.append(feed.view.element);
  window.feed = feed;
};
0;
"""

ROWS = "() => [...document.querySelectorAll('.nbe-log-line')].map(line => line.querySelector('.nbe-log-text')?.textContent ?? line.textContent)"


@pytest.fixture
def logs(bare_page: Any) -> Any:
    """A page with an empty log view of 400 px and ``feed``."""
    bare_page.evaluate(FEED)
    bare_page.evaluate("startFeed()")
    return bare_page


def wait_for_row(page: Any, text: str) -> None:
    """Until a row that is drawn contains the text."""
    expect(page.locator(".nbe-log-line").filter(has_text=text).first).to_be_in_viewport()


def shown(page: Any) -> list[str]:
    """Texts of the rows that are drawn."""
    return list(page.evaluate(ROWS))


def search(page: Any, text: str) -> None:
    page.locator(".nbe-log-search").fill(text)


def test_it_follows_the_end_until_somebody_scrolls_up_and_again_at_the_end(logs: Any) -> None:
    follow = logs.get_by_role("button", name="Follow")
    logs.evaluate("feed.lines(0, 0, 500)")
    wait_for_row(logs, "line 499")
    logs.locator(".nbe-log-rows").hover()
    logs.mouse.wheel(0, -900)
    expect(follow).to_have_attribute("aria-pressed", "false")
    before = shown(logs)
    logs.evaluate("feed.lines(0, 500, 600)")
    expect(follow).to_have_text("Follow +100")
    assert shown(logs) == before
    logs.mouse.wheel(0, 1e6)
    wait_for_row(logs, "line 599")
    expect(follow).to_have_attribute("aria-pressed", "true")
    logs.evaluate("feed.lines(0, 600, 700)")
    wait_for_row(logs, "line 699")


def test_the_button_leads_back_to_the_end(logs: Any) -> None:
    logs.evaluate("feed.lines(0, 0, 500)")
    wait_for_row(logs, "line 499")
    logs.locator(".nbe-log-rows").focus()
    logs.keyboard.press("Home")
    wait_for_row(logs, "line 0")
    logs.get_by_role("button", name="Follow").click()
    wait_for_row(logs, "line 499")


def test_keys_move_in_the_log(logs: Any) -> None:
    logs.evaluate("feed.lines(0, 0, 500)")
    wait_for_row(logs, "line 499")
    logs.locator(".nbe-log-rows").focus()
    logs.keyboard.press("Home")
    wait_for_row(logs, "line 0")
    logs.keyboard.press("PageDown")
    expect(logs.locator(".nbe-log-line").first).not_to_have_text("line 0")
    logs.keyboard.press("PageUp")
    wait_for_row(logs, "line 0")
    logs.keyboard.press("ArrowDown")
    assert shown(logs)[0] == "line 1"
    logs.keyboard.press("End")
    wait_for_row(logs, "line 499")
    logs.keyboard.press("/")
    expect(logs.locator(".nbe-log-search")).to_be_focused()
    logs.keyboard.type("499")
    expect(logs.locator(".nbe-log-hits")).to_have_text("1 hit")
    logs.keyboard.press("Escape")
    expect(logs.locator(".nbe-log-search")).to_have_value("")


def test_only_what_is_seen_is_in_the_page(logs: Any) -> None:
    logs.evaluate("feed.lines(0, 0, 20000)")
    wait_for_row(logs, "line 19999")
    assert logs.locator(".nbe-log-line").count() < 40


def test_filter_by_rank_and_stream(logs: Any) -> None:
    logs.evaluate(
        """feed.say(0, 'zero\\n'); feed.say(1, 'one\\n'); feed.say(2, 'two\\n'); feed.say(1, 'bad\\n', {stream: 'stderr'})"""
    )
    wait_for_row(logs, "bad")
    expect(logs.locator(".nbe-is-stderr .nbe-log-sign")).to_have_text("!")
    logs.get_by_role("button", name="Rank 1").click()
    assert shown(logs) == ["one", "bad"]
    logs.get_by_role("button", name="Rank 2").click(modifiers=["Control"])
    assert shown(logs) == ["one", "two", "bad"]
    logs.get_by_role("button", name="stderr", exact=True).click()
    assert shown(logs) == ["one", "two"]
    logs.get_by_role("button", name="stderr", exact=True).click()
    logs.get_by_role("button", name="Rank 2").click()
    logs.get_by_role("button", name="Rank 2").click()
    assert shown(logs) == ["zero", "one", "two", "bad"]


def test_search_counts_marks_filters_and_steps(logs: Any) -> None:
    logs.evaluate("feed.lines(0, 0, 3000)")
    hits = logs.locator(".nbe-log-hits")
    search(logs, "LINE 29")
    expect(hits).to_have_text("111 hits")
    assert shown(logs)[-1] == "line 2999"
    assert logs.locator("mark").first.text_content() == "line 29"
    logs.get_by_role("button", name="Aa").click()
    expect(hits).to_have_text("0 hits")
    logs.get_by_role("button", name="Aa").click()
    logs.get_by_role("button", name="Only hits").click()
    search(logs, "line 10")
    logs.locator(".nbe-log-search").press("Enter")
    wait_for_row(logs, "line 10")
    expect(logs.locator(".nbe-is-current")).to_have_text("0line 10")
    logs.locator(".nbe-log-search").press("Enter")
    expect(logs.locator(".nbe-is-current .nbe-log-text")).to_have_text("line 100")
    logs.locator(".nbe-log-search").press("Shift+Enter")
    expect(logs.locator(".nbe-is-current .nbe-log-text")).to_have_text("line 10")
    assert "line 11" in shown(logs)


def test_what_belongs_to_a_search_is_away_while_nobody_searches(logs: Any) -> None:
    logs.evaluate("feed.lines(0, 0, 30)")
    only_hits = logs.get_by_role("button", name="Only hits")
    expect(only_hits).to_be_hidden()
    search(logs, "line 1")
    expect(only_hits).to_be_visible()
    logs.locator(".nbe-log-search").press("Escape")
    expect(only_hits).to_be_hidden()


def test_text_begins_at_one_column_whoever_wrote_it(logs: Any) -> None:
    logs.evaluate("for (let rank = 0; rank < 64; rank++) feed.say(rank, 'all\\n')")
    logs.evaluate("feed.say(5, 'one\\n'); for (const rank of [0, 1, 3, 7, 9, 12, 40]) feed.say(rank, 'some\\n')")
    wait_for_row(logs, "some")
    lefts = logs.locator(".nbe-log-text").evaluate_all(
        "all => all.map(e => Math.round(e.getBoundingClientRect().left))"
    )
    assert len(lefts) == 3 and len(set(lefts)) == 1
    expect(logs.locator(".nbe-log-group")).to_have_text(["[0-63]", "[7×]"])


def test_the_ranks_that_will_come_can_be_chosen_from_the_start(logs: Any) -> None:
    logs.evaluate("feed.data.snapshot = {...nbe.EMPTY, world_size: 4}; feed.view.update(new Set(['state']))")
    expect(logs.locator(".nbe-log-chip")).to_have_text(["0", "1", "2", "3"])
    logs.evaluate("feed.data.snapshot = {...feed.data.snapshot, state: 'failed'}; feed.view.update(new Set(['state']))")
    expect(logs.get_by_text("No rank wrote anything.")).to_be_visible()


def test_regular_expressions_and_what_is_wrong_with_them(logs: Any) -> None:
    logs.evaluate("feed.lines(0, 0, 300)")
    logs.locator(".nbe-log-search").focus()
    logs.get_by_role("button", name="Regular expression").or_(logs.get_by_title("Regular expression")).first.click()
    search(logs, r"^line \d$")
    expect(logs.locator(".nbe-log-hits")).to_have_text("10 hits")
    search(logs, "(")
    expect(logs.locator(".nbe-log-hits")).to_contain_text("Unterminated group")
    search(logs, r"(\w+\s?)*!")  # it would try all ways to part a line, longer than the page lives
    expect(logs.locator(".nbe-log-hits")).to_contain_text("can take for ever")
    search(logs, r"(\w+ )+\d+$")
    expect(logs.locator(".nbe-log-hits")).to_have_text("300 hits")
    wait_for_row(logs, "line 299")


def test_lines_that_come_while_a_filter_is_on_are_filtered(logs: Any) -> None:
    logs.evaluate("feed.lines(0, 0, 100)")
    search(logs, "line 99")
    expect(logs.locator(".nbe-log-hits")).to_have_text("1 hit")
    logs.evaluate("feed.lines(0, 100, 1000)")
    expect(logs.locator(".nbe-log-hits")).to_have_text("11 hits")
    wait_for_row(logs, "line 999")


def test_equal_lines_of_ranks_fold_and_open(logs: Any) -> None:
    logs.evaluate("for (const rank of [0, 1, 2, 5]) feed.say(rank, 'ready\\n')")
    group = logs.locator(".nbe-log-group")
    expect(group).to_have_text("[0-2,5]")
    expect(group).to_have_attribute("aria-expanded", "false")
    group.click()
    assert shown(logs) == ["ready"] * 5
    expect(logs.locator(".nbe-log-group")).to_have_attribute("aria-expanded", "true")
    logs.locator(".nbe-log-group").click()
    assert shown(logs) == ["ready"]
    logs.get_by_role("button", name="Fold").click()
    assert shown(logs) == ["ready"] * 4


def test_a_bar_is_drawn_in_place(logs: Any) -> None:
    logs.evaluate("""for (let i = 0; i <= 100; i++) feed.say(0, `\\r${i}%`, {stream: 'stderr'})""")
    wait_for_row(logs, "100%")
    assert shown(logs) == ["100%"]
    expect(logs.locator(".nbe-is-live")).to_have_count(1)


def test_colours_are_drawn_and_cell_lines_lead_to_the_cell(logs: Any) -> None:
    logs.evaluate(
        r"""feed.say(0, '\x1b[1;38;2;1;2;3mbold\x1b[0m plain\n');
        feed.say(0, '\x1b[32mCell\x1b[39m \x1b[32mIn[12]\x1b[39m, line 7\n')"""
    )
    bold = logs.locator(".nbe-ansi-bold")
    expect(bold).to_have_text("bold")
    expect(bold).to_have_css("color", "rgb(1, 2, 3)")
    logs.get_by_role("link").first.click()
    assert logs.evaluate("feed.opened") == [["Cell In[12]", 7]]


def test_hostile_output_is_only_text(logs: Any) -> None:
    logs.evaluate(
        r"""
        window.isHacked = false;
        feed.say(0, '<script>window.isHacked = true</script><img src=x onerror="window.isHacked = true">\n');
        feed.say(0, '\u202eevil\u2066 \x07 \x1b]52;c;aGk=\x07clip\n');
        feed.say(0, '\x1b[31m'.repeat(3000) + 'bomb\n');
        feed.say(0, [0xff, 0xfe, 0x80, 10]);
        feed.say(0, '"><svg onload=alert(1)>\n', {stream: 'stderr'});
        """
    )
    wait_for_row(logs, "svg onload")
    assert shown(logs) == [
        '<script>window.isHacked = true</script><img src=x onerror="window.isHacked = true">',
        "\\u202eevil\\u2066 \\x07 clip",
        "bomb",
        "\ufffd\ufffd\ufffd",
        '"><svg onload=alert(1)>',
    ]
    assert logs.evaluate("window.isHacked") is False
    assert logs.locator(".nbe-log-rows :is(script, img, svg)").count() == 0


def test_a_line_of_50_mb_is_cut_and_can_be_downloaded(logs: Any) -> None:
    logs.evaluate(
        """() => {
          const part = new Uint8Array(1e6).fill(97);
          const at = { file: '0/0/0/stdout', kind: 'stdout', node: 0, round: 0, local_rank: 0, rank: 0, time_ns: 1, skipped: 0 };
          for (let i = 0; i < 50; i++) feed.data.logs.take({ ...at, offset: i * 1e6, size: 1e6 }, part);
          feed.files['0/0/0/stdout'] = new Uint8Array(50e6).fill(97);
          feed.offsets['0/0/0/stdout'] = 50e6;
          feed.say(0, '\\nafter\\n');
        }"""
    )
    wait_for_row(logs, "after")
    expect(logs.locator(".nbe-log-cut")).to_contain_text("50 MB more")
    logs.locator(".nbe-log-more").evaluate("button => button.scrollIntoView()")
    with logs.expect_download() as caught:
        logs.locator(".nbe-log-more").evaluate("button => button.click()")
    path = caught.value.path()
    assert path.stat().st_size == 50_000_000


def test_above_the_cap_old_lines_are_read_back_when_looked_at(bare_page: Any) -> None:
    bare_page.evaluate(FEED)
    bare_page.evaluate("startFeed(1_000_000)")
    bare_page.evaluate(
        """() => {
          for (let batch = 0; batch < 40; batch++) {
            let text = '';
            for (let line = 0; line < 1000; line++) text += `line ${batch * 1000 + line} ${'.'.repeat(60)}\\n`;
            feed.say(0, text, { keep: true });
          }
        }"""
    )
    wait_for_row(bare_page, "line 39999 ")
    assert bare_page.evaluate("feed.data.logs.book.heldBytes") <= 1_000_000
    assert bare_page.evaluate("feed.reads") == 0
    bare_page.locator(".nbe-log-rows").focus()
    bare_page.keyboard.press("Home")
    wait_for_row(bare_page, "line 0 ")
    assert bare_page.evaluate("feed.reads") > 0
    search(bare_page, "line 39999")
    expect(bare_page.locator(".nbe-log-hits")).to_contain_text("older lines not searched")


def test_what_was_skipped_is_a_row_that_loads(logs: Any) -> None:
    logs.evaluate(
        """() => {
          feed.say(0, 'before\\n');
          feed.say(0, 'after\\n', { skipped: 12 });
          feed.files['0/0/0/stdout'] = new TextEncoder().encode('before\\nmissing one\\nafter\\n');
        }"""
    )
    wait_for_row(logs, "12 bytes of rank 0’s stdout skipped")
    logs.get_by_role("button", name="Load").click()
    wait_for_row(logs, "missing one")
    assert shown(logs) == ["before", "missing one", "after"]


def test_rounds_are_told_apart(logs: Any) -> None:
    logs.evaluate("feed.say(0, 'first\\n'); feed.say(0, 'second\\n', {round: 1})")
    expect(logs.get_by_role("separator")).to_have_text("round 1")
    assert shown(logs) == ["first", "round 1", "second"]


def test_wrapped_lines_end_at_the_last_line(logs: Any) -> None:
    logs.evaluate("feed.lines(0, 0, 200, ' word'.repeat(100))")
    logs.get_by_role("button", name="Wrap").click()
    wait_for_row(logs, "line 199")
    box = logs.locator(".nbe-log-rows").bounding_box()
    last = logs.locator(".nbe-log-line").last.bounding_box()
    assert last["height"] > 30
    assert last["y"] + last["height"] <= box["y"] + box["height"] + 1
    assert last["width"] <= box["width"]


def test_a_wrapped_line_higher_than_the_view_is_read_to_its_end(logs: Any) -> None:
    logs.evaluate(
        "feed.say(0, 'start\\n' + Array.from({ length: 1500 }, (_, i) => `word${i}`).join(' ') + '\\nend\\n')"
    )
    logs.get_by_role("button", name="Wrap").click()
    wait_for_row(logs, "end")
    rows = logs.locator(".nbe-log-rows")
    rows.hover()
    logs.mouse.wheel(0, -100)
    expect(logs.get_by_role("button", name="Follow")).to_have_attribute("aria-pressed", "false")
    top = "() => document.querySelectorAll('.nbe-log-line')[0].getBoundingClientRect().top"
    before = logs.evaluate(top)
    logs.mouse.wheel(0, -100)
    logs.wait_for_function(f"before => Math.abs(({top})() - before - 100) < 1", arg=before)
    logs.mouse.wheel(0, -1e5)
    wait_for_row(logs, "start")
    logs.mouse.wheel(0, 1e5)
    wait_for_row(logs, "end")
    expect(logs.get_by_role("button", name="Follow")).to_have_attribute("aria-pressed", "true")


def test_lines_are_selected_by_number_and_copied(logs: Any) -> None:
    logs.evaluate(
        """() => {
          Object.defineProperty(navigator, 'clipboard', { value: { writeText: async text => (feed.copied = text) } });
          feed.say(0, '\\x1b[31mred\\x1b[0m\\n'); feed.say(1, 'one\\n'); feed.say(1, 'two\\n');
        }"""
    )
    wait_for_row(logs, "two")
    logs.locator(".nbe-log-number").nth(0).click()
    logs.locator(".nbe-log-number").nth(1).click(modifiers=["Shift"])
    expect(logs.locator(".nbe-log-line.nbe-is-selected")).to_have_count(2)
    logs.get_by_role("button", name="Copy").click()
    assert logs.evaluate("feed.copied") == "[0] red\n[1] one"


def test_a_rank_is_downloaded_as_it_is_on_disk_and_all_as_shown(logs: Any) -> None:
    logs.evaluate("feed.say(0, 'a\\x1b[31mb\\n', { keep: true }); feed.say(1, 'c\\n', { keep: true })")
    wait_for_row(logs, "c")
    with logs.expect_download() as caught:
        logs.get_by_label("Download").select_option("rank 0 stdout")
    assert caught.value.suggested_filename == "run7-round0-rank0-stdout.log"
    assert caught.value.path().read_bytes() == b"a\x1b[31mb\n"
    with logs.expect_download() as caught:
        logs.get_by_label("Download").select_option("lines as shown")
    assert caught.value.path().read_text() == "[0] ab\n[1] c\n"


def test_what_cannot_be_read_any_more_is_downloaded_as_far_as_it_is_here(logs: Any) -> None:
    logs.evaluate("feed.say(0, 'kept\\nhalf')")
    wait_for_row(logs, "half")
    with logs.expect_download() as caught:
        logs.get_by_label("Download").select_option("rank 0 stdout")
    assert caught.value.path().read_bytes() == b"kept\nhalf"


def test_a_folded_line_is_copied_with_all_its_ranks(logs: Any) -> None:
    logs.evaluate(
        """() => {
          Object.defineProperty(navigator, 'clipboard', { value: { writeText: async text => (feed.copied = text) } });
          for (const rank of [0, 1, 3]) feed.say(rank, 'ready\\n');
        }"""
    )
    expect(logs.locator(".nbe-log-group")).to_have_text("[0-1,3]")
    logs.get_by_role("button", name="Copy").click()
    assert logs.evaluate("feed.copied") == "[0-1,3] ready"


def test_another_view_can_ask_for_one_rank(logs: Any) -> None:
    logs.evaluate("feed.say(0, 'zero\\n'); feed.say(1, 'one\\n')")
    wait_for_row(logs, "one")
    logs.evaluate("feed.view.showRank(0)")
    assert shown(logs) == ["zero"]
    expect(logs.get_by_role("button", name="Rank 1")).to_have_attribute("aria-pressed", "false")
    logs.evaluate("feed.view.showRank(undefined)")
    assert shown(logs) == ["zero", "one"]


def test_many_ranks_are_chosen_from_a_list(logs: Any) -> None:
    logs.evaluate("for (let rank = 0; rank < 64; rank++) feed.say(rank, `I am ${rank}\\n`)")
    wait_for_row(logs, "I am 63")
    logs.get_by_label("Rank", exact=True).select_option("rank 17")
    assert shown(logs) == ["I am 17"]


def test_a_million_lines_scroll_from_end_to_end(logs: Any) -> None:
    logs.evaluate("for (let part = 0; part < 100; part++) feed.lines(0, part * 10000, (part + 1) * 10000)")
    wait_for_row(logs, "line 999999")
    rows = logs.locator(".nbe-log-rows")
    assert rows.evaluate("rows => rows.scrollHeight") < 10_000_000
    rows.evaluate("rows => { rows.scrollTop = 0; }")
    wait_for_row(logs, "line 0")
    rows.evaluate("rows => { rows.scrollTop = rows.scrollHeight / 2; }")
    expect(rows.locator(".nbe-log-line").first).to_contain_text("line 50")
    rows.hover()
    before = int(shown(logs)[0].split()[1])
    logs.mouse.wheel(0, 180)
    expect(rows.locator(".nbe-log-line").first).to_contain_text(f"line {before + 10}")
    logs.mouse.wheel(0, 1e9)
    wait_for_row(logs, "line 999999")
    search(logs, "line 77777")
    expect(logs.locator(".nbe-log-hits")).to_have_text("11 hits")


def test_the_log_is_named_for_screen_readers_and_silent(logs: Any) -> None:
    rows = logs.get_by_role("log", name="Log lines")
    expect(rows).to_have_attribute("aria-live", "off")
    expect(logs.get_by_role("toolbar", name="Log")).to_be_visible()
    assert logs.get_by_text("No rank has written anything yet.").is_visible()
