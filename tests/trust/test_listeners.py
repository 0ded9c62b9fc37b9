"""While runs of every kind are up, nothing of theirs can be reached from another machine, nor by a name that anybody may use.

A user would lose: the machine, to whoever reaches a port of it. Seen from outside, by ``ss``.
"""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from nb_elastic import debugging, rundir, snapshot
from nb_elastic.lifeline import descendants
from tests.support import supervise
from tests.support.kernel import Kernel
from tests.support.until import until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("ss"), reason="no ss here")]

KINDS = {
    "loopback": {},
    "spawn": {"start_method": "spawn"},
    "c10d": {"rdzv_backend": "c10d"},
    "standalone": {"standalone": True},
    "static": {"rdzv_backend": "static", "master_port": 0},
    "restarted": {"max_restarts": 1},
    "detached": {"is_detached": True},
    "own store": {"env": {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}},
}


def listeners(pids: set[int]) -> dict[str, set[str]]:
    """Local addresses by kind (tcp, udp, u_str, u_seq, u_dgr) of all sockets of these processes that wait for somebody."""
    done = subprocess.run(["ss", "-H", "-lntupxe"], capture_output=True, text=True, check=True)
    found: dict[str, set[str]] = {}
    for line in done.stdout.splitlines():
        if pids & {int(pid) for pid in re.findall(r"pid=(\d+)", line)}:
            kind, _state, _r, _s, local = line.split()[:5]
            found.setdefault(kind, set()).add(local)
    return found


def reachable(found: dict[str, set[str]], private: Path) -> list[str]:
    """Those that somebody else could reach."""
    bad = [
        f"{kind} {at}"
        for kind in ("tcp", "udp")
        for at in found.get(kind, ())
        if not re.match(r"(127\.\d+\.\d+\.\d+|\[::1\]):\d+$", at)
    ]
    for kind in found.keys() - {"tcp", "udp"}:
        for at in found[kind] - {"*"}:
            is_inside = not at.startswith("@") and Path(at).is_relative_to(private)
            bad += [] if is_inside else [f"{kind} {at}"]
    return bad


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_one_node_listens_on_loopback_only(kind: str, tmp_path: Path, elastic_home: Path):
    go = tmp_path / "go"
    settings = {"nproc": 2, **KINDS[kind]}
    with supervise.start(supervise.entry("meets_and_waits.py", str(go)), **settings) as one:
        last = 1 if kind == "restarted" else 0
        until(lambda: all(b"ready" in _read(one, rank, last) for rank in (0, 1)) or one.process.poll() is not None, 120)
        found = listeners({one.process.pid, *descendants(one.process.pid)})
        go.touch()
        one.wait()
    assert one.state == "succeeded", one.log
    assert found["tcp"], "the store and gloo listen somewhere: else nothing was looked at"
    assert reachable(found, elastic_home) == []


def test_a_held_rank_can_be_reached_through_its_run_folder_only(elastic_home: Path):
    with supervise.start(supervise.entry("fails_while_others_wait.py"), hold=True) as one:
        until(lambda: debugging.held_ranks(one.run, snapshot.load(one.run)) or one.process.poll() is not None, 60)
        found = listeners({one.process.pid, *descendants(one.process.pid)})
        ways = [path for at in one.run.path.rglob("debug.sock") for path in (at, at.parent)]
        modes = [stat.S_IMODE(path.stat().st_mode) for path in ways]
        one.stop(0)
        one.wait()
    (name,) = found.pop("u_str")
    assert re.fullmatch(r"/proc/self/fd/\d+/debug\.sock", name), "bound through a descriptor of the rank's own folder"
    assert modes == [0o600, 0o700]
    assert reachable(found, elastic_home) == []


def test_launcher_standby_and_command_line_listen_nowhere_else(tmp_path: Path, elastic_home: Path):
    """The kernel's own sockets are Jupyter's."""
    with Kernel(cwd=tmp_path) as kernel:
        kernel.ok("%load_ext nb_elastic\nimport nb_elastic")
        own = listeners({kernel.pid})
        kernel.ok(
            "%%elastic_launch -n 2\nimport torch.distributed as dist\ndist.init_process_group('gloo')\ndist.barrier()"
        )
        cell = kernel.start(
            "%%elastic_launch -n 2\nimport pathlib, time, torch.distributed as dist\ndist.init_process_group('gloo')\ndist.barrier()\nprint('ready', flush=True)\n"
            f"while not pathlib.Path({str(tmp_path / 'go')!r}).exists(): time.sleep(0.02)"
        )
        kernel.wait_for(cell, "ready")
        below = listeners(set(descendants(kernel.pid)))
        ours = {kind: at - own.get(kind, set()) for kind, at in listeners({kernel.pid}).items()}
        (tmp_path / "go").touch()
        kernel.wait(cell)
    assert below["tcp"]
    assert (reachable(below, elastic_home), reachable(ours, elastic_home)) == ([], [])


def test_the_look_itself_finds_what_is_open(elastic_home: Path):
    """Else all the above would prove nothing."""
    found = {"tcp": {"0.0.0.0:80", "*:81", "[::]:82", "127.0.0.1:83", "[::1]:84", "192.0.2.1:85"}, "udp": {"*:90"}}
    found["u_str"] = {"@abstract", "/tmp/open", str(elastic_home / "x"), "*"}
    assert len(reachable(found, elastic_home)) == 7


def _read(one: supervise.Supervised, rank: int, round_number: int) -> bytes:
    return rundir.read_whole(one.run.rank(round_number, rank).stdout)
