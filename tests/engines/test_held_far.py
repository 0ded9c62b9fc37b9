"""Held ranks of other machines: a notebook looks at them as at its own, and nobody waits for one that is gone.

A user would lose: pdb, on every cluster; or a notebook that hangs at a prompt because a machine died.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import nb_elastic
from nb_elastic import debugging, debugwire
from nb_elastic.debugging_line import GoneError, HeldRank
from nb_elastic.lifeline import ProcessId
from nb_elastic.model import RunState
from nb_elastic.run import Run
from nb_elastic.rundir import RunDir
from tests.engines.opened import Place
from tests.engines.scenarios import WAIT_S, launched, node
from tests.programs import on_many_nodes as programs
from tests.support import popen_engine
from tests.support.kernel import Kernel
from tests.support.until import until

ROOT = Path(__file__).parents[2]
PLACE = Place(name="popen", nodes=8)
pytestmark = pytest.mark.pretended

STOPS = """%%elastic_launch --nnodes 2 --nproc 1 --engine popen --render plain
import os, torch, torch.distributed as dist
dist.init_process_group('gloo')
rank = dist.get_rank()
def work(batch):
    print('before', rank)
    breakpoint()
    dist.all_reduce(batch)
    return batch
int(work(torch.ones(1) * (rank + 1)))"""


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is installed here, and in what is started here."""
    monkeypatch.syspath_prepend(str(popen_engine.DIST))
    monkeypatch.setenv("PYTHONPATH", popen_engine.environment(os.environ)["PYTHONPATH"])


def held_of(run: Run, count: int) -> list[HeldRank]:
    """The held ranks, when there are so many."""
    until(lambda: len(debugging.held_ranks(RunDir(run.dir), run.snapshot)) >= count, WAIT_S, "held ranks")
    until(lambda: len(run.failures) >= count, WAIT_S, "their failures")
    return debugging.held_ranks(RunDir(run.dir), run.snapshot)


@contextmanager
def at_prompt(one: HeldRank) -> Iterator[debugwire.Peer]:
    """A debugger that waits for its user."""
    path, greeting = one.way
    peer = debugwire.connect(path)
    try:
        peer.send(greeting)
        peer.send({"type": "pdb"})
        assert (peer.wait(60) or {})["type"] == "ask"
        yield peer
    finally:
        peer.close()


def is_free(one: HeldRank) -> bool:
    """True if no debugger speaks to a rank."""
    try:
        debugging.look(one, "1")
    except nb_elastic.ElasticError as e:
        assert "held by another debugger" in str(e)
        return False
    return True


@pytest.fixture
def held(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Two nodes of two ranks, all of which are held at their failures."""
    del request
    options = {"nnodes": "2", "nproc_per_node": 2, "hold": True, "render": "none"}
    with launched(programs.fail_one_after_the_other, place=PLACE, **options) as run:
        held_of(run, 4)
        yield run


def test_every_rank_of_every_node_is_looked_at_and_one_debugger_at_a_time_speaks_to_a_rank(held: Run):
    found = held_of(held, 4)
    assert [h.rank for h in found] == [0, 1, 2, 3]
    assert [debugging.look(h, "where()[0]") for h in found] == ["0", "1", "2", "3"]
    with pytest.raises(nb_elastic.ElasticError, match="Rank 2: NameError: name 'nobody' is not defined"):
        held.eval("nobody", rank=2)
    with at_prompt(found[3]), pytest.raises(nb_elastic.ElasticError, match="held by another debugger"):
        debugging.look(found[3], "where()")
    until(lambda: is_free(found[3]), WAIT_S, "the rank to hear that the debugger has left")
    assert debugging.look(found[3], "len('x' * 3_000)") == "3000"

    lines = iter(["for n in range(1_500): print('y' * 100)", "leave"])
    shown: list[str] = []
    assert debugging.converse(found[2], ask=lambda _prompt: next(lines), write=shown.append) == "left"
    assert "".join(shown).count("y" * 100 + "\n") == 1_500, "a long answer comes whole"
    check_strangers(RunDir(held.dir).debug_socket)
    assert held.eval("1 + 1", rank=2) == "2", "it is still held, and served"
    debugging.release(found[3])
    assert held.wait(WAIT_S) is RunState.FAILED
    assert held.root_cause is not None and held.root_cause.message == "bad batch of rank 0"
    assert not RunDir(held.dir).debug_socket.exists()


def check_strangers(path: Path) -> None:
    """Others can't reach the socket, and nonsense is hung up on."""
    assert path.lstat().st_mode & 0o7777 == 0o600
    for nonsense in (b"\0" * 100 + b"\n", b"[]\n", b'{"type": "to", "node": 7}\n', b'{"type": "to", "node": "x"}\n'):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(nonsense)
            sock.settimeout(60)
            assert sock.recv(1) == b""
    for rank in ('"../.."', "null", "99"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(b'{"type": "to", "node": 0, "round": 0, "local_rank": %s}\n' % rank.encode())
            sock.settimeout(60)
            assert sock.recv(1) == b""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["node killed", "stop", "driver killed"])
def test_a_prompt_ends_when_the_rank_is_gone(held: Run, how: str):
    found = held_of(held, 4)
    far = next(h for h in found if held.snapshot.worker(h.rank).node == 1)
    with at_prompt(far) as peer:
        if how == "stop":
            held.stop(0.0)
        elif how == "node killed":
            node(held, 1).signal(signal.SIGKILL)
        else:
            now = held.snapshot
            ProcessId(now.supervisor_pid, now.supervisor_start_ticks).signal(signal.SIGKILL)
        with pytest.raises(OSError):  # noqa: PT011  whichever way it was hung up
            while peer.wait(WAIT_S):
                pass
    with pytest.raises(GoneError):
        until(lambda: debugging.look(far, "1"), WAIT_S)


def test_breakpoints_on_two_machines_ask_under_the_cell_one_rank_at_a_time(elastic_home: Path):
    with Kernel(cwd=ROOT, env={"NB_ELASTIC_HOME": str(elastic_home)}) as kernel:
        kernel.ok("%load_ext nb_elastic")
        cell = kernel.start(STOPS, can_answer=True)
        kernel.dialogue(cell, "p batch", "c", "p batch * 10", "c")
        kernel.wait(cell)
        assert cell.is_ok, cell.text
        assert "is at a breakpoint: Cell In[" in cell.text
        assert {"tensor([1.])", "tensor([20.])"} <= set(cell.text.splitlines()) or {
            "tensor([2.])",
            "tensor([10.])",
        } <= set(cell.text.splitlines())
        assert "ranks 0-1: 3" in cell.text
