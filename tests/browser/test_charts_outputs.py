"""What ranks display, in a page: images, tables, text; and nothing of it runs."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

SUPPORT = (Path(__file__).parent / "charts_page.js").read_text()


def png(width: int, height: int) -> str:
    """A blue image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\x20\x40\xc0" * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


@pytest.fixture
def outputs(bare_page: Any) -> Any:
    """An empty outputs view of a run."""
    errors: list[str] = []
    bare_page.on("pageerror", lambda error: errors.append(str(error)))
    bare_page.add_script_tag(content=SUPPORT)
    bare_page.evaluate("window.data = runOf(3); show(nbe.outputsView(data, {}))")
    yield bare_page
    assert errors == []


def display(page: Any, rank: int, data: dict[str, Any], **rest: Any) -> None:
    page.evaluate(f"display(data, {rank}, {json.dumps({'data': data, **rest})}); update()")


def test_outputs_stand_under_the_rank_that_made_them(outputs: Any) -> None:
    expect(outputs.locator(".nbe-metrics-empty")).to_be_visible()
    display(outputs, 2, {"text/plain": "of two"})
    display(outputs, 0, {"text/plain": "of zero"})
    display(outputs, 0, {"text/plain": "more of zero"})
    expect(outputs.locator(".nbe-metrics-empty")).to_be_hidden()
    assert outputs.locator(".nbe-outputs-head").all_text_contents() == ["Rank 02 outputs", "Rank 21 output"]
    expect(outputs.locator(".nbe-outputs-rank").first.locator("pre")).to_have_text(["of zero", "more of zero"])


def test_a_chosen_rank_is_shown_alone(outputs: Any) -> None:
    display(outputs, 0, {"text/plain": "of zero"})
    display(outputs, 2, {"text/plain": "of two"})
    outputs.locator(".nbe-chip", has_text="2").click()
    expect(outputs.locator(".nbe-outputs-rank:visible pre")).to_have_text(["of two"])
    outputs.locator(".nbe-chip", has_text="all").click()
    expect(outputs.locator(".nbe-outputs-rank:visible pre")).to_have_text(["of zero", "of two"])


def test_images_are_drawn_and_can_be_saved(outputs: Any) -> None:
    display(outputs, 1, {"image/png": png(40, 30), "text/plain": "<Figure>"})
    image = outputs.get_by_role("img", name="<Figure>")
    expect(image).to_be_visible()
    outputs.wait_for_function("document.querySelector('.nbe-output-image')?.naturalWidth === 40")
    with outputs.expect_download() as download:
        outputs.locator(".nbe-output").hover()
        outputs.get_by_text("Save").click()
    assert download.value.suggested_filename == "rank-1-output-1.png"
    assert download.value.path().read_bytes() == base64.b64decode(png(40, 30))


def test_an_image_has_the_size_that_was_asked_for(outputs: Any) -> None:
    display(outputs, 0, {"image/png": png(40, 30)}, metadata={"image/png": {"width": 20, "height": 15}})
    outputs.wait_for_function("document.querySelector('.nbe-output-image')?.clientWidth === 20")


def test_an_svg_is_drawn_and_its_script_does_not_run(outputs: Any) -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="60" height="50" onload="window.hacked=1">'
    svg += "<script>window.hacked=1;parent.hacked=1</script><circle r='9'/></svg>"
    display(outputs, 0, {"image/svg+xml": svg})
    outputs.wait_for_function("document.querySelector('.nbe-output-image')?.naturalWidth === 60")
    assert outputs.evaluate("window.hacked") is None


def test_a_table_is_html_of_its_own_height_in_our_colours(outputs: Any) -> None:
    rows = "".join(f"<tr><th>{i}</th><td>0.5</td></tr>" for i in range(5))
    display(
        outputs,
        0,
        {"text/html": f'<table border="1" class="dataframe"><tbody>{rows}</tbody></table>', "text/plain": "x"},
    )
    frame = outputs.frame_locator("iframe")
    expect(frame.locator("tr")).to_have_count(5)
    outputs.wait_for_function("document.querySelector('iframe')?.clientHeight > 90")
    assert outputs.evaluate("document.querySelector('iframe').clientHeight") < 160
    outputs.evaluate("document.querySelector('#root').dataset.theme = 'dark'")
    expect(frame.locator("td").first).to_have_css("color", "rgb(230, 237, 243)")


HOSTILE = """
<script>parent.hacked = 'script'; top.document.title = 'hacked'</script>
<img src=x onerror="parent.hacked = 'onerror'">
<svg onload="parent.hacked = 'svg'"></svg>
<iframe srcdoc="<script>top.hacked = 'frame'</script>"></iframe>
<meta http-equiv="refresh" content="0; url=https://example.invalid/gone">
<base href="https://example.invalid/"><form action="https://example.invalid/"><button>send</button></form>
<a href="javascript:parent.hacked='link'" id="link">click</a>
<style>body { background: url(https://example.invalid/beacon) }</style>
<p id="end">still here</p>
"""


