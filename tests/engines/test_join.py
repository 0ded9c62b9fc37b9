"""``--engine join``: machines on which somebody types ``nb-elastic join TOKEN``, here as processes of this one.

A user would lose: a group of machines without any cluster software.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engines.contract import Contract
from tests.engines.joiners import Joiners, joiners, token_in
from tests.engines.opened import Place


@pytest.fixture
def join() -> Iterator[Joiners]:
    with joiners() as start:
        yield start


class TestJoin(Contract):
    """The notebook's machine and one more."""

    @pytest.fixture(autouse=True)
    def _people(self, join, tmp_path):
        self.join, self.folder = join, tmp_path

    @pytest.fixture
    def place(self):
        return Place(name="join", settings="address=127.0.0.1")

    def attend(self, order):
        for _ in range(order.nodes - 1):
            self.join(token_in(order.folder / "told.txt"), "--wait", "30")

    def attend_driver(self, process, mark):
        self.join(token_in(self.folder / "told.txt"), "--wait", "30")
