"""A run that hangs says which rank the others wait for, and where; one that only works in silence is left in peace.

A user would lose: hours before a frozen cell, with no culprit.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nb_elastic import rundir, snapshot, stacks, stacks_frames, stacks_text
from nb_elastic.lifeline import ProcessId
from nb_elastic.model import StackReport
from nb_elastic.rundir import RunDir
from tests.support.hanging import HANGING, all_said, command, events, hang_of, launched, report_of
from tests.support.kernel import Kernel
from tests.support.until import until

TOLD = "--hang-after 1.5"
PY_SPY = Path(sys.prefix) / "bin" / "py-spy"

# program: (kind, the odd ranks, words of the headline, words in the odd group's notes)
KNOWN = {
    "missing_rank": ("missing", {2}, ["Ranks 0, 1 wait in all_reduce, missing_rank.py, line 13", "rank 2 waits in recv, line 11"], []),
    "mismatched_order": (
        "mismatch",
        {2},
        ["Ranks 0, 1 wait in all_reduce, mismatched_order.py, line 14", "rank 2 waits in broadcast, line 11"],
        ["Collective #2 of the default group is not the same everywhere: all_reduce on ranks 0, 1; broadcast on rank 2."],
    ),
    "deadlocked_lock": ("lock", {2}, ["Ranks 0, 1 wait in barrier", "rank 2 waits for a lock, line 12"], ["Rank 2 did not call collective #2"]),
    "dataloader": ("dataloader", {2}, ["Ranks 0, 1 wait in all_reduce", "rank 2 is in next(loader), line 22"], ["sleeps, dataloader.py, line 16"]),
    "sleeping": ("sleep", {2}, ["Ranks 0, 1 wait in all_reduce", "rank 2 sleeps, line 11"], ["Rank 2 did not call collective #1"]),
    "infinite_loop": ("loop", {2}, ["Ranks 0, 1 wait in all_reduce", "rank 2 computes, line 8"], ["uses a CPU all the time"]),
    "waiting_on_a_file": ("file", {2}, ["Ranks 0, 1 wait in barrier", "rank 2 opens a named pipe that nobody else has opened, line 13"], []),
    "stopped_process": ("stopped", {2}, ["Ranks 0, 1 wait in all_reduce", "rank 2 is stopped (SIGSTOP)"], []),
    "store_get": ("store", {2}, ["Ranks 0, 1 wait in barrier", "rank 2 waits for a key of the store, line 12"], []),
    "dead_peer": ("dead", {2}, ["Ranks 0, 1 wait in init_process_group, dead_peer.py, line 9", "rank 2 is gone (succeeded)"], []),
    "asks_for_input": ("input", {2}, ["Ranks 0, 1 wait in barrier", "rank 2 waits for input(), line 13"], []),
    "heartbeats": ("lock", {2}, ["Ranks 0, 1 wait in all_reduce, heartbeats.py, line 24", "rank 2 waits for a lock, line 23"], ["Rank 2 did not call collective #"]),
    "one_rank_only_talks": ("sleep", {2}, ["Ranks 0, 1 wait in all_reduce", "rank 2 sleeps, line 22"], ["Rank 2 did not call collective #"]),
    "gil_held_in_c": ("gil", {2}, ["Ranks 0, 1 wait in all_reduce", "rank 2 is in native code that holds Python's lock (the GIL), line 13"], []),
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home of the kernel's runs."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def kernel(home: Path) -> Iterator[Kernel]:
    """One kernel, whose launcher is warm."""
    with Kernel(env={"NB_ELASTIC_HOME": str(home), "OMP_NUM_THREADS": "1"}) as one:
        one.ok("%load_ext nb_elastic\nimport nb_elastic")
        yield one


def check(name: str, report: StackReport) -> None:
    """The report says what the table knows."""
    kind, odd, words, notes = KNOWN[name]
    told = stacks_text.text(report)
    assert report.kind == kind, told
    assert {r for g in report.groups if g.is_odd for r in g.ranks} == odd, told
    assert report.groups[0].is_odd, told
    assert [w for w in words if w not in report.headline] == [], told
    assert [n for n in notes if not any(n in note for note in report.groups[0].notes)] == [], told


@pytest.mark.parametrize("name", KNOWN)
def test_each_known_hang_is_told_with_its_culprit(kernel: Kernel, name: str):
    with launched(kernel, TOLD, str(HANGING / f"{name}.py")) as run:
        found = hang_of(run)
        check(name, found)
        assert found.cause == "hang"
        assert snapshot.load(run).hang == found  # what every face shows
        assert len(events(run, "hang_found")) == 1


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_rank_started_another_way_answers_as_well(kernel: Kernel, method: str):
    with launched(kernel, f"--start-method {method} --hang-after 300", str(HANGING / "mismatched_order.py")) as run:
        until(lambda: all_said(run), 60)
        until(lambda: check("mismatched_order", stacks.report(run)) is None, 30)


def test_a_run_that_is_stopped_for_hanging_fails_and_names_the_culprit(kernel: Kernel):
    """A batch run must stop there with an error, as after --timeout."""
    cell = kernel.run(f"%elastic_launch --nproc 3 --hang-after 1.5 --on-hang stop {HANGING / 'sleeping.py'}")
    assert cell.reply["ename"] == "WorkerFailedError", cell.text
    assert (
        "timeout: nothing moved any more. Ranks 0, 1 wait in all_reduce, sleeping.py, line 12; rank 2 sleeps, line 11."
        in cell.text
    )
    run = rundir.RunDir(Path(kernel.ok("print(nb_elastic.last_run().dir)").stdout.strip()))
    now = snapshot.load(run)
    assert (now.state.value, now.category, now.stop_by) == ("failed", "timeout", "hang")
    assert now.hang is not None and now.hang.headline in now.text
    assert now.reasons[0].startswith("Nothing had moved for --hang-after, 1.5 s")


def test_a_hang_that_ends_is_told_to_be_over(kernel: Kernel):
    with launched(kernel, TOLD, str(HANGING / "comes_back.py")) as run:
        hang_of(run)
        (run.path / "go").touch()
        until(lambda: events(run, "hang_over"), 30)
        until(lambda: all_said(run, "went on"), 30)


STANDS = {
    "computes_in_silence": {"waits in all_reduce, computes_in_silence.py, line 20"},
    "one_rank_idles": {"sleeps, one_rank_idles.py, line 9"},
}
"""Where ranks really stand while others work."""


@pytest.mark.parametrize("name", ["computes_in_silence", "one_rank_idles", "all_compute_in_silence"])
def test_ranks_that_work_in_silence_are_not_called_hung(kernel: Kernel, name: str):
    with launched(kernel, TOLD, str(HANGING / f"{name}.py")) as run:
        until(lambda: events(run, "run_finished"), 120)
        assert [events(run, "run_finished")[0]["state"], events(run, "hang_found")] == ["succeeded", []]
        told = {g.doing for e in events(run, "stall_found") for g in report_of(e).groups if g.is_still}
        assert told <= STANDS.get(name, set()), "who works stands still to nobody"


MOVES_BY = {"report": 1, "child": 1, "reading": 1, "collectives": 2, "messages": 2, "heartbeats": 2, "slow_words": 2}
"""What alone tells that ranks move, and how many there are."""


def test_whatever_tells_that_ranks_move_keeps_a_run_from_being_ended_as_hung(kernel: Kernel):
    """All at once, since each takes eight seconds."""
    program = HANGING / "moves_by.py"
    flags = "--hang-after 2 --on-hang stop"
    with contextlib.ExitStack() as stack:
        runs = {
            how: stack.enter_context(launched(kernel, flags, f"{program} {how}", nproc=nproc, name=how))
            for how, nproc in MOVES_BY.items()
        }
        for how, run in runs.items():
            until(lambda run=run: events(run, "run_finished"), 120, how)
    ends = {how: events(run, "run_finished")[0]["state"] for how, run in runs.items()}
    assert ends == dict.fromkeys(MOVES_BY, "succeeded")
    hangs = {how: [report_of(e).headline for e in events(run, "hang_found")] for how, run in runs.items()}
    assert hangs == dict.fromkeys(MOVES_BY, [])
    stalls = {how for how, run in runs.items() if events(run, "stall_found")}
    assert stalls <= {"slow_words"}, "only there one rank waits all the time for another that goes on"


# -- some stand still -------------------------------------------------------------------------


def test_a_rank_that_stands_alone_is_told_while_the_others_go_on_and_the_run_is_left_to_go_on(kernel: Kernel):
    """Without a collective nobody waits for it: a user would see three of four shards come, and not why."""
    with launched(kernel, f"{TOLD} --on-hang stop", str(HANGING / "some_stand_still.py")) as run:
        (found,) = until(lambda: events(run, "stall_found"), 60)
        report = report_of(found)
        (still,) = [g for g in report.groups if g.is_still]
        assert (still.ranks, still.doing, still.is_odd) == (
            (2,),
            "waits for a lock, some_stand_still.py, line 22",
            True,
        )
        assert report.headline.endswith("rank 2 waits for a lock, some_stand_still.py, line 22."), report.headline
        assert (report.cause, report.kind) == ("stall", "lock")
        assert snapshot.load(run).hang == report
        (run.path / "go").touch()
        until(lambda: events(run, "hang_over"), 30)
        assert snapshot.load(run).hang is None
        assert b"went on" in rundir.read_whole(run.rank(0, 2).stdout)
        assert events(run, "hang_found") == []
        (run.path / "end").touch()
        until(lambda: events(run, "run_finished"), 30)
    assert events(run, "run_finished")[0]["state"] == "succeeded"


def test_a_rank_for_which_the_others_wait_is_named_though_it_goes_on(kernel: Kernel):
    with launched(kernel, f"{TOLD} --on-hang stop", str(HANGING / "one_rank_is_slow.py")) as run:
        (found,) = until(lambda: events(run, "stall_found"), 60)
        report = report_of(found)
        told = {(g.ranks, g.is_still, g.is_odd) for g in report.groups}
        assert told == {((1, 2), True, False), ((0,), False, True)}, report
        assert report.headline.startswith("Ranks 1, 2 wait in all_reduce, one_rank_is_slow.py, line 17; rank 0 ")
        (run.path / "go").touch()
        until(lambda: events(run, "run_finished"), 60)
    assert events(run, "run_finished")[0]["state"] == "succeeded"
    assert snapshot.load(run).hang is None


def test_a_rank_whose_thread_still_talks_is_said_to(kernel: Kernel):
    with launched(kernel, TOLD, str(HANGING / "one_rank_only_talks.py")) as run:
        found = hang_of(run)
    (waiting,) = [group for group in found.groups if not group.is_odd]
    assert "Another thread of it still tells something; its main thread stands." in waiting.notes
    assert not any("Rank 1: Another" in note for note in waiting.notes), "rank 1 is silent"


@pytest.mark.skipif(not PY_SPY.exists(), reason="py-spy is not installed")
def test_where_py_spy_is_installed_native_frames_are_told_too(kernel: Kernel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", f"{PY_SPY.parent}:{os.environ['PATH']}")
    with launched(kernel, "--hang-after 300", str(HANGING / "gil_held_in_c.py")) as run:
        until(lambda: all_said(run), 60)
        found = until(lambda: [g for g in stacks.report(run).groups if 2 in g.ranks and g.notes], 30)
    (native,) = [note for note in found[0].notes if note.startswith("Native stack: ")]
    assert "mutex_lock" in native or "lll_lock" in native, native


def test_a_program_without_python_is_told_from_what_the_kernel_knows(kernel: Kernel):
    with launched(kernel, f"{TOLD} --no-python", "sleep 600", nproc=2) as run:
        found = hang_of(run)
    assert found.headline == "Ranks 0, 1 sleep."
    assert found.groups[0].notes == ("No Python stack: it runs no Python that could tell.",)


def test_a_cell_is_named_by_its_label_and_its_line(kernel: Kernel):
    code = (
        "%%elastic_launch --detach --out r --nproc 2 --hang-after 300\nimport torch.distributed as dist, time\n"
        "dist.init_process_group('gloo')\nprint('ready')\nif dist.get_rank() == 1:\n    time.sleep(10_000)\ndist.barrier()"
    )
    number = kernel.ok(code).reply["execution_count"]
    run = rundir.RunDir(Path(kernel.ok("print(r.dir)").stdout.strip()))
    try:
        until(lambda: all_said(run, nproc=2), 60)
        wanted = f"Rank 0 waits in barrier, Cell In[{number}], line 7; rank 1 sleeps, line 6."
        until(lambda: stacks.report(run).headline == wanted, 30)
        printed = kernel.ok("%elastic stacks").stdout
        assert wanted in printed and "time.sleep(10_000)" in printed
        assert kernel.ok("print(r.stacks(1).headline)").stdout.strip() == f"Rank 1 sleeps, Cell In[{number}], line 6."
    finally:
        kernel.run("r.stop(0)\nr.wait(30)")


# -- asking harms nothing ---------------------------------------------------------------------


def test_busy_ranks_with_threads_survive_any_number_of_askers(kernel: Kernel):
    """faulthandler's own signal crashes such ranks within some hundred dumps."""
    with launched(kernel, "--hang-after 300", str(HANGING / "busy_threads.py"), nproc=2) as run:
        until(lambda: all_said(run, nproc=2), 60)
        asked = stacks.targets(run, snapshot.load(run))
        texts = stacks_frames.texts_of(run)
        for _ in range(60):
            found = stacks.take(asked, texts=texts, window_s=0.01)
            assert all(one.frames for one in found)
        assert all(ProcessId(t.pid, t.start_ticks).is_alive for t in asked)
        assert {t.folder.stacks.stat().st_size for t in asked} == {0}  # no dump was needed


