"""The words of a run: that a failure names its cause, shows its evidence, and says what to do next."""

from __future__ import annotations

from pathlib import Path

import pytest

from nb_elastic import report_failure, report_text, report_words
from nb_elastic.render.base import SilentRenderer
from nb_elastic.snapshot import EMPTY
from tests.support.stories import Story


def story_of(folder: Path, **created: object) -> Story:
    """A started story that nobody draws."""
    story = Story(folder, run_id="r", **created)  # type: ignore[arg-type]
    story.renderer = SilentRenderer()
    story.start()
    return story


def test_a_death_by_signal_shows_the_last_words_on_stderr(tmp_path: Path) -> None:
    story = story_of(tmp_path, ranks=2)
    story.chunk(1, "out\n")
    story.chunk(1, "".join(f"native frame {n}\n" for n in range(30)) + "Fatal \x1b[31merror\x1b[2J", "stderr")
    story.fail(1, signal="SIGSEGV", exit_code=-11, message="killed by SIGSEGV")
    story.end([0], state="ended", signal="SIGTERM")
    story.finish("failed")
    lines = report_failure.failure_text(story.snapshot, folder=story.folder).split("\n")
    assert lines[0] == "Run r failed: rank 1 failed first (killed by SIGSEGV)"
    assert lines[2:5] == ["The last lines of its stderr:", "  native frame 11", "  native frame 12"]
    assert lines[21:] == [
        "  native frame 29",
        "  Fatal error",
        "",
        "Others:",
        "  rank 0: ended by the agent (SIGTERM)",
        "",
        f"Logs: {story.folder.path}",
        (
            "Next: `nb-elastic logs r --rank 1 --stream stderr` prints all that rank 1 wrote to stderr; "
            "`nb-elastic show r` shows the run again."
        ),
    ]


def test_the_root_cause_shows_what_the_notebook_s_variables_were(tmp_path: Path) -> None:
    """Innermost frame first, a few lines, and harmless whatever the rank wrote."""
    story = story_of(tmp_path, ranks=2)
    frames = [
        {"file": "Cell In[3]", "line": 9, "name": "<module>", "values": {f"v{n}": str(n) for n in range(20)}},
        {"file": "Cell In[2]", "line": 4, "name": "f", "values": {"x": "\x1b[2J1\n2", "y": "Tensor(shape=(2,))"}},
        {"file": "/lib/torch/x.py", "line": 1, "name": "g", "values": "nonsense"},
    ]
    story.fail(1, error_type="ValueError", message="no", traceback="Traceback\nValueError: no", frames=frames)
    story.fail(0, error_type="KeyError", message="k", traceback="T", frames=frames)
    story.finish("failed")
    lines = report_failure.failure_text(story.snapshot, folder=story.folder).split("\n")
    start = lines.index("ValueError: no") + 1
    assert lines[start : start + 5] == [
        "",
        "Values in Cell In[2], line 4:",
        "  x = 1",
        "  y = Tensor(shape=(2,))",
        "Values in Cell In[3], line 9:",
    ]
    assert lines[start + 5 : start + 15] == [*(f"  v{n} = {n}" for n in range(8)), "", "Others:"]
    assert sum(line.startswith("Values") for line in lines) == 2


def test_a_silent_death_shows_stdout_and_without_that_says_so(tmp_path: Path) -> None:
    story = story_of(tmp_path, ranks=1)
    story.fail(0, exit_code=3)
    story.finish("failed")
    assert "It left no traceback and wrote nothing (failed (exit code 3))." in report_failure.failure_text(
        story.snapshot, folder=story.folder
    )
    story.chunk(0, "last print\n")
    text = report_failure.failure_text(story.snapshot, folder=story.folder)
    assert "The last lines of its stdout:\n  last print\n" in text
    assert text.startswith("Run r failed: rank 0 failed first (exit code 3)\n")


