"""Passes questions that lie in the run folder on to the nodes, and puts their answers there.

Runs in: the driver, in its main thread. ``stacks_nodes`` asks, from whatever process of the user's.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from typing import Any

from nb_elastic import rundir
from nb_elastic.driver.roster import Roster
from nb_elastic.driver.verdict import Member
from nb_elastic.rundir_paths import RunDir

NAME = re.compile(r"[0-9a-f]{16}")


class Asking:
    """The questions of one run."""

    def __init__(self, folder: RunDir, roster: Roster) -> None:
        self._folder = folder
        self._roster = roster
        self._asked: set[str] = set()

    def look(self) -> None:
        """See whether somebody asks."""
        names: set[str] = set()
        with contextlib.suppress(OSError):
            names = {name for name in os.listdir(self._folder.asks) if NAME.fullmatch(name)}
        new, self._asked = names - self._asked, names
        for name in new:
            self._roster.ask(name)

    def take(self, member: Member, message: Mapping[str, Any]) -> None:
        """Write down a node's answer, if anybody still waits for it."""
        if (name := message.get("nonce")) in self._asked:
            with contextlib.suppress(OSError):
                rundir.write_json(
                    self._folder.asks / str(name) / f"node_{member.index}.json", {"stacks": message.get("stacks")}
                )
