"""How much the log view takes in a browser, without Jupyter: lines a second, frames, long tasks, search, memory.

Runs in: the benchmarks, as ``python -m tests.benchmarks.ui_core``; it builds the core and needs a Chromium.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import CDPSession, Page, sync_playwright

FRONT = Path(__file__).parents[2] / "labextension"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]

# A run client on a source of this page's own, and the log view on it. `feed` sends lines as the kernel does: chunks by rank,
# 1 MB a message at most, and waits for the frame only where it is told to keep a pace.
SETUP = """
() => {
  const none = { names: [], ranks: [], series: () => undefined, progress: () => undefined, append() {},
                 last: () => undefined, history: () => [], take() {}, of: () => [], version: () => 0 };
  let tell;
  const source = { kind: 'widget', view: 'v', send() {}, dispose() {}, onMessage: handler => ((tell = handler), () => {}) };
  const client = new nbe.RunClient(source, undefined, { metrics: none, usage: none, outputs: none });
  tell({ view: 'v', type: 'hello', version: 1, about: { run_id: 'r' }, time_ns: Date.now() * 1e6 });
  const view = nbe.logsView(client, {});
  const root = document.getElementById('root');
  root.className = 'nbe';
  root.style.height = '600px';
  root.append(view.element);
  client.onChange(changed => view.update(changed));
  const seen = { frames: [], tasks: [] };
  new PerformanceObserver(list => seen.tasks.push(...list.getEntries().map(entry => entry.duration)))
    .observe({ type: 'longtask' });
  let last = performance.now();
  const frame = () => {
    const now = performance.now();
    seen.frames.push(now - last);
    last = now;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  const encoder = new TextEncoder();
  const offsets = {};
  let seq = 0;
  let number = 0;
  const line = rank => `\\x1b[32mINFO\\x1b[0m step ${String(number++).padStart(9, '0')} rank ${String(rank).padStart(2)} loss 0.123456 ` +
    `lr 3.0e-04 grad norm 1.2345 tokens 123456 time 0.12\\n`.padStart(61);
  const message = (ranks, lines) => {
    const chunks = [];
    const parts = [];
    for (let rank = 0; rank < ranks; rank++) {
      let text = '';
      for (let i = 0; i < lines; i++) text += line(rank);
      const bytes = encoder.encode(text);
      const file = `0/0/${rank}/stdout`;
      const offset = offsets[file] ?? 0;
      offsets[file] = offset + bytes.length;
      chunks.push({ file, kind: 'stdout', node: 0, round: 0, local_rank: rank, rank, offset, size: bytes.length,
                    time_ns: Date.now() * 1e6, skipped: 0 });
      parts.push(bytes);
    }
    const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) { whole.set(part, at); at += part.length; }
    return [chunks, whole];
  };
  const send = ([chunks, whole]) => tell({ view: 'v', type: 'chunks', seq: ++seq, chunks, time_ns: Date.now() * 1e6 }, whole);
  const pause = ms => new Promise(resolve => setTimeout(resolve, ms));
  const report = (lines, seconds) => {
    const frames = seen.frames.splice(0).sort((a, b) => a - b);
    const tasks = seen.tasks.splice(0);
    return { lines, seconds, line_bytes: line(0).length, p50: frames[frames.length >> 1], p95: frames[Math.floor(frames.length * 0.95)],
             worst: frames.at(-1), long: tasks.length, longest: Math.max(0, ...tasks) };
  };
  /** All messages are made before, so that only the page's part is measured. */
  let messages = [];
  const prepare = async (total, ranks) => {
    const each = Math.floor(8000 / ranks);
    messages = Array.from({ length: Math.ceil(total / (each * ranks)) }, () => message(ranks, each));
    await pause(500);
    report();
    return messages.length * each * ranks;
  };
  const blast = async count => {
    const start = performance.now();
    for (const one of messages) {
      send(one);
      await new Promise(resolve => { const c = new MessageChannel(); c.port1.onmessage = resolve; c.port2.postMessage(0); });
    }
    await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    messages = [];
    return report(count, (performance.now() - start) / 1000);
  };
  /** 20 messages a second; making them costs the page, too. */
  const pace = async (total, ranks, perSecond) => {
    const each = Math.round(perSecond / 20 / ranks);
    await pause(300);
    report();
    const start = performance.now();
    let sent = 0;
    for (let tick = 1; sent < total; tick++) {
      send(message(ranks, each));
      sent += each * ranks;
      await pause(Math.max(0, start + 50 * tick - performance.now()));
    }
    return report(sent, (performance.now() - start) / 1000);
  };
  const search = async (text, isRegex = false) => {
    const input = document.querySelector('.nbe-log-search');
    const toggle = document.querySelector('[title="Regular expression"]');
    if ((toggle.getAttribute('aria-pressed') === 'true') !== isRegex) toggle.click();
    const hits = document.querySelector('.nbe-log-hits');
    await pause(200);
    report();
    input.value = text;
    input.dispatchEvent(new Event('input'));
    await new Promise(resolve => setTimeout(resolve, 119));
    const start = performance.now();
    while (!/hits?$|not searched$/.test(hits.textContent)) await new Promise(requestAnimationFrame);
    const found = { ...report(0, 0), ms: performance.now() - start, hits: hits.textContent };
    input.value = '';
    input.dispatchEvent(new Event('input'));
    await pause(400);
    return found;
  };
  window.bench = { prepare, blast, pace, search, client, view };
}
"""


class _Cpu:
    """CPU time of the page's main thread: a busy machine stretches the clock, not this."""

    def __init__(self, page: Page) -> None:
        self._session = page.context.new_cdp_session(page)
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def taken_s(self) -> float:
        """So far."""
        metrics = self._session.send("Performance.getMetrics")["metrics"]
        return next(float(metric["value"]) for metric in metrics if metric["name"] == "TaskDuration")

    def measured(self, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What is measured, with the CPU time that it took."""
        before = self.taken_s()
        got = measure()
        return {**got, "cpu_s": self.taken_s() - before}


def _told(what: str, got: dict[str, Any]) -> str:
    rate = got["lines"] / got["seconds"]
    cpu = f"cpu {got['cpu_s']:.2f} s of {got['seconds']:.2f}"
    frames = f"frames p50 {got['p50']:.0f} p95 {got['p95']:.0f} worst {got['worst']:.0f} ms"
    return f"{what:<44} {rate:>11,.0f} lines/s   {cpu}   {frames}   long tasks {got['long']} (longest {got['longest']:.0f} ms)"


def _told_search(what: str, got: dict[str, Any]) -> str:
    return f"{what:<44} {got['ms']:>8.0f} ms   cpu {1000 * got['cpu_s']:.0f} ms   {got['hits']}   long tasks {got['long']} (longest {got['longest']:.0f} ms)"


def _memory_mb(page: Page, session: CDPSession) -> str:
    session.send("HeapProfiler.collectGarbage")
    session.send("HeapProfiler.collectGarbage")
    heap = session.send("Runtime.getHeapUsage")
    rss = _renderer_mb(page)
    backing = heap.get("backingStorageSize", 0) / 1e6
    return f"heap {heap['usedSize'] / 1e6:.0f} MB + buffers {backing:.0f} MB, the page's process {rss:.0f} MB resident"


def _renderer_mb(page: Page) -> float:
    """Resident memory of the page's own process, the largest renderer of this browser."""
    browser = page.context.browser
    assert browser is not None
    info = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")
    pids = [process["id"] for process in info["processInfo"] if process["type"] == "renderer"]
    sizes = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6 for pid in pids]
    return max(sizes, default=0.0)


