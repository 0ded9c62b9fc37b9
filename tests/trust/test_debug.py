"""Held ranks whatever happens: every way to a breakpoint, every end of a held group, terminals, and the kernel's death."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest

from nb_elastic import debugging, debugwire, rundir, snapshot
from nb_elastic.errors import ElasticError
from tests.support.kernel import Kernel
from tests.support.supervise import PROGRAMS, ROOT, Supervised, entry, start
from tests.support.until import until

FAILS = entry("fails_while_others_wait.py")
COMMAND = [sys.executable, "-m", "nb_elastic"]
PROMPT = r"\(rank (\d)\) \(Pdb\) $"


def held(one: Supervised, count: int = 1) -> list[debugging.HeldRank]:
    """Wait until so many ranks are held."""
    until(
        lambda: len(debugging.held_ranks(one.run, snapshot.load(one.run))) >= count or one.process.poll() is not None,
        60,
    )
    return debugging.held_ranks(one.run, snapshot.load(one.run))


@contextmanager
def at_prompt(one: debugging.HeldRank) -> Iterator[None]:
    """A debugger that waits for its user."""
    peer = debugwire.connect(one.folder.debug_socket)
    peer.send({"type": "pdb"})
    assert (peer.wait(60) or {})["type"] == "ask"
    yield
    peer.close()


@pytest.mark.parametrize("how", ["stop", "timeout", "nobody", "supervisor killed"])
def test_a_held_group_ends_as_any_other(how: str):
    with start(FAILS, hold=True, timeout=10.0 if how == "timeout" else None) as one:
        with at_prompt(held(one)[0]):
            if how == "stop":
                one.stop(grace_s=60.0)
            elif how == "nobody":
                assert one.process.stdin
                one.process.stdin.close()
            elif how == "supervisor killed":
                one.process.kill()
            one.process.wait(60)
        if how != "supervisor killed":
            one.wait()
            assert one.state == ("failed" if how == "timeout" else "stopped")
            assert {e["signal"] for e in one.of("signal_sent") if e["rank"] == 1} <= {"SIGINT"}, (
                "it heeds the first word"
            )


@pytest.mark.parametrize("how", ["saves", "own_handler"])
def test_a_stop_at_a_breakpoint_reaches_the_users_code(how: str):
    with start(entry("stops_at_breakpoints.py", how), nproc=1, ambient={"on_breakpoint": "wait"}) as one:
        with at_prompt(held(one)[0]):
            one.stop(grace_s=60.0)
            one.wait()
        assert one.out() == {"saves": b"saved\n", "own_handler": b"handled\n"}[how]
        assert one.exits()[0, 0][0] == {"saves": 130, "own_handler": 4}[how]
        assert "holding" not in one.err() and "bdb" not in one.err()


def test_pythonbreakpoint_has_its_way():
    env = {"PYTHONBREAKPOINT": "0"}
    with start(entry("stops_at_breakpoints.py", "exits"), nproc=1, env=env, ambient={"on_breakpoint": "wait"}) as one:
        one.wait()
    assert (one.state, one.exits(), one.err()) == ("failed", {(0, 0): (3, "failed")}, "")


def test_torchs_own_breakpoint_stops_one_rank_while_the_others_wait():
    with start(entry("stops_at_breakpoints.py", "torch"), ambient={"on_breakpoint": "wait"}) as one:
        (only,) = held(one)
        assert (only.rank, "stops_at_breakpoints.py" in only.text) == (1, True)
        shown: list[str] = []
        lines = iter(["n", "p how", "c"])
        assert debugging.converse(only, ask=lambda _prompt: next(lines), write=shown.append) == "continue"
        assert "-> dist.breakpoint(1)" in shown[0] and "-> print('past'" in shown[1].replace('"', "'"), shown
        one.wait()
    assert (one.state, one.out(0), one.out(1)) == ("succeeded", b"past 0\n", b"past 1\n")


def test_an_exit_code_is_held_and_a_good_end_or_a_stop_is_not():
    with start(entry("stops_at_breakpoints.py", "exits"), nproc=1, hold=True) as one:
        (only,) = held(one)
        assert "SystemExit: 3" in only.text
        assert "passes over the breakpoint" in one.err()
        debugging.release(only)
        one.wait()
    assert (one.state, one.exits()) == ("failed", {(0, 0): (3, "failed")})
    with start(entry("saves_when_stopped.py"), hold=True) as one:
        one.until_event("worker_ready", 2)
        until(lambda: b"waiting" in one.out(0) and b"waiting" in one.out(1), 60)
        one.stop(grace_s=60.0)
        one.wait()
    assert (one.state, one.of("worker_held")) == ("stopped", [])


def test_every_failed_rank_is_held_and_the_first_is_to_blame():
    with start(entry("fails_in_turn.py", "200"), nproc=3, hold=True) as one:
        found = held(one, 3)
        assert [h.rank for h in found] == [0, 1, 2]
        until(lambda: len(one.failures()) == 3, 60)
        root = one.failures()[0].rank
        until(lambda: snapshot.load(one.run).root_rank == root, 60)
        assert debugging.choose(one.run, snapshot.load(one.run)).rank == root
        debugging.release(found[0])
        one.wait()
    assert (one.state, one.end["root_rank"]) == ("failed", root)
    with pytest.raises(ElasticError, match="none of its ranks is held any more"):
        debugging.choose(one.run, snapshot.load(one.run))


def test_the_kernels_death_ends_a_held_group(tmp_path: Path):
    home = tmp_path / "home"
    with Kernel(cwd=tmp_path, env={"NB_ELASTIC_HOME": str(home)}) as kernel:
        kernel.ok("%load_ext nb_elastic")
        cell = kernel.run("%%elastic_launch --nproc 2 --hold --render plain\nraise ValueError('no')")
        assert "The group is held" in cell.text, cell.text
        (folder,) = home.glob("2*")
        now = snapshot.load(rundir.RunDir(folder))
        kernel.kill()
        until(
            lambda: not any(Path(f"/proc/{p}").exists() for p in (now.supervisor_pid, *(w.pid for w in now.workers))),
            15,
        )


# -- in a terminal ------------------------------------------------------------------------------


def terminal(*words: str) -> pexpect.spawn:
    """The command in a terminal of its own."""
    return pexpect.spawn(
        COMMAND[0],
        [*COMMAND[1:], *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        encoding="utf-8",
        timeout=90,
        dimensions=(40, 160),
    )


def end_of(child: pexpect.spawn) -> tuple[int | None, str]:
    """Exit status and last words, without colours."""
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", child.before)


@pytest.mark.parametrize("how", ["q", "interrupt", "end of file"])
def test_in_a_terminal_a_held_run_opens_pdb_at_once_and_leaving_ends_it(how: str):
    child = terminal("run", "--nproc", "2", "--hold", str(PROGRAMS / "fails_while_others_wait.py"))
    child.expect(PROMPT)
    assert "Rank 1 is held: " in child.before and "ValueError: no step 7" in child.before
    child.sendline("p scale")
    child.expect(r"tensor\(\[1., 2.\]\)")
    child.expect(PROMPT)
    child.send("\x1b[A\r")  # up: what was asked before is asked again
    child.expect(r"tensor\(\[1., 2.\]\)")
    child.expect(PROMPT)
    if how == "q":
        child.sendline("q")
    elif how == "interrupt":
        child.sendintr()
    else:
        child.sendeof()
    status, text = end_of(child)
    assert status == 1
    assert "rank 1 failed first (ValueError: no step 7)" in text


def test_in_a_terminal_a_breakpoint_asks_above_the_table():
    child = terminal("run", "--nproc", "1", str(PROGRAMS / "stops_at_breakpoints.py"), "everywhere")
    child.expect("Rank 0 is at a breakpoint: ")
    child.expect(PROMPT)
    child.sendline("c")
    child.expect("the second stop")
    child.expect(PROMPT)
    child.sendline("p total")
    child.expect("3\r\n")
    child.expect(PROMPT)
    child.sendline("c")
    status, text = end_of(child)
    assert status == 0 and "total 3" in text


def test_without_a_terminal_hold_is_refused_and_a_detached_group_waits(elastic_home: Path):
    program = str(PROGRAMS / "fails_while_others_wait.py")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [*COMMAND, *words],
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    refused = run("run", "--nproc", "2", "--hold", program)
    assert refused.returncode == 2 and "--hold needs a terminal here" in refused.stderr
    detached = run("run", "--nproc", "2", "--hold", "--detach", program)
    assert detached.returncode == 0, detached.stderr
    run_id = detached.stdout.strip()
    folder = rundir.RunDir(elastic_home / run_id)
    until(lambda: snapshot.load(folder).failures, 60)
    assert run("eval", run_id, "batch.shape").stdout == "torch.Size([3, 4])\n"
    assert run("eval", "[step, 'a b']").stdout == "[7, 'a b']\n"
    assert "Nobody can answer pdb here" in run("debug", run_id).stderr
    assert "held" in run("runs").stdout
    child = terminal("debug")
    child.expect(PROMPT)
    child.sendline("leave")
    status, text = end_of(child)
    assert (status, "Rank 1 stays held" in text) == (0, True)
    assert "is stopped" in run("stop", run_id).stdout
