"""Other users of the machine can neither read nor steer a run; what PyTorch leaves open to them is shown, and is what SECURITY.md says.

A user would lose: data, secrets in the environment, hours of training, on every shared machine.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nb_elastic import rundir
from tests.support import listeners, supervise
from tests.support.supervise import LIMITED_UID, ROOT
from tests.support.until import until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")]

REFUSED = (
    "list_home", "list_run", "read_log", "read_journal", "write_stop", "write_journal", "plant_run", "exchange_run", "signal", "memory",
    "environ", "descriptors", "cli_runs", "cli_show", "cli_logs", "cli_stop", "cli_attach", "debug_socket",
)  # fmt: skip


def stranger(one: supervise.Supervised, marker: Path, *actions: str, port: int = 0) -> dict[str, str]:
    """What another user can do to a live run."""
    words = [
        str(LIMITED_UID),
        str(one.run.path.parent),
        str(one.run.path),
        str(one.process.pid),
        str(port),
        str(marker),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.programs.stranger", *words, *actions],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def live(go: Path, **settings) -> supervise.Supervised:
    one = supervise.start(supervise.entry("meets_and_waits.py", str(go)), nproc=2, **settings)
    until(
        lambda: (
            all(b"ready" in rundir.read_whole(one.run.rank(0, r).stdout) for r in (0, 1))
            or one.process.poll() is not None
        ),
        120,
    )
    return one


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """A home in a folder like /tmp: everybody may write there, and see names."""
    place = tmp_path_factory.mktemp("shared")
    for parent in place.parents:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(0o711)
    place.chmod(0o1777)
    monkeypatch.setenv("NB_ELASTIC_HOME", str(place / "home"))
    return place


@pytest.mark.parametrize("where", ["home", "log_dir"])
def test_another_user_can_neither_read_nor_steer_a_run(shared: Path, tmp_path: Path, where: str):
    go = tmp_path / "go"
    with live(go, **({"log_dir": str(shared / "logs")} if where == "log_dir" else {})) as one:
        place = one.run.rank(0, 0).debug_socket
        with socket.socket(socket.AF_UNIX) as door:  # as a held rank has it, were its mode wrong
            door.bind(f"/proc/self/fd/{os.open(place.parent, os.O_RDONLY)}/{place.name}")
            place.chmod(0o777)
            door.listen()
            told = stranger(one, tmp_path / "marker", *REFUSED)
        assert {a: t for a, t in told.items() if t not in {"PermissionError", "ElasticError"}} == {}
        assert sorted(told) == sorted(REFUSED)
        assert not one.of("stop_requested")
        go.touch()
        one.wait()
    assert one.state == "succeeded"


def test_the_stranger_does_all_that_to_an_open_folder(tmp_path: Path, shared: Path):
    """Else the test above would prove nothing: with the folders' modes taken away, most of it works."""
    go = tmp_path / "go"
    with live(go) as one:
        for path in (one.run.path.parent, one.run.path, *one.run.path.rglob("*")):
            path.chmod(0o777)
        told = stranger(
            one,
            tmp_path / "marker",
            "list_home",
            "read_log",
            "read_journal",
            "write_stop",
            "write_journal",
            "plant_run",
        )
        assert set(told.values()) == {"done"}
        assert stranger(one, tmp_path / "marker", "signal", "memory", "cli_show")["signal"] == "PermissionError"
        go.touch()
        one.wait()


def test_what_another_user_can_do_to_the_ranks_store_runs_no_code(shared: Path, tmp_path: Path):
    """PyTorch's store has no authentication, and loopback is everybody's: keys can be read and written, which can end a run. No more."""
    marker = tmp_path / "marker"
    with live(tmp_path / "go") as one:
        (finished,) = one.of("rendezvous_finished")
        port = int(finished["master_port"])
        assert port in {p for _, p in listeners.of({one.process.pid})}
        told = stranger(one, marker, "store_read", "store_write", port=port)
        (tmp_path / "go").touch()
        one.stop(1.0)
        one.wait()
    assert told == {"store_read": "done", "store_write": "done"}, (
        "if this fails, PyTorch has closed the hole: say so in SECURITY.md"
    )
    assert not marker.exists()
