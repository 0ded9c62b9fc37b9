"""A real browser: the system's Chromium, driven by Playwright.

Runs in: the tests.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FRONT = ROOT / "labextension"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a browser these tests tell so and are skipped; ``.ci/run`` installs one."""
    for item in items:
        if Path(item.path).parent == Path(__file__).parent and not CHROMIUM:
            item.add_marker(pytest.mark.skip(reason="needs a Chromium: apt-get install chromium"))


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    """The system's Chromium, without what phones home."""
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    args = ["--no-sandbox", "--disable-gpu", "--disable-quic", *quiet]
    return {**browser_type_launch_args, "executable_path": CHROMIUM, "args": args}


@pytest.fixture(scope="session")
def core_bundle() -> Path:
    """Folder with the core as one script, ``core.js`` (global ``nbe``), and ``core.css``."""
    subprocess.run(["node", "build.mjs", "--tests"], cwd=FRONT, check=True, timeout=120)
    return FRONT / "build"


@pytest.fixture
def bare_page(page: Any, core_bundle: Path) -> Any:
    """An empty page with the core loaded: ``nbe`` holds what ``core/src/index.ts`` exports, ``#root`` is an element to draw in."""
    page.set_content("<!doctype html><html><body style='margin:8px'><div id='root'></div></body></html>")
    page.add_style_tag(path=str(core_bundle / "core.css"))
    page.add_script_tag(path=str(core_bundle / "core.js"))
    return page