def test_stacks_come_while_the_supervisor_answers_nobody(kernel: Kernel, home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NB_ELASTIC_HOME", str(home))
    with launched(kernel, "--hang-after 300", str(HANGING / "sleeping.py")) as run:
        until(lambda: all_said(run), 60)
        now = snapshot.load(run)
        supervisor = ProcessId(now.supervisor_pid, now.supervisor_start_ticks)
        supervisor.signal(signal.SIGSTOP)
        try:
            until(lambda: "rank 2 sleeps, line 11." in command("stacks", run.run_id), 30)
        finally:
            supervisor.signal(signal.SIGCONT)


def test_a_rank_that_spoils_its_files_spoils_its_own_answer_only(kernel: Kernel):
    with launched(kernel, "--hang-after 300", str(HANGING / "sleeping.py")) as run:
        until(lambda: all_said(run), 60)
        for spoil in (spoil_by_link, spoil_by_pipe, spoil_by_size, spoil_by_nonsense):
            spoil(run)
            report = stacks.report(run)
            doing = {r: g.doing for g in report.groups for r in g.ranks}
            assert doing[1] == "waits in all_reduce, sleeping.py, line 12", (spoil, report)
            assert set(doing) == {0, 1, 2}, (spoil, report)
        assert (run.path / "precious").read_bytes() == b"mine"


def spoil_by_link(run: RunDir) -> None:
    """The dump file and the bell are links to a file of the user's."""
    (run.path / "precious").write_bytes(b"mine")
    folder = run.rank(0, 0)
    for path in (folder.stacks, folder.bell, folder.answer(1)):
        path.unlink(missing_ok=True)
        path.symlink_to(run.path / "precious")


def spoil_by_pipe(run: RunDir) -> None:
    """Pipes that nobody reads or writes stand where files are expected."""
    folder = run.rank(0, 0)
    for path in (folder.stacks, folder.bell):
        path.unlink(missing_ok=True)
        os.mkfifo(path)


def spoil_by_size(run: RunDir) -> None:
    """The dump file has a gigabyte."""
    folder = run.rank(0, 2)
    os.truncate(folder.stacks, 1 << 30)


def spoil_by_nonsense(run: RunDir) -> None:
    """A rank answers with nonsense before it is asked, and its dump file is full of it."""
    folder, pid = run.rank(0, 2), snapshot.load(run).workers[2].pid
    folder.answer(pid).write_text(
        json.dumps({"monotonic_ns": 1 << 62, "main": [[None, "x", 3]], "flight": {"groups": 7}})
    )
    folder.stacks.write_bytes(b"Stack (most recent call first):\n  File \xff" * 1000)