def test_the_whole_traceback_comes_from_the_file_where_the_journal_was_cut(tmp_path: Path) -> None:
    story = story_of(tmp_path, ranks=1)
    story.leave_failure(0, "Traceback (most recent call last):\n" + "  frame\n" * 1_000 + "ValueError: no\n")
    story.fail(0, error_type="ValueError", message="no", traceback="Traceback\n[... cut ...]\nValueError: no")
    story.finish("failed")
    lines = report_failure.failure_text(story.snapshot, folder=story.folder).split("\n")
    assert lines[2:4] == ["Traceback (most recent call last):", "  frame"]
    assert "[... 802 lines cut ...]" in lines
    assert "ValueError: no" in lines


def test_a_run_that_failed_before_any_rank_says_why_and_where_to_look(tmp_path: Path) -> None:
    story = Story(tmp_path, run_id="r")
    story.renderer = SilentRenderer()
    story.tell("run_created", run_id="r")
    story.finish("failed", text="Could not start: no space left on device")
    assert report_failure.failure_text(story.snapshot, folder=story.folder) == (
        "Run r failed: Could not start: no space left on device\n\n"
        f"Logs: {story.folder.path}\n"
        f"Next: read {story.folder.supervisor_log}; `nb-elastic doctor` checks this machine."
    )


def test_a_run_whose_time_was_up_says_so_even_if_a_rank_failed_then(tmp_path: Path) -> None:
    story = story_of(tmp_path, ranks=1)
    story.fail(0, error_type="OSError", message="disk full", followed="raised while it was being ended")
    text = "timeout: the time was up after 8 s; raise --timeout to let the run take longer.\nWhere the ranks were:"
    story.finish("failed", text=text)
    lines = report_failure.failure_text(story.snapshot, folder=story.folder).split("\n")
    assert lines == [
        "Run r failed: timeout: the time was up after 8 s; raise --timeout to let the run take longer.",
        "Where the ranks were:",
        "",
        f"Logs: {story.folder.path}",
        "Next: `nb-elastic logs r --rank 0` prints all that rank 0 wrote.",
    ]


def test_many_ranks_with_the_same_fate_share_a_line(tmp_path: Path) -> None:
    story = story_of(tmp_path, ranks=64)
    story.fail(7, error_type="ValueError", message="x", traceback="T")
    story.end([r for r in range(64) if r not in {7, 20}], state="ended", signal="SIGTERM")
    story.end([20])
    story.finish("failed")
    text = report_failure.failure_text(story.snapshot, folder=story.folder)
    assert "Others:\n  ranks 0-6, 8-19, 21-63: ended by the agent (SIGTERM)\n  rank 20: succeeded\n" in text


def test_the_attempts_before_the_last_are_told(tmp_path: Path) -> None:
    story = story_of(tmp_path, ranks=1, max_restarts=1)
    story.fail(0, error_type="KeyError", message="'x'", traceback="T")
    story.form()
    story.fail(0, error_type="ValueError", message="y", traceback="T")
    story.finish("failed")
    text = report_failure.failure_text(story.snapshot, folder=story.folder)
    assert text.startswith("Run r failed: rank 0 failed first in round 1, attempt 2 of 2 (ValueError: y)\n")
    assert "Earlier rounds:\n  round 0: rank 0 failed first (KeyError: 'x')\n" in text


def test_a_stop_tells_by_whom_and_what_became_of_each_rank(tmp_path: Path) -> None:
    story = story_of(tmp_path, ranks=2)
    story.tell("stop_requested", by="interrupt", grace_s=5.0)
    story.end([0])
    story.end([1], state="stopped", signal="SIGINT")
    story.finish("stopped")
    text = report_failure.stopped_text(story.snapshot, folder=story.folder)
    assert text.split("\n") == [
        "Run r was stopped by interrupt after 0.1 s.",
        "  rank 0: succeeded",
        "  rank 1: stopped (SIGINT)",
        f"Logs, and results of ranks that had finished, are kept: {story.folder.path}",
    ]


