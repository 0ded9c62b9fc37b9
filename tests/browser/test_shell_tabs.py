"""The dashboard as a whole: tabs, sizes, themes, keyboard and motion; and the anywidget door's source."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.shell import Shell

SPIES = """['one', 'two', 'three'].map(id => ({id, title: id, parts: ['logs'], count: () => '7', view: () => {
    const element = document.createElement('p');
    element.textContent = 'view ' + id;
    return {element, update: changed => asked.push(id + ':' + [...changed].length), dispose: () => asked.push(id + ' gone')};
}}))"""

CONTRAST = """() => {
  const parse = c => { const m = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    m.fillStyle = '#fff'; m.fillStyle = c; m.fillRect(0, 0, 1, 1); return [...m.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => { const f = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const ground = element => { for (let e = element; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor; if (parse(c)[3] > 250 && c !== 'rgba(0, 0, 0, 0)') return parse(c); } return [255, 255, 255]; };
  const bad = [];
  for (const element of root.querySelectorAll('*')) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) bad.push([element.className, element.textContent.slice(0, 30), ratio.toFixed(2)]);
  }
  return bad;
}"""


@pytest.fixture
def shell(bare_page: Any) -> Shell:
    return Shell(bare_page)


def test_tabs_tell_how_much_they_hold(shell: Shell) -> None:
    page = shell.show("four")
    expect(page.get_by_role("tab")).to_have_text(["Logs12.5k", "Metrics3", "Timeline", "Outputs"])
    shell.change("run.shown.set(0, [{}, {}]); run.lines = 1e6; run.change('outputs', 'logs')")
    expect(page.get_by_role("tab")).to_have_text(["Logs1M", "Metrics3", "Timeline", "Outputs2"])


def test_only_the_open_tab_is_made_and_drawn(shell: Shell) -> None:
    page = shell.show("four", tabs=SPIES)
    page.get_by_role("tab", name="two").click()
    shell.change("asked.length = 0; run.change('logs')")
    assert [entry for entry in shell.asked() if not entry.endswith(":0")] == ["two:1"]
    assert page.get_by_text("view three").count() == 0
    shell.change("asked.length = 0; dashboard.dispose()")
    assert shell.asked() == ["one gone", "two gone"]


def test_arrow_keys_go_from_tab_to_tab(shell: Shell) -> None:
    page = shell.show("four")
    page.get_by_role("tab", name="Logs").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Timeline")).to_be_focused()
    expect(page.get_by_role("tab", name="Timeline")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("tabpanel")).to_have_count(1)
    page.keyboard.press("Home")
    expect(page.get_by_role("tab", name="Logs")).to_be_focused()


def test_the_open_tab_is_remembered_for_its_run_alone(bare_page: Any, core_bundle: Any) -> None:
    bare_page.route(
        "http://shell.test/", lambda route: route.fulfill(body="<div id=root></div>", content_type="text/html")
    )
    bare_page.goto("http://shell.test/")
    bare_page.add_script_tag(path=str(core_bundle / "core.js"))
    shell = Shell(bare_page)
    page = shell.show("four")
    page.get_by_role("tab", name="Timeline").click()
    page.evaluate("dashboard.dispose()")
    shell.show("four")
    expect(page.get_by_role("tab", name="Timeline")).to_have_attribute("aria-selected", "true")
    page.evaluate("dashboard.dispose()")
    shell.show("four", before="run.snapshot = {...run.snapshot, run_id: 'another'}")
    expect(page.get_by_role("tab", name="Logs")).to_have_attribute("aria-selected", "true")


def test_the_selected_rank_is_named_beside_the_tabs_and_can_be_let_go(shell: Shell) -> None:
    page = shell.show("four")
    pill = page.get_by_title("Show all ranks again")
    expect(pill).to_be_hidden()
    page.locator(".nbe-tile[data-rank='3']").click()
    expect(pill).to_have_text("rank 3")
    pill.click()
    expect(pill).to_be_hidden()
    expect(page.locator(".nbe-tile.nbe-selected")).to_have_count(0)


def test_in_a_tab_of_its_own_it_fills_the_height(shell: Shell) -> None:
    page = shell.show("four", before="root.dataset.size = 'tab'; root.style.height = '700px'")
    assert page.evaluate("root.offsetHeight") == 700
    assert page.evaluate("document.querySelector('.nbe-panel:not([hidden])').getBoundingClientRect().bottom") > 680


@pytest.mark.parametrize("width", [320, 480, 700, 1000, 1400, 2000])
@pytest.mark.parametrize("scene", ["four", "failure", "nodes", "restart"])
def test_it_fits_from_a_phone_to_a_wall(shell: Shell, width: int, scene: str) -> None:
    shell.page.set_viewport_size({"width": width + 16, "height": 800})
    page = shell.show(scene)
    page.get_by_role("tab", name="Timeline").click()
    wide = page.evaluate(
        """() => [...root.querySelectorAll('*')].filter(e => e.checkVisibility() && !e.closest('.nbe-tabs, pre, .nbe-unseen')
            && e.getBoundingClientRect().right > root.getBoundingClientRect().right + 1).map(e => e.className)"""
    )
    assert wide == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    "scene", ["four", "eight", "sixtyfour", "failure", "stopped", "lost", "starting", "succeeded", "saved"]
)
def test_text_has_contrast(shell: Shell, scene: str, theme: str) -> None:
    shell.page.evaluate(f"document.body.dataset.jpThemeLight = {('true' if theme == 'light' else 'false')!r}")
    page = shell.show(scene)
    page.get_by_role("tab", name="Timeline").click()
    assert page.evaluate(CONTRAST) == []


def test_it_follows_labs_theme(shell: Shell) -> None:
    page = shell.show("four", before="document.body.dataset.jpThemeLight = 'true'")
    expect(page.locator("#root")).to_have_attribute("data-theme", "light")
    shell.change("document.body.dataset.jpThemeLight = 'false'")
    expect(page.locator("#root")).to_have_attribute("data-theme", "dark")


def test_it_follows_the_system_elsewhere(shell: Shell) -> None:
    shell.page.emulate_media(color_scheme="dark")
    page = shell.show("four")
    expect(page.locator("#root")).to_have_attribute("data-theme", "dark")
    page.emulate_media(color_scheme="light")
    expect(page.locator("#root")).to_have_attribute("data-theme", "light")


def test_nothing_moves_for_those_who_asked_for_it(shell: Shell) -> None:
    shell.page.emulate_media(reduced_motion="reduce")
    page = shell.show("starting")
    moving = "[...root.querySelectorAll('*')].filter(e => getComputedStyle(e).animationName !== 'none').length"
    assert page.evaluate(moving) == 0
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(moving) > 0


def test_everything_that_can_be_pressed_has_a_name(shell: Shell) -> None:
    for scene in ["four", "sixtyfour", "failure"]:
        page = shell.show(scene, host="{openTab() {}, openCell() {}, openFolder() {}}")
        nameless = "[...root.querySelectorAll('button')].filter(b => b.checkVisibility({visibilityProperty: true}) && !(b.ariaLabel || b.textContent.trim())).length"
        assert page.evaluate(nameless) == 0
        page.evaluate("dashboard.dispose()")


def test_python_is_coloured_and_stays_the_same_text(shell: Shell) -> None:
    source = "x = f'{a!r}' + open(\"b\").read() if 0x1F else None  # <b>"
    html = shell.page.evaluate(
        "source => { const e = document.createElement('p'); e.append(nbe.highlight(source)); return [e.textContent, "
        "[...e.children].map(c => c.className.slice(7) + ':' + c.textContent)] }",
        source,
    )
    tokens = ["string:f'{a!r}'", "call:open", 'string:"b"', "call:read", "keyword:if", "number:0x1F"]
    assert html == [source, [*tokens, "keyword:else", "keyword:None", "comment:# <b>"]]


MODEL = """const heard = [], sent = [], listeners = new Set();
const model = {get: () => 'r1', on: (e, f) => listeners.add(f), off: (e, f) => listeners.delete(f), send: m => sent.push(m)};
const emit = (message, ...buffers) => listeners.forEach(f => f(message, buffers));"""


def test_two_views_of_one_model_have_an_id_each_and_hear_only_their_own(shell: Shell) -> None:
    got = shell.page.evaluate(
        f"""() => {{ {MODEL}
          const [a, b] = [nbe.widgetSource(model), nbe.widgetSource(model)];
          a.onMessage(m => heard.push('a' + m.n)); b.onMessage(m => heard.push('b' + m.n));
          emit({{type: 'beat', view: a.view, n: 1}}); emit({{type: 'beat', view: '*', n: 2}}); emit({{type: 'runs', n: 3}});
          emit({{type: 'beat', view: 'other', n: 4}}); emit('nonsense'); emit(null);
          a.send({{type: 'ack', seq: 1}}); const own = sent[0].view === a.view && a.view !== b.view;
          a.dispose(); emit({{type: 'beat', view: '*', n: 5}}); b.dispose();
          return [own, heard, listeners.size]; }}"""
    )
    assert got == [True, ["a1", "a2", "b2", "a3", "b3", "b5"], 0]


def test_bytes_of_a_message_are_not_copied(shell: Shell) -> None:
    got = shell.page.evaluate(
        f"""() => {{ {MODEL}
          const source = nbe.widgetSource(model); const whole = new Uint8Array([1, 2, 3, 4]);
          let bytes; source.onMessage((m, b) => {{ bytes = b; }});
          emit({{type: 'chunks'}}, new DataView(whole.buffer, 1, 2));
          return [[...bytes], bytes.buffer === whole.buffer]; }}"""
    )
    assert got == [[2, 3], True]


def test_a_page_without_random_uuids_makes_its_own_id(shell: Shell) -> None:
    got = shell.page.evaluate(
        f"() => {{ {MODEL} crypto.randomUUID = undefined; return nbe.widgetSource(model).view; }}"
    )
    assert len(got) == 32
