"""The dashboard in a real JupyterLab in a real Chromium: smoothness, throughput, lag, memory and search, beside what peers do with the same lines.

Runs in: the benchmarks (``make bench-ui``; ``make bench-ui ARGS='paced search'`` measures some).

Browser, server, kernel, supervisor and ranks share the machine's cores, two where the figures of README.md were taken. Frames are those of software rendering.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import sync_playwright

from tests.benchmarks import ui_page
from tests.benchmarks.table import Row, at_most, render, verdicts
from tests.browser.conftest import CHROMIUM
from tests.browser.lab import LabPage, LabServer, lab_server

ROWS = ".nbe-log-line"
STATIC = Path(__file__).parents[2] / "nb_elastic" / "static"
LIMIT_S = 240.0
LOAD = "%load_ext nb_elastic\nimport nb_elastic"
# 106 bytes a line with its colours; the last one tells when it was written.
WRITER = """
def stream(lines, per_s, name):
    import os, time
    line = "\\x1b[32mINFO\\x1b[0m epoch 3 step 001234 loss 0.123456 accuracy 0.912345 lr 0.000300 tokens/s 123456 mem 12"
    step = max(1, int(per_s / 50))
    block = ((line + "\\n") * step).encode()
    began, made = time.time(), 0
    while made < lines:
        os.write(1, block[: (len(line) + 1) * min(step, lines - made)])
        made += step
        time.sleep(max(0.0, began + made / per_s - time.time()))
    os.write(1, f"{name} began {began:.3f} ended {time.time():.3f}\\n".encode())
    time.sleep(2)
