"""``join``: has this machine take part in the runs of a notebook that gave a token.

Runs in: the command line, or the kernel (``%elastic join``).
"""

from __future__ import annotations

import argparse
import contextlib
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from nb_elastic import tokens
from nb_elastic.engines.join_member import LINGER_S, Member, Terms
from nb_elastic.errors import OptionError

TEXT = "join this machine to a run that waits for nodes; Ctrl-C leaves"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``join``."""
    parser.add_argument("token", metavar="TOKEN", help="the word that the notebook printed; - reads it from stdin")
    parser.add_argument(
        "--wait", type=float, default=0.0, metavar="S", help="keep trying for S seconds to reach it (default 0)"
    )
    parser.add_argument(
        "--linger",
        type=float,
        default=LINGER_S,
        metavar="S",
        help=f"when the notebook needs no nodes any more, wait S seconds for its next run (default {LINGER_S:g})",
    )
    parser.add_argument("--stay", action="store_true", help="the same, until Ctrl-C")
    parser.add_argument(
        "--local-addr",
        default="",
        metavar="IP",
        help="this machine's address for the other nodes, where it has several",
    )


def join(arguments: argparse.Namespace, *, tell: Callable[[str], None], is_command: bool) -> int:
    """Be a node as long as the notebook wants; returns the exit status.

    Args:
        tell: prints one line.
        is_command: this process does nothing else, so it may take over its signals and title.

    Raises:
        OptionError: if the token, or an option, makes no sense, or the notebook doesn't know the token.
        EngineError: if the notebook can't be reached.
    """
    for name in ("wait", "linger"):
        seconds: float = getattr(arguments, name)
        if not seconds >= 0:
            raise OptionError(f"--{name} {seconds:g}: give a number of seconds, 0 or more.")
    given = str(arguments.token)
    token = tokens.parse(sys.stdin.readline() if given == "-" else given)
    linger_s = math.inf if arguments.stay else arguments.linger
    terms = Terms(wait_s=arguments.wait, linger_s=linger_s, local_addr=arguments.local_addr)
    lock = threading.Lock()

    def tell_whole(line: str) -> None:
        with lock:
            tell(line)

    member = Member(token, terms, tell=tell_whole)
    if not is_command:
        return member.serve()
    _hide_token()
    with _leaving_by_signal():
        return member.serve()


def _hide_token() -> None:
    """Others on this machine read each process's words; the token is a secret."""
    from nb_elastic.worker import set_title

    set_title("nb-elastic join")


@contextlib.contextmanager
def _leaving_by_signal() -> Iterator[None]:
    """A polite signal, also that of a closed terminal, does what Ctrl-C does."""

    def leave(*_: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
