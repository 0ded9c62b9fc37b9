"""The package says one thing everywhere: a user who follows the README gets what it says."""

from __future__ import annotations

import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

import nb_elastic

ROOT = Path(__file__).parents[2]


def test_one_version():
    pyproject = (ROOT / "pyproject.toml").read_text()
    told = re.search(r'^version = "(.+)"$', pyproject, re.MULTILINE)
    assert told
    assert [nb_elastic.__version__, metadata.version("nb-elastic")] == [told[1], told[1]]


def test_the_command_is_installed():
    (command,) = (e for e in metadata.entry_points(group="console_scripts") if e.name == "nb-elastic")
    assert command.value == "nb_elastic.cli:main"
    assert callable(command.load())


def test_every_command_of_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md"):
        asked = set(re.findall(r"^make ([a-z-]+)", (ROOT / page).read_text(), re.MULTILINE))
        assert asked, page
        assert asked <= targets


def test_every_test_dependency_is_pinned():
    pinned = {
        re.split(r"[=<> ;]", line)[0].lower().replace("_", "-")
        for line in (ROOT / "tests" / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    asked = {
        re.split(r"[=<>;\[ ]", text)[0].lower().replace("_", "-")
        for text in metadata.requires("nb-elastic") or []
        if text
    }
    assert asked <= pinned


def test_constraints_carry_no_place():
    text = (ROOT / "tests" / "constraints.txt").read_text()
    assert not re.search(r"@|://|/root|--", text)


def test_names_of_the_python_interface_are_there():
    missing = [name for name in nb_elastic.__all__ if not hasattr(nb_elastic, name)]
    assert missing == []


def test_top_level_is_as_planned():
    """What a clone shows at first sight stays small."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout")
    top = {path.split("/")[0] for path in listed.stdout.split() if not path.startswith(".")}
    planned = {
        "nb_elastic", "notebooks", "tests", "labextension",
        "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile",
    }  # fmt: skip
    assert top <= planned