def test_a_result_that_was_not_kept_is_told(tmp_path: Path) -> None:
    story = story_of(tmp_path, ranks=2)
    told = {"text": "<lock>", "size_bytes": 0, "error": "result -> _lock (_thread.lock)"}
    story.tell("worker_exited", round=0, rank=0, local_rank=0, exit_code=0, result=told)
    story.end([1], result="None")
    story.finish()
    assert report_text.result_lines(story.snapshot) == [
        "Results:",
        "  rank 0: its result was not kept: result -> _lock (_thread.lock)",
        "  rank 1: None",
    ]


def test_status_tells_a_live_run_as_one(tmp_path: Path) -> None:
    story = story_of(tmp_path, ranks=2, name="net")
    lines = report_text.status_lines(story.snapshot, folder=story.folder, now_ns=story.now_ns)
    assert lines[0] == f"Run r 'net': 2 ranks; logs in {story.folder.path}"
    assert lines[1].split() == ["rank", "state", "pid", "device", "cpus", "binding", "time"]
    assert lines[-1] == "Run r is running (0.1 s); it goes on. `nb-elastic attach r` follows it again."


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3_599, "59 min 59 s"),
        (7_380, "2 h 03 min"),
    ],
)
def test_times_read_as_people_say_them(seconds: float, text: str) -> None:
    assert report_words.elapsed_text(seconds) == text


@pytest.mark.parametrize(
    ("ranks", "text"), [([2], "rank 2"), ([3, 0, 1], "ranks 0-1, 3"), ([0, 2], "ranks 0, 2"), (range(64), "ranks 0-63")]
)
def test_ranks_are_named_shortly(ranks: list[int], text: str) -> None:
    assert report_words.ranks_text(ranks) == text


def test_nothing_is_told_of_nothing() -> None:
    assert report_failure.failure_text(EMPTY) == "Run  failed: no rank said why."
    assert report_text.status_lines(EMPTY, folder=None, now_ns=0)[-1].startswith("Run  is created (0.0 s)")


def test_the_verdict_is_told_with_its_evidence(tmp_path: Path) -> None:
    """Without it a reader of ``exit code -9`` looks for a bug where only memory was short."""
    story = story_of(tmp_path, ranks=2)
    reasons = ["The kernel counted 1 OOM kill.", *(f"reason {n}" for n in range(6))]
    story.fail(1, signal="SIGKILL", message="killed by the OOM killer", category="out of host memory", reasons=reasons)
    story.finish("failed")
    lines = report_failure.failure_text(story.snapshot, folder=story.folder).split("\n")
    assert lines[0] == "Run r failed: rank 1 failed first: out of host memory: killed by the OOM killer"
    assert lines[1:4] == ["", "Why:", "  - The kernel counted 1 OOM kill."]
    assert lines[7:9] == ["  - reason 3", "  - and 2 more"]


def test_a_programs_own_exception_needs_no_verdict_beside_it(tmp_path: Path) -> None:
    story = story_of(tmp_path, ranks=1)
    told = {"category": "user error", "reasons": ["It raised ValueError."]}
    story.fail(0, error_type="ValueError", message="no", traceback="Traceback\nValueError: no", **told)
    story.finish("failed")
    report = report_failure.failure_text(story.snapshot, folder=story.folder)
    assert report.startswith("Run r failed: rank 0 failed first (ValueError: no)\n\nTraceback\n")
    assert "Why:" not in report


def test_a_verdict_says_nothing_twice() -> None:
    assert report_words.verdict_words("timeout", "timeout: the time was up") == "timeout: the time was up"
    assert report_words.verdict_words("crashed in native code", "native crash: it is (SIGSEGV)") == (
        "crashed in native code: it is (SIGSEGV)"
    )
    assert report_words.verdict_words("", "exit code 3") == "exit code 3"
