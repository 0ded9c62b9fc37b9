"""A stop lets user code save, ends everything in time, and nothing outlives whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from nb_elastic import lifeline, payload, rundir, snapshot
from nb_elastic.supervisor.stopping import Stopper
from tests.support import supervise
from tests.support.until import until


def _waiting(how: str = "save", *, nproc: int = 2, **settings):
    one = supervise.start(supervise.entry("tests.programs.saves_when_stopped:main", how), nproc=nproc, **settings)
    one.until_event("worker_ready", nproc)
    until(lambda: all(one.run.rank(0, r).stdout.read_bytes() == b"waiting\n" for r in range(nproc)), 60)
    return one


def _pids(one) -> list[lifeline.ProcessId]:
    return [lifeline.ProcessId(e["pid"], e["start_ticks"]) for e in one.of("worker_started")]


def test_a_stop_lets_the_ranks_save():
    with _waiting() as one:
        one.stop(grace_s=30)
        one.wait()
    assert (one.process.returncode, one.state, one.end["text"]) == (2, "stopped", "stopped by the test")
    assert [one.out(r) for r in range(2)] == [b"waiting\nsaved the model\n"] * 2
    assert one.exits() == {(0, r): (130, "stopped") for r in range(2)}
    assert [e["signal"] for e in one.of("signal_sent")] == ["SIGINT"] * 2
    assert one.of("worker_failed") == []
    assert [(e["by"], e["grace_s"]) for e in one.of("stop_requested")] == [("the test", 30)]
    assert [e["cause"] for e in one.of("round_ended")] == ["stopped"]


def test_results_of_ranks_that_end_well_when_stopped_are_kept():
    with _waiting("end_well") as one:
        one.stop(grace_s=30)
        one.wait()
    assert one.exits() == {(0, r): (0, "stopped") for r in range(2)}
    assert [e["has_result"] for e in one.of("worker_exited")] == [True, True]


def test_ranks_that_do_not_listen_are_ended_step_by_step():
    with _waiting("stone", nproc=1) as one:
        one.stop(grace_s=0.2)
        one.wait()
    assert [e["signal"] for e in one.of("signal_sent")] == ["SIGINT", "SIGTERM", "SIGKILL"]
    assert (one.state, one.exits()) == ("stopped", {(0, 0): (-9, "stopped")})


def test_a_second_stop_skips_the_wait():
    with _waiting("deaf", nproc=1) as one:
        one.stop(grace_s=600)
        one.until_event("signal_sent")
        one.stop(grace_s=0)
        one.wait(60)
    assert [e["signal"] for e in one.of("signal_sent")] == ["SIGINT", "SIGTERM"]


def test_an_error_while_saving_is_told():
    with _waiting("disk_full", nproc=1) as one:
        one.stop(grace_s=30)
        one.wait()
    (failure,) = one.failures()
    assert (one.state, failure.error_type, failure.followed) == (
        "stopped",
        "OSError",
        "raised while it was being ended",
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_run_as_stop_json_says(number):
    with _waiting(nproc=1) as one:
        rundir.write_json(one.run.stop_json, {"grace_s": 20, "by": "nb-elastic stop"})
        one.process.send_signal(number)
        one.wait()
    assert (one.state, one.end["text"]) == ("stopped", "stopped by nb-elastic stop")
    assert one.out(0) == b"waiting\nsaved the model\n"


def test_the_end_of_stdin_ends_an_attached_run():
    with _waiting("deaf") as one:
        pids = _pids(one)
        one.process.stdin.close()
        one.wait(60)
    assert one.state == "stopped"
    assert not any(p.is_alive for p in pids)


def test_the_end_of_stdin_does_not_touch_a_detached_run():
    with supervise.start(supervise.entry("tests.programs.waits_for_a_file:main"), nproc=1, is_detached=True) as one:
        one.until_event("worker_ready")
        one.process.stdin.close()
        (one.run.path / "go").touch()
        one.wait()
    assert one.state == "succeeded"


def test_a_stop_during_the_rendezvous_ends_the_run():
    with supervise.start(
        supervise.entry("all_reduces.py"),
        nproc=1,
        nnodes="2",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
    ) as one:
        one.until_event("rendezvous_started")
        one.stop(grace_s=0)
        one.wait(60)
    assert (one.state, one.process.returncode) == ("stopped", 2)


def test_a_main_thread_that_hangs_in_native_code_is_given_up():
    """The store's client retries in C++ for minutes, where no Python handler runs."""
    with supervise.start(
        supervise.entry("all_reduces.py"),
        nproc=1,
        nnodes="2",
        node_rank=1,
        master_addr="127.0.0.1",
        master_port=9,
    ) as one:
        one.until_event("rendezvous_started")
        one.stop(grace_s=0)
        one.wait(60)
    assert (one.state, one.end["text"], one.process.returncode) == ("stopped", "stopped by the test", 2)


