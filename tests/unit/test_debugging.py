"""Asking a held rank: whoever is refused must read why.

A user would lose: "is no longer held" said of a rank that is, because somebody else debugs it.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from nb_elastic import debugging, debugwire
from nb_elastic.debugging_line import HeldRank
from nb_elastic.debugwire import Peer
from nb_elastic.errors import ElasticError
from nb_elastic.rundir import RankDir
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