"""
PRINTER = """
def stream(lines, per_s, name):
    import time
    line = "\\x1b[32mINFO\\x1b[0m epoch 3 step 001234 loss 0.123456 accuracy 0.912345 lr 0.000300 tokens/s 123456 mem 12"
    began, made, step = time.time(), 0, max(1, per_s // 50)
    while made < lines:
        for _ in range(step):
            print(line)
        made += step
        time.sleep(max(0.0, began + made / per_s - time.time()))
    print(f"{name} began {began:.3f} ended {time.time():.3f}", flush=True)
"""
SEARCH = """([text, limit_ms]) => new Promise((found, lost) => {
  const field = document.querySelector('.nbe-log-search');
  const began = performance.now();
  field.value = text;
  field.dispatchEvent(new Event('input', { bubbles: true }));
  field.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', bubbles: true }));
  const look = () => {
    const told = document.querySelector('.nbe-log-hits').textContent;
    if (text === '' ? told === '' : /^1 hit$/.test(told)) found([performance.now() - began, told]);
    else if (performance.now() - began > limit_ms) lost(new Error('no hits: ' + told));
    else requestAnimationFrame(look);
  };
  look();
})"""

# Settles when a dashboard is drawn that was not there before.
NEW_DASHBOARD = """() => {
  const known = new Set(document.querySelectorAll('.nbe-head'));
  window.__seen = new Promise(found => {
    const look = () => {
      const fresh = [...document.querySelectorAll('.nbe-head')].some(e => !known.has(e) && e.getClientRects().length > 0);
      fresh ? found(Date.now()) : requestAnimationFrame(look);
    };
    look();
  });
}"""


class Bench:
    """One notebook with a dashboard under its second cell.

    Args:
        tell: gets a line for each thing that was measured.
    """

    def __init__(self, page: Any, server: LabServer, tell: Callable[[str], None]) -> None:
        self.page, self.server, self.tell = page, server, tell
        self.lab = LabPage(page, server)

    def open(self, *cells: str) -> None:
        """Open a notebook whose first cell loads what the others need."""
        self.page.goto("about:blank")
        self.server.end_sessions()
        self.lab = LabPage(self.page, self.server)  # a workspace that brings no earlier notebook back
        self.lab.new(*cells).run(0)

    def kernel(self) -> psutil.Process:
        """The notebook's kernel."""
        found = [
            p
            for p in psutil.Process(self.server.process.pid).children(recursive=True)
            if "ipykernel_launcher" in " ".join(p.cmdline())
        ]
        assert len(found) == 1, found
        return found[0]

    def stream(self, index: int, name: str, *, selector: str = ROWS) -> dict[str, float]:
        """Run a cell that streams lines; what the page and the kernel did until the last of them was on screen."""
        kernel = self.kernel()
        ui_page.start(self.page)
        cpu_s, wall_s = sum(kernel.cpu_times()[:2]), time.monotonic()
        self.lab.start(index)
        needle = f"{name} began "
        seen_s = ui_page.seen_at_ms(self.page, needle, selector=selector, limit_s=LIMIT_S) / 1000
        cpu_s, wall_s = sum(kernel.cpu_times()[:2]) - cpu_s, time.monotonic() - wall_s
        smooth = ui_page.stop(self.page)
        text = next(t for t in self.page.locator(selector).all_text_contents() if needle in t)
        began_s, ended_s = map(float, re.findall(r"\d{10}\.\d+", text)[-2:])
        told = {
            "lag_s": seen_s - ended_s,
            "span_s": seen_s - began_s,
            "kernel_percent": 100 * cpu_s / wall_s,
            "p50_ms": smooth.p50_ms,
            "p95_ms": smooth.p95_ms,
            "over_100": smooth.tasks_over_100,
        }
        self.tell(
            f"  {name}: {smooth}; kernel {told['kernel_percent']:.0f} %; last line after {told['lag_s'] * 1000:.0f} ms"
        )
        self.lab.until_ended(index)
        return told


def launch(nproc: int, lines: int, per_s: int, name: str) -> str:
    """A cell that streams lines from each of some ranks; only rank 0 says when it ended, after all others."""
    return f"%%elastic_launch --nproc {nproc}\n{WRITER}\nstream({lines}, {per_s}, {name!r})"


def smooth_rows(what: str, told: dict[str, float]) -> list[Row]:
    """The rows of one stream, with what they must reach."""
    frame, tasks = (
        Row(what, "frame, median", "ms", [told["p50_ms"]]),
        Row(what, "tasks over 100 ms", "", [told["over_100"]]),
    )
    cpu, lag = (
        Row(what, "kernel, of a core", "%", [told["kernel_percent"]]),
        Row(what, "last line, written to on screen", "s", [told["lag_s"]]),
    )
    for row, limit in ((frame, 17.0), (tasks, 0.0), (cpu, 10.0), (lag, 0.2)):
        at_most(row, limit)
    return [frame, tasks, cpu, lag]


def paced(bench: Bench) -> list[Row]:
    """A million lines at 100,000 a second; then a search in them."""
    bench.open(LOAD, launch(1, 1_000_000, 100_000, "seamless"))
    rows = smooth_rows("1 M lines at 100,000/s", bench.stream(1, "seamless"))
    search = Row("a search over 1 M lines", "text to number of hits", "s")
    for text in ("seamless", "", "began", "", "seamless began"):  # the first has only letters that stand in every line
        took_ms, told = bench.page.evaluate(SEARCH, [text, LIMIT_S * 1000])
        if text:
            bench.tell(f"  search for {text!r}: {took_ms:.0f} ms, {told}")
            search.samples.append(took_ms / 1000)
    at_most(search, 0.2)
    return [*rows, search]


def unpaced(bench: Bench) -> list[Row]:
    """As many lines as the page can take."""
    lines = 500_000
    bench.open(LOAD, launch(1, lines, 10_000_000, "unpaced"))
    told = bench.stream(1, "unpaced")
    row = Row("unpaced, first written to last on screen", "nb_elastic", "µs a line", [told["span_s"] / lines * 1e6])
    at_most(row, 5.0)
    row.note = f"{lines / told['span_s']:,.0f} lines/s; tasks over 100 ms: {told['over_100']:.0f}"
    return [row]


def ranks(bench: Bench) -> list[Row]:
    """64 ranks, 100 lines a second each."""
    bench.open(LOAD, launch(64, 1_000, 100, "ranks"))
    return smooth_rows("64 ranks, 100 lines/s each, 10 s", bench.stream(1, "ranks"))


def memory(bench: Bench) -> list[Row]:
    """Four million lines: what the page keeps of them."""
    bench.open(LOAD, launch(1, 4_000_000, 150_000, "memory"))
    before_mb = ui_page.heap_mb(bench.page)
    bench.stream(1, "memory")
    row = Row("page after 4 M lines", "nb_elastic, beyond JupyterLab", "MB", [ui_page.heap_mb(bench.page) - before_mb])
    at_most(row, 300.0)
    return [row]


def onscreen(bench: Bench) -> list[Row]:
    """From the cell's start to a dashboard on screen."""
    bench.open(LOAD, "%%elastic_launch --nproc 2\nimport time; time.sleep(1)")
    row = Row("cell's start to its dashboard on screen", "nb_elastic", "s")
    for number in range(6):
        bench.page.evaluate(NEW_DASHBOARD)
        began_ms = bench.page.evaluate("Date.now()")
        bench.lab.start(1)
        seen_ms = bench.page.evaluate("() => window.__seen")
        bench.lab.until_ended(1)
        if number:  # the first imports
            row.samples.append((seen_ms - began_ms) / 1000)
            bench.tell(f"  {row.samples[-1]:.3f} s")
    at_most(row, 0.3)
    return [row]


def size(_: Bench) -> list[Row]:
    """What a notebook without the lab extension is sent at each launch."""
    import gzip

    row = Row("the widget, compressed (gzip -9)", "script and style", "kB")
    row.samples.append(
        sum(len(gzip.compress((STATIC / name).read_bytes(), 9)) for name in ("widget.js", "widget.css")) / 1000
    )
    at_most(row, 60.0)
    return [row]


def peers(bench: Bench) -> list[Row]:
    """The same lines as peers show them: printed by the kernel, and into an ipywidgets.Output."""
    found = []
    output = (
        "import ipywidgets\nout = ipywidgets.Output()\ndisplay(out)\nwith out:\n    stream({lines}, {per_s}, {name!r})"
    )
    for who, per_s, lines, cell in (
        ("print", 10_000, 20_000, "stream({lines}, {per_s}, {name!r})"),
        ("ipywidgets.Output", 2_000, 4_000, output),
    ):
        bench.open(PRINTER, cell.format(lines=lines, per_s=per_s, name="peer"))
        what = f"{lines:,} lines at {per_s:,}/s"
        row = Row(what, who, "s to the last line on screen")
        try:
            told = bench.stream(1, "peer", selector=".jp-OutputArea pre")
        except AssertionError:
            shown = sum(t.count("\n") for t in bench.page.locator(".jp-OutputArea pre").all_text_contents())
            row.failures, row.note = 1, f"{shown:,} lines shown: the server dropped the rest"
        else:
            row.samples, row.note = (
                [told["span_s"]],
                f"tasks over 100 ms: {told['over_100']:.0f}, frames p95 {told['p95_ms']:.0f} ms",
            )
        bench.open(LOAD, launch(1, lines, per_s, "ours"))
        ours = bench.stream(1, "ours")
        found += [
            row,
            Row(
                what,
                "nb_elastic",
                row.unit,
                [ours["span_s"]],
                note=f"tasks over 100 ms: {ours['over_100']:.0f}, frames p95 {ours['p95_ms']:.0f} ms",
            ),
        ]
    return found


ALL: tuple[Callable[[Bench], list[Row]], ...] = (size, onscreen, paced, unpaced, ranks, memory, peers)


@contextmanager
def opened(tell: Callable[[str], None]) -> Iterator[Callable[[], Bench]]:
    """A server and a browser; each call makes a fresh page, and ends the kernels of the last."""
    with lab_server() as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])

        def fresh() -> Bench:
            for context in browser.contexts:
                context.close()
            server.end_sessions()
            return Bench(browser.new_context(viewport={"width": 1400, "height": 1000}).new_page(), server, tell)

        try:
            yield fresh
        finally:
            browser.close()
            server.end_sessions()


def main(chosen: list[str]) -> int:
    """Measure what was chosen, or all; 0 if everything could be measured."""
    parts = [part for part in ALL if not chosen or part.__name__ in chosen]
    rows: list[Row] = []
    failed = 0
    with opened(lambda text: print(text, flush=True)) as fresh:
        for part in parts:
            print(part.__name__, flush=True)
            try:
                rows += part(fresh())
            except Exception as e:  # the others are still worth their figures
                failed += 1
                print(f"  {part.__name__} failed: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
    judged = [reach for reach in verdicts(rows) if reach.is_measured]
    print(f"\n{render(rows)}\n{sum(reach.is_reached for reach in judged)} of {len(judged)} figures reached")
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; Python {sys.version.split()[0]}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
