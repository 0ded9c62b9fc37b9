"""The saved dashboard: that it is whole, harmless and small wherever the notebook is opened."""

from __future__ import annotations

import json
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from nb_elastic.render import html
from nb_elastic.render.base import SilentRenderer
from tests.support import dashboards, stories
from tests.support.dashboards import DashboardStory
from tests.support.stories import Story

GOLDEN = Path(__file__).parent / "golden"
LIMIT_BYTES = 200_000
HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)"></pre></details>&lt;'


class Reading(HTMLParser):
    """Reads a page as a browser would: its text, its tags, and whether they close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "img":
            self.sources += [value or "" for name, value in attrs if name == "src"]
        else:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Check that it closes what was opened last."""
        assert self.open.pop() == tag
        if tag in {"div", "pre", "summary", "tr"}:
            self.text.append("\n")
        elif tag in {"td", "th"}:
            self.text.append("\t")

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text.append(data.strip("\n"))


def told(story: Story, plot: Any) -> dict[str, Any]:
    """The bundle of a story."""
    story.renderer = SilentRenderer()
    plot(story)
    return html.bundle(story.snapshot, story.folder, now_ns=story.now_ns)


def check_page(page: str) -> Reading:
    """Only harmless tags and attributes, all closed, nothing fetched from anywhere."""
    reading = Reading(page)
    assert reading.open == []
    allowed = {"div", "span", "b", "pre", "code", "table", "thead", "tbody", "tr", "th", "td", "details", "summary"}
    assert reading.tags <= {*allowed, "img"}
    assert reading.attributes <= {"class", "style", "open", "src", "alt"}
    assert all(source.startswith("data:image/png;base64,") for source in reading.sources)
    assert "url(" not in page
    return reading


def test_a_failed_run_reads_well_without_a_kernel(tmp_path: Path) -> None:
    bundle = told(Story(tmp_path), stories.failing)
    reading = check_page(bundle["text/html"])
    text = "".join(reading.text).replace(str(tmp_path), "ROOT")
    text = "".join(f"{line.rstrip()}\n" for line in text.splitlines() if line.strip())
    if os.environ.get("GOLDEN"):
        (GOLDEN / "html_failure.txt").write_text(text)
    assert text == (GOLDEN / "html_failure.txt").read_text()


def test_results_and_rounds_are_saved(tmp_path: Path) -> None:
    page = told(Story(tmp_path / "a"), stories.succeeding)["text/html"]
    assert "ranks 0-2: 0.98\nrank 3: 0.97" in page
    page = told(Story(tmp_path / "b", ranks=2, max_restarts=2), stories.restarting)["text/html"]
    assert "Round 0 failed: rank 1 failed first (KeyError: &#x27;x&#x27;); restarting, attempt 2 of 3" in page


def test_nothing_a_rank_says_becomes_markup(tmp_path: Path) -> None:
    def plot(story: Story) -> None:
        story.start()
        story.tell("note", level="warning", text=HOSTILE)
        for stream in ("stdout", "stderr"):
            story.chunk(0, f"{HOSTILE}\n\x1b[31mred\n", stream)  # type: ignore[arg-type]
        story.leave_failure(0, HOSTILE)
        story.fail(0, error_type=HOSTILE, message=HOSTILE, traceback=HOSTILE, hint=HOSTILE, signal=HOSTILE)
        story.fail(1, error_type=HOSTILE, message=HOSTILE, followed=HOSTILE)
        story.tell(
            "worker_exited", round=0, rank=2, local_rank=2, exit_code=0, result={"text": HOSTILE}, signal=HOSTILE
        )
        worker = {"device": HOSTILE, "binding": HOSTILE, "cpus": HOSTILE}
        story.tell("worker_ready", round=0, rank=3, local_rank=3, worker=worker)
        story.tell("stop_requested", by=HOSTILE)
        story.finish("failed", text=HOSTILE)

    story = Story(tmp_path, run_id="r", name=HOSTILE, entry=HOSTILE)
    reading = check_page(told(story, plot)["text/html"])
    assert "<script>alert(1)</script>" in "".join(reading.text)


def test_a_large_run_with_long_logs_stays_small_and_whole(tmp_path: Path) -> None:
    def plot(story: Story) -> None:
        story.start()
        for rank in range(300):
            story.chunk(rank, "&<>\"'" * 1_000 + "\n" + "<&>\n" * 1_000)
            story.fail(
                rank,
                error_type="ValueError",
                message="<" * 3_000,
                traceback="<&" * 10_000,
                frames=[{"file": "&" * 900}] * 99,
            )
        story.finish("failed")

    bundle = told(Story(tmp_path, ranks=300), plot)
    check_page(bundle["text/html"])
    assert len(bundle["text/html"].encode()) < LIMIT_BYTES
    assert len(json.dumps(bundle[html.MIME])) < LIMIT_BYTES
    assert len(bundle["text/plain"]) < LIMIT_BYTES


