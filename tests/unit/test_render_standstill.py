"""What readers of text and of saved notebooks are told of hangs, held ranks, verdicts and ways to the end."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from nb_elastic import rundir
from nb_elastic.model import Frame, RunState, StackGroup, to_json
from nb_elastic.render import html
from nb_elastic.render.plain import PlainRenderer
from nb_elastic.render.terminal import TerminalRenderer
from tests.support.dashboards import HOSTILE, DashboardStory, stack_report
from tests.support.stories import SECOND, Story

ID = "20231114-221320-ab12"
HANG = f"""\
Nothing has moved for 60 s. {stack_report().headline}
  rank 2 (held, the odd one out): is held at its exception, Cell In[12], line 7
    its loader has <b>2</b> workers, both idle
  ranks 0-1, 3 (waiting): waits in all_reduce, Cell In[12], line 8
    all_reduce number 9 of the default group
  `%elastic debug` looks at rank 2.
"""
HELD = f"""\
Rank 2 is held at its exception: `nb-elastic debug {ID}` opens pdb there, `nb-elastic eval {ID} EXPR` looks, \
`nb-elastic stop {ID}` ends the run.
  rank 2: ValueError: no, Cell In[12], line 7
"""


def plain(story: Story, out: io.StringIO) -> PlainRenderer:
    return PlainRenderer(
        out=out, err=out, own=out, folder=story.folder, clock=story.clock, now_ns=story.wall_ns, has_report=True
    )


def terminal(story: Story, out: io.StringIO) -> TerminalRenderer:
    console = Console(file=out, force_terminal=True, color_system=None, width=200, height=40)
    return TerminalRenderer(story.folder, console=console, clock=story.clock, now_ns=story.wall_ns, has_report=True)


def hold(story: Story, rank: int, *, why: str = "failure", text: str = "ValueError: no, Cell In[12], line 7") -> None:
    """A rank is held."""
    story.tell("worker_held", round=0, rank=rank, local_rank=rank, why=why, text=text)


def page(story: Story) -> str:
    """The saved HTML of a story."""
    return str(html.bundle(story.snapshot, story.folder, now_ns=story.now_ns)["text/html"])


@pytest.mark.parametrize("renderer", [plain, terminal])
def test_a_hang_and_a_held_rank_are_told_once_and_when_they_are_over(
    tmp_path: Path, renderer: Callable[[Story, io.StringIO], PlainRenderer | TerminalRenderer]
) -> None:
    story, out = Story(tmp_path), io.StringIO()
    story.renderer = renderer(story, out)
    story.start()
    hold(story, 2)
    report = to_json(stack_report(story.now_ns))
    story.tell("hang_found", round=0, report=report)
    story.tell("note", level="info", text="something else")
    story.tell("hang_over", round=0)
    story.tell("hang_found", round=0, report={**report, "time_ns": story.now_ns + SECOND})
    story.tell("worker_released", round=0, rank=2, local_rank=2)
    hold(story, 2)
    story.end([0, 1, 2, 3])
    story.finish()
    text = out.getvalue()
    assert text.count(HELD) == 2
    assert text.count(HANG) == 2
    assert text.count("The ranks move again.") == 1
    assert text.index(HELD) < text.index(HANG) < text.index("The ranks move again.")


def test_of_some_ranks_that_stand_still_it_is_told_which_and_that_others_move(tmp_path: Path) -> None:
    story, out = Story(tmp_path), io.StringIO()
    story.renderer = plain(story, out)
    story.start()
    odd, rest = stack_report(story.now_ns, cause="stall").groups
    report = replace(stack_report(story.now_ns, cause="stall"), groups=(odd, replace(rest, is_still=True)))
    story.tell("stall_found", round=0, report=to_json(report))
    assert "<b>Ranks 0-1, 3 have not moved for 60 s, others have</b>" in page(story)
    alone = replace(report, groups=(replace(odd, is_still=True), rest), time_ns=story.now_ns + SECOND)
    story.tell("stall_found", round=0, report=to_json(alone))
    story.tell("hang_over", round=0)
    story.finish()
    told = out.getvalue()
    assert "Ranks 0-1, 3 have not moved for 60 s, others have. Ranks 0, 1, 3 wait" in told
    assert "Rank 2 has not moved for 60 s, others have." in told
    assert told.count("The ranks move again.") == 1
    assert "not move" not in page(story)


def test_what_stood_still_at_the_end_is_told_of_a_run_that_was_stopped_and_not_of_one_that_succeeded(
    tmp_path: Path,
) -> None:
    for state in ("stopped", "succeeded"):
        story = Story(tmp_path / state)
        story.start()
        odd, rest = stack_report(story.now_ns, cause="stall").groups
        report = replace(stack_report(story.now_ns, cause="stall"), groups=(replace(odd, is_still=True), rest))
        story.tell("stall_found", round=0, report=to_json(report))
        story.finish(state)
        assert ("Rank 2 did not move for 60" in page(story)) is (state == "stopped")


def test_a_breakpoint_of_an_attended_run_asks_for_itself_and_one_of_a_detached_run_is_told(tmp_path: Path) -> None:
    texts = []
    for is_detached in (False, True):
        story, out = Story(tmp_path / str(is_detached), is_detached=is_detached), io.StringIO()
        story.renderer = plain(story, out)
        story.start()
        hold(story, 1, why="breakpoint", text="Cell In[12], line 3")
        texts.append(out.getvalue())
        story.finish("stopped")
    assert "at a breakpoint" not in texts[0]
    assert (
        f"Rank 1 is at a breakpoint: `nb-elastic debug {ID}` goes on from there.\n  rank 1: Cell In[12], line 3\n"
        in texts[1]
    )


def test_the_time_without_a_sign_of_life_is_the_runs_own(tmp_path: Path) -> None:
    story, out = Story(tmp_path), io.StringIO()
    rundir.write_json(story.folder.run_json, {"options": {"hang_after": 2.5}})
    story.renderer = plain(story, out)
    story.start()
    story.tell("hang_found", round=0, report=to_json(stack_report(story.now_ns)))
    assert "Nothing has moved for 2.5 s. Ranks 0, 1, 3 wait" in out.getvalue()
    story.finish()


def test_the_saved_page_tells_hang_and_held_ranks_with_stacks_that_unfold(tmp_path: Path) -> None:
    story = DashboardStory(tmp_path, ending="standing")
    text = page(story)
    assert "Nothing has moved for 60 s" in text
    assert "rank 2 (held, the odd one out): is held at its exception" in text
    assert "<li>its loader has &lt;b&gt;2&lt;/b&gt; workers, both idle</li>" in text
    assert "assert labels.max() &lt; 10" in text
    assert '<code style="' in text and f"debug {story.folder.run_id}</code> opens pdb there" in text
    assert text.index("is held at its exception:") < text.index("Nothing has moved")
    story.now_ns += 60 * SECOND
    done = replace(story.snapshot, state=RunState.STOPPED, finished_ns=story.now_ns)
    text = str(html.bundle(done, story.folder, now_ns=story.now_ns)["text/html"])
    assert "Nothing moved for 2 min 00 s before the end" in text
    assert "opens pdb there" not in text


def test_the_verdict_of_a_run_and_its_reasons_stand_in_the_saved_page_once(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.start()
    reasons = ["The cgroup counted 1 OOM kill.", "Rank 2 was at 61 GiB of 64."]
    story.fail(2, signal="SIGKILL", exit_code=-9, category="out of host memory", reasons=reasons)
    story.fail(1, error_type="RuntimeError", message="closed by peer", followed="its peer died", category="lost a peer")
    story.finish("failed", root_rank=2, text="rank 2 failed", category="out of host memory", reasons=reasons)
    text = page(story)
    assert ">out of host memory</span>" in text
    assert [text.count(r) for r in reasons] == [1, 1]
    assert ">lost a peer</span>" not in text


def test_a_run_that_failed_without_a_failed_rank_has_its_verdict_too(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.start()
    story.end([0, 1, 2, 3], state="ended", signal="SIGTERM")
    reason = "The run lasted longer than `--timeout 40`."
    story.finish("failed", text="the time was up", category="timeout", reasons=[reason, HOSTILE])
    text = page(story)
    assert ">timeout</span>" in text
    assert text.count("The run lasted longer than") == 1
    assert "<script>" not in text and "\u202e" not in text


def test_how_ranks_were_stopped_is_folded_in_the_head_and_told_of_each(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.start()
    story.tell("stop_requested", by="dashboard", grace_s=5)
    for rank in range(4):
        how = "killed after 5 s" if rank == 3 else "saved and left by itself"
        at = {"round": 0, "rank": rank, "local_rank": rank}
        story.tell("worker_exited", **at, exit_code=0, signal="", state="stopped", how=how)
    story.finish("stopped", text="stopped by dashboard")
    text = page(story)
    assert "stopped by dashboard" in text
    assert "3 saved and left by themselves, 1 killed after 5 s" in text
    assert (text.count(">saved and left by itself</td>"), text.count(">killed after 5 s</td>")) == (3, 1)


def test_a_lost_run_tells_why_and_what_to_do(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.start()
    story.tell("run_lost", text="the supervisor (pid 4) vanished; 2 ranks may still run: `%elastic reap`")
    text = page(story)
    assert "the supervisor (pid 4) vanished; 2 ranks may still run: <code" in text
    assert ">%elastic reap</code>" in text


def test_a_hang_of_thousands_of_ranks_keeps_the_saved_page_small(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.start()
    frame = Frame(file="/x" * 200, line=1, name="f", text="<" * 10_000)
    groups = tuple(
        StackGroup(ranks=tuple(range(n, 50_000, 500)), state="busy", doing="<" * 500, frames=(frame,) * 100)
        for n in range(200)
    )
    report = replace(stack_report(story.now_ns), groups=groups)
    story.tell("hang_found", round=0, report=to_json(report))
    snapshot = replace(story.snapshot, hang=report)
    bundle = html.bundle(snapshot, story.folder, now_ns=story.now_ns)
    assert len(bundle["text/html"].encode()) < html.LIMIT_BYTES
    assert len(json.dumps(bundle[html.MIME], ensure_ascii=False).encode()) < html.LIMIT_BYTES
    tail = html.live_tail(snapshot, story.folder, now_ns=story.now_ns, has=lambda _rank, _stream: True)
    assert len(tail.encode()) < 100_000
    story._journal.close()
