"""Metrics and usage as a reader sees them: lines, spread, values under the pointer, and who is slow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

SUPPORT = (Path(__file__).parent / "charts_page.js").read_text()

FOUR_RANKS = """
window.data = runOf(4);
for (let step = 1; step <= 50; step += 1)
  for (let rank = 0; rank < 4; rank += 1)
    report(data, rank, step * (rank === 2 ? 0.9 : 0.3), { step, total: 50, loss: 2 / step + rank, accuracy: step / 50 });
show(nbe.metricsView(data, {}));
"""

MANY_RANKS = """
window.data = runOf(64);
for (let step = 0; step < 100; step += 1)
  for (let rank = 0; rank < 64; rank += 1)
    report(data, rank, step, { step, loss: 100 - step + rank });
show(nbe.metricsView(data, {}));
"""


@pytest.fixture
def charts(bare_page: Any) -> Any:
    """The core in a page, with what fills the stores."""
    errors: list[str] = []
    bare_page.on("pageerror", lambda error: errors.append(str(error)))
    bare_page.add_script_tag(content=SUPPORT)
    yield bare_page
    assert errors == []


def drawn(page: Any, title: str = "loss") -> None:
    page.wait_for_function("title => plotOf(title)?.data[0].length > 0", arg=title)


def test_each_metric_is_a_chart_with_a_line_for_each_rank(charts: Any) -> None:
    charts.evaluate(FOUR_RANKS)
    drawn(charts)
    drawn(charts, "accuracy")
    assert charts.locator(".nbe-chart-title").all_text_contents() == ["loss", "accuracy"]
    xs, *lines = charts.evaluate("plotOf('loss').data.map(row => Array.from(row))")
    assert xs == list(range(1, 51))
    assert lines == [[2 / step + rank for step in range(1, 51)] for rank in range(4)]
    for colour in ([0, 114, 178], [196, 85, 0]):  # those of ranks 0 and 1
        charts.wait_for_function("colour => pixels('loss', colour) > 50", arg=colour)


def test_new_points_appear_while_the_run_lasts(charts: Any) -> None:
    charts.evaluate(FOUR_RANKS)
    drawn(charts)
    charts.evaluate("report(data, 0, 60, { step: 51, loss: 7 }); update()")
    charts.wait_for_function("plotOf('loss').data[0].at(-1) === 51 && plotOf('loss').data[1].at(-1) === 7")
    charts.wait_for_function("plotOf('loss').scales.x.max === 51")
    charts.evaluate("report(data, 0, 61, { step: 60, loss: 8 }); update()")
    charts.wait_for_function("plotOf('loss').scales.x.max === 60 && plotOf('loss').scales.y.max >= 8")
    expect(charts.locator(".nbe-metrics-table tbody tr").first.locator("td").nth(2)).to_have_text("8")


def test_the_pointer_tells_values_in_all_charts_at_once(charts: Any) -> None:
    charts.evaluate(FOUR_RANKS)
    drawn(charts, "accuracy")
    charts.locator(".nbe-chart .u-over").first.hover()
    wheres = charts.locator(".nbe-chart-where")
    expect(wheres.first).not_to_have_text("step 50")
    step = int(wheres.first.text_content().removeprefix("step "))
    expect(wheres.last).to_have_text(f"step {step}")
    values = charts.locator(".nbe-chart").first.locator(".nbe-readout-value")
    assert float(values.nth(3).text_content()) == pytest.approx(2 / step + 3, rel=1e-3)


def test_a_stretch_that_the_reader_looks_at_stays_while_points_come(charts: Any) -> None:
    charts.evaluate(FOUR_RANKS)
    drawn(charts)
    box = charts.locator(".nbe-chart .u-over").first.bounding_box()
    middle = box["y"] + box["height"] / 2
    charts.mouse.move(box["x"] + 0.25 * box["width"], middle)
    charts.mouse.down()
    charts.mouse.move(box["x"] + 0.5 * box["width"], middle, steps=5)
    charts.mouse.up()
    charts.wait_for_function("plotOf('loss').scales.x.max < 30")
    stretch = charts.evaluate("[plotOf('loss').scales.x.min, plotOf('loss').scales.x.max]")
    charts.evaluate("report(data, 0, 60, { step: 51, loss: 7 }); update()")
    charts.wait_for_function("plotOf('loss').data[0].at(-1) === 51")
    assert charts.evaluate("[plotOf('loss').scales.x.min, plotOf('loss').scales.x.max]") == stretch
    charts.mouse.dblclick(box["x"] + 0.5 * box["width"], middle)
    charts.wait_for_function("plotOf('loss').scales.x.max === 51")


def test_the_arrow_keys_move_the_cursor_from_step_to_step(charts: Any) -> None:
    charts.evaluate(FOUR_RANKS)
    drawn(charts)
    chart = charts.locator(".nbe-chart").first
    chart.focus()
    chart.press("ArrowLeft")
    chart.press("ArrowLeft")
    expect(chart.locator(".nbe-chart-where")).to_have_text("step 49")


def test_a_gap_in_the_numbers_is_a_gap_in_the_line(charts: Any) -> None:
    charts.evaluate("""
        window.data = runOf(1);
        [3, 'NaN', null, 'Infinity', 2].forEach((loss, step) => report(data, 0, step, { step, loss }));
        show(nbe.metricsView(data, {}))""")
    drawn(charts)
    assert charts.evaluate("plotOf('loss').data[1]") == [3, None, None, None, 2]


def test_a_log_scale_leaves_out_what_it_cannot_show(charts: Any) -> None:
    charts.evaluate("""
        window.data = runOf(1);
        [1000, 10, 0, -5, 0.001].forEach((loss, step) => report(data, 0, step, { step, loss }));
        show(nbe.metricsView(data, {}))""")
    drawn(charts)
    charts.get_by_label("log scale").check()
    charts.wait_for_function("plotOf('loss')?.scales.y.distr === 3")
    assert charts.evaluate("plotOf('loss').data[1]") == [1000, 10, None, None, 0.001]


def test_over_time_a_slow_rank_goes_on_longer(charts: Any) -> None:
    charts.evaluate(FOUR_RANKS)
    drawn(charts)
    charts.get_by_label("over time").check()
    charts.wait_for_function("plotOf('loss').data[0].at(-1) === 45")
    last = "row => row[row.findLastIndex(y => y !== undefined)]"
    ends = charts.evaluate(
        f"plotOf('loss').data.slice(1).map(row => plotOf('loss').data[0][row.lastIndexOf(({last})(row))])"
    )
    assert ends == [15, 15, 45, 15]


def test_the_slowest_rank_is_told_by_its_step_time(charts: Any) -> None:
    charts.evaluate(FOUR_RANKS)
    rows = charts.locator(".nbe-metrics-table tbody tr")
    expect(rows.nth(2).locator("td").nth(1)).to_have_text("900 ms (slowest: 3.0x the median)")
    expect(rows.nth(0).locator("td").nth(1)).to_have_text("300 ms")
    expect(rows.nth(0).locator("td").nth(0)).to_have_text("50 / 50")


def test_many_ranks_are_their_mean_and_spread_until_the_reader_wants_each(charts: Any) -> None:
    charts.evaluate(MANY_RANKS)
    drawn(charts)
    assert charts.evaluate("plotOf('loss').data.slice(1).map(row => row[10])") == [121.5, 90, 153]
    readout = charts.locator(".nbe-readout").first
    expect(readout).to_have_text("mean32.5low1rank 0high64rank 63")
    charts.get_by_label("a line each").check()
    charts.wait_for_function("plotOf('loss').data.length === 65")


def test_a_restart_draws_a_further_line_from_the_lower_step(charts: Any) -> None:
    charts.evaluate("""
        window.data = runOf(1);
        for (let step = 0; step < 10; step += 1) report(data, 0, step, { step, loss: 10 - step });
        for (let step = 5; step < 8; step += 1) report(data, 0, 20 + step, { step, loss: step, round: 1 });
        show(nbe.metricsView(data, {}))""")
    drawn(charts)
    _xs, first, second = charts.evaluate("plotOf('loss').data.map(row => row.map(y => y ?? -1))")
    assert first == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert second == [-1, -1, -1, -1, -1, 5, 6, 7, -1, -1]


def test_a_chosen_rank_stands_out(charts: Any) -> None:
    charts.evaluate(FOUR_RANKS)
    drawn(charts)
    blue = [0, 114, 178]
    charts.wait_for_function("colour => pixels('loss', colour) > 50", arg=blue)
    charts.locator(".nbe-chip").nth(1).click()
    charts.wait_for_function("colour => pixels('loss', colour) === 0", arg=blue)
    assert charts.evaluate("pixels('loss', [196, 85, 0])") > 50
    expect(charts.locator(".nbe-metrics-table tr.nbe-selected")).to_have_text("150 / 50300 ms1.041")


def test_charts_take_the_colours_of_another_theme(charts: Any) -> None:
    charts.evaluate(FOUR_RANKS)
    drawn(charts)
    charts.evaluate("document.querySelector('#root').dataset.theme = 'dark'")
    charts.wait_for_function("pixels('loss', [86, 180, 233]) > 50")


def test_charts_follow_the_width_of_their_place(charts: Any) -> None:
    charts.set_viewport_size({"width": 900, "height": 600})
    charts.evaluate(FOUR_RANKS)
    drawn(charts)
    charts.set_viewport_size({"width": 340, "height": 600})
    charts.wait_for_function("plotOf('loss').width > 200 && plotOf('loss').width < 320")
    assert charts.evaluate("document.documentElement.scrollWidth <= 340")


def test_without_metrics_the_reader_is_told_how_to_get_some(charts: Any) -> None:
    charts.evaluate("window.data = runOf(2); show(nbe.metricsView(data, {}))")
    expect(charts.locator(".nbe-metrics-empty code")).to_have_text("nb_elastic.report(step=i, total=n, loss=loss)")
    charts.evaluate("report(data, 0, 1, { step: 1, loss: 2 }); update()")
    expect(charts.locator(".nbe-metrics-empty")).to_be_hidden()
    drawn(charts)


def test_usage_is_drawn_over_time_with_gpus_only_where_there_are_any(charts: Any) -> None:
    charts.evaluate("""
        window.data = runOf(2);
        const used = (rank, i) => ({ rank, local_rank: rank, cpu_percent: 50 + i, memory_bytes: 2 ** 30 });
        for (let i = 0; i < 20; i += 1)
          feed(data.usage, 0, 'usage', [{ time_ns: ZERO + i * SECOND, round: 0, ranks: [used(0, i), used(1, i)] }]);
        show(nbe.metricsView(data, {}))""")
    drawn(charts, "Memory")
    usage = charts.locator(".nbe-usage")
    assert usage.locator(".nbe-chart-title").all_text_contents() == ["CPU (100 % is one)", "Memory"]
    expect(usage.locator(".nbe-chart").first.locator(".nbe-readout")).to_have_text("069 %169 %")
    expect(usage.locator(".nbe-chart").last.locator(".nbe-readout")).to_have_text("01.0 GiB11.0 GiB")
    assert charts.evaluate("plotOf('Memory').data[0]") == list(range(20))


def test_a_metric_with_a_hostile_name_is_only_text(charts: Any) -> None:
    charts.evaluate("""
        window.data = runOf(1);
        report(data, 0, 1, { step: 1, '<img src=x onerror="window.hacked = 1">\\u202e': 1 });
        show(nbe.metricsView(data, {}))""")
    expect(charts.locator(".nbe-chart-title")).to_have_text('<img src=x onerror="window.hacked = 1">\\u202e')
    assert charts.locator("#root img").count() == 0


def test_a_view_that_went_away_leaves_nothing_running(charts: Any) -> None:
    charts.evaluate(FOUR_RANKS)
    drawn(charts)
    charts.evaluate("view.dispose(); view.element.remove(); report(data, 0, 60, { step: 51, loss: 7 })")
    assert charts.evaluate("document.querySelectorAll('#root canvas').length") == 0


def test_a_sparkline_draws_its_values_and_tells_the_last(charts: Any) -> None:
    charts.evaluate("""
        window.line = nbe.sparkline([0, 50, 100], { max: 100, width: 62, height: 18, label: 'CPU %' });
        document.querySelector('#root').append(line)""")
    line = charts.get_by_role("img", name="CPU %: 100")
    expect(line.locator(".nbe-sparkline-line")).to_have_attribute("d", "M1 17L31 9L61 1")
    charts.evaluate("nbe.updateSparkline(line, [25, NaN, 200, -5])")
    expect(charts.get_by_role("img", name="CPU %: -5")).to_be_visible()
    assert charts.evaluate("line.querySelector('.nbe-sparkline-line').getAttribute('d')") == "M1 15h0.01M41 1L61 17"
    charts.evaluate("nbe.updateSparkline(line, [])")
    expect(charts.get_by_role("img", name="CPU %", exact=True)).to_have_attribute(
        "class", "nbe-sparkline nbe-sparkline-empty"
    )
