"""Held ranks: what one sees at the exception, and that neither debuggers nor stops ever leave half a group."""

from __future__ import annotations

import os
import socket
import stat
import time
from typing import Any

import pytest

from nb_elastic import debugging, debugwire, snapshot
from nb_elastic.debugging_line import HeldRank
from nb_elastic.errors import ElasticError
from tests.support.supervise import Supervised, entry, start
from tests.support.until import until

FAILS = entry("fails_while_others_wait.py")
HERE = "fails_while_others_wait.py, line 13, in train: ValueError: no step 7"


def held(one: Supervised, rank: int | None = None) -> HeldRank:
    """Wait until a rank is held, and choose it."""
    until(lambda: debugging.held_ranks(one.run, snapshot.load(one.run)) or one.process.poll() is not None, 60)
    return debugging.choose(one.run, snapshot.load(one.run), rank)


def converse(one: HeldRank, *lines: str) -> tuple[str, str]:
    """Answer pdb with these lines, then hang up; returns the outcome and all that was shown."""
    left, shown = list(lines), []

    def ask(prompt: str) -> str:
        shown.append(prompt)
        if not left:
            raise EOFError
        return left.pop(0)

    outcome = debugging.converse(one, ask=ask, write=shown.append)
    return outcome, "".join(shown)


def refused(call: Any, *args: Any) -> str:
    """Text of the error that a call raises."""
    with pytest.raises(ElasticError) as caught:
        call(*args)
    return str(caught.value)


