"""Looking at held ranks: which there are, an expression's value, a conversation with pdb, and whose turn it is.

Runs in: the kernel or command line.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

from nb_elastic import notebook, report_words, rundir, snapshot, untrusted
from nb_elastic.debugging_line import (
    Ask,
    GoneError,
    HeldRank,
    ask_user,
    asked,
    connected,
    hear,
    is_terminal,
    request,
    telling,
)
from nb_elastic.errors import ElasticError
from nb_elastic.model import RunState
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import RunSnapshot
from nb_elastic.snapshot_nouns import WorkerSnapshot

ANSWER_S = 10.0
"""How long a held rank may take to notice a request; an expression itself may take as long as it likes."""

PATIENCE_S = 0.3
"""A rank that runs on for longer than this after a step gives the prompt away, so that the others' turn comes and logs go on."""

MOST_RETRIES = 3
"""So often a rank that is held and can't be reached is asked again, each time a second later."""

SETTLE_S = 0.15
"""So long a stop is known before its prompt opens: what the ranks wrote before stands above it."""

Outcome = Literal["quit", "continue", "left", "running", "released", "gone"]
Write = Callable[[str], object]


def held_ranks(run: RunDir, now: RunSnapshot) -> list[HeldRank]:
    """The ranks of the current round that wait, by rank. What they wrote is read; they are not asked."""
    found: list[HeldRank] = []
    is_far = os.path.lexists(run.debug_socket)
    for worker in now.workers if not now.state.is_final else ():
        if worker.state.is_final:
            continue
        place = report_words.rank_dir(run, node=worker.node, round_number=worker.round, local_rank=worker.local_rank)
        told = rundir.read_json(place.held_json, max_bytes=64_000)
        if not told:
            continue
        found.append(
            HeldRank(
                rank=worker.rank,
                why="failure" if told.get("why") == "failure" else "breakpoint",
                text=report_words.first_line(untrusted.text(told.get("text")), limit=400),
                number=untrusted.integer(told.get("number")),
                folder=place,
                is_root=worker.rank == now.root_rank,
                way=(run.debug_socket, _where(worker)) if is_far else None,
            )
        )
    return sorted(found, key=lambda h: h.rank)


def _where(worker: WorkerSnapshot) -> dict[str, Any]:
    return {"type": "to", "node": worker.node, "round": worker.round, "local_rank": worker.local_rank}


def choose(run: RunDir, now: RunSnapshot, rank: int | None = None) -> HeldRank:
    """The held rank that is meant: that one, else the root cause's, else the lowest.

    Raises:
        ElasticError: if none, or not this one, is held.
    """
    found = held_ranks(run, now)
    if rank is None and found:
        return min(found, key=lambda h: (not h.is_root, h.rank))
    for one in found:
        if one.rank == rank:
            return one
    command = report_words.command()
    if now.state.is_final:
        raise ElasticError(
            f"Run {run.run_id} is {now.state.value}: none of its ranks is held any more. `{command} show {run.run_id}` shows "
            "it; a run launched with --hold stays at its failure."
        )
    if rank is not None and now.workers and all(w.rank != rank for w in now.workers):
        known = report_words.ranks_text(w.rank for w in now.workers)
        raise ElasticError(f"Run {run.run_id} has no rank {rank}; it has {known}.")
    told = f"No rank of run {run.run_id} is held."
    if found:
        others = f"{report_words.ranks_text(h.rank for h in found)} {'is' if len(found) == 1 else 'are'}"
        told = f"Rank {rank} of run {run.run_id} is not held; {others}."
    raise ElasticError(
        f"{told} A rank is held at its exception (--hold) or at a breakpoint(). "
        f"`{command} stacks {run.run_id}` shows where all ranks are."
    )


def look(held: HeldRank, expression: str) -> str:
    """A short text of an expression's value in the held rank.

    Raises:
        ElasticError: if the expression fails, with its exception in one line, or the rank can't be asked.
    """
    answer = request(held, {"type": "eval", "text": expression}, timeout_s=None)
    text = untrusted.text(answer.get("text"))
    if answer.get("type") != "value":
        raise ElasticError(f"Rank {held.rank}: {report_words.clean_text(text) or 'no answer'}")
    return report_words.clean_text(text)


def release(held: HeldRank) -> None:
    """Let a rank go on from its breakpoint, or end at its exception, with which the whole group ends.

    Raises:
        ElasticError: if it can't be asked.
    """
    request(held, {"type": "release"}, timeout_s=ANSWER_S)


def converse(held: HeldRank, *, write: Write, ask: Ask = ask_user, patience_s: float | None = None) -> Outcome:
    """Speak to the rank's pdb until that is over.

    Args:
        ask: shows a prompt and returns a line, as ``input`` does.
        write: shows text.
        patience_s: after so long without an answer of a rank that runs on, it is left alone; None waits.

    Raises:
        GoneError: if the rank went away meanwhile.
        ElasticError: if it can't be asked.
        KeyboardInterrupt: if the user interrupted; the rank stays held.
    """
    with connected(held, {"type": "pdb"}) as peer:
        is_first, is_running = True, False
        while True:
            message = hear(held, peer, ANSWER_S if is_first else patience_s if is_running else None)
            if message is None:
                if is_first:
                    raise ElasticError(f"Rank {held.rank} does not answer: it is busy. Try again.")
                return "running"
            is_first, is_running = False, message.get("type") == "running"
            if text := untrusted.text(message.get("text"), limit=1 << 20):
                write(report_words.clean_text(text) + "\n")
            if message.get("type") == "end":
                how = message.get("how")
                return "quit" if how == "quit" else "left" if how == "left" else "continue"
            if message.get("type") == "busy":
                raise ElasticError(f"Rank {held.rank} is held by another debugger. It must leave first (`leave`).")
            if message.get("type") != "ask":
                continue
            prompt = report_words.first_line(untrusted.text(message.get("prompt")), limit=80)
            line = asked(held, peer, ask, f"(rank {held.rank}) {prompt} ")
            if line is None:
                return "left"
            with telling(held):
                peer.send({"type": "line", "text": line})


