"""The JSON that kernel and page share: what this side makes is what the TypeScript tests read.

``GOLDEN=1 pytest tests/unit/test_dashboard_golden.py`` writes the files anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from nb_elastic.dashboard import messages
from nb_elastic.dashboard.cursor import Cursor
from nb_elastic.dashboard.live import LiveRun
from nb_elastic.render import html
from tests.support import dashboards, node_stories
from tests.support.dashboards import DashboardStory, fitted
from tests.support.node_stories import NodeStory

GOLDEN = Path(__file__).parents[2] / "labextension" / "core" / "golden"


def check(name: str, value: Any) -> None:
    """Compare with a golden file, or write it."""
    path = GOLDEN / f"{name}.json"
    if os.environ.get("GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value, indent=1) + "\n")
    assert value == json.loads(path.read_text())


@pytest.mark.parametrize("ending", ["running", "standing", "failed", "succeeded"])
def test_a_state(tmp_path: Path, ending: str) -> None:
    story = DashboardStory(tmp_path, ending=ending)
    snapshot = whole(messages.snapshot_json(story.snapshot), story)
    check(f"snapshot_{ending}", fitted(snapshot, story.folder.path))


@pytest.mark.parametrize("ending", ["failed", "succeeded"])
def test_what_is_saved(tmp_path: Path, ending: str) -> None:
    story = DashboardStory(tmp_path, ending=ending)
    saved = html.bundle(story.snapshot, story.folder, now_ns=story.now_ns)[html.MIME]
    whole(saved["snapshot"], story)
    check(f"saved_{ending}", fitted(saved, story.folder.path))


def test_what_a_view_is_sent(tmp_path: Path) -> None:
    story = DashboardStory(tmp_path)
    to = {"view": "v1", "run": dashboards.RUN_ID}
    hello = messages.hello(story.folder, now_ns=story.now_ns, can_stop=True)
    check("hello", fitted({**to, **hello}, story.folder.path))
    snapshot = whole(messages.snapshot_json(story.snapshot), story)
    state = {**to, "type": "state", "seq": 1, "snapshot": snapshot, "time_ns": story.now_ns}
    check("state", fitted(state, story.folder.path))
    run = LiveRun(story.folder)
    run.look()
    chunks, pieces = Cursor(run.files, {}).take()
    for chunk in chunks:
        if chunk["kind"] not in {"stdout", "stderr"}:
            chunk["time_ns"] = story.now_ns
    message = {**to, "type": "chunks", "seq": 2, "chunks": chunks, "time_ns": story.now_ns}
    check("chunks", dashboards.with_buffers(message, pieces))


def test_where_the_ranks_are(tmp_path: Path) -> None:
    report = dashboards.stack_report(cause="asked")
    check("stacks", json.loads(json.dumps({"type": "stacks", **messages.stacks(report)})))


def test_the_list_of_runs(tmp_path: Path) -> None:
    rows = []
    for n, ending in enumerate(("running", "failed", "succeeded")):
        story = DashboardStory(tmp_path, ending=ending, run_id=f"20231114-22132{n}-ab1{n}")
        row = messages.run_row(story.snapshot, story.folder, is_own=ending == "running", is_here=True)
        rows.append({**row, "dir": f"/home/ada/.local/state/nb_elastic/{row['run_id']}"})
    check("runs", {"type": "runs", "runs": rows})


def whole(snapshot: dict[str, Any], story: DashboardStory) -> dict[str, Any]:
    """The snapshot with the values of frames and the time of forming, whether or not the reducer knows of them yet."""
    formed = dashboards.formed(story.folder)
    values = {(f["file"], f["line"]): f["values"] for f in dashboards.FRAMES}
    for number in snapshot["rounds"]:
        number.setdefault("formed_ns", formed[number["number"]])
    for failure in [*snapshot["failures"], *(f for number in snapshot["rounds"] for f in number["failures"])]:
        for frame in failure["frames"]:
            frame.setdefault("values", values.get((frame["file"], frame["line"]), {}))
    return snapshot


@pytest.mark.parametrize("until", ["lost", "alone", "joined", "running", "failed"])
def test_a_state_of_nodes(tmp_path: Path, until: str) -> None:
    story = NodeStory(tmp_path)
    node_stories.changing(story, until=until)
    check(f"snapshot_nodes_{until}", fitted(messages.snapshot_json(story.snapshot), story.folder.path))


def test_what_is_saved_of_nodes(tmp_path: Path) -> None:
    story = NodeStory(tmp_path)
    node_stories.changing(story)
    saved = html.bundle(story.snapshot, story.folder, now_ns=story.now_ns)[html.MIME]
    check("saved_nodes", fitted(saved, story.folder.path))


def test_what_a_view_is_sent_of_nodes(tmp_path: Path) -> None:
    """Files of all nodes, each below its own; names and offsets as the page asks for them again."""
    story = NodeStory(tmp_path)
    node_stories.changing(story)
    run = LiveRun(story.folder)
    run.look()
    chunks, pieces = Cursor(run.files, {}).take()
    for chunk in chunks:
        if chunk["kind"] not in {"stdout", "stderr"}:
            chunk["time_ns"] = story.now_ns
    message = {"view": "v1", "type": "chunks", "seq": 2, "chunks": chunks, "time_ns": story.now_ns}
    check("chunks_nodes", dashboards.with_buffers({**message, "run": story.folder.run_id}, pieces))
