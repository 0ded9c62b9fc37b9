"""``nb-elastic join``, as the person who types it sees it: what it says, when it ends and with which status.

A user would lose: the way out of a typo, a firewall, an old token, a closed lid; and a machine that leaves when told.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nb_elastic import sealed_stream, tokens
from nb_elastic.engines import join as join_engine
from nb_elastic.engines.base import Wanted
from nb_elastic.engines.join_door import MAX_STRANGERS, Door
from nb_elastic.errors import EngineError, OptionError
from tests.engines.joiners import TOKEN, Joiners, joiners
from tests.engines.opened import Opened, Place
from tests.support.until import until

KEY = bytes(16)
ELSEWHERE = Place(name="join", settings="address=127.0.0.1,here=no", nodes=1)


@pytest.fixture
def join() -> Iterator[Joiners]:
    with joiners() as start:
        yield start


@contextlib.contextmanager
def notebook(folder: Path, *, place: Place = ELSEWHERE, **more) -> Iterator[tuple[Opened, str]]:
    """A notebook that waits for nodes, and its token."""
    it = Opened(place, folder, **more)
    thread = threading.Thread(target=it.open, name="test-open", daemon=True)
    thread.start()
    try:
        until(lambda: it.told, 30, "the token")
        yield it, TOKEN.search(it.told[0])[1]
    finally:
        it.close()
        thread.join(20)


def text_of(port: int, key: bytes = KEY) -> str:
    return tokens.Token(key=key, addresses=("127.0.0.1",), port=port).text


def test_a_machine_joins_works_and_is_let_go(join, tmp_path):
    with notebook(tmp_path) as (it, token):
        assert it.told == [f"Waiting for 1 node. On each: nb-elastic join {token}"]
        joiner = join(token, "--linger", "0.5")
        it.hellos(1)
        (hello,) = it.said("hello")
        assert (hello["address"], hello["driver_address"]) == ("127.0.0.1", "127.0.0.1")
        assert hello["place"].endswith(f":{joiner.process.pid}")
        it.send("words", text="a word for the person here")
        joiner.wait_for("a word for the person here")
    assert joiner.end() == 0
    port = it.settled.value["port"]
    assert joiner.lines == [
        f"Connected to the notebook at 127.0.0.1:{port}; it says when it needs this machine. Ctrl-C leaves.",
        f"Joined the notebook at 127.0.0.1:{port} as 127.0.0.1 ({hello['place']}).",
        "a word for the person here",
        "The notebook doesn't need this machine now. Waiting for 0.5 s for its next run; Ctrl-C leaves.",
        f"The notebook at 127.0.0.1:{port} is done with this machine.",
    ]


def test_a_notebook_that_closes_its_door_meanwhile_is_done_and_not_lost(join):
    """Between its word and ours: the run is over while this machine proves itself. No word of a cut network, then."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        joiner = join(text_of(port), "--linger", "0.5")
        sock, _ = server.accept()
        stream = sealed_stream.greet_as_server(sock, KEY)
    stream.cut()
    stream.close()
    assert joiner.end() == 0
    assert joiner.lines[1:] == [f"The notebook at 127.0.0.1:{port} is done with this machine."]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_leaving_is_told_to_both_ends(number, join, tmp_path):
    with notebook(tmp_path) as (it, token):
        joiner = join(token)
        it.hellos(1)
        it.send("lines", count=10, size=1000)
        until(lambda: len(it.said("line")) == 10)
        assert joiner.leave(number) == 0
        assert joiner.lines[-2:] == ["Leaving; what runs here is stopped.", "Left."]
        (heard,) = it.heard
        until(lambda: heard.is_over)
        assert heard.link.why == f"somebody ended `nb-elastic join` on {socket.gethostname()}"
        until(lambda: not it.left(), 10)


def test_leaving_while_nothing_is_to_be_done_yet(join, tmp_path):
    with notebook(tmp_path, place=Place(name="join", settings=ELSEWHERE.settings, nodes=1)) as (it, token):
        first = join(token)
        it.hellos(1)
        spare = join(token)
        spare.wait_for("Connected to the notebook")
        assert spare.leave() == 0
        later = join(token)
        later.wait_for("Connected to the notebook")
        it.grow(1)
        assert [line["place"] for line in it.hellos(2)][1].endswith(f":{later.process.pid}"), (
            "not the one that has left"
        )
        assert first.process.poll() is None


def test_a_node_program_that_will_not_end_is_killed_by_a_second_interrupt(join, tmp_path):
    with notebook(tmp_path) as (it, token):
        joiner = join(token)
        it.hellos(1)
        it.send("stubborn")
        until(lambda: it.said("stubborn"))
        joiner.process.send_signal(signal.SIGINT)
        joiner.wait_for("Leaving")
        assert joiner.leave() == 0
        until(lambda: not it.left(), 10)


