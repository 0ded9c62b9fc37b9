"""Following a run: what is new is seen at once and in order, one that is lost is told so, one elsewhere is left alone."""

from __future__ import annotations

import gc
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping

import pytest

from nb_elastic import events, follower, rundir, snapshot, wakes
from nb_elastic.engines.seat import Channel
from nb_elastic.errors import OptionError
from nb_elastic.follower import BATCH_S, Follower
from nb_elastic.run import attach
from nb_elastic.rundir import Journal, RunDir
from tests.support.until import until

MINUTE_NS = 60 * 10**9


def made(*told: events.Event) -> RunDir:
    run = rundir.create()
    rundir.write_json(run.run_json, {})
    journal = Journal(run.journal)
    for event in told:
        journal.append(event)
    journal.close()
    return run


def created(*, age_ns: int = 0) -> events.Event:
    return events.make(
        "run_created",
        time_ns=time.time_ns() - age_ns,
        run_id="r",
        nproc=1,
        min_nodes=1,
        max_nodes=1,
        max_restarts=0,
        entry="x",
    )


def kinds(run: RunDir) -> list[str]:
    return [json.loads(line)["event"] for line in run.journal.read_text().splitlines()]


def test_a_run_of_another_machine_on_a_shared_home_is_not_declared_dead():
    run = made(created(), events.make("supervisor_started", pid=2**22 - 1, start_ticks=1, host="some-other-machine"))
    assert attach(run.run_id).wait(1.5).value == "starting"
    assert kinds(run) == ["run_created", "supervisor_started"]


def test_a_run_whose_supervisor_is_gone_ends_as_lost_with_a_reason_on_disk():
    import socket

    run = made(created(), events.make("supervisor_started", pid=2**22 - 1, start_ticks=1, host=socket.gethostname()))
    assert attach(run.run_id).wait(30).value == "lost"
    assert kinds(run)[-1] == "run_lost"
    assert "without a last word" in snapshot.load(run).text


def test_a_run_whose_supervisor_never_reported_does_not_hang_its_follower():
    run = made(created(age_ns=10 * MINUTE_NS))
    assert attach(run.run_id).wait(30).value == "lost"


@pytest.mark.parametrize("grace_s", [math.nan, math.inf, -1.0])
def test_a_grace_that_is_no_time_is_refused(grace_s: float):
    run = made(created())
    with pytest.raises(OptionError, match="grace"):
        attach(run.run_id).stop(grace_s)
    assert not run.stop_json.exists()


def test_a_stop_before_the_supervisor_reported_is_written_down_for_it():
    run = made(created())
    attach(run.run_id).stop(2.0, by="test")
    assert rundir.read_json(run.stop_json) == {"grace_s": 2.0, "by": "test"}


# -- the pace of the logs: the clock stands still unless a test moves it ------------------------------------------


class Followed:
    """A live run of made-up ranks, and one who follows it by a clock of the test's own."""

    def __init__(self, *, ranks: int = 2, channel: Channel | None = None) -> None:
        self.run = made(created(), events.make("supervisor_started", pid=os.getpid(), start_ticks=0, host="elsewhere"))
        self.now_s = 1000.0
        self.journal = Journal(self.run.journal)
        self.follower = Follower(self.run, channel=channel, clock=lambda: self.now_s)
        for rank in range(ranks):
            self.tell("worker_started", round=0, rank=rank, local_rank=rank, pid=os.getpid(), start_ticks=0)
            self.run.rank(0, rank).path.mkdir(parents=True)
        self.follower.pause()
        self.look()

    def tell(self, kind: str, **data: object) -> None:
        """Something happens in the run."""
        self.journal.append(events.make(kind, **data))

    def write(self, rank: int, text: str) -> None:
        """A rank prints."""
        with self.run.rank(0, rank).stdout.open("a") as log:
            log.write(text)

    def look(self) -> list[tuple[int, str]]:
        """What one look brings."""
        self.follower.look()
        return [(c.rank, c.data.decode()) for c in self.follower.logs()]


@pytest.fixture
def live():
    one = Followed()
    yield one
    one.follower.close()
    one.journal.close()


def test_first_bytes_of_each_rank_come_at_once_and_later_ones_in_batches(live: Followed):
    live.write(0, "first of 0\n")
    assert live.look() == [(0, "first of 0\n")]
    live.write(0, "second of 0\n")
    live.write(1, "first of 1\n")
    assert live.look() == [(1, "first of 1\n")]
    live.write(0, "third of 0\n")
    live.write(1, "second of 1\n")
    assert live.look() == []
    live.now_s += BATCH_S + 0.001
    assert live.look() == [(0, "second of 0\nthird of 0\n"), (1, "second of 1\n")]


def test_a_first_line_that_comes_in_two_writes_is_read_at_once_to_its_end(live: Followed):
    """As print writes it: the text, then the line's end. Half a line is seen by nobody."""
    live.write(0, "first of 0")
    assert live.look() == [(0, "first of 0")]
    live.write(0, "\n")
    assert live.look() == [(0, "\n")]
    live.write(0, "second\n")
    assert live.look() == []


def test_a_first_line_without_an_end_is_not_waited_for_long(live: Followed):
    live.write(0, "." * 3_000)
    assert live.look()
    live.write(0, "." * 3_000)
    assert live.look()
    live.write(0, ".")
    assert live.look() == []


