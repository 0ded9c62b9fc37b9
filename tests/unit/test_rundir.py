"""The run folder: private, found by id or name, and readable whatever happened to its writer."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nb_elastic import events, opening, rundir
from nb_elastic.errors import ElasticError, OptionError
from nb_elastic.rundir import Journal, JournalReader, RunDir


@pytest.fixture
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def test_folders_and_files_are_private_whatever_the_umask(elastic_home: Path, open_umask: None):
    run = rundir.create()
    rundir.write_json(run.run_json, {"a": 1})
    Journal(run.journal).close()
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in [elastic_home, run.path, run.run_json, run.journal]}
    assert modes == {elastic_home.name: 0o700, run.run_id: 0o700, "run.json": 0o600, "journal.jsonl": 0o600}


def test_a_taken_id_gets_a_suffix_and_odd_text_makes_a_safe_name():
    made = [rundir.create(wanted_id=wanted).run_id for wanted in ("exp", "exp", "../../etc/passwd", "..", "a b/c")]
    assert made == ["exp", "exp-2", "etc-passwd", "run", "a-b-c"]


def test_a_home_that_is_a_symlink_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv("NB_ELASTIC_HOME", str(tmp_path / "link"))
    with pytest.raises(OptionError, match="symlink"):
        rundir.create()


def test_a_run_in_a_log_dir_is_found_from_home(tmp_path: Path):
    run = rundir.create(log_dir=str(tmp_path / "logs"))
    rundir.write_json(run.run_json, {"name": "mine"})
    assert [run.path.parent, rundir.find("mine"), rundir.all_runs()] == [tmp_path / "logs", run, [run]]


def test_a_run_is_found_by_id_prefix_or_name_and_an_unclear_one_is_told():
    for run_id, name in (("alpha-1", "first"), ("alpha-2", "second"), ("beta", "third")):
        rundir.write_json(rundir.create(wanted_id=run_id).run_json, {"name": name})
    assert [rundir.find(w).run_id for w in ("alpha-1", "b", "second")] == ["alpha-1", "beta", "alpha-2"]
    with pytest.raises(ElasticError, match="fits 2 runs"):
        rundir.find("alpha")
    with pytest.raises(ElasticError, match="'gamma'"):
        rundir.find("gamma")


def test_a_journal_read_while_written_gives_every_event_once(tmp_path: Path):
    path = tmp_path / "journal.jsonl"

    def write() -> None:
        journal = Journal(path)
        for n in range(3000):
            journal.append(events.make("note", text="x" * (n % 50), n=n))
        journal.close()

    writer, reader, seen = threading.Thread(target=write), JournalReader(path), []
    writer.start()
    while writer.is_alive():
        seen += [e["n"] for e in reader.read()]
    writer.join()
    seen += [e["n"] for e in reader.read()]
    assert seen == list(range(3000))


def test_a_torn_last_line_waits_for_its_rest(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    line = events.encode(events.make("note", time_ns=1, text="whole"))
    reader = JournalReader(path)
    found = [reader.read()]
    for piece in (line + line[:10], line[10:-1], b"\n{broken\n"):
        with path.open("ab") as f:
            f.write(piece)
        found.append(reader.read())
    assert [[e["text"] for e in part] for part in found] == [[], ["whole"], [], ["whole"]]


def test_ranks_are_listed_over_nodes_and_rounds(tmp_path: Path):
    run = RunDir(tmp_path)
    for node, number, local_rank in [(None, 1, 0), (None, 0, 10), (None, 0, 2), (1, 0, 0)]:
        run.rank(number, local_rank, node=node).path.mkdir(parents=True)
    (tmp_path / "round_0" / "notes.txt").write_text("not a rank")
    assert [(n, r, k) for n, r, k, _ in run.ranks()] == [(None, 0, 2), (None, 0, 10), (None, 1, 0), (1, 0, 0)]


def test_what_a_node_writes_lies_in_the_run_s_folder_or_in_the_node_s_own(tmp_path: Path):
    run = RunDir(tmp_path / "r")
    found = [run.usage(), run.growth(), run.usage(1), run.growth(1), run.rank(2, 0, node=1).outputs]
    told = [
        "usage.jsonl",
        "growth.jsonl",
        "node_1/usage.jsonl",
        "node_1/growth.jsonl",
        "node_1/round_2/0/outputs.jsonl",
    ]
    assert found == [tmp_path / "r" / name for name in told]


def test_what_a_killed_rank_left_half_written_is_removed_and_nothing_else(tmp_path):
    left = tmp_path / ".worker.json.17.0badcafe"
    kept = [tmp_path / name for name in (".worker.json.170.0badcafe", "data.17.bin", "worker.json")]
    for path in (left, *kept):
        path.touch()
    elsewhere = tmp_path / "link"
    elsewhere.symlink_to(tmp_path, target_is_directory=True)
    rundir.remove_halves(elsewhere, 17)
    assert left.exists(), "a folder that became a link is left alone"
    rundir.remove_halves(tmp_path, 17)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in (*kept, elsewhere))


@pytest.mark.parametrize("call", ["open", "fstat"])
@pytest.mark.parametrize(
    "read",
    [lambda path: rundir.read_at(path, 0), rundir.read_json, lambda path: rundir.data_after(path, 0), opening.is_there],
)
def test_an_interrupt_leaves_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object], call: str
):
    """Whenever it comes: a kernel lives for weeks, and each would be one descriptor less."""
    path = tmp_path / "round_0" / "0" / "stdout.log"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    plain, left = getattr(os, call), [0]

    def interrupted(*args: object, **more: object) -> object:
        done = plain(*args, **more)
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGINT)
        return done

    before = set(os.listdir("/proc/self/fd"))
    for number in range(1, (3 if call == "open" else 2) + 1):  # two folders and the file
        left[0] = number
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, call, interrupted)
            read(path)
    assert set(os.listdir("/proc/self/fd")) == before


def test_an_interrupt_at_a_look_for_a_file_that_is_not_there_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A supervisor looks for absent files all the time: a scheduler's SIGINT must not be lost there."""
    plain = os.open

    def interrupted(*args: Any, **more: Any) -> int:
        signal.raise_signal(signal.SIGINT)
        return plain(*args, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "open", interrupted)
        rundir.read_json(tmp_path / "absent.json")


@pytest.mark.parametrize("call", ["open", "fchmod"])
def test_an_interrupt_leaves_no_file_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str):
    """Whenever it comes: here right after a call of the system."""
    plain = getattr(os, call)

    def interrupted(*args: object, **more: object) -> object:
        done = plain(*args, **more)
        signal.raise_signal(signal.SIGINT)
        return done

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, call, interrupted)
        rundir.write_atomic(tmp_path / "told.json", b"whole")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("told.json", b"whole")]