def test_a_spare_machine_takes_the_place_of_a_lost_one(join, tmp_path):
    with notebook(tmp_path, wanted={"min_nodes": 1, "max_nodes": 4}) as (it, token):
        assert it.told == [f"Waiting for 1 node (and up to 4 in all). On each: nb-elastic join {token}"]
        join(token)
        it.hellos(1)
        spare = join(token)
        spare.wait_for("Connected to the notebook")
        it.send("die", signal=signal.SIGKILL)
        until(lambda: it.heard[0].is_over)
        assert it.heard[0].link.why == "its process ended with signal 9"
        it.grow(1)
        assert [line["place"] for line in it.hellos(2)][1].endswith(f":{spare.process.pid}")


def test_a_machine_whose_node_program_crashed_is_there_again(join, tmp_path):
    with notebook(tmp_path) as (it, token):
        joiner = join(token)
        it.hellos(1)
        it.send("die", signal=signal.SIGKILL)
        joiner.wait_for("The node program on this machine ended with signal 9.")

        def has_grown() -> bool:
            it.grow(1)
            return len(it.said("hello")) == 2

        until(has_grown, 30, "a second hello")


def test_a_machine_that_does_not_fit_leaves(join, tmp_path):
    """As the real node program does when the driver refuses it: it says why and ends with 2. All its words come before that."""
    with notebook(tmp_path) as (it, token):
        joiner = join(token)
        it.hellos(1)
        words = "b has torch 2.9, and the notebook has torch 2.13: install the same on both."
        it.send("words", text="a warning of torch's\n" * 3_000 + words)
        it.send("die", code=2)
        assert joiner.end() == 1
        assert joiner.lines[-2:] == [
            words,
            "This machine can't take part: its node program ended with status 2.",
        ]


def test_a_machine_that_stays_takes_part_in_the_next_run(join, tmp_path):
    """Also where that has another driver: address, port and key are the kernel's."""
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    with notebook(folders[0]) as (it, token):
        joiner = join(token, "--stay")
        it.hellos(1)
    joiner.wait_for("The notebook doesn't need this machine now. Waiting for its next run; Ctrl-C leaves.")
    with notebook(folders[1]) as (it, again):
        assert again == token
        it.hellos(1)
    until(lambda: joiner.text.count("Waiting for its next run") == 2, 30)
    assert joiner.leave() == 0


def test_the_token_may_come_from_stdin_and_is_no_word_that_others_see(join, tmp_path):
    with notebook(tmp_path) as (it, token):
        joiner = join(token)
        it.hellos(1)
        for pid in [joiner.process.pid, *it.left()]:
            for name in ("cmdline", "environ"):
                assert token.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "nb_elastic", "join", "-"],
        input=token, text=True, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert "Nobody listens at" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["hello"], "OptionError: This is no token of a notebook that waits for nodes: one begins with nbe1-."),
        ([text_of(25000)[:-1]], "OptionError: The token has a typo or is not whole"),
        ([text_of(25000), "--wait", "-1"], "OptionError: --wait -1: give a number of seconds, 0 or more."),
        ([text_of(25000), "--linger", "nan"], "OptionError: --linger nan: give a number of seconds, 0 or more."),
        ([text_of(25000), "--local-addr", "1.2.3.4"], "OptionError: --local-addr 1.2.3.4 is no IP address of this machine."),
        ([], "OptionError: nb-elastic join: the following arguments are required: TOKEN."),
    ],
)  # fmt: skip
def test_wrong_words_are_told_in_one_sentence(words, told, join):
    joiner = join(*words)
    assert joiner.end() == 2
    assert joiner.text.startswith(told)
    assert len(joiner.lines) == 1
    assert text_of(25000)[5:-1] not in joiner.text


def test_a_token_of_another_notebook_is_told(join, tmp_path):
    with notebook(tmp_path) as (it, _token):
        joiner = join(text_of(it.settled.value["port"]))
        assert joiner.end() == 2
        assert joiner.text.startswith("OptionError: Whoever listens at 127.0.0.1:")
        assert "has another token" in joiner.text
        assert it.said("hello") == []


def test_nobody_there_is_told_and_may_be_waited_for(join, tmp_path):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    told = join(text_of(port))
    assert told.end() == 1
    assert told.text.startswith(f"EngineError: Nobody listens at 127.0.0.1:{port}:")
    patient = join(text_of(port), "--wait", "60")
    door = Door("127.0.0.1", port, KEY)
    try:
        door.open()
        guest = door.take(30)
        assert guest is not None
        patient.wait_for("Connected")
        guest.stream.close()
    finally:
        door.close()


def test_another_service_at_the_port_is_told(join):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                sock, _ = server.accept()
                with sock:
                    sock.recv(100)
                    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        joiner = join(text_of(server.getsockname()[1]))
        assert joiner.end() == 1
        assert "is no notebook that waits for nodes (it speaks another language)" in joiner.text
        thread.join(10)


