"""Nobody but the user can enter the folders of runs, nor exchange them, whatever was there before.

A user would lose: their data and secrets, to whoever else has an account on the machine.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from nb_elastic import rundir
from nb_elastic.dashboard import runlist
from nb_elastic.errors import OptionError
from tests.support.supervise import LIMITED_UID

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")


@pytest.fixture(params=[0, 0o777], ids=["umask 0", "umask 777"])
def umask(request: pytest.FixtureRequest):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A home that is not there yet, nor the folder in which it shall be."""
    path = tmp_path / "state" / "nb_elastic"
    monkeypatch.setenv("NB_ELASTIC_HOME", str(path))
    return path


def test_every_folder_that_is_made_is_closed_whatever_the_umask(home: Path, tmp_path: Path, umask: int):
    run = rundir.create(log_dir=str(tmp_path / "logs" / "deep"))
    rundir.write_json(run.run_json, {})
    rundir.Journal(run.journal).close()
    made = [home, home.parent, run.path, run.path.parent, run.path.parent.parent]
    files = [run.run_json, run.journal, home / f"{run.run_id}.json"]
    assert [oct(mode(p)) for p in made] == ["0o700"] * 5
    assert [oct(mode(p)) for p in files] == ["0o600"] * 3


def test_a_home_that_others_could_enter_is_closed(home: Path):
    home.mkdir(parents=True)
    home.chmod(0o777)
    rundir.create()
    assert oct(mode(home)) == "0o700"


@needs_root
def test_a_home_of_another_user_is_refused(home: Path):
    home.mkdir(parents=True)
    os.chown(home, LIMITED_UID, -1)
    with pytest.raises(OptionError, match=f"belongs to user {LIMITED_UID}, not to you"):
        rundir.create()
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("target", ["ours", "nothing", "file", "/etc"])
def test_a_home_that_is_a_link_is_refused_wherever_it_leads(home: Path, tmp_path: Path, target: str):
    (tmp_path / "ours").mkdir()
    (tmp_path / "file").touch()
    home.parent.mkdir(parents=True)
    home.symlink_to(tmp_path / target)
    with pytest.raises(OptionError, match="symlink"):
        rundir.create()
    assert list((tmp_path / "ours").iterdir()) == []
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(("bits", "is_refused"), [(0o777, True), (0o757, True), (0o1777, False), (0o775, False)])
@pytest.mark.parametrize("where", ["home", "log_dir"])
def test_a_place_where_anybody_could_exchange_the_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int, is_refused: bool, where: str
):
    """Who may write to a folder without the sticky bit may rename our run away and put theirs into its place."""
    place = tmp_path / "shared"
    place.mkdir()
    place.chmod(bits)
    if where == "home":
        monkeypatch.setenv("NB_ELASTIC_HOME", str(place / "home"))
    log_dir = str(place) if where == "log_dir" else None
    if is_refused:
        with pytest.raises(OptionError, match="Everybody may write to the folder"):
            rundir.create(log_dir=log_dir)
        assert list(place.iterdir()) == []
    else:
        assert oct(mode(rundir.create(log_dir=log_dir).path)) == "0o700"
        assert oct(mode(place)) == oct(bits), "a folder that others share stays as it is"


def test_a_log_dir_that_is_our_own_link_is_followed_once_and_for_all(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "logs").symlink_to(tmp_path / "disk")
    assert rundir.create(log_dir=str(tmp_path / "logs")).path.parent == tmp_path / "disk"


@needs_root
def test_a_log_dir_that_is_another_user_s_link_is_refused(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "logs").symlink_to(tmp_path / "disk")
    os.lchown(tmp_path / "logs", LIMITED_UID, -1)
    with pytest.raises(OptionError, match=f"a symlink that user {LIMITED_UID} made"):
        rundir.create(log_dir=str(tmp_path / "logs"))


def test_a_run_id_that_somebody_took_beforehand_is_passed_over(tmp_path: Path):
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp-2").symlink_to("/etc")
    (tmp_path / "exp-3").touch()
    os.mkfifo(tmp_path / "exp-4")
    (tmp_path / "exp-5").symlink_to(tmp_path / "nothing")
    assert rundir.create(wanted_id="exp", log_dir=str(tmp_path)).run_id == "exp-6"


def test_a_pointer_that_is_a_link_is_replaced_and_not_followed(elastic_home: Path, tmp_path: Path):
    victim = tmp_path / "victim"
    (elastic_home / "exp.json").symlink_to(victim)  # dangling: nothing seems to be there
    run = rundir.create(wanted_id="exp", log_dir=str(tmp_path / "logs"))
    assert not victim.exists()
    assert rundir.read_json(elastic_home / f"{run.run_id}.json") == {"dir": str(run.path)}


@needs_root
def test_a_run_of_another_user_is_neither_listed_nor_found_nor_opened(elastic_home: Path, tmp_path: Path):
    for n, place in enumerate((elastic_home / "theirs", tmp_path / "far")):
        place.mkdir()
        rundir.write_json(place / "run.json", {"name": f"name-{n}"})
        os.chown(place, LIMITED_UID, -1)
    rundir.write_json(elastic_home / "far.json", {"dir": str(tmp_path / "far")})
    assert rundir.all_runs() == []
    assert [runlist.by_id("theirs"), runlist.by_id("far")] == [None, None]


@pytest.mark.parametrize(
    "told", [{"dir": "/etc"}, {"dir": "../../etc"}, {"dir": 7}, {"dir": "x" * 5000}, {"dir": "a\0b"}, {}]
)
def test_a_pointer_to_what_is_no_run_is_passed_over(elastic_home: Path, told: dict[str, object]):
    rundir.write_json(elastic_home / "bad.json", told)
    assert (rundir.all_runs(), runlist.by_id("bad")) == ([], None)


def test_a_run_that_became_a_link_is_no_run_any_more(elastic_home: Path, tmp_path: Path):
    rundir.write_json(rundir.create(wanted_id="real").run_json, {})
    (elastic_home / "link").symlink_to(elastic_home / "real")
    assert [r.run_id for r in rundir.all_runs()] == ["real"]
    assert runlist.by_id("link") is None
