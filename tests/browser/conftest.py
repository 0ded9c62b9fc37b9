"""A real browser: the system's Chromium, driven by Playwright.

Runs in: the tests.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.lab import FRONT, LabPage, LabServer, lab_server

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


@pytest.fixture(scope="session")
def _stage(browser: Any) -> Iterator[Any]:
    """The one page of all tests that need no server: a new page is half a second of a core."""
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture
def bare_page(_stage: Any, core_bundle: Path) -> Any:
    """An empty page with the core loaded: ``nbe`` holds what ``core/src/index.ts`` exports, ``#root`` is an element to draw in."""
    _stage.goto("about:blank")
    _stage.unroute_all()
    _stage.set_viewport_size({"width": 1280, "height": 720})
    _stage.emulate_media(media="null", color_scheme="null", reduced_motion="null", forced_colors="null")
    _stage.mouse.move(0, 0)
    _stage.set_content("<!doctype html><html><body style='margin:8px'><div id='root'></div></body></html>")
    _stage.add_style_tag(path=str(core_bundle / "core.css"))
    _stage.add_script_tag(path=str(core_bundle / "core.js"))
    return _stage


@pytest.fixture(scope="session", autouse=True)
def _patience() -> None:
    """Generous, for two slow cores: a passing test never waits this long."""
    from playwright.sync_api import expect

    expect.set_options(timeout=30_000)


@pytest.fixture(scope="session")
def server(browser: Any) -> Iterator[LabServer]:
    """One JupyterLab for all tests. (The browser is asked for so that it, too, is there before a test counts processes.)"""
    with lab_server() as running:
        yield running


@pytest.fixture
def lab(context: Any, server: LabServer) -> Iterator[LabPage]:
    """A page of JupyterLab; all kernels end with the test."""
    yield LabPage(context.new_page(), server)
    _leave(context, server)


@pytest.fixture
def notebook7(context: Any, server: LabServer) -> Iterator[LabPage]:
    """A page of Notebook 7; all kernels end with the test."""
    yield LabPage(context.new_page(), server, is_notebook7=True)
    _leave(context, server)


def _leave(context: Any, server: LabServer) -> None:
    for page in context.pages:
        page.close(run_before_unload=False)
    server.end_sessions()
