"""Runs on machines that joined by hand: every scenario, over real commands ``nb-elastic join`` of this machine.

A user would lose: what a cluster gives, where there is none.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nb_elastic import tokens
from nb_elastic.engines import join as join_engine
from nb_elastic.lifeline import ProcessId, stat_fields
from nb_elastic.run import Run
from tests.engines.joiners import Joiners, joiners
from tests.engines.opened import Place
from tests.engines.scenarios import Scenarios, node

pytestmark = pytest.mark.slow

SECRET = "a secret of the tests, long enough"
LOOPBACK = "127.0.0.1"


def place_at(port: int) -> Place:
    """Where machines with ``token_at`` the same port come in."""
    return Place(name="join", settings=f"address={LOOPBACK},port={port}")


def token_at(port: int) -> str:
    """What a kernel with our secret prints."""
    return tokens.Token(key=join_engine._derived(SECRET), addresses=(LOOPBACK,), port=port).text


def settled_place(people: Joiners) -> Place:
    """One to which a second machine has come to stay."""
    port = join_engine._free_port(LOOPBACK)
    people(token_at(port), "--wait", "120", "--stay")
    return place_at(port)


@pytest.fixture(scope="class")
def people() -> Iterator[Joiners]:
    """Start commands that stay for all of a class."""
    with pytest.MonkeyPatch.context() as patch, joiners() as start:
        patch.setenv(join_engine.KEY_VARIABLE, SECRET)
        yield start


class TestJoin(Scenarios):
    """This machine and a second one, which stays."""

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls, people: Joiners) -> Place:
        """See base class."""
        return settled_place(people)

    @pytest.fixture(scope="class")
    @classmethod
    def beside(cls, people: Joiners) -> Place:
        """The same for runs beside those of the shared kernel, which keeps its machines."""
        return settled_place(people)

    @pytest.fixture(autouse=True)
    def _beside(self, request: pytest.FixtureRequest, place: Place, beside: Place) -> Iterator[None]:
        shared = place.settings
        if "warm" not in request.fixturenames:
            object.__setattr__(place, "settings", beside.settings)
        yield
        object.__setattr__(place, "settings", shared)

    @pytest.fixture(autouse=True)
    def _people(self, people: Joiners) -> None:
        self.people, self.is_machine_to_go = people, False

    def elastic(self, place: Place, folder: Path) -> Place:
        """See base class."""
        del place, folder
        return place_at(join_engine._free_port(LOOPBACK))

    def add_machine(self, place: Place) -> None:
        """See base class."""
        self.people(token_at(int(place.settings.rpartition("=")[2])), "--wait", "120", "--linger", "1")

    def remove_machine(self, place: Place) -> None:
        """See base class."""
        self.is_machine_to_go = True

    def crash(self, run: Run, index: int) -> None:
        """The machine, or its node program alone: then it comes back for another run."""
        gone = node(run, index)
        if self.is_machine_to_go:
            gone = ProcessId.of(int(stat_fields(gone.pid)[1]))
        gone.signal(signal.SIGKILL)
