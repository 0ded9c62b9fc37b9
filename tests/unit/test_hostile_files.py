"""What a rank puts into its folder in place of our files harms nobody: every reader gets nothing, or that rank's own words.

A user would lose: the notebook (a kernel that waits on a pipe, or eats a terabyte), or a secret file shown as a log.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from nb_elastic import cli, events, opening, payload, rundir, snapshot
from nb_elastic.dashboard import plainjson, saved
from nb_elastic.dashboard.live import LiveRun
from nb_elastic.errors import ElasticError, PayloadError
from nb_elastic.logreader import LogFollower
from nb_elastic.render import html
from nb_elastic.run import Run, runs
from nb_elastic.rundir import RunDir
from tests.support.supervise import LIMITED_UID

SECRET = b'{"time_ns": 1, "secret": "s3cret", "event": "note", "text": "s3cret", "error_type": "s3cret", "kind": "display", "data": {}}\n'
HUGE_BYTES = 1 << 40
"""Of a file that holds nothing but a hole."""


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def run(elastic_home: Path) -> RunDir:
    """A run of two ranks that is over; rank 1 is hostile."""
    folder = rundir.create(wanted_id="hostile")
    rundir.write_json(folder.run_json, {"name": "run"})
    journal = rundir.Journal(folder.journal)
    said = [events.make("run_created", time_ns=1, run_id="hostile", nproc=2)]
    for rank in (0, 1):
        folder.rank(0, rank).path.mkdir(parents=True, mode=0o700)
        folder.rank(0, rank).stdout.write_bytes(b"mine\n")
        at = {"round": 0, "attempt": 0, "rank": rank, "local_rank": rank}
        said += [
            events.make("worker_started", time_ns=2, **at, pid=1),
            events.make("worker_exited", time_ns=3, **at, exit_code=0),
        ]
    for event in (*said, events.make("run_finished", time_ns=4, state="succeeded", root_rank=None, text="")):
        journal.append(event)
    journal.close()
    return folder


def _fifo(path: Path, _secret: Path) -> None:
    os.mkfifo(path)


def _link(path: Path, secret: Path) -> None:
    path.symlink_to(secret)


def _zero(path: Path, _secret: Path) -> None:
    path.symlink_to("/dev/zero")


def _device(path: Path, _secret: Path) -> None:
    try:
        os.mknod(path, 0o666 | 0o020000, os.makedev(1, 5))  # /dev/zero itself
    except OSError:
        pytest.skip("no device files here")


def _folder(path: Path, _secret: Path) -> None:
    path.mkdir()


def _socket(path: Path, _secret: Path) -> None:
    os.mknod(path, 0o140600)


def _sparse(path: Path, _secret: Path) -> None:
    path.touch()
    os.truncate(path, HUGE_BYTES)


def _linked_folder(path: Path, secret: Path) -> None:
    """The whole folder of the rank is another one."""
    place = secret.parent / "elsewhere"
    place.mkdir(exist_ok=True)
    for name in FILES:
        (place / name).write_bytes(secret.read_bytes())
    for one in path.parent.iterdir():
        one.unlink()
    path.parent.rmdir()
    path.parent.symlink_to(place)


def _linked_round(path: Path, secret: Path) -> None:
    """The same, one level up."""
    place = secret.parent / "round"
    for rank in ("0", "1"):
        (place / rank).mkdir(parents=True)
        for name in FILES:
            (place / rank / name).write_bytes(secret.read_bytes())
    path.parent.parent.rename(secret.parent / "was")
    path.parent.parent.symlink_to(place)


TRICKS = [_fifo, _link, _zero, _device, _folder, _socket, _sparse, _linked_folder, _linked_round]
FILES = [
    "stdout.log",
    "stderr.log",
    "metrics.jsonl",
    "outputs.jsonl",
    "worker.json",
    "failure.json",
    "result.pkl",
    "pulled.pkl",
]


@pytest.mark.parametrize("trick", TRICKS, ids=lambda t: t.__name__.strip("_"))
def test_whatever_lies_in_place_of_a_rank_s_files_every_reader_comes_to_its_end_and_tells_no_secret(
    run: RunDir, tmp_path: Path, trick: Callable[[Path, Path], None], capsys: pytest.CaptureFixture[str]
):
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    place = run.rank(0, 1)
    for name in FILES[:1] if trick in {_linked_folder, _linked_round} else FILES:
        (place.path / name).unlink(missing_ok=True)
        trick(place.path / name, secret)
    handle = Run(run)
    found = [
        rundir.read_json(place.failure_json), rundir.read_json(place.worker_json), rundir.read_at(place.stdout, 0, 100).strip(b"\0"),
        plainjson.rows(place.metrics, limit_bytes=1 << 20), saved.metrics(run), saved.outputs(run), handle.metrics, handle.outputs,
    ]  # fmt: skip
    live = LiveRun(run)
    live.look()
    logs = LogFollower(run)
    for rank in (0, 1):
        logs.add(rank=rank, local_rank=rank, round_number=0)
    found += [b"".join(c.data for c in logs.read()).replace(b"\0", b""), html.bundle(live.snapshot, run, now_ns=5)]
    assert cli.main(["logs", "hostile", "--rank", "0"]) == 0
    assert cli.main(["show", "hostile"]) == 0
    for load in (lambda: handle.result(1), lambda: handle.results):
        with pytest.raises(PayloadError):
            load()
    told = capsys.readouterr().out + repr(found)
    assert ("mine" in told) == (trick is not _linked_round), "the other rank's words are there as ever"
    assert "s3cret" not in told


@pytest.mark.parametrize("trick", [*TRICKS[:6], _sparse], ids=lambda t: t.__name__.strip("_"))
def test_what_lies_in_place_of_the_journal_makes_an_empty_run_and_holds_nobody_up(
    run: RunDir, tmp_path: Path, trick: Callable[[Path, Path], None], capsys: pytest.CaptureFixture[str]
):
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    for path in (run.journal, run.supervisor_log):
        path.unlink(missing_ok=True)
        trick(path, secret)
    now = snapshot.load(run)
    assert (now.run_id, now.workers, now.notes) == ("hostile", (), ())
    assert [r.id for r in runs()] == ["hostile"]
    Run(run).wait(0)  # would write down that it is lost
    assert cli.main(["runs"]) == 0
    assert secret.read_bytes() == SECRET
    assert "s3cret" not in capsys.readouterr().out


def test_a_result_is_loaded_from_its_own_place_only(run: RunDir, tmp_path: Path):
    """Whoever exchanges it, or its folder, has nothing unpickled."""
    marker = tmp_path / "code ran"
    bomb = tmp_path / "bomb" / "result.pkl"
    bomb.parent.mkdir()
    payload.dump_result(1, bomb)
    head, _, _ = bomb.read_bytes().partition(b"\n{")
    body = pickle.dumps(Bomb(marker))
    bomb.write_bytes(
        head + b"\n" + json.dumps({"segments": [[0, len(body)]], "regions": [], "buffers": []}).encode() + b"\n" + body
    )
    place, handle = run.rank(0, 1), Run(run)
    place.result.symlink_to(bomb)
    with pytest.raises(PayloadError, match="can't be opened"):
        handle.result(1)
    place.result.unlink()
    if os.geteuid() == 0:
        place.result.write_bytes(bomb.read_bytes())
        os.chown(place.result, LIMITED_UID, -1)
        with pytest.raises(PayloadError, match="was not written by you"):
            handle.result(1)
    _linked_folder(place.result, bomb)
    with pytest.raises(PayloadError, match="can't be opened"):
        handle.result(1)
    assert not marker.exists()
    place.path.unlink()
    place.path.mkdir()
    place.result.write_bytes(bomb.read_bytes())
    handle.result(1)
    assert marker.exists(), "else the bomb proves nothing"


def test_a_result_is_unpickled_by_nothing_but_the_request_for_it(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    marker = tmp_path / "code ran"
    body = pickle.dumps(Bomb(marker))
    for name in FILES:
        (run.rank(0, 1).path / name).write_bytes(body)
    run.payload.write_bytes(body)
    handle = Run(run)
    repr((handle, handle.metrics, handle.outputs, handle.failures, handle.logs(1), handle.snapshot, runs()))
    live = LiveRun(run)
    live.look(is_whole=True)
    html.bundle(live.snapshot, run, now_ns=5)
    for words in (
        ["runs"],
        ["show", "hostile"],
        ["logs", "hostile"],
        ["export", "hostile"],
        ["stop", "hostile"],
        ["prune", "--keep", "5"],
    ):
        cli.main(words)
    assert not marker.exists()


def test_a_journal_that_a_rank_filled_with_a_gigabyte_of_nothing_is_read_in_a_moment(run: RunDir):
    os.truncate(run.journal, 1 << 30)
    assert snapshot.load(run).state.value == "succeeded"


def test_a_log_without_end_is_printed_up_to_a_limit(run: RunDir, capsys: pytest.CaptureFixture[str]):
    os.truncate(run.rank(0, 1).stdout, HUGE_BYTES)
    assert cli.main(["logs", "hostile", "--rank", "1"]) == 0
    assert len(capsys.readouterr().out) < 16 << 20
    with pytest.raises(ElasticError, match="read it in pieces"):
        Run(run).logs(1)


def test_a_file_is_opened_below_the_run_s_folder_whatever_lies_above(tmp_path: Path):
    """A home may lie behind links of the user's own: only what ranks can exchange is looked at."""
    (tmp_path / "disk" / "run" / "node_1" / "round_0" / "3").mkdir(parents=True)
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    place = RunDir(tmp_path / "home" / "run").rank(0, 3, node=1)
    place.stdout.write_bytes(b"text")
    assert (opening.levels(place.stdout), rundir.read_at(place.stdout, 0)) == (3, b"text")
    assert opening.levels(RunDir(tmp_path / "r").usage(2)) == 1
    assert opening.levels(RunDir(tmp_path / "r").journal) == 0
    assert opening.levels(Path("/x")) == 0
