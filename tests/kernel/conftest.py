"""Real kernels with the extension loaded.

Runs in: the tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kernel import Kernel


@pytest.fixture(scope="module")
def notebook_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home of the runs that the shared kernel makes."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def notebook_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that the shared kernel works in."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def notebook(notebook_home: Path, notebook_folder: Path) -> Iterator[Kernel]:
    """One kernel with the extension loaded, shared by a module's tests."""
    with Kernel(cwd=notebook_folder, env={"NB_ELASTIC_HOME": str(notebook_home)}) as kernel:
        kernel.ok("%load_ext nb_elastic\nimport nb_elastic")
        yield kernel
