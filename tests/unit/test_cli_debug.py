"""What follows ``eval``: the expression is the rest of the line as it stands, and RUN is told from it."""

from __future__ import annotations

import pytest

from nb_elastic import cli_debug, rundir
from nb_elastic.errors import OptionError


def read(line: str) -> tuple[str, int | None, bool, str]:
    """Run, rank, all, expression."""
    found = cli_debug._read(line)
    return found.run, found.rank, found.is_all, found.expression


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("x", ("", None, False, "x")),
        ("  model + 1 ", ("", None, False, "model + 1")),
        ("model x", ("model", None, False, "x")),
        ("model --rank 2 x['a  b']", ("model", 2, False, "x['a  b']")),
        ("--rank 1 model x", ("model", 1, False, "x")),
        ("--all --run=model f'{x}  y'", ("model", None, True, "f'{x}  y'")),
        ("20261124-15 x", ("20261124-15", None, False, "x")),
        ("2026 x", ("", None, False, "2026 x")),  # too short for an id; the rank says that it is no expression
        ("-x", ("", None, False, "-x")),
        ("other x", ("", None, False, "other x")),
    ],
)
def test_the_expression_and_the_run_are_told_apart(line, found):
    rundir.write_json(rundir.create(wanted_id="20261124-150000-abcd").run_json, {"name": "model"})
    assert read(line) == found


@pytest.mark.parametrize("line", ["", "--rank 1", "--rank x y", "--rank", "--run", "--nope 1 x"])
def test_wrong_usage_is_told_with_the_usage(line):
    with pytest.raises(OptionError, match="Usage: eval"):
        cli_debug._read(line)