def test_the_json_holds_what_a_front_end_draws(tmp_path: Path) -> None:
    saved = json.loads(json.dumps(told(Story(tmp_path), stories.failing)[html.MIME]))
    assert (saved["version"], saved["run_id"], saved["dir"]) == (
        1,
        "20231114-221320-ab12",
        str(tmp_path / saved["run_id"]),
    )
    assert saved["snapshot"]["root_rank"] == 2
    assert saved["snapshot"]["failures"][0]["traceback"] == stories.TRACEBACK
    assert saved["tails"]["2"] == {"stdout": ["epoch 1"], "stderr": stories.TRACEBACK.splitlines()}


def test_the_last_lines_of_a_long_log_are_the_ones_kept(tmp_path: Path) -> None:
    def plot(story: Story) -> None:
        story.start()
        story.chunk(0, "".join(f"line {n}\n" for n in range(100_000)))
        story.finish()

    story = Story(tmp_path, ranks=1)
    told(story, plot)
    assert html.read_tails(story.snapshot, story.folder)[0]["stdout"] == [f"line {n}" for n in range(99_900, 100_000)]


def test_progress_values_and_displays_are_in_the_page_and_harmless(tmp_path: Path) -> None:
    story = DashboardStory(tmp_path, ending="failed")
    bundle = html.bundle(story.snapshot, story.folder, now_ns=story.now_ns)
    reading = check_page(bundle["text/html"])
    assert reading.sources == [f"data:image/png;base64,{dashboards.PNG}"]
    text = "".join(reading.text)
    assert "rank\tstep\tloss\tlr" in text.replace("\t\t", "\t").strip()
    assert "8 of 100" in text
    assert "8/100" in text, "a bar as it was updated last"
    assert "An output of 7,340,032 bytes was left out" in text
    assert "gone" not in [line.strip() for line in text.splitlines()], "what a rank cleared is not shown"


def test_an_image_that_is_none_stays_out_of_the_page(tmp_path: Path) -> None:
    story = DashboardStory(tmp_path, ending="succeeded")
    story._output(1, "display", "y", {"image/png": 'x" onerror="alert(1)', "text/plain": "a figure"})
    page = html.bundle(story.snapshot, story.folder, now_ns=story.now_ns)["text/html"]
    assert "onerror=" not in page.replace("&quot;", "").split("a figure")[1]
    check_page(page)


def test_outputs_of_all_ranks_share_a_megabyte_and_the_rest_is_a_note(tmp_path: Path) -> None:
    story = DashboardStory(tmp_path, ending="succeeded")
    for rank in range(4):
        story._output(rank, "display", "z", {"image/png": "A" * 400_000, "text/plain": f"figure {rank}"})
    saved = html.bundle(story.snapshot, story.folder, now_ns=story.now_ns)[html.MIME]
    assert len(json.dumps(saved["outputs"])) < 1_050_000
    notes = {one["data"]["text/plain"]: one["note"] for one in saved["outputs"] if "figure" in str(one["data"])}
    assert [bool(notes[f"figure {rank}"]) for rank in range(4)] == [False, False, True, True]


def test_a_long_training_is_saved_thinned_out_with_its_last_report(tmp_path: Path) -> None:
    story = DashboardStory(tmp_path, ending="running")
    with open(story.folder.rank(1, 0).metrics, "a", encoding="ascii") as f:
        f.writelines(f'{{"time_ns": {2 * 10**18 + n}, "rank": 0, "step": {n}, "loss": NaN}}\n' for n in range(100_000))
    saved = html.bundle(story.snapshot, story.folder, now_ns=story.now_ns)[html.MIME]
    steps = [row["step"] for row in saved["metrics"] if row["rank"] == 0 and row["time_ns"] >= 2 * 10**18]
    assert 100 < len(saved["metrics"]) <= 2_000
    assert steps[-1] == 99_999
    assert steps == sorted(steps)
    json.dumps(saved, allow_nan=False)


def test_the_live_tail_stays_small_however_much_is_written(tmp_path: Path) -> None:
    def plot(story: Story) -> None:
        story.start()
        for rank in range(300):
            story.chunk(rank, "<&>'" * 1_000 + "\n" + "<&>\n" * 100)

    story = Story(tmp_path, ranks=300)
    story.renderer = SilentRenderer()
    plot(story)
    page = html.live_tail(story.snapshot, story.folder, now_ns=story.now_ns, has=lambda *_: True)
    check_page(page)
    assert len(page.encode()) < 20_000
