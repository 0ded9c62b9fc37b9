"""Asks the nodes where their ranks stand: for the driver itself, and for whoever leaves a question in the run folder.

Runs in: the driver, in its main thread. ``stacks_nodes`` asks, from whatever process of the user's.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nb_elastic import rundir, stacks_told
from nb_elastic.driver.roster import Roster
from nb_elastic.driver.verdict import Member
from nb_elastic.rundir_paths import RunDir
from nb_elastic.stacks_nouns import RankStack

NAME = re.compile(r"[0-9a-f]{16}")


@dataclass(slots=True, kw_only=True)
class Question:
    """One of the driver's own.

    Attributes:
        answers: what each node told, by its index.
        until: how long the others are waited for, by the driver's clock.
    """

    members: Sequence[Member]
    until: float
    answers: dict[int, list[RankStack]] = field(default_factory=dict)

    def is_answered(self, now: float) -> bool:
        """True when nobody need be waited for any more."""
        return now >= self.until or all(m.index in self.answers for m in self.members if m.is_active)


class Asking:
    """The questions of one run."""

    def __init__(self, folder: RunDir, roster: Roster) -> None:
        self._folder = folder
        self._roster = roster
        self._asked: set[str] = set()
        self._own: tuple[str, Question | None] = ("", None)

    def look(self) -> None:
        """See whether somebody asks."""
        names: set[str] = set()
        with contextlib.suppress(OSError):
            names = {name for name in os.listdir(self._folder.asks) if NAME.fullmatch(name)}
        new, self._asked = names - self._asked, names
        for name in new:
            self._roster.ask(name)

    def ask(self, members: Sequence[Member], *, until: float) -> Question:
        """Ask for the driver itself; an earlier question of its own is forgotten."""
        question = Question(members=members, until=until)
        self._own = (os.urandom(16).hex(), question)
        self._roster.ask(self._own[0])
        return question

    def take(self, member: Member, message: Mapping[str, Any]) -> None:
        """Keep a node's answer, if anybody still waits for it."""
        nonce, (name, question) = message.get("nonce"), self._own
        if question is not None and nonce == name:
            question.answers[member.index] = stacks_told.read(message.get("stacks"))
        elif isinstance(nonce, str) and nonce in self._asked:
            with contextlib.suppress(OSError):
                path = self._folder.asks / nonce / f"node_{member.index}.json"
                rundir.write_json(path, {"stacks": message.get("stacks")})
