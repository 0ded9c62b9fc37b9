"""Runs of several nodes in text, HTML and on a terminal: where a rank was, and that a machine went, in words."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from nb_elastic import cli, report_failure, report_nodes, report_text, rundir, stacks, stacks_nodes
from nb_elastic.cli_logs import LogPrinter, Wanted
from nb_elastic.errors import ElasticError
from nb_elastic.model import RunState, WorkerFailure
from nb_elastic.render import html
from nb_elastic.render.plain import PlainRenderer
from nb_elastic.render.terminal import TerminalRenderer
from nb_elastic.run import Run
from nb_elastic.snapshot import RunSnapshot
from tests.support import node_stories
from tests.support.node_stories import NodeStory
from tests.unit.test_render_html import check_page

GOLDEN = Path(__file__).parent / "golden"


def check_golden(name: str, text: str, folder: Path) -> None:
    """Compare with the golden file; GOLDEN=1 in the environment writes it anew."""
    text = "".join(f"{line.rstrip()}\n" for line in text.replace(str(folder), "ROOT").splitlines())
    if os.environ.get("GOLDEN"):
        (GOLDEN / name).write_text(text)
    assert text == (GOLDEN / name).read_text()


def test_a_node_that_goes_and_one_that_comes_are_told_as_they_happen(tmp_path: Path) -> None:
    out = io.StringIO()
    story = NodeStory(tmp_path)
    faces = {"clock": story.clock, "now_ns": story.wall_ns}
    story.renderer = PlainRenderer(out=out, err=out, own=out, folder=story.folder, has_report=True, **faces)
    node_stories.changing(story)
    check_golden("plain_nodes.txt", out.getvalue(), tmp_path)


@pytest.mark.parametrize("until", ["lost", "joined", "failed", "succeeded"])
def test_show_tells_the_nodes_before_the_ranks(tmp_path: Path, until: str) -> None:
    story = NodeStory(tmp_path)
    node_stories.changing(story, until=until)
    lines = report_text.status_lines(story.snapshot, folder=story.folder, now_ns=story.now_ns)
    check_golden(f"show_nodes_{until}.txt", "\n".join(lines), tmp_path)


def test_a_run_that_lost_too_many_nodes_names_them_and_not_a_rank(tmp_path: Path) -> None:
    story = NodeStory(tmp_path, min_nodes=2, max_nodes=2)
    node_stories.too_few(story)
    text = report_failure.failure_text(story.snapshot, folder=story.folder)
    check_golden("failure_nodes.txt", text, tmp_path)
    summary = report_text.summary_lines(story.snapshot, folder=None, now_ns=story.now_ns, has_report=False)
    assert summary == [f"Failed after 11 s: {story.snapshot.text}"]


def test_a_rank_that_lost_its_peer_on_another_node_is_told_as_a_follower() -> None:
    cause = WorkerFailure(
        rank=3, local_rank=1, round=0, time_ns=10, node=1, error_type="KeyError", message="3", category="user error"
    )
    peer = WorkerFailure(
        rank=0, local_rank=0, round=0, time_ns=60_000_010, node=0, error_type="RuntimeError", message="Connection closed by peer",
        category="lost a peer",
    )  # fmt: skip
    snapshot = RunSnapshot(run_id="r", state=RunState.FAILED, max_nodes=2, failures=(cause, peer), root_rank=3)
    followed = "followed: RuntimeError: Connection closed by peer (lost its connection after rank 3 failed)"
    assert followed in report_failure.failure_text(snapshot, folder=None)


def test_a_rank_is_named_with_node_local_rank_and_host_and_plainly_on_one_machine(tmp_path: Path) -> None:
    story = NodeStory(tmp_path)
    node_stories.changing(story, until="failed")
    words = "rank 3 (node 2, local rank 1, host curie)"
    assert report_nodes.rank_text(story.snapshot, story.snapshot.failures[0]) == words
    summary = report_text.summary_lines(story.snapshot, folder=None, now_ns=story.now_ns, has_report=False)
    assert summary == [f"Failed after 17 s: {words} failed first (ValueError: label 11)."]


def test_the_saved_page_has_a_table_of_nodes(tmp_path: Path) -> None:
    story = NodeStory(tmp_path)
    node_stories.changing(story)
    reading = check_page(html.bundle(story.snapshot, story.folder, now_ns=story.now_ns)["text/html"])
    text = "".join(f"{line.rstrip()}\n" for line in "".join(reading.text).splitlines() if line.strip())
    check_golden("html_nodes.txt", text, tmp_path)


@pytest.mark.parametrize(("width", "height"), [(60, 20), (120, 24)])
def test_dozens_of_nodes_fit_a_terminal_and_the_lost_one_is_in_view(tmp_path: Path, width: int, height: int) -> None:
    story = NodeStory(tmp_path, max_nodes=64)
    screen = Console(record=True, width=width, height=height, file=io.StringIO(), highlight=False)
    story.renderer = TerminalRenderer(story.folder, console=screen, clock=story.clock, now_ns=story.wall_ns)
    story.tell("run_created", run_id=story.folder.run_id, nproc=2, max_nodes=64)
    for node in range(64):
        story.tell("node_joined", node=node, host=f"gpu-{node:03}", nproc=2)
    story.form_on(*range(64))
    story.lose(50)
    drawn = Console(record=True, width=width, height=height, file=io.StringIO(), highlight=False)
    drawn.print(story.renderer.view(width=width, height=height))
    lines = drawn.export_text().splitlines()
    assert len(lines) <= height // 2 + 3
    assert max(map(len, lines)) <= width
    assert [line.split()[-2:] for line in lines if line.startswith("50")][0] in (
        ["2", "failed"],
        ["for", "8"],
        ["8", "s"],
    )
    assert lines[-1].endswith("2 running")
    story.finish()


def test_logs_results_metrics_and_outputs_are_found_below_their_nodes(tmp_path: Path) -> None:
    story = NodeStory(tmp_path)
    node_stories.changing(story)
    run = Run(story.folder)
    assert run.logs(3) == "step 4 on curie\nstep 5 on curie\nstep 6 on curie\n"
    assert {(row["round"], row["rank"], row["step"]) for row in run.metrics if row["rank"] == 2} == {
        (0, 2, 1), (0, 2, 2), (0, 2, 3), (2, 2, 4), (2, 2, 5), (2, 2, 6),
    }  # fmt: skip
    assert [(node, number, local) for node, number, local, _ in story.folder.ranks()] == [
        (0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (0, 2, 0), (0, 2, 1), (1, 0, 0), (1, 0, 1), (2, 2, 0), (2, 2, 1),
    ]  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with the run of three nodes."""
    monkeypatch.setenv("NB_ELASTIC_HOME", str(tmp_path))
    tmp_path.chmod(0o700)
    node_stories.changing(NodeStory(tmp_path))
    return tmp_path


