"""The driver and real node programs of this machine: every scenario, over an engine that does nothing of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engines.opened import Place
from tests.engines.scenarios import Scenarios
from tests.support import popen_engine


@pytest.fixture(scope="class", autouse=True)
def _installed() -> Iterator[None]:
    """The engine is installed here, and in what is started here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(popen_engine.DIST))
        patch.setenv("PYTHONPATH", popen_engine.environment(os.environ)["PYTHONPATH"])
        yield


class TestPopen(Scenarios):
    """Scenarios over local commands."""

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls) -> Place:
        """As many nodes as are asked for."""
        return Place(name="popen", nodes=8)

    def elastic(self, place: Place, folder: Path) -> Place:
        """See base class."""
        (folder / "nodes").write_text("1")
        return replace(place, settings=f"folder={folder}")

    def add_machine(self, place: Place) -> None:
        """See base class."""
        (Path(place.settings.partition("=")[2]) / "nodes").write_text("2")

    def remove_machine(self, place: Place) -> None:
        """See base class."""
        (Path(place.settings.partition("=")[2]) / "nodes").write_text("1")
