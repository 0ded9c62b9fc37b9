"""A machine that joins a notebook: finds it, runs the node program it is told to, and carries its stdin and stdout.

Runs in: the command line or the kernel (``nb-elastic join``).
"""

from __future__ import annotations

import errno
import json
import math
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from nb_elastic import sealed_stream
from nb_elastic.engines.join_door import be_prompt
from nb_elastic.engines.join_program import Program
from nb_elastic.errors import ElasticError, EngineError, OptionError
from nb_elastic.sealed_stream import DATA, END, START, SealedStream, StreamError
from nb_elastic.supervisor import addresses
from nb_elastic.tokens import Token

SILENCE_S = 15.0
"""The lease of a node: one that heard nothing for so long is on its own."""
CONNECT_S = 5.0
AGAIN_S = 0.3
LINGER_S = 60.0
"""The notebook's next run may have another driver, after somebody has read why the last one failed."""
RETURN_S = 60.0
"""So long a network may be cut."""
LEAVE_S = 10.0
LOST_S = 5.0
LAST_S = 1.0
UNFIT_CODE = 2
"""Status of a node program that the driver refused; it has told why."""


class End(Enum):
    """How a connection ended."""

    FREE = "this machine was a node, and may be one again"
    UNUSED = "it was not needed, or never let in"
    LOST = "nothing was heard any more"
    UNFIT = "this machine can't be a node"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How to join.

    Attributes:
        wait_s: keep trying so long for the first time.
        linger_s: when the notebook has no use for this machine any more, wait so long for its next run.
        local_addr: IP of this machine by which the other nodes reach it; "" for that of the connection.
    """

    wait_s: float = 0.0
    linger_s: float = LINGER_S
    local_addr: str = ""


class Member:
    """This machine in the group of whoever gave the token.

    Args:
        tell: says one line to the person who typed the command.
    """

    def __init__(self, token: Token, terms: Terms, *, tell: Callable[[str], None]) -> None:
        self._token, self._terms, self._tell = token, terms, tell
        self._where = addresses.join_endpoint(token.addresses[0], token.port)

    def serve(self) -> int:
        """Join, and be a node as long as the notebook wants; returns the exit status.

        Raises:
            OptionError: if the notebook doesn't know the token, or the own address makes no sense.
            EngineError: if the notebook can't be reached, or this machine doesn't fit.
        """
        if self._terms.local_addr and not addresses.is_ours(self._terms.local_addr):
            raise OptionError(f"--local-addr {self._terms.local_addr} is no IP address of this machine.")
        stream = self._find(self._terms.wait_s, self._terms.wait_s)
        self._tell(f"Connected to the notebook at {self._where}; it says when it needs this machine. Ctrl-C leaves.")
        try:
            while True:
                end = self._attend(stream)
                if end is End.UNFIT:
                    return 1
                stream = self._find_again(end)
        except KeyboardInterrupt:
            self._tell("Left.")
            return 0
        except _GoneError as e:
            self._tell(str(e))
            return 0

    def _find_again(self, end: End) -> SealedStream:
        """Look for the notebook once more, where that makes sense.

        Raises:
            _GoneError: if it is not there any more.
        """
        linger_s = self._terms.linger_s
        if end is End.FREE and linger_s:
            for_s = f" for {linger_s:g} s" if linger_s < math.inf else ""
            self._tell(f"The notebook doesn't need this machine now. Waiting{for_s} for its next run; Ctrl-C leaves.")
        try:
            return self._find(max(RETURN_S, linger_s) if end is End.LOST else linger_s, linger_s)
        except ElasticError as e:
            if end is End.LOST:
                raise _GoneError(f"The notebook at {self._where} is gone: it was ended, or the network is cut.") from e
            raise _GoneError(f"The notebook at {self._where} is done with this machine.") from e

    def _find(self, wait_s: float, refused_s: float) -> SealedStream:
        """Connect, and have both ends prove that they have the token.

        Args:
            wait_s: keep trying for so long.
            refused_s: and for so long when nobody listens there.

        Raises:
            OptionError: if whoever listens there has another token.
            EngineError: if nobody answers.
        """
        began = time.monotonic()
        refused_at = 0.0
        while True:
            error = EngineError("")
            for address in self._token.addresses:
                try:
                    return self._knock(address)
                except EngineError as e:
                    error = e
            now = time.monotonic()
            is_refusal = isinstance(error.__cause__, ConnectionRefusedError)
            refused_at = (refused_at or now) if is_refusal else 0.0
            if now - began >= wait_s or (refused_at and now - refused_at >= refused_s):
                raise error
            time.sleep(AGAIN_S)

    def _knock(self, address: str) -> SealedStream:
        where = addresses.join_endpoint(address, self._token.port)
        try:
            sock = socket.create_connection((address, self._token.port), timeout=CONNECT_S)
        except OSError as e:
            raise EngineError(_unreachable(where, e)) from e
        try:
            be_prompt(sock)
            found = sealed_stream.greet_as_client(sock, self._token.key)
        except sealed_stream.WrongKeyError as e:
            sock.close()
            raise OptionError(
                f"Whoever listens at {where} has another token: another notebook, or this one after a restart. "
                "Copy the token that it prints now."
            ) from e
        except sealed_stream.OtherVersionError as e:
            sock.close()
            raise EngineError(
                f"The notebook at {where} has an nb_elastic that joins in another way: install the same version on both machines."
            ) from e
        except StreamError as e:
            sock.close()
            raise EngineError(
                f"What listens at {where} is no notebook that waits for nodes ({e}): the port may be another service's now."
            ) from e
        except BaseException:
            sock.close()
            raise
        self._where = where
        return found

    def _attend(self, stream: SealedStream) -> End:
        """Do what the notebook says, as long as the connection lasts."""
        program: Program | None = None
        is_in = False
        try:
            while True:
                record = stream.receive(SILENCE_S)
                if record is None:
                    return End.LOST
                kind, data = record
                is_in = True
                if kind == START and program is None:
                    program = self._start(stream, data)
                elif kind == DATA and program is not None:
                    program.write(data)
                elif kind == END:
                    word = json.loads(data)
                    if program is not None:
                        program.end(min(max(0.0, float(word["timeout_s"])), LEAVE_S))
                    return self._judged(program, End.FREE)
        except (StreamError, ValueError, KeyError, TypeError):
            if program is not None:
                program.end(LOST_S)
            return self._judged(program, End.LOST if is_in else End.UNUSED)
        except KeyboardInterrupt:
            if program is not None:
                self._tell("Leaving; what runs here is stopped.")
                program.leave(f"somebody ended `nb-elastic join` on {socket.gethostname()}", LEAVE_S)
            raise
        finally:
            if program is not None:
                program.end(0.0)
                program.join()
                stream.finish(LAST_S)
            stream.cut()
            stream.close()

    def _start(self, stream: SealedStream, data: bytes) -> Program:
        order = json.loads(data)
        env = {str(name): str(value) for name, value in order["env"].items()}
        env["NB_ELASTIC_NODE_ADDRESS"] = address = self._terms.local_addr or stream.own_address
        env["NB_ELASTIC_NODE_PLACE"] = place = _place(stream.own_address)
        self._tell(f"Joined the notebook at {self._where} as {address} ({place}).")
        return Program([str(word) for word in order["arguments"]], env, stream, tell=self._tell)

    def _judged(self, program: Program | None, end: End) -> End:
        """Tell what happened, after what the node program itself said of it. One that fails at once would do so again."""
        if program is not None:
            program.hear_out()
        if program is not None and (program.has_failed_at_once or program.own_code == UNFIT_CODE):
            self._tell(f"This machine can't take part: its node program ended with status {program.own_code}.")
            return End.UNFIT
        if program is not None and program.own_code:
            self._tell(f"The node program on this machine ended with {program.own_end}.")
        elif program is not None and program.has_left:
            return End.FREE
        elif end is End.LOST:
            self._tell(f"The connection to {self._where} is lost. Looking for the notebook; Ctrl-C leaves.")
        return End.UNUSED if program is None and end is End.FREE else end


class _GoneError(Exception):
    """The notebook is not there any more; the text says so."""


def _place(address: str) -> str:
    """What this machine is called; beside the notebook itself there may be several of us."""
    host = socket.gethostname()
    return f"{host}:{os.getpid()}" if addresses.is_loopback(address) else host


def _unreachable(where: str, error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return (
            f"Nobody listens at {where}: the notebook's run is over, or hasn't begun, or a firewall refuses. "
            "--wait S keeps trying for S seconds."
        )
    if isinstance(error, TimeoutError) or error.errno in {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH}:
        reason = os.strerror(error.errno) if error.errno else "no answer"
        return (
            f"{where} can't be reached from here ({reason}): are both machines in one network, and does no firewall lie "
            "between? In the notebook, --engine join=address=IP chooses another address."
        )
    return f"{where} can't be reached from here: {error.strerror or error}."