class Looks:
    """What the handle of a run can do about its held ranks."""

    dir: Any  # the run's folder and state, which the handle tells
    snapshot: Any

    def eval(self, expression: str, rank: int | None = None) -> str:
        """A short text of an expression's value in a held rank: this one, else the root cause's, else the lowest.

        Raises:
            ElasticError: if no such rank is held, or the expression fails there.
        """
        return look(choose(RunDir(self.dir), self.snapshot, rank), expression)


class Attendant:
    """Opens pdb in the cell of an attached run when ranks stop at breakpoints, one rank at a time.

    Args:
        stop: asks the run to stop; called when the user quits the debugger.
        can_ask: somebody is there to answer.
    """

    def __init__(self, run: RunDir, *, stop: Callable[[], None], can_ask: bool, ask: Ask | None = None) -> None:
        self._run = run
        self._stop = stop
        self._can_ask = can_ask
        self._ask = ask or ask_user
        self._seen: dict[tuple[int, int], float] = {}
        self._done: set[tuple[int, int]] = set()
        self.is_held = False
        self._is_over = False
        self._retries = 0

    def serve(self, now: RunSnapshot, aside: AbstractContextManager[object]) -> bool:
        """Attend to the rank whose turn it is, if there is one; True where the group is held at a failure.

        Args:
            aside: takes what is drawn off the screen meanwhile.
        """
        if (held := self.look(now)) is not None:
            with aside:
                self.attend(held, now)
        return self.is_held

    def look(self, now: RunSnapshot) -> HeldRank | None:
        """The rank whose turn it is to be attended to, or None. A failed group ends the following: see ``is_held``."""
        if self._is_over or now.state.is_final or now.state is RunState.STOPPING or not now.held:
            return None
        if any(w.held == "failure" for w in now.held):
            self.is_held = bool(now.failures)
            return None
        if not self._can_ask:
            return None
        for held in held_ranks(self._run, now):
            stop = held.rank, held.number
            since = self._seen.setdefault(stop, time.monotonic())
            if held.why == "breakpoint" and stop not in self._done and time.monotonic() - since >= SETTLE_S:
                return held
        return None

    def attend(self, held: HeldRank, now: RunSnapshot) -> None:
        """Speak to the rank's pdb in the cell.

        Raises:
            KeyboardInterrupt: if the user interrupted.
        """
        others = [h.rank for h in held_ranks(self._run, now) if h.rank != held.rank]
        turn = (
            f" ({report_words.ranks_text(others)}: waiting for {'its' if len(others) == 1 else 'their'} turn)"
            if others
            else ""
        )
        show(f"Rank {held.rank} is at a breakpoint: {held.text}{turn}\n")
        self._done.add((held.rank, held.number))
        try:
            outcome = converse(held, ask=self._ask, write=show, patience_s=PATIENCE_S)
        except KeyboardInterrupt:
            self._is_over = True
            raise
        except GoneError as e:
            self._retry(held, str(e))  # where it is gone indeed, the journal tells why
            return
        except ElasticError as e:
            show(f"{e}\n")
            return
        except NotImplementedError:  # ipykernel's: this front end has no way to answer after all
            show(f"Nobody can answer here: rank {held.rank} goes on.\n")
            with contextlib.suppress(ElasticError):
                release(held)
            return
        if outcome == "left":
            show(f"Left without a word: rank {held.rank} goes on.\n")
            with contextlib.suppress(ElasticError):
                release(held)
        if outcome == "quit":
            self._is_over = True
            self._stop()

    def _retry(self, held: HeldRank, why: str) -> None:
        """The line went dead. A rank that is still held is asked again, some times: nobody else would let it go on."""
        if all((h.rank, h.number) != (held.rank, held.number) for h in held_ranks(self._run, snapshot.load(self._run))):
            return
        self._retries += 1
        if self._retries > MOST_RETRIES:
            command = report_words.command()
            show(
                f"{why} `{command} debug {self._run.run_id} --rank {held.rank}` tries again, `{command} stop` ends the run.\n"
            )
            return
        self._done.discard((held.rank, held.number))
        self._seen[held.rank, held.number] = time.monotonic() + self._retries


def can_ask() -> bool:
    """True where ``input()`` finds somebody: a front end that allows it, or a terminal; and only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return False
    ip = notebook.shell()
    if getattr(ip, "kernel", None) is not None:
        return notebook.allows_stdin(ip)
    return is_terminal(sys.stdin) and is_terminal(sys.stdout)


def show(text: str) -> None:
    """Show text where the user reads."""
    sys.stdout.write(text)
    sys.stdout.flush()


def held_text(run: RunDir, now: RunSnapshot) -> str:
    """What can be done about a group that is held."""
    command = report_words.command()
    found = held_ranks(run, now)
    rank = min(found, key=lambda h: (not h.is_root, h.rank)).rank if found else now.root_rank
    return (
        f"The group is held: `{command} debug` opens pdb on rank {rank}, `{command} eval EXPR` looks, "
        f"`{command} stop {run.run_id}` ends it."
    )