def test_logs_of_one_node(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["logs", "--node", "1"]) == 0
    assert capsys.readouterr().out == "--- round 0 ---\n" + "".join(
        f"[rank {rank}] step {step} on babbage\n" for rank in (2, 3) for step in (1, 2, 3)
    )


def test_logs_of_a_node_that_never_was(home: Path) -> None:
    printer = LogPrinter(rundir.find(), Wanted(node=9))
    with pytest.raises(ElasticError, match="had no rank on node 9; nodes with ranks were: 0, 1, 2"):
        printer.print_existing()


def test_runs_tells_on_how_many_nodes_a_run_is(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs"]) == 0
    assert "succeeded  4 on 2 nodes" in capsys.readouterr().out


def test_ranks_of_other_machines_are_not_called_gone_because_their_pids_are_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = NodeStory(tmp_path)
    node_stories.changing(story, until="lost")
    (tmp_path / story.folder.run_id / "supervisor.log").touch()
    monkeypatch.setattr(stacks_nodes, "GIVE_UP_S", 0.05)
    gone, silent = sorted(stacks.report(story.folder).groups, key=lambda g: g.state)
    assert (gone.ranks, gone.doing) == ((2, 3), "is gone (its node was lost)")
    assert (silent.ranks, silent.doing) == ((0, 1), "is on node 0 (ada), which does not answer")
