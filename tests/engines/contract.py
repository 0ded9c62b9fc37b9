"""What every engine must do, checked over the real thing with a small program in place of ours.

Runs in: the engines' tests. A test module has ``class TestX(Contract)`` with a fixture ``place``; see ``Place``.

A user would lose: output that is cut or mixed up, a payload that never arrives, a run that can't be stopped while it waits
for machines, and machines that go on computing (and costing) when the notebook is long gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nb_elastic.engines import base
from nb_elastic.errors import EngineError
from tests.engines.opened import HELLO_S, Opened, Place, marked, opened
from tests.support.until import until

ROOT = Path(__file__).parents[2]
ODD = "a b, c='d' \"e\" $HOME;x=1,y=%d\\n ü"
"""A value that a shell, a list with commas or a format would spoil."""


class Contract:
    """Checks over one engine. Nodes may be on one real machine, as long as the engine takes them for several."""

    GONE_S = 20.0
    """How long nodes may live on after the driver was killed (a lease's 15 s, at most)."""

    @pytest.fixture
    def place(self) -> Any:
        """Where to try the engine; says ``Place`` in a subclass."""
        raise NotImplementedError

    @pytest.fixture
    def busy(self, place: Place) -> Place:
        """A place where opening has to wait for a machine; by default more nodes are asked for than there are."""
        return Place(name=place.name, settings=place.settings, nodes=place.nodes + 1)

    def attend(self, order: base.Order) -> None:
        """Called in a thread while the engine opens: starts nodes, where they are not started by the engine."""

    def opened(self, place: Place, folder: Path, **more: Any) -> contextlib.AbstractContextManager[Opened]:
        """An open engine."""
        return opened(place, folder, attend=self.attend, **more)

    def test_each_node_is_a_machine_of_its_own(self, place, tmp_path):
        with self.opened(place, tmp_path) as it:
            hellos = it.hellos()
            assert len({line["from"] for line in hellos}) == place.nodes
            places = [line["place"] for line in hellos]
            assert len(set(places)) == place.nodes, "two nodes on one machine"
            if place.names:
                assert set(places) <= set(place.names)
            assert sum(h.link.nodes for h in it.heard) == place.nodes
            assert all(h.link.is_alive and h.link.why == "" for h in it.heard)
            assert it.settled.label

    def test_frames_reach_every_node_whole_and_in_order(self, place, tmp_path):
        blobs = [os.urandom(n * 37 % 5000) for n in range(200)]
        blobs[100] = os.urandom(6 << 20)
        with self.opened(place, tmp_path) as it:
            it.hellos()
            for n, blob in enumerate(blobs):
                it.send("echo", n=n, blob=blob)
            wanted = [(n, len(blob), hashlib.sha256(blob).hexdigest()) for n, blob in enumerate(blobs)]
            for token in it.tokens():
                until(lambda token=token: len(it.said("echo", of=token)) == len(blobs), 60, "all frames")
                assert [(e["n"], e["size"], e["digest"]) for e in it.said("echo", of=token)] == wanted

    def test_an_answer_comes_though_nothing_follows_it(self, place, tmp_path):
        with self.opened(place, tmp_path) as it:
            it.hellos()
            for n in range(20):
                it.send("echo", n=n)
                until(lambda n=n: len(it.said("echo")) == (n + 1) * place.nodes, 30, "an answer that waits in a buffer")

    def test_long_lines_of_all_nodes_at_once_come_whole(self, place, tmp_path):
        self._check_lines(place, tmp_path, count=100, size=30_000)

    def test_a_burst_of_short_lines_comes_whole(self, place, tmp_path):
        self._check_lines(place, tmp_path, count=6_000, size=150)

    def test_lines_around_the_size_of_a_buffer_come_whole(self, place, tmp_path):
        self._check_lines(place, tmp_path, count=200, sizes=(1_000, 1_100, 4_100, 8_200))

    def _check_lines(
        self, place: Place, folder: Path, *, count: int, size: int = 0, sizes: tuple[int, ...] = ()
    ) -> None:
        sizes = sizes or (size,)
        with self.opened(place, folder) as it:
            it.hellos()
            for done, size in enumerate(sizes):
                it.send("lines", count=count, size=size)
                for token in it.tokens():
                    n_lines = (done + 1) * count
                    until(lambda token=token, n=n_lines: len(it.said("line", of=token)) == n, 120, "all lines")
                    wanted = [
                        {"n": n, "of": count, "text": (f"{token}-{n}-" * (size // 8))[: max(0, size - 80)]}
                        for n in range(count)
                    ]
                    said = it.said("line", of=token)[-count:]
                    assert [{k: line[k] for k in ("n", "of", "text")} for line in said] == wanted

    def test_sending_does_not_wait_for_a_node_that_does_not_read(self, place, tmp_path):
        """Else one stuck node would keep the driver from pinging, stopping and hearing all others."""
        go_on = tmp_path / "go-on"
        with self.opened(place, tmp_path) as it:
            it.hellos()
            it.send("deaf", until=str(go_on))
            until(lambda: len(it.said("deaf")) == place.nodes, 30)
            for n in range(20):
                it.send("echo", n=n, blob=bytes(1 << 20))
            go_on.touch()
            until(lambda: len(it.said("echo")) == 20 * place.nodes, 60, "what was sent meanwhile")

    def test_variables_reach_the_nodes(self, place, tmp_path):
        with self.opened(place, tmp_path, env={"NBE_ODD": ODD, "NBE_EMPTY": ""}) as it:
            it.hellos()
            it.send("env", names=["NBE_ODD", "NBE_EMPTY", "PATH"])
            until(lambda: len(it.said("env")) == place.nodes, 30)
            for line in it.said("env"):
                assert line["values"]["NBE_ODD"] == ODD
                assert line["values"]["NBE_EMPTY"] == ""
                assert line["values"]["PATH"], "the node's own environment is there, too"

    def test_nodes_heed_signals(self, place, tmp_path):
        """A driver is born with signals blocked; what it starts must not stay deaf to Ctrl-C and SIGTERM for ever."""
        with self.opened(place, tmp_path) as it:
            it.hellos()
            it.send("mask")
            until(lambda: len(it.said("mask")) == place.nodes, 30)
            assert [line["blocked"] for line in it.said("mask")] == [[]] * place.nodes

    def test_what_a_node_says_on_stderr_is_kept_apart(self, place, tmp_path):
        """It is no line of the protocol; where it goes is the engine's matter."""
        with self.opened(place, tmp_path) as it:
            it.hellos()
            it.send("words", text="an odd word, and {not json}")
            it.send("echo", n=1)
            until(lambda: len(it.said("echo")) == place.nodes, 30)

    def test_close_ends_stdin_and_leaves_nothing(self, place, tmp_path):
        with self.opened(place, tmp_path) as it:
            it.hellos()
            tokens = it.tokens()
            assert len(it.left()) >= place.nodes
        assert {path.stem for path in tmp_path.glob("*.eof")} == set(tokens)
        assert not any(h.link.is_alive for h in it.heard)
        it.send("echo", n=1)  # dropped, without a word
        it.close()  # a second time

    def test_close_ends_what_will_not_end(self, place, tmp_path):
        it = Opened(place, tmp_path, attend=self.attend)
        try:
            it.open()
            it.hellos()
            it.send("stubborn")
            until(lambda: len(it.said("stubborn")) == place.nodes, 30)
            for heard in it.heard:
                heard.link.close(timeout_s=1.0)
        finally:
            it.close()
        until(lambda: not it.left(), self.GONE_S, "stubborn programs to be gone")

    def test_a_node_that_dies_takes_no_other_with_it(self, place, tmp_path):
        with self.opened(place, tmp_path) as it:
            it.hellos()
            first, *others = it.tokens()
            shared = it.link_of(first).nodes > 1
            it.send("die", to=[first], signal=signal.SIGKILL)
            if not shared:
                until(lambda: not it.link_of(first).is_alive, 30, "the link to be over")
            else:
                until(lambda: len(it.left()) == place.nodes - 1, 30)
            it.send("echo", n=1)
            for token in others:
                until(lambda token=token: it.said("echo", of=token), 30, "the others")
                assert it.link_of(token).is_alive
            assert not it.said("echo", of=first)

    def test_a_link_tells_that_its_nodes_are_gone(self, place, tmp_path):
        with self.opened(place, tmp_path) as it:
            it.hellos()
            it.send("lines", count=50, size=1000)
            it.send("die", code=3)
            until(lambda: not any(h.link.is_alive for h in it.heard), 30, "the links to be over")
            until(lambda: all(h.is_over for h in it.heard), 30, "lines() to end")
            assert len(it.said("line")) == 50 * place.nodes, "last words are heard"
            assert all(isinstance(h.link.why, str) for h in it.heard)
            it.send("echo", n=1)

    def test_a_killed_driver_leaves_no_node(self, place, tmp_path):
        with self.driver(place, tmp_path) as (process, mark):
            assert len(marked(mark)) >= place.nodes
            process.kill()
            process.wait()
            until(lambda: not marked(mark), self.GONE_S, "nodes to be gone after the driver was killed")

    @contextlib.contextmanager
    def driver(self, place: Place, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
        """A driver in a process of its own, with all nodes there; and what finds them."""
        asked = {name: getattr(place, name) for name in ("name", "settings", "nodes", "names", "lease_s")}
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.engines.opened"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
        )  # fmt: skip
        try:
            assert process.stdin
            assert process.stdout
            process.stdin.write(json.dumps({"place": asked, "folder": str(folder)}) + "\n")
            process.stdin.flush()
            mark = json.loads(process.stdout.readline())["mark"]
            self.attend_driver(process, mark)
            told: list[str] = []
            reader = threading.Thread(target=lambda: told.append(process.stdout.readline()), daemon=True)
            reader.start()
            reader.join(HELLO_S)
            assert told, "the driver heard no nodes"
            assert len(json.loads(told[0])["tokens"]) == place.nodes
            yield process, mark
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()

    def attend_driver(self, process: subprocess.Popen[str], mark: str) -> None:
        """As ``attend``, for a driver in a process of its own."""

    def test_waiting_for_machines_ends_when_told(self, busy, tmp_path):
        it = Opened(busy, tmp_path)
        ended: list[BaseException | None] = []

        def open_it() -> None:
            try:
                it.open()
            except EngineError as e:
                ended.append(e)
            else:
                ended.append(None)

        thread = threading.Thread(target=open_it, daemon=True)
        thread.start()
        try:
            until(lambda: it.told or ended, 30, "a word on what is waited for")
            assert thread.is_alive(), f"it did not wait: {ended}"
            it.order.is_over.set()
            thread.join(15)
            assert not thread.is_alive(), "open() goes on though nobody wants the nodes any more"
        finally:
            it.order.is_over.set()
            it.close()
        until(lambda: not it.left(), self.GONE_S, "nodes of a run that was given up")