def _measure(lines: int) -> None:
    subprocess.run(["node", "build.mjs", "--tests"], cwd=FRONT, check=True, timeout=120)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)

        def new_page() -> Page:
            page = browser.new_page(viewport={"width": 1200, "height": 700})
            page.set_content("<!doctype html><html><body><div id='root'></div></body></html>")
            page.add_style_tag(path=str(FRONT / "build/core.css"))
            page.add_script_tag(path=str(FRONT / "build/core.js"))
            page.evaluate(SETUP)
            return page

        for ranks in (1, 4, 64):
            page = new_page()
            count = page.evaluate(f"bench.prepare({lines}, {ranks})")
            got = _Cpu(page).measured(functools.partial(page.evaluate, f"bench.blast({count})"))
            print(_told(f"{lines:,} lines of {ranks} ranks at once", got))
            if ranks == 4:
                _search(page)
            page.close()
        for ranks, rate in ((4, 100_000), (64, 6_400)):
            page = new_page()
            count = min(lines, rate * 8)
            got = _Cpu(page).measured(functools.partial(page.evaluate, f"bench.pace({count}, {ranks}, {rate})"))
            print(_told(f"{ranks} ranks at {rate:,} lines/s", got))
            page.close()
        page = new_page()
        session = page.context.new_cdp_session(page)
        empty = _memory_mb(page, session)
        for _ in range(4):
            page.evaluate(f"bench.prepare({lines}, 4).then(bench.blast)")
        print(f"memory before: {empty}")
        print(f"memory after {4 * lines:,} lines: {_memory_mb(page, session)}")
        browser.close()


def _search(page: Page) -> None:
    queries = [
        ("tokens 99", False),
        ("step 000500000", False),
        ("loss", False),
        ("q", False),
        (r"rank +3 .*e-0[45]", True),
    ]
    cpu = _Cpu(page)
    for text, is_regex in queries:
        ask = functools.partial(page.evaluate, "([text, isRegex]) => bench.search(text, isRegex)", [text, is_regex])
        got = cpu.measured(ask)
        print(_told_search(f"  search {'regular expression' if is_regex else 'text'} {text!r}", got))


def main() -> None:
    """Measure, and print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    _measure(parser.parse_args().lines)


if __name__ == "__main__":
    main()