def test_a_notebook_with_another_version_is_told(join):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                sock, _ = server.accept()
                with sock:
                    sock.sendall(sealed_stream.GREETING[:-1] + b"2")
                    sock.recv(100)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        joiner = join(text_of(server.getsockname()[1]))
        assert joiner.end() == 1
        assert "install the same version on both machines" in joiner.text
        thread.join(10)


def test_strangers_keep_no_machine_out(tmp_path):
    """Who opens connections and says nothing has each for a few seconds; who knows the key comes in beside them."""
    door = Door("127.0.0.1", join_engine._own("127.0.0.1", 0)[0], KEY)
    door.open()
    port = door.port
    strangers = []
    try:
        for _ in range(3 * MAX_STRANGERS):
            strangers.append(socket.create_connection(("127.0.0.1", port)))
        threads = [t for t in threading.enumerate() if t.name.startswith("nb-elastic-join-greets")]
        assert len(threads) <= MAX_STRANGERS + 8
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sealed_stream.greet_as_client(sock, KEY)
            guest = door.take(20)
            assert guest is not None
            guest.stream.close()
    finally:
        for sock in strangers:
            sock.close()
        door.close()


def test_it_listens_on_one_address_only(tmp_path):
    with notebook(tmp_path) as (it, _token):
        port = it.settled.value["port"]
        found = [
            line.split()[3]
            for line in subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout.splitlines()
        ]
        assert [name for name in found if name.endswith(f":{port}")] == [f"127.0.0.1:{port}"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("adress=10.0.0.5", "'adress=10.0.0.5' is none of address=IP, port=N, here=no and wait=SECONDS"),
        ("here", "'here' is none of"),
        ("here=no,here=no", "each once"),
        ("here=maybe", "say yes or no"),
        ("port=http", "a port is a number from 1 to 65535"),
        ("port=65536", "a port is a number from 1 to 65535"),
        ("wait=long", "give a number of seconds"),
        ("wait=nan", "give a number of seconds"),
        ("wait=-1", "give a number of seconds"),
        ("address=192.0.2.7", "192.0.2.7 is no address of this machine"),
        ("address=no.such.name.invalid", "is no address of this machine"),
        ("address=0.0.0.0", "is no address of this machine"),
    ],
)
def test_odd_settings_are_told(settings, told):
    engine = join_engine.JoinEngine()
    with pytest.raises(OptionError, match="Nothing was started") as caught:
        engine.settle(Wanted(run_id="r", settings=settings, min_nodes=2, max_nodes=2), os.environ)
    assert told in str(caught.value)


def test_an_own_secret_makes_the_same_token_in_every_kernel():
    """For machines that join once and for all, as a service."""
    wanted = Wanted(run_id="r", settings="address=127.0.0.1,port=25000", min_nodes=2, max_nodes=2)
    keys = {
        secret: join_engine.JoinEngine().settle(wanted, {"NB_ELASTIC_JOIN_KEY": secret}).value["key"]
        for secret in ("a" * 20, "b" * 20, "a" * 20)
    }
    assert keys == {"a" * 20: "b79fb9a58db2f49026116b23f89cfcb4", "b" * 20: keys["b" * 20]}
    with pytest.raises(OptionError, match="has 19 characters"):
        join_engine.JoinEngine().settle(wanted, {"NB_ELASTIC_JOIN_KEY": "a" * 19})


def test_one_node_can_not_be_joined():
    with pytest.raises(OptionError, match="say --nnodes 2, or 1:4"):
        join_engine.JoinEngine().settle(Wanted(run_id="r", settings="address=127.0.0.1"), os.environ)


def test_giving_up_is_told(tmp_path):
    it = Opened(Place(name="join", settings="address=127.0.0.1,wait=0.3"), tmp_path)
    try:
        with pytest.raises(
            EngineError, match=r"1 of 2 nodes came within 0.3 s. On each of the others: nb-elastic join nbe1-"
        ):
            it.open()
    finally:
        it.close()


def test_two_runs_of_one_kernel_wait_at_two_ports(join, tmp_path):
    """The second one's token says where; a port that the user gave is not exchanged for another."""
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    with notebook(folders[0]) as (one, token), notebook(folders[1]) as (other, another):
        assert one.settled.value == other.settled.value
        assert token != another
        join(another)
        other.hellos(1)
        assert one.said("hello") == []
        value = {**one.settled.value, "is_port_given": True}
        with pytest.raises(EngineError, match=r"in use. Another run may wait there; --engine join=port=N"):
            join_engine._door(value["address"], value["port"], KEY, is_port_given=True)


def test_who_listens_to_others_is_warned_once():
    (note,) = join_engine._notes("10.0.0.5")
    assert "can run code as you" in note
    assert "none is encrypted" in note
    assert join_engine._notes("127.0.0.1") == ()
