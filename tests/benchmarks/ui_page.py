"""What a page does while lines stream into it: frames, long tasks, memory, and when a text is on screen.

Runs in: the benchmarks, in a page that Playwright drives.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

START = """() => {
  const watch = { frames: [], tasks: [], stop: false, last: performance.now() };
  watch.observer = new PerformanceObserver(list => watch.tasks.push(...list.getEntries().map(e => e.duration)));
  watch.observer.observe({ type: 'longtask' });
  const frame = now => {
    watch.frames.push(now - watch.last);
    watch.last = now;
    if (!watch.stop) requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  window.__watch = watch;
}"""
STOP = """() => {
  const watch = window.__watch;
  watch.stop = true;
  watch.observer.disconnect();
  return { frames: watch.frames, tasks: watch.tasks };
}"""
SEEN = """([needle, selector, limit_ms]) => new Promise((found, lost) => {
  const late = performance.now() + limit_ms;
  const look = () => {
    const here = [...document.querySelectorAll(selector)].some(e => e.textContent.includes(needle));
    if (here) found(Date.now());
    else if (performance.now() > late) lost(new Error('never seen: ' + needle));
    else requestAnimationFrame(look);
  };
  look();
})"""


@dataclass(frozen=True, kw_only=True)
class Smoothness:
    """Frames and long tasks while something went on; milliseconds."""

    p50_ms: float
    p95_ms: float
    most_ms: float
    tasks_over_50: int
    tasks_over_100: int
    longest_task_ms: float

    def __str__(self) -> str:
        """As the table's notes have it."""
        tasks = f"{self.tasks_over_50} tasks over 50 ms, {self.tasks_over_100} over 100 (longest {self.longest_task_ms:.0f})"
        return f"frames p50 {self.p50_ms:.0f}, p95 {self.p95_ms:.0f}, most {self.most_ms:.0f} ms; {tasks}"


def start(page: Any) -> None:
    """Begin to watch frames and tasks."""
    page.evaluate(START)


def stop(page: Any) -> Smoothness:
    """End the watch."""
    told = page.evaluate(STOP)
    frames, tasks = sorted(told["frames"]) or [0.0], told["tasks"]
    return Smoothness(
        p50_ms=frames[len(frames) // 2],
        p95_ms=frames[int(len(frames) * 0.95)],
        most_ms=frames[-1],
        tasks_over_50=len(tasks),
        tasks_over_100=sum(t > 100 for t in tasks),
        longest_task_ms=max(tasks, default=0.0),
    )


def seen_at_ms(page: Any, needle: str, *, selector: str, limit_s: float) -> float:
    """Wait until a text is on screen; when that was, milliseconds since the epoch by the page's clock (this machine's).

    Raises:
        AssertionError: if it was not seen in time.
    """
    try:
        return float(page.evaluate(SEEN, [needle, selector, limit_s * 1000]))
    except Exception as e:
        raise AssertionError(f"{json.dumps(needle)} was not on screen after {limit_s:.0f} s") from e


def heap_mb(page: Any) -> float:
    """Memory of the page in MB after a collection: objects and array buffers."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    used = session.send("Runtime.getHeapUsage")
    session.detach()
    return (used["usedSize"] + used.get("backingStorageSize", 0) + used.get("embedderHeapUsedSize", 0)) / 1e6
