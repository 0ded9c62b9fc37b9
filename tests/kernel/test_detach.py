"""Detached runs: their kernel, its whole group and session, or the terminal is gone, and others follow, stop and end them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from nb_elastic import snapshot
from nb_elastic.lifeline import stat_fields
from tests.support.detached import is_up, open_files, run_named, started_by, supervisor_of, waiting
from tests.support.kernel import Kernel
from tests.support.until import until


def test_two_detached_runs_outlive_the_kernels_whole_session_and_others_follow_and_stop_them(tmp_path: Path):
    """The Jupyter server ends, and takes its kernels with it by group, session and terminal."""
    home = tmp_path / "home"
    env = {"NB_ELASTIC_HOME": str(home)}
    with Kernel(cwd=tmp_path, env=env) as first:
        first.ok("%load_ext nb_elastic\nimport nb_elastic")
        first.ok(f"%%elastic_launch --nproc 2 --detach --name one\n{waiting('go1')}")
        first.ok(f"%%elastic_launch --nproc 2 --detach --name two\n{waiting('go2')}")
        one, two = run_named(home, "one"), run_named(home, "two")
        ups = [is_up(run) for run in (one, two)]
        supervisors = [supervisor_of(run) for run in (one, two)]
        pipes = set(open_files(supervisors[0]).values()) & set(open_files(supervisors[1]).values())
        assert {p for p in pipes if p.startswith("pipe:")} == set(), "the two hold each other's pipes"
        for who in supervisors:
            assert not [f for f in open_files(who).values() if f.startswith(("/dev/pts", "/dev/tty"))]
            fields = stat_fields(who.pid)
            assert int(fields[3]) != os.getsid(first.pid), "it is in the kernel's session"
        assert len({w.pid for up in ups for w in up.workers}) == 4
        group, session = os.getpgid(first.pid), os.getsid(first.pid)
        members = [
            int(p.name)
            for p in Path("/proc").glob("[0-9]*")
            if (f := stat_fields(int(p.name))) and int(f[3]) == session
        ]
        assert first.pid in members
        os.killpg(group, signal.SIGHUP)
        for pid in members:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not first._manager.is_alive(), 30)
    with Kernel(cwd=tmp_path, env=env) as second, Kernel(cwd=tmp_path, env=env) as third:
        second.ok("import nb_elastic\n%load_ext nb_elastic")
        third.ok("%load_ext nb_elastic\nimport nb_elastic")
        assert all(who.is_alive for who in supervisors)
        follows = second.start(f"%elastic attach {one.run_id}")
        second.wait_for(follows, "waits")
        told = third.ok("r = nb_elastic.attach('two')\nprint(r.state.value, r.metrics[0]['loss'], sorted(r.results))")
        assert told.stdout == "running 0.5 []\n"
        listing = third.ok("%elastic runs").stdout
        assert listing.count("running") == 2, listing
        assert third.ok("%elastic stop one").stdout == f"Run {one.run_id} is stopped.\n"
        second.wait(follows)
        assert follows.reply["ename"] == "RunStoppedError", follows.text
        (tmp_path / "go2").touch()  # it ends while nobody looks
        until(lambda: snapshot.load(two).state.is_final, 60)
        again = second.ok("%elastic attach two")
        assert "goes on" in again.text, again.text
        assert third.ok("print(r.wait(60).value, r.results)").stdout == "succeeded {0: 40, 1: 41}\n"
    until(lambda: not started_by(home), 10)