def send_raw(one: HeldRank, *pieces: bytes) -> bytes:
    """Write bytes to the rank's socket as any program might; returns what came back until it hung up."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(one.folder.debug_socket))
        for piece in pieces:
            sock.sendall(piece)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def test_a_failed_rank_stays_at_its_exception_until_the_debugger_quits():
    with start(FAILS, hold=True) as one:
        failed = held(one)
        (told,) = one.until_event("worker_held")
        assert (told["rank"], told["why"], told["text"].endswith(HERE)) == (1, "failure", True)
        one.until_event("worker_failed")
        assert failed.text.endswith(HERE)

        # a look: the user's own innermost frame, the values of the moment, one line for what fails
        assert debugging.look(failed, "batch.shape") == "torch.Size([3, 4])"
        assert debugging.look(failed, " [step for _ in range(2)] ") == "[7, 7]"
        assert refused(debugging.look, failed, "absent") == "Rank 1: NameError: name 'absent' is not defined"
        assert refused(debugging.look, failed, "1 +").startswith("Rank 1: SyntaxError: ")
        assert "is not held; rank 1 is." in refused(debugging.choose, one.run, snapshot.load(one.run), 0)
        assert "it has ranks 0-1" in refused(debugging.choose, one.run, snapshot.load(one.run), 9)

        # the group's own time-out of 1 s does not take the others away
        patience = "dist.group.WORLD._get_backend(torch.device('cpu')).options._timeout.days"
        assert debugging.look(failed, patience) == "7"
        since = time.monotonic()
        until(lambda: time.monotonic() - since > 1.5 or one.of("worker_exited"), 30)
        assert not one.of("worker_exited")

        # pdb: all of it but what would run
        outcome, shown = converse(
            failed, "p scale", "n", "up", "p step", "l", "interact", "found = step_of = 5", "found + 1", "exit()"
        )
        assert outcome == "left"
        assert shown.startswith("> ") and "(13)train()\n-> raise ValueError" in shown
        assert "(rank 1) (Pdb) tensor([1., 2.])\n" in shown
        assert "(rank 1) (Pdb) The rank failed here and can't run on." in shown
        assert "*** NameError: name 'step' is not defined" in shown
        assert "train(torch.zeros(3, 4), step=7)" in shown
        assert "(rank 1) >>> 6\n" in shown

        # it is still held, another debugger sees the place again, and only quitting ends it, whole
        assert not one.of("worker_released") and not one.of("worker_exited")
        outcome, shown = converse(failed, "q")
        assert (outcome, "(20)<module>()" in shown) == ("quit", True)
        one.wait()
    assert (one.state, one.end["root_rank"]) == ("failed", 1), one.of("worker_failed")
    assert one.exits()[0, 1] == (1, "failed")
    assert "Rank 1 failed: ValueError: no step 7" in one.end["text"]
    assert not failed.folder.held_json.exists() and not failed.folder.debug_socket.exists()


def test_nothing_that_comes_over_the_socket_harms_a_held_rank():
    with start(FAILS, hold=True) as one:
        failed = held(one)
        mode = failed.folder.debug_socket.lstat().st_mode
        assert (stat.S_ISSOCK(mode), oct(stat.S_IMODE(mode))) == (True, "0o600")
        assert oct(stat.S_IMODE(failed.folder.held_json.stat().st_mode)) == "0o600"

        for nonsense in (
            b"\n",
            b"[]\n",
            b"\xff\xfe\n",
            b"GET / HTTP/1.0\n\n",
            b"[" * 100_000 + b"\n",
            b'{"type":"eval"}\n',
        ):
            assert b'"error"' in send_raw(failed, nonsense)
        silent = [debugwire.connect(failed.folder.debug_socket) for _ in range(40)]
        torn = debugwire.connect(failed.folder.debug_socket)
        os.write(torn.fileno(), b'{"type": "ev')
        torn.close()
        assert debugging.look(failed, "step") == "7"
        for peer in silent:
            peer.close()

        # two at once: the second is told so, at pdb and with a mere look
        first = debugwire.connect(failed.folder.debug_socket)
        first.send({"type": "pdb"})
        assert (first.wait(60) or {})["type"] == "ask"
        assert "held by another debugger" in refused(converse, failed)
        assert "held by another debugger" in refused(debugging.look, failed, "step")
        first.send({"type": "line", "text": "interact"})
        assert (first.wait(60) or {})["prompt"] == ">>> "
        first.close()  # in the middle of an inner prompt
        until(lambda: debugging.look(failed, "step") == "7", 60)
        assert converse(failed, "p step")[0] == "left"

        if os.geteuid() == 0:
            assert _connects_as_another(failed) == "hung up"

        # a rank that dies while another is held takes nobody's frames away; the end of the held one ends all
        os.kill(one.until_event("worker_started", 2)[0]["pid"], 9)
        until(lambda: (0, 0) in one.exits(), 60)
        rows = one.run.usage().read_bytes().count(b"\n")
        until(
            lambda: one.run.usage().read_bytes().count(b"\n") > rows + 1,
            60,
            "the supervisor to have looked for a second",
        )
        assert one.of("signal_sent") == []
        assert debugging.look(failed, "step") == "7"
        os.kill(one.worker(1)["pid"], 9)
        one.wait()
    assert (one.state, one.end["root_rank"]) == ("failed", 1), one.of("worker_failed")


def _connects_as_another(one: HeldRank) -> str:
    """What another user's process gets, if it could reach the socket at all."""
    paths = [one.folder.debug_socket, *list(one.folder.debug_socket.parents)[:-1]]
    modes = {path: path.stat().st_mode for path in paths if path.stat().st_mode & 0o777 in {0o700, 0o600}}
    for path in modes:
        path.chmod(0o777)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setuid(54_321)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(one.folder.debug_socket))
                sock.settimeout(20)
                os.write(write, b"answered" if sock.recv(1) else b"hung up")
        except ConnectionError:
            os.write(write, b"hung up")
        except BaseException as e:
            os.write(write, repr(e).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as f:
        found = f.read().decode()
    os.waitpid(pid, 0)
    for path, mode in modes.items():
        path.chmod(stat.S_IMODE(mode))
    return found


def test_breakpoints_step_through_the_users_code_and_let_it_go_on():
    with start(entry("stops_at_breakpoints.py", "everywhere"), nproc=1, ambient={"on_breakpoint": "wait"}) as one:
        one.until_event("worker_held")  # a stop that is over before the supervisor looks is not told
        outcome, first = converse(held(one), "w", "b count", "c")
        assert outcome == "continue" and "(rank 0) (Pdb) Breakpoint 1 at " in first, first
        outcome, second = converse(held(one), "n", "n", "until 14", "w", "p total", "cl 1", "c")
        assert outcome == "continue", second
        assert "-> for step in range(limit):" in second and "(14)count()\n-> return total\n" in second
        assert "holding" not in first + second and "worker.py" not in first + second, "no frame of ours"
        outcome, third = converse(held(one), "p total", "c")
        assert outcome == "continue" and "the second stop\n" in third and "(rank 0) (Pdb) 3\n" in third, third
        one.wait()
    assert one.state == "succeeded"
    assert one.out() == b"total 3\n"
    assert "a child of rank 0 passes over the breakpoint" in one.err()
    assert "waits at the breakpoint" in one.err()
    assert {e["why"] for e in one.of("worker_held")} == {"breakpoint"}
