"""Asking a held rank: whoever is refused must read why.

A user would lose: "is no longer held" said of a rank that is, because somebody else debugs it.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nb_elastic import debugging, debugwire
from nb_elastic.debugging_line import GoneError, HeldRank
from nb_elastic.debugwire import Peer
from nb_elastic.errors import ElasticError
from nb_elastic.model import RunState
from nb_elastic.rundir import RankDir, RunDir
from tests.support.until import until


def test_a_refusal_is_read_though_the_rank_hung_up_before_it_was_asked(elastic_home: Path, monkeypatch) -> None:
    rank = RankDir(elastic_home)
    refused = threading.Event()

    def refuse() -> None:
        until(lambda: debugwire.readable([listener.fileno()], 0.0))
        peer = debugwire.accept(listener)
        assert peer is not None
        peer.send({"type": "busy"})
        peer.close()
        refused.set()

    def connect_late(path: Path) -> Peer:
        peer = connect(path)
        assert refused.wait(30)
        return peer

    connect = debugwire.connect
    monkeypatch.setattr(debugwire, "connect", connect_late)
    with debugwire.listen(rank.debug_socket) as listener:
        thread = threading.Thread(target=refuse, name="refuses")
        thread.start()
        with pytest.raises(ElasticError, match="held by another debugger"):
            debugging.look(HeldRank(rank=1, why="failure", text="", number=1, folder=rank), "step")
        thread.join()


def test_a_rank_that_is_held_and_can_not_be_reached_is_asked_again_and_then_told_of(
    elastic_home: Path, monkeypatch, capsys
):
    held = HeldRank(rank=1, why="breakpoint", text="x.py, line 3", number=4, folder=RankDir(elastic_home))
    now: Any = SimpleNamespace(state=RunState.RUNNING, held=[SimpleNamespace(held="breakpoint")], failures=())
    talks: list[int] = []

    def gone(*_: object, **__: object) -> None:
        talks.append(1)
        raise GoneError("Rank 1 is no longer held, or can't be reached.")

    clock = iter(range(0, 1_000_000, 10))
    monkeypatch.setattr(debugging.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(debugging, "held_ranks", lambda *_: [held])
    monkeypatch.setattr(debugging, "converse", gone)
    attendant = debugging.Attendant(RunDir(elastic_home), stop=lambda: None, can_ask=True)
    for _ in range(20):
        attendant.serve(now, contextlib.nullcontext())
    shown = capsys.readouterr().out
    assert len(talks) == 1 + debugging.MOST_RETRIES
    assert shown.count("debug") == 1 and "--rank 1` tries again" in shown
