"""Only what an installation changes may be imported ahead; what may be edited, and what hides a package, is seen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nb_elastic import installed
from tests.programs import asks_back
from tests.support.supervise import ROOT


def test_what_the_notebook_imports_is_wanted_with_its_parts_and_nothing_else():
    names = {"np": np, "norm": np.linalg.norm, "_hidden": pytest, "ROOT": ROOT, "mine": installed.wanted, "x": 1}
    found = installed.wanted(names)
    assert {"numpy", "numpy.linalg"} <= set(found)
    assert {name.partition(".")[0] for name in found} == {"numpy"}
    assert [name for name in found if name.count(".") > 1 and name != np.linalg.norm.__module__] == []


def test_looking_for_imports_runs_no_code_of_the_notebooks_objects(monkeypatch: pytest.MonkeyPatch):
    """After each cell it looks: a proxy would connect, a lazy module load, and an error would stand under every cell."""
    lazy = asks_back.LazyModule("numpy.lazy")
    monkeypatch.setitem(sys.modules, "numpy.lazy", lazy)
    found = installed.wanted({"proxy": asks_back.Proxy(), "odd": asks_back.Odd, "lazy": lazy, "np": np})
    assert "numpy" in found and "numpy.lazy" not in found
    assert asks_back.LOOKED_AT == []


@pytest.mark.parametrize(
    ("path", "is_so"),
    [
        (np.__file__, True),
        (subprocess.__file__, True),
        (str(ROOT / "nb_elastic" / "cell.py"), False),
        ("/tmp/x.py", False),
    ],
)
def test_a_file_is_installed_where_only_an_installation_changes_it(path: str, is_so: bool):
    assert installed.is_installed(path) is is_so


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of the user's own, first on the path."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def test_a_file_that_hides_an_installed_package_is_found(path: Path):
    assert installed.shadowed() == ""
    (path / "numpy.py").write_text("")
    assert installed.shadowed() == str(path / "numpy.py")


def test_a_package_that_hides_an_installed_one_is_found_and_a_mere_folder_hides_nothing(path: Path):
    (path / "numpy").mkdir()
    assert installed.shadowed() == ""
    (path / "numpy" / "__init__.py").write_text("")
    assert installed.shadowed() == str(path / "numpy" / "__init__.py")


def test_the_path_to_import_ahead_from_has_no_folder_of_the_users_own(path: Path):
    assert str(path) not in installed.installed_path()
    assert str(ROOT) not in installed.installed_path()
    assert set(installed.site_folders()) & set(installed.installed_path())