def test_nothing_in_an_output_runs_or_loads(outputs: Any) -> None:
    refused: list[str] = []
    outputs.on("requestfailed", lambda request: refused.append(request.failure))
    outputs.on("requestfinished", lambda request: refused.append(f"{request.url} was loaded"))
    display(outputs, 0, {"text/html": HOSTILE})
    frame = outputs.frame_locator("iframe")
    expect(frame.locator("#end")).to_have_text("still here")
    frame.locator("#link").click()
    expect(outputs.get_by_text("Scripts of an output do not run here.")).to_be_visible()
    assert outputs.evaluate("[window.hacked, document.title]") == [None, ""]
    assert outputs.locator("iframe").get_attribute("sandbox") == "allow-same-origin"
    assert set(refused) <= {"csp"}, "whatever would be loaded is refused before it is asked for"


def test_a_link_opens_beside_the_page(outputs: Any) -> None:
    outputs.evaluate("window.open = (...told) => { window.opened = told }")
    display(outputs, 0, {"text/html": '<a href="https://example.invalid/run">the run</a>'})
    outputs.frame_locator("iframe").locator("a").click()
    outputs.wait_for_function("window.opened")
    assert outputs.evaluate("opened") == ["https://example.invalid/run", "_blank", "noopener,noreferrer"]


def test_text_is_only_text(outputs: Any) -> None:
    display(outputs, 0, {"text/plain": "\x1b[31mred\x1b[0m <script>window.hacked = 1</script> a\u202eb\nnext"})
    expect(outputs.locator(".nbe-output pre")).to_have_text("red <script>window.hacked = 1</script> a\\u202eb\nnext")
    assert outputs.locator("#root script").count() == 0


def test_json_latex_notes_and_unknown_kinds_are_told_in_words(outputs: Any) -> None:
    display(outputs, 0, {"application/json": {"a": [1, None]}})
    display(outputs, 0, {"text/latex": "$x^2$"})
    display(outputs, 0, {"text/plain": "<Figure>"}, note="an image of 3.1 MB is not kept here")
    display(outputs, 0, {"application/vnd.plotly.v1+json": {}})
    display(outputs, 0, {"image/png": "no image at all!", "text/plain": "instead"})
    cards = outputs.locator(".nbe-output-body")
    expect(cards.nth(0)).to_have_text('{ "a": [ 1, null ] }')
    expect(cards.nth(1)).to_have_text("$x^2$")
    expect(cards.nth(2)).to_have_text("<Figure>an image of 3.1 MB is not kept here")
    expect(cards.nth(3)).to_have_text("Not drawn here: application/vnd.plotly.v1+json")
    expect(cards.nth(4)).to_have_text("instead")


def test_an_update_changes_the_output_where_it_stands(outputs: Any) -> None:
    display(outputs, 0, {"text/html": "<b>10 %</b>"}, display_id="bar")
    display(outputs, 0, {"text/plain": "after it"})
    expect(outputs.frame_locator("iframe").locator("b")).to_have_text("10 %")
    outputs.evaluate("document.querySelector('iframe').dataset.mark = 'same'")
    display(outputs, 0, {"text/html": "<b>20 %</b>"}, display_id="bar", kind="update")
    expect(outputs.frame_locator("iframe").locator("b")).to_have_text("20 %")
    expect(outputs.locator("iframe")).to_have_attribute("data-mark", "same")
    display(outputs, 0, {"text/plain": "done"}, display_id="bar", kind="update")
    expect(outputs.locator(".nbe-output pre")).to_have_text(["done", "after it"])
    outputs.evaluate("display(data, 0, { kind: 'clear' }); update()")
    expect(outputs.locator(".nbe-output")).to_have_count(0)
    expect(outputs.locator(".nbe-metrics-empty")).to_be_visible()


def test_many_outputs_are_drawn_only_when_they_are_near(outputs: Any) -> None:
    outputs.evaluate(
        "for (let i = 0; i < 150; i += 1) display(data, 0, { data: { 'text/html': '<p>' + i + '</p>' } }); update()"
    )
    expect(outputs.locator("iframe").first).to_be_visible()
    assert outputs.locator(".nbe-output").count() == 150
    assert outputs.locator("iframe").count() < 60
    outputs.locator(".nbe-output").last.scroll_into_view_if_needed()
    expect(outputs.locator(".nbe-output").last.frame_locator("iframe").locator("p")).to_have_text("149")


def test_when_too_many_came_the_reader_is_told(outputs: Any) -> None:
    outputs.evaluate(
        "for (let i = 0; i < 205; i += 1) display(data, 0, { data: { 'text/plain': String(i) } }); update()"
    )
    first = outputs.locator(".nbe-output").first
    expect(first).to_contain_text("5 earlier outputs are not kept in the page; the run folder has all.")