def test_a_timeout_ends_the_run_as_failed():
    with _waiting(nproc=1, timeout=8.0) as one:
        one.wait()
    assert (one.state, one.process.returncode) == ("failed", 1)
    told = one.end["text"].splitlines()
    assert told[:2] == [
        "timeout: the time was up after 8 s; raise --timeout to let the run take longer.",
        "Where the ranks were:",
    ]
    assert told[2].startswith("  rank 0: ") and "saves_when_stopped.py, line " in told[2]
    assert told[5] == "Traceback (most recent call last):" and told[-1] == "KeyboardInterrupt"
    assert one.out(0) == b"waiting\nsaved the model\n"


@pytest.mark.parametrize("how", ["kill", "raise"])
def test_what_a_dead_rank_left_behind_goes_too(how):
    done = supervise.run("leaves_children.py", how, nproc=1)
    here, own = map(int, done.out(0).split())
    assert lifeline.ProcessId.of(here) is None
    assert lifeline.ProcessId.of(own) is None


def _marked(one) -> list[int]:
    """Living processes that carry this run's environment: ranks' children."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/environ", "rb") as f:
                    if one.run.run_id.encode() in f.read() and lifeline.ProcessId.of(int(name)):
                        found.append(int(name))
            except OSError:
                continue
    return found


def _with_children(nproc: int = 2):
    one = supervise.start(supervise.entry("leaves_children.py", "wait"), nproc=nproc)
    one.until_event("worker_ready", nproc)
    until(lambda: all(one.run.rank(0, r).stdout.read_bytes().count(b"\n") == 1 for r in range(nproc)), 60)
    return one


def test_a_dead_ranks_daemons_go_with_it_and_those_of_the_living_stay():
    with supervise.start(supervise.entry("tests.programs.leaves_daemons:main"), nproc=2, shutdown_timeout=60) as one:
        one.until_event("worker_ready", 2)
        until(lambda: all(one.run.rank(0, r).stdout.read_bytes().endswith(b"\n") for r in range(2)), 60)
        daemons = [[lifeline.ProcessId.of(int(pid)) for pid in one.out(r).split()] for r in range(2)]
        (one.run.path / "go1").touch()
        until(lambda: not any(d.is_alive for d in daemons[1]), 30, "the dead rank's daemons to go")
        assert all(d.is_alive for d in daemons[0])
        (one.run.path / "go0").touch()
        one.wait()
        assert not any(d.is_alive for d in daemons[0])
    assert (one.state, one.end["root_rank"]) == ("failed", 1)


def test_a_killed_supervisor_takes_everything_with_it():
    with _with_children() as one:
        pids = _pids(one)
        assert len(_marked(one)) == 6
        one.process.kill()
        until(lambda: not any(p.is_alive for p in pids) and not _marked(one), 30)


def test_a_killed_forkserver_ends_the_run_with_the_reason():
    with _with_children() as one:
        pids = _pids(one)
        (server,) = {int(lifeline.stat_fields(p.pid)[1]) for p in pids}
        os.kill(server, signal.SIGKILL)
        one.wait()
        until(lambda: not any(p.is_alive for p in pids), 5, "the ranks' end")  # the kernel signals them as it reaps
        assert _marked(one) == []
    assert (one.state, one.process.returncode) == ("failed", 1)
    assert one.end["text"].startswith("The process that starts and watches the ranks died")
    assert one.exits() == {(0, 0): (None, "ended"), (0, 1): (None, "ended")}


def test_a_killed_rank_ends_the_run_and_is_named():
    with _waiting() as one:
        os.kill(_pids(one)[1].pid, signal.SIGKILL)
        one.wait()
    assert (one.state, one.end["root_rank"]) == ("failed", 1)
    assert one.exits()[0, 1] == (-9, "failed")
    assert one.exits()[0, 0][1] == "ended"


def test_a_stop_while_the_supervisor_still_warms_up_is_not_lost():
    with supervise.start(supervise.entry("saves_when_stopped.py"), nproc=1, is_cold=True) as one:
        until(lambda: _blocks_sigint(one.process.pid), 30)
        one.process.send_signal(signal.SIGINT)
        one.wait(60)
    assert (one.state, one.end["text"]) == ("stopped", "stopped by signal SIGINT")


def _start_slow(tmp_path, **settings):
    return supervise.start(
        supervise.entry("saves_when_stopped.py"),
        nproc=1,
        preload=("tests.programs.slow_to_import",),
        supervisor_env={"SLOW_IMPORT_DIR": str(tmp_path)},
        **settings,
    )


def _importing(tmp_path, **settings):
    """A supervisor that waits for an import which takes 25 s, and the child that this import started."""
    one = _start_slow(tmp_path, **settings)
    pid = until(lambda: (tmp_path / "importing").exists() and (tmp_path / "importing").read_text(), 60)
    child = lifeline.ProcessId.of(int(pid))
    assert child is not None
    return one, child


ENDS = {
    "eof": (lambda one: one.process.stdin.close(), "the end of whoever started it"),
    "frame": (lambda one: one.stop(grace_s=30), "the test"),
    "sigterm": (lambda one: one.process.send_signal(signal.SIGTERM), "signal SIGTERM"),
    "stop_json": (lambda one: rundir.write_json(one.run.stop_json, {"grace_s": 9, "by": "another"}), "another"),
}


@pytest.mark.parametrize("how", ENDS)
def test_a_stop_during_a_long_import_ends_all_at_once(how, tmp_path):
    end, by = ENDS[how]
    one, child = _importing(tmp_path)
    with one:
        end(one)
        one.wait(10)
    assert (one.process.returncode, one.state, one.end["text"]) == (2, "stopped", f"stopped by {by}")
    told = rundir.JournalReader(one.run.journal).read()  # whose lines carry a seal
    assert [(e.kind, e.time_ns) for e in told] == [(e.kind, e.time_ns) for e in one.events]
    assert snapshot.load(one.run).state.value == "stopped"
    assert not child.is_alive


def test_the_end_of_stdin_does_not_touch_a_detached_run_that_imports(tmp_path):
    one, child = _importing(tmp_path, is_detached=True)
    with one:
        one.process.stdin.close()
        with pytest.raises(subprocess.TimeoutExpired):
            one.process.wait(2)
        assert child.is_alive
        one.process.send_signal(signal.SIGTERM)
        one.wait(10)
    assert one.state == "stopped"


def test_a_timeout_counts_from_the_launch(tmp_path):
    with _start_slow(tmp_path, timeout=2.0) as one:
        one.wait(20)
    assert (one.process.returncode, one.state) == (1, "failed")
    assert one.end["text"].splitlines() == [
        "timeout: the time was up after 2 s; raise --timeout to let the run take longer.",
        "It was still importing what the ranks need.",
    ]


BORN_INTERRUPTED = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
os.kill(os.getpid(), signal.SIGINT)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_a_ctrl_c_that_was_meant_for_whoever_starts_the_supervisor_is_left_to_that():
    """Else a run reads as stopped by a signal of nobody, where its user pressed Ctrl-C."""
    prefix = [sys.executable, "-c", BORN_INTERRUPTED]
    with supervise.start(supervise.entry("saves_when_stopped.py"), nproc=1, prefix=prefix) as one:
        one.until_event("worker_ready")
        until(lambda: one.out(0), 60)
        one.stop(grace_s=30)
        one.wait(60)
    assert (one.state, one.end["text"]) == ("stopped", "stopped by the test")


def test_a_stop_asked_for_before_the_supervisor_told_its_pid_is_honoured():
    stop = {"grace_s": 1, "by": "early"}
    with supervise.start(supervise.entry("saves_when_stopped.py"), nproc=1, stop=stop, is_cold=True) as one:
        one.wait(60)
    assert (one.process.returncode, one.state, one.end["text"]) == (2, "stopped", "stopped by early")
    assert one.of("worker_started") == []


def test_a_stop_left_in_the_folder_is_seen_once_the_supervisor_listens(tmp_path):
    """Between the warm-up's last look and the news of the pid nobody could signal."""
    (tmp_path / "stop.json").write_text('{"grace_s": 2, "by": "early"}')
    asked = []
    stopper = Stopper(
        rundir.RunDir(tmp_path),
        make_exception=lambda _: RuntimeError("stopped"),
        on_request=lambda *told: asked.append(told),
        on_stuck=lambda: None,
    )
    held = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        stopper.heed()
    finally:
        signal.signal(signal.SIGUSR1, held)
    assert (stopper.is_requested, stopper.by, asked) == (True, "early", [("early", 2.0)])
    with pytest.raises(RuntimeError, match="stopped"):
        stopper.check()


def _blocks_sigint(pid: int) -> bool:
    with open(f"/proc/{pid}/status") as f:
        (mask,) = [line.split()[1] for line in f if line.startswith("SigBlk:")]
    return bool(int(mask, 16) & 1 << signal.SIGINT - 1)


def test_a_stop_button_pressed_while_the_supervisor_is_born_does_not_kill_it():
    """A front end signals the kernel's whole group, and a child belongs to it until it has its own session."""
    told = subprocess.run(
        [sys.executable, "-m", "tests.programs.interrupted_at_every_moment"],
        check=True, capture_output=True, text=True, cwd=supervise.ROOT, timeout=120,
    )  # fmt: skip
    assert set(told.stdout.split()) == {"3"}, told.stdout


def test_an_interrupt_that_comes_when_the_work_is_done_costs_no_result():
    done = supervise.run("tests.programs.returns_things:interrupted_at_the_end", nproc=1)
    assert (done.state, done.exits()) == ("succeeded", {(0, 0): (0, "succeeded")})
    assert payload.load_result(done.run.rank(0, 0).result) == "kept"
    assert b"Traceback" not in rundir.read_whole(done.run.rank(0, 0).stderr)
