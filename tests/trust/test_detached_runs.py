"""Detached runs and what becomes of them: closed terminals, stops from every face, lost supervisors, full disks, deleted folders."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nb_elastic import snapshot
from nb_elastic.dashboard.runlist import RunList
from nb_elastic.lifeline import ProcessId, stat_fields
from nb_elastic.run import attach
from nb_elastic.rundir import RunDir
from tests.support.detached import (
    COMMAND,
    ROOT,
    command,
    is_up,
    open_files,
    run_named,
    started_by,
    supervisor_of,
    waiting,
)
from tests.support.kernel import Cell, Kernel
from tests.support.small_disk import small_disk
from tests.support.until import until

SCRIPT = "import time\nprint('waits', flush=True)\nwhile True:\n    time.sleep(0.05)\n"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A script that waits to be stopped."""
    path = tmp_path / "wait.py"
    path.write_text(SCRIPT)
    return path


def detached(name: str, script: Path, *more: str) -> RunDir:
    """A run of that script, launched from the command line."""
    done = command("run", "--nproc", "2", "--detach", "--name", name, *more, str(script), cwd=script.parent)
    assert done.returncode == 0, done.stderr
    return run_named(Path(os.environ["NB_ELASTIC_HOME"]), name)


def test_a_failed_run_ends_attach_as_it_would_have_ended_its_own_cell(tmp_path: Path, elastic_home: Path):
    with Kernel(cwd=tmp_path) as kernel:
        kernel.ok("%load_ext nb_elastic\nimport nb_elastic")
        kernel.ok(f"%%elastic_launch --nproc 2 --detach --name bad\n{waiting('go', 'assert rank, 1 / rank')}")
        run = run_named(elastic_home, "bad")
        is_up(run)
        follows = kernel.start("%elastic attach bad")
        kernel.wait_for(follows, "waits")
        kernel.interrupt()
        kernel.wait(follows)
        assert follows.is_ok, follows.error
        assert f"Stopped following; run {run.run_id} goes on. `%elastic stop {run.run_id}` ends it." in follows.text
        follows = kernel.start("%elastic attach bad")
        kernel.wait_for(follows, "waits")
        (tmp_path / "go").touch()
        kernel.wait(follows)
        assert follows.reply["ename"] == "WorkerFailedError", follows.text
        assert follows.text.count("Values in Cell In") == 1, "the failure is told twice:\n" + follows.text
        assert kernel.run("%elastic attach bad").reply["ename"] == "WorkerFailedError"
        assert "ZeroDivisionError" in kernel.ok("%elastic show bad").text
    done = command("attach", "bad")
    assert done.returncode == 1
    assert "WorkerFailedError" in done.stderr


