"""A kernel believes the supervisor's words in the journal, and no rank's: both can write to the file.

A user would lose: the truth. One rank could end the cell as a success, or have another one blamed.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nb_elastic import events, rundir, seals, snapshot
from nb_elastic.rundir import Journal, JournalReader, RunDir
from nb_elastic.seals import Checker, Sealer

KEY = b"k" * 32


@pytest.fixture
def run(tmp_path: Path):
    """A run whose key this process has, and its journal."""
    folder = RunDir(tmp_path / "run")
    folder.path.mkdir()
    seals.know(folder.path, KEY)
    yield folder
    seals.forget(folder.path)


def told(run: RunDir, *said: events.Event) -> None:
    journal = Journal(run.journal)
    for event in said:
        journal.append(event)
    journal.close()


def forge(run: RunDir, line: bytes) -> None:
    with run.journal.open("ab") as file:
        file.write(line)


def started(rank: int = 0, pid: int = 1) -> events.Event:
    return events.make("worker_started", time_ns=2, round=0, attempt=0, rank=rank, local_rank=rank, pid=pid)


FORGED = {
    "a success": events.make("run_finished", time_ns=5, state="succeeded", root_rank=None, text=""),
    "another's failure": events.make("worker_failed", time_ns=1, round=0, rank=0, local_rank=0, failure={"rank": 0}),
    "a supervisor": events.make("supervisor_started", time_ns=5, pid=1, start_ticks=1, host=""),
    "a new round": events.make("rendezvous_started", time_ns=5, round=7, attempt=7),
    "another's pid": started(pid=4242),
}


@pytest.mark.parametrize("event", FORGED.values(), ids=FORGED)
def test_a_line_that_the_supervisor_did_not_write_changes_nothing_but_is_told(run: RunDir, event: events.Event):
    told(run, events.make("supervisor_started", time_ns=1, pid=77, start_ticks=7, host="elsewhere"), started())
    before = snapshot.load(run, now_ns=3)
    forge(run, events.encode(event))
    after = snapshot.load(run, now_ns=3)
    assert (after.state, after.workers, after.rounds) == (before.state, before.workers, before.rounds)
    assert (after.failures, after.supervisor_pid) == ((), 77)
    assert after.notes == (("warning", rundir.FORGED),)


def test_a_true_line_told_again_or_changed_or_sealed_with_another_key_is_no_word_of_the_supervisor(run: RunDir):
    told(run, started(), events.make("note", time_ns=1, text="once"))
    first, second = run.journal.read_bytes().splitlines(keepends=True)
    forge(run, second)  # again
    forge(run, first)  # out of order
    forge(run, second.replace(b"once", b"none"))
    forge(run, Sealer(b"x" * 32).seal(events.encode(events.make("note", time_ns=1, text="other key"))))
    forge(run, second.replace(b'"time_ns":1', b'"time_ns":1,"seal":"x"'))
    forge(run, second.rstrip(b"\n") + b" \n")
    texts = [e.get("text") for e in JournalReader(run.journal).read() if e.kind == "note"]
    assert texts == ["once", rundir.FORGED]


def test_two_true_writers_are_believed_whatever_the_order_of_their_lines(run: RunDir):
    """The kernel's first words and the supervisor's mix."""
    ours, theirs = Journal(run.journal), Journal(run.journal)
    for n in range(3):
        ours.append(events.make("note", time_ns=1, text=f"kernel {n}"))
        theirs.append(events.make("note", time_ns=1, text=f"supervisor {n}"))
    ours.close(), theirs.close()
    assert [e["text"] for e in JournalReader(run.journal).read()] == [
        f"{w} {n}" for n in range(3) for w in ("kernel", "supervisor")
    ]


def test_what_other_readers_of_the_folder_may_write_needs_no_warning(run: RunDir):
    """A torn line, and another kernel's guess that the run is lost."""
    told(run, started())
    forge(run, events.encode(events.make("run_lost", text="gone")) + b'{"event":"torn\n\xff\xfe\n{}\n')
    assert [e.kind for e in JournalReader(run.journal).read()] == ["worker_started"]


def test_who_has_no_key_reads_the_same_events(run: RunDir):
    told(run, started())
    seals.forget(run.path)
    assert JournalReader(run.journal).read() == [started()]


def test_the_longest_event_is_sealed_in_one_line(run: RunDir):
    event = events.make("note", time_ns=1, text="x" * 100_000)
    told(run, event)
    line = run.journal.read_bytes()
    assert (line.count(b"\n"), len(line) < events.MAX_LINE_BYTES + seals.MAX_SEAL_BYTES) == (1, True)
    assert json.loads(line)["seal"]
    assert len(JournalReader(run.journal).read()) == 1


@pytest.mark.parametrize("line", [b"", b"}", b',"seal":"', b'{"a":1,"seal":""}', b'"seal":"' * 40, b"\xff" * 200])
def test_nonsense_is_no_seal(line: bytes):
    assert not Checker(KEY).is_genuine(line)
