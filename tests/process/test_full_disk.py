"""A disk that is full, and a folder that is gone, in the middle of a run: what goes on, what is told, and what is left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nb_elastic import events, rundir
from nb_elastic.errors import PayloadError
from nb_elastic.model import RunState
from nb_elastic.opening import RESERVE_BYTES
from nb_elastic.report import ALL_BYTES
from nb_elastic.run import Run, runs
from nb_elastic.rundir import Journal, JournalReader, LineWriter, RunDir
from nb_elastic.supervisor.channel import EventLog
from tests.support import supervise
from tests.support.small_disk import small_disk
from tests.support.until import until


@pytest.mark.parametrize("kind", ["tmpfs", "ext2"])
def test_a_line_cut_by_a_full_disk_swallows_no_other(tmp_path: Path, kind: str):
    with small_disk(tmp_path / "disk", kind=kind) as disk:
        path = disk.path / "journal.jsonl"
        journal = Journal(path)
        journal.append(events.make("note", text="first"))
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            while True:  # noqa: PERF203  the last one is cut
                journal.append(events.make("note", text="y" * 700))
        cut = path.read_bytes()
        disk.free()
        journal.append(events.make("note", text="again"))
        found = [e["text"][:5] for e in JournalReader(path).read()]
        assert (found[0], found[-1]) == ("first", "again")
        assert path.read_bytes().startswith(cut)
        journal.close()


def test_another_process_begins_a_line_of_its_own_after_a_cut_one(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"event": "note", "ti')
    journal = Journal(path)
    journal.append(events.make("run_lost", text="gone"))
    journal.close()
    assert [e.kind for e in JournalReader(path).read()] == ["run_lost"]
    writer = LineWriter(os.open(path, os.O_RDWR | os.O_APPEND))
    assert writer.write(b"x\n") == 2
    writer.close()


def test_room_set_aside_takes_the_last_words_and_is_given_back(tmp_path: Path):
    with small_disk(tmp_path / "disk") as disk:
        run, out = RunDir(disk.path), os.open(os.devnull, os.O_WRONLY)
        log = EventLog(run, node=0, stdout_fd=out)
        log.reserve()
        assert os.stat(run.journal).st_blocks * 512 >= RESERVE_BYTES
        disk.fill()
        for number in range(100):
            log.tell("note", text="z" * 1000, number=number)
        assert not log.has_failed
        assert [e["number"] for e in JournalReader(run.journal).read()] == list(range(100))
        log.release()
        assert os.stat(run.journal).st_blocks * 512 < RESERVE_BYTES
        os.close(out)


def test_a_result_that_found_no_room_is_told_of_as_lost(tmp_path: Path):
    """Else the run succeeded, and all its user gets is "left no result"."""
    with small_disk(tmp_path / "disk", size="4m") as disk:
        done = supervise.run("tests.programs.fills_and_returns:main", nproc=1, log_dir=str(disk.path))
        (worker,) = Run(done.run).snapshot.workers
        assert (done.state, worker.has_result) == ("succeeded", False)
        assert worker.result_error.startswith(f"The disk of {done.run.path}") and "is full" in worker.result_error
        with pytest.raises(PayloadError, match=r"can't be sent back: The disk of .* is full"):
            Run(done.run).result()


def test_a_run_whose_folder_is_deleted_ends_and_says_why():
    program = supervise.entry("saves_when_stopped.py")
    with supervise.start(program, nproc=2, is_detached=True) as one:
        one.until_event("worker_ready", count=2)
        until(lambda: one.out(1), 60)
        shutil.rmtree(one.run.path)
        one.wait()
    assert (one.state, one.process.returncode) == ("stopped", 2)
    assert one.end["text"] == "stopped by the loss of its folder, which was deleted"
    assert one.end["is_unwritten"]
    assert not one.run.path.exists()


def test_a_rank_that_fails_when_its_folder_is_deleted_is_not_said_to_have_told_nothing():
    """Else its user looks for an ``os._exit`` in code that raised an exception, or that never ran."""
    done = supervise.run("tests.programs.deletes_its_run_folder:main", nproc=1)
    assert (done.state, done.end["category"]) == ("failed", "unknown")
    assert "exited with code 1, and its folder was deleted" in done.end["text"]
    assert any("run folder was deleted while the run lasted" in reason for reason in done.end["reasons"])


def test_a_stop_left_in_the_folder_is_found_without_a_signal():
    """As somebody in another container, or on another machine, asks for it."""
    with supervise.start(supervise.entry("tests.programs.waits_for_a_file:main"), nproc=1) as one:
        one.until_event("worker_ready")
        rundir.write_json(one.run.stop_json, {"grace_s": 5.0, "by": "far away"})
        one.wait()
    assert (one.state, one.end["text"]) == ("stopped", "stopped by far away")


def test_a_rank_that_reports_in_a_tight_loop_fills_no_disk_and_its_last_step_is_kept():
    done = supervise.run("tests.programs.reports_without_end:main", nproc=1)
    run = Run(done.run)
    assert (done.state, run.metrics[-1]["step"], run.result(0)) == ("succeeded", 7_999, 7_999)
    assert ALL_BYTES <= done.run.rank(0, 0).metrics.stat().st_size < ALL_BYTES + (2 << 20)  # of 40 MB
    assert "nb_elastic.report was called very often" in done.err()


def test_a_limit_of_file_sizes_is_for_ranks_and_hides_no_end(elastic_home: Path, tmp_path: Path):
    """``ulimit -f`` in the shell: the journal of a run with a few ranks is longer than four blocks."""
    del elastic_home
    script = tmp_path / "tells_its_limit.py"
    script.write_text("import resource\nprint(resource.getrlimit(resource.RLIMIT_FSIZE)[0])\n")
    command = f"ulimit -S -f 4 && exec {sys.executable} -m nb_elastic run -n 4 {script}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=supervise.ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = runs()
    assert run.snapshot.state is RunState.SUCCEEDED
    assert RunDir(run.dir).journal.stat().st_size > 4096
    assert {run.logs(rank) for rank in range(4)} == {"4096\n"}