def test_attach_ends_with_the_status_of_the_run(script: Path):
    run = detached("s", script)
    is_up(run)
    with subprocess.Popen(
        [*COMMAND, "attach", "s"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as follower:
        assert follower.stdout
        follower.stdout.readline()
        assert command("stop", "s").returncode == 0
        follower.communicate(timeout=60)
    assert follower.returncode == 130
    assert command("attach", run.run_id[:-1]).returncode == 130  # by a prefix, when it is over
    script.write_text("print(1)")
    run = detached("good", script)
    assert command("attach", "good").returncode == 0


def test_a_run_launched_in_a_terminal_outlives_it(script: Path, elastic_home: Path):
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = str(ROOT)
        words = " ".join(
            [sys.executable, "-m", "nb_elastic", "run", "--nproc", "2", "--detach", "--name", "t", str(script)]
        )
        os.execvp("sh", ["sh", "-c", f"{words}; sleep 600"])
    run = run_named(elastic_home, "t")
    is_up(run)
    who = supervisor_of(run)
    fields = stat_fields(who.pid)
    assert (int(fields[3]), fields[4]) == (who.pid, "0"), "it is in the terminal's session, or has a terminal"
    assert not [f for f in open_files(who).values() if f.startswith("/dev/pts")]
    os.close(terminal)  # SIGHUP
    os.waitpid(pid, 0)
    assert who.is_alive
    assert command("stop", "t", "--grace", "1").stdout == f"Run {run.run_id} is stopped.\n"


STOPS = {
    "Python": "import nb_elastic\nnb_elastic.attach('s').stop(1.0)",
    "the magic": "%elastic stop s --grace 1",
    "the dashboard": (
        "from nb_elastic import rundir\nfrom nb_elastic.dashboard import board\nfrom nb_elastic.dashboard.view import Door\n"
        "import nb_elastic\nrun = nb_elastic.attach('s')\n"
        "door = Door(send=lambda *_: None, find=lambda _: rundir.RunDir(run.dir), stop=lambda f, g: run.stop(g, by='dashboard'))\n"
        "board.shared().hear(door, {'type': 'stop', 'view': 'v', 'grace_s': 1.0})\n"
        "print(run.wait(60))\nboard.shared().leave(door)"
    ),
}


def test_a_run_that_one_kernel_follows_is_stopped_from_every_face_of_another(tmp_path: Path, elastic_home: Path):
    with Kernel(cwd=tmp_path) as follower, Kernel(cwd=tmp_path) as other:
        follower.ok("%load_ext nb_elastic")
        other.ok("%load_ext nb_elastic")
        for face in [*STOPS, "the lab panel", "the command line"]:
            follower.ok(f"%%elastic_launch --nproc 2 --detach --name s\n{waiting('never')}")
            run = run_named(elastic_home, "s")
            is_up(run)
            follows = follower.start(f"%elastic attach {run.run_id}")
            follower.wait_for(follows, "waits")
            if face == "the command line":
                command("stop", "s", "--grace", "1")
            elif face == "the lab panel":
                ask_panel(other, {"type": "stop", "view": "v", "run": run.run_id, "grace_s": 1.0})
            else:
                other.ok(STOPS[face])
            follower.wait(follows)
            assert follows.reply["ename"] == "RunStoppedError", (face, follows.text)
            shutil.rmtree(run.path)  # the next takes its name


def ask_panel(kernel: Kernel, content: dict[str, Any]) -> None:
    """Say what a page of JupyterLab says over the kernel's comm."""
    found = kernel.ok(
        "from comm import get_comm_manager\n"
        "print([c for c, one in get_comm_manager().comms.items() if one.target_name == 'nb_elastic.monitor'][0])"
    )
    message = kernel._client.session.msg("comm_msg", {"comm_id": found.stdout.strip(), "data": content})
    kernel._client.shell_channel.send(message)


def test_a_supervisor_that_was_killed_reads_as_lost_everywhere_and_results_are_kept(tmp_path: Path, elastic_home: Path):
    with Kernel(cwd=tmp_path) as kernel:
        kernel.ok("%load_ext nb_elastic\nimport nb_elastic")
        end = "rank if rank == 0 else time.sleep(600)"
        kernel.ok(f"%%elastic_launch --nproc 2 --detach --name k --out own\n{waiting('go', end)}")
        run = run_named(elastic_home, "k")
        is_up(run)
        (tmp_path / "go").touch()
        until(lambda: run.rank(0, 0).result.exists(), 60)
        until(lambda: snapshot.load(run).workers[0].state.is_final, 60)
        with subprocess.Popen(
            [*COMMAND, "attach", "k"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
        ) as other:
            follows = kernel.start("%elastic attach k")
            kernel.wait_for(follows, "goes on")
            supervisor_of(run).signal(signal.SIGKILL)
            kernel.wait(follows)
            told = other.communicate(timeout=60)[1].decode()
        assert follows.reply["ename"] == "RunLostError", follows.text
        assert "vanished without a last word" in follows.text
        assert "may still run" not in follows.text, "the ranks had a moment to go"
        assert (other.returncode, "RunLostError" in told) == (1, True)
        assert kernel.ok("print(own.wait(60).value, own.results, own.state.value)").stdout == "lost {0: 0} lost\n"
        assert "lost" in kernel.ok("%elastic runs").stdout
        assert "vanished without a last word" in kernel.ok("%elastic show k").text
    assert [row["state"] for row in RunList().rows()] == ["lost"]
    events = [json.loads(line)["event"] for line in run.journal.read_text().splitlines()]
    assert events.count("run_lost") in {1, 2}, "one of whoever has the run's key, and one of the others"
    until(lambda: not [p for p in started_by(elastic_home) if "nb_elastic:" in cmdline(p)], 10)


def cmdline(who: ProcessId) -> str:
    """What ps shows."""
    try:
        return Path(f"/proc/{who.pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_a_supervisor_killed_while_it_imports_leaves_a_lost_run(script: Path, tmp_path: Path):
    (tmp_path / "slow_module.py").write_text("import time\nopen('importing', 'w').close()\ntime.sleep(600)\n")
    run = detached("i", script, "--preload", "slow_module")
    until(lambda: [p for p in started_by(run.path.parent) if f"{run.run_id}:supervisor" in cmdline(p)], 60)
    assert snapshot.load(run).state.value == "created"
    for who in started_by(run.path.parent):
        if f"{run.run_id}:supervisor" in cmdline(who):
            who.signal(signal.SIGKILL)
    assert attach("i").wait(30).value == "lost"
    assert command("runs").stdout.count("lost") == 1


@pytest.mark.parametrize("kind", ["tmpfs", "ext2"])
def test_a_cell_on_a_full_disk_ends_as_its_run_did(tmp_path: Path, kind: str):
    """On ext2 the journal has no room for the last word: the cell hears it from the supervisor itself."""
    with (
        small_disk(tmp_path / "disk", kind=kind) as disk,
        Kernel(cwd=tmp_path, env={"NB_ELASTIC_HOME": str(disk.path)}) as kernel,
    ):
        kernel.ok("%load_ext nb_elastic\nimport nb_elastic")
        go = tmp_path / "go"
        quiet = waiting(str(go)).replace("print('goes on', flush=True)", "")
        cell = kernel.start(f"%%elastic_launch --nproc 2 --name f --out r\n{quiet}")
        is_up(run_named(disk.path, "f"))
        disk.fill()
        kernel.wait_for(cell, "is full")
        go.touch()
        kernel.wait(cell)
        assert cell.is_ok, cell.text
        assert kernel.ok("print(r.state.value, r.results)").stdout == "succeeded {}\n"
        disk.free()
        kernel.ok("%%elastic_launch --nproc 2 --out r\n1")
        assert kernel.ok("print(r.results)").stdout == "{0: 1, 1: 1}\n"


def test_a_cell_whose_run_folder_is_deleted_ends_with_the_reason(tmp_path: Path, elastic_home: Path):
    def delete(name: str) -> None:
        """A rank that only begins would fail without its folder: both must be there."""
        run = run_named(elastic_home, name)
        is_up(run)
        shutil.rmtree(run.path)

    with Kernel(cwd=tmp_path) as kernel:
        kernel.ok("%load_ext nb_elastic\nimport nb_elastic")
        kernel.ok(f"%%elastic_launch --nproc 2 --detach --name d\n{waiting('never')}")
        cells: list[tuple[Cell, str]] = []
        follows = kernel.start("%elastic attach d")
        kernel.wait_for(follows, "waits")
        delete("d")
        cells.append((kernel.wait(follows), "RunLostError"))
        attached = kernel.start(f"%%elastic_launch --nproc 2 --name a\n{waiting('never')}")
        kernel.wait_for(attached, "waits")
        delete("a")
        cells.append((kernel.wait(attached), "RunStoppedError"))
        attached = kernel.start(f"%%elastic_launch --nproc 2 --name b\n{waiting('never')}")
        kernel.wait_for(attached, "waits")
        delete("b")
        kernel.interrupt()  # a stop works all the same
        cells.append((kernel.wait(attached), "RunStoppedError"))
        itself = "import os, shutil\nshutil.rmtree(os.environ['NB_ELASTIC_RUN_DIR'])\nraise ValueError('no batch')"
        cells.append((kernel.run(f"%%elastic_launch --nproc 2\n{itself}"), "WorkerFailedError"))
        for cell, name in cells:
            assert cell.reply["ename"] == name, cell.text
            assert "was deleted" in cell.text, cell.text
        threads = "import threading\nprint([t.name for t in threading.enumerate() if t.name.startswith(('nb-elastic', 'nb_elastic'))])"
        until(lambda: kernel.ok(threads).stdout == "[]\n", 20)
        assert kernel.ok("%%elastic_launch --nproc 2\n1").is_ok