def test_a_line_after_a_silence_comes_at_once(live: Followed):
    live.write(0, "a\n")
    live.look()
    live.now_s += 10
    assert live.look() == []
    live.write(0, "b\n")
    assert live.look() == [(0, "b\n")]


def test_news_of_a_rank_comes_with_all_that_was_written_before_it(live: Followed):
    live.write(0, "a\n")
    live.look()
    live.write(0, "last words\n")
    live.tell("worker_exited", round=0, rank=0, local_rank=0, exit_code=1, state="failed")
    assert live.look() == [(0, "last words\n")]


def test_the_end_of_a_run_is_read_without_a_pause(live: Followed):
    live.write(0, "a\n")
    live.look()
    live.tell("run_finished", state="succeeded")
    live.write(0, "x" * (3 << 20))
    assert [len(text) for _, text in (*live.look(), *live.look(), *live.look())] == [1 << 20] * 3
    assert live.look() == []
    live.follower.pause()  # would hang if it waited: the clock stands still


def test_far_behind_half_of_the_time_is_left_to_the_kernel(live: Followed):
    live.write(0, "a\n")
    live.look()
    live.now_s += 1
    live.write(0, "x" * (3 << 20))
    assert sum(len(text) for _, text in live.look()) == 1 << 20
    assert sum(len(text) for _, text in live.look()) == 1 << 20  # by this clock the first look took no time at all


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify is Linux's")
def test_what_a_rank_writes_ends_the_pause(live: Followed, monkeypatch: pytest.MonkeyPatch):
    """With ticks of a minute only a lost wake reaches the bound."""
    for name in ("TICK_S", "LONG_TICK_S", "SHORT_TICK_S"):
        monkeypatch.setattr(follower, name, 60.0)
    began = time.monotonic()
    acts = [
        lambda: live.write(0, "fir"),
        lambda: live.write(0, "st\n"),
        lambda: live.write(0, "more\n"),
        lambda: live.write(1, "first\n"),
        lambda: live.tell("note", level="info", text="news"),
    ]
    for act in acts:
        live.now_s += 1
        while live.look():
            live.now_s += 1
        thread = threading.Thread(target=act)
        thread.start()
        live.follower.pause()
        thread.join()
    assert time.monotonic() - began < 30


def test_without_inotify_the_folder_is_looked_at_by_the_clock(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wakes, "_open_inotify", lambda: (None, -1))
    live = Followed()
    live.write(0, "seen all the same\n")
    for _ in range(3):
        live.follower.pause()
    assert live.look() == [(0, "seen all the same\n")]
    live.follower.close()
    live.journal.close()


def test_without_a_descriptor_left_a_run_is_followed_all_the_same():
    """In a process of its own, whose limit is lowered: an attached run would be stopped for want of a pipe to wait on."""
    run = made(created())
    code = (
        "import os, resource, sys, time\nfrom nb_elastic.run import attach\nrun = attach(sys.argv[1])\nrun.wait(0)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir('/proc/self/fd')) - 1, 4096))\n"
        "began = time.monotonic()\nprint(run.wait(0.3).value, time.monotonic() - began >= 0.3)"
    )
    done = subprocess.run([sys.executable, "-c", code, run.run_id], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("created True\n", "")


def test_hundreds_of_runs_leave_no_descriptor_behind():
    def descriptors() -> int:
        return len(os.listdir("/dev/fd"))

    runs = [made(created(age_ns=10 * MINUTE_NS)) for _ in range(100)]
    gc.collect()
    before = descriptors()
    for run in runs:
        assert attach(run.run_id).wait(30).value == "lost"
    for run in runs[:50]:  # one that is only waited for a moment, and then forgotten
        run.journal.unlink()
        attach(run.run_id).wait(0.001)
    gc.collect()
    assert descriptors() <= before  # earlier tests' may close meanwhile


class _Child:
    """A channel to a real process that says one line and dies when it is told to."""

    def __init__(self) -> None:
        self.said: list[bytes] = []
        self.process = subprocess.Popen(
            [sys.executable, "-c", "print('{}', flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def send(self, message: Mapping[str, object], blob: bytes = b"") -> None:
        """Nobody reads it."""

    def lines(self) -> Iterator[bytes]:
        """What it says."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            yield line

    @property
    def is_alive(self) -> bool:
        """True while it runs."""
        return self.process.poll() is None

    def close(self, timeout_s: float = 10.0) -> None:
        """Let go of it."""
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("has_inotify", [True, False])
def test_a_supervisor_that_dies_without_a_word_ends_the_pause(has_inotify: bool, monkeypatch: pytest.MonkeyPatch):
    if not has_inotify:
        monkeypatch.setattr(wakes, "_open_inotify", lambda: (None, -1))
    for name in ("TICK_S", "LONG_TICK_S"):
        monkeypatch.setattr(follower, name, 60.0)
    began = time.monotonic()
    child = _Child()
    live = Followed(channel=child)
    until(lambda: child.said)
    threading.Thread(target=child.process.kill).start()
    while not live.follower.look().state.is_final:
        live.follower.pause()
    live.follower.close()
    live.journal.close()
    assert kinds(live.run)[-1] == "run_lost"
    assert time.monotonic() - began < 30


def test_interrupts_while_a_run_is_looked_at_leave_no_descriptor_open():
    """A notebook whose user is quick to press stop would run out of them one day."""
    run = made(created(age_ns=0))
    done = subprocess.run(
        [sys.executable, "-m", "tests.programs.interrupted_while_it_looks", str(run.path)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr
