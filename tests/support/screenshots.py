"""Takes the pictures of README and notebooks from real runs in a real JupyterLab, and keeps them small.

Runs in: `make screenshots`; it needs a Chromium and the built front end.

usage: python -m tests.support.screenshots [NAME ...]      (run-4-ranks, run-64-ranks, failure, dark, panel, reopened)
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import sync_playwright

from tests.browser.conftest import CHROMIUM
from tests.browser.lab import LabPage, LabServer, lab_server

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "notebooks" / "images"
TUTORIAL = PROJECT / "notebooks" / "02_watching_a_run.ipynb"
LIMIT_BYTES = 150_000
SIZE = {"width": 1060, "height": 1500}
"""High enough for a whole dashboard; what is shown of it is cut to `HEIGHT`."""
PANEL_SIZE = {"width": 1280, "height": 760}
HEIGHT = 860
MARGIN = 12
SHARPNESS = 2
SMALLER = ((1.0, 256), (1.0, 96), (0.75, 128), (0.5, 128), (0.5, 48))
"""Scale and number of colours to try, until a picture is small enough."""

THEMES = "@jupyterlab/apputils-extension:themes"

LOAD = "%load_ext nb_elastic"
DIGITS = """%%elastic_launch --nproc 4 --name digits
dist.init_process_group("gloo")
train(steps=120)"""
MANY = """%%elastic_launch --nproc 64 --name many
import math, os, random, time
import nb_elastic

rank = int(os.environ["RANK"])
for step in range(1, 61):
    time.sleep(0.9 if rank == 37 else 0.5)
    nb_elastic.report(step=step, total=60, loss=2 * math.exp(-step / 20) + random.random() / 10 + rank / 400)"""


def tutorial_cell(mark: str) -> str:
    """Source of the tutorial's first code cell with that in it."""
    cells = nbformat.read(TUTORIAL, as_version=4).cells
    return str(next(c.source for c in cells if c.cell_type == "code" and mark in c.source))


def setup_cells() -> list[str]:
    """What the launches need, in two cells."""
    return [LOAD, tutorial_cell("load_digits") + "\n\n\n" + tutorial_cell("def train")]


def until_says(lab: LabPage, index: int, pattern: str) -> Any:
    """Wait until a cell's dashboard says something, and return it."""
    lab.cell(index).scroll_into_view_if_needed()
    lab.dashboard(index).wait_for()
    lab.page.wait_for_function(
        "([element, pattern]) => new RegExp(pattern, 'i').test(element.innerText)",
        arg=[lab.dashboard(index).element_handle(), pattern],
        timeout=120_000,
    )
    return lab.dashboard(index)


def show_tab(dashboard: Any, name: str) -> None:
    """Open one of the dashboard's tabs."""
    dashboard.get_by_role("tab", name=re.compile(name)).click()


def open_book(lab: LabPage, cells: list[str]) -> None:
    """Open a notebook of these cells, with all of the page's width for it."""
    lab.open(lab.write(*cells, name="digits.ipynb"))
    lab.page.evaluate("() => jupyterapp.shell.collapseLeft()")


def started(lab: LabPage, cell: str, *, pattern: str) -> Any:
    """Open a notebook that ends with this launch, start it, and wait until its dashboard says something."""
    cells = [*setup_cells(), cell]
    open_book(lab, cells)
    for index in range(len(cells) - 1):
        lab.run(index)
    lab.start(len(cells) - 1)
    return until_says(lab, len(cells) - 1, pattern)


def four_ranks(lab: LabPage) -> Any:
    """Four ranks that train, from the cell."""
    return started(lab, DIGITS, pattern=r"step [4-9]\d\b")


def many_ranks(lab: LabPage) -> Any:
    """Sixty-four ranks, one of them slow."""
    dashboard = started(lab, MANY, pattern=r"step \d+\D[2-9]\d of 60[\s\S]*slowest")
    show_tab(dashboard, "Metrics")
    dashboard.locator(".nbe-chart canvas").first.wait_for()
    return dashboard


def failure(lab: LabPage) -> Any:
    """A failed run: the root cause first."""
    return started(lab, tutorial_cell("--name broken-picture"), pattern=r"FloatingPointError[\s\S]*followed|lost")


def dark(lab: LabPage) -> Any:
    """Curves in JupyterLab's dark theme."""
    lab.server.settings(THEMES, {"theme": "JupyterLab Dark"})
    dashboard = started(lab, DIGITS, pattern=r"step [5-9]\d\b")
    show_tab(dashboard, "Metrics")
    dashboard.locator(".nbe-chart canvas").first.wait_for()
    return dashboard


def panel(lab: LabPage) -> Any:
    """The list of runs, beside a run in a tab of its own."""
    dashboard = started(lab, DIGITS, pattern=r"step [3-9]\d\b")
    lab.page.set_viewport_size(PANEL_SIZE)
    dashboard.get_by_role("button", name="Open in a tab").click()
    lab.show_runs().get_by_text("digits").first.wait_for()
    lab.page.locator(".nbe[data-size=tab]").get_by_text("rank 3").first.wait_for()
    return lab.page.locator("#main")


def reopened(lab: LabPage) -> Any:
    """A notebook that was saved and opened again without a kernel."""
    cells = [*setup_cells(), tutorial_cell("--name first-look")]
    open_book(lab, cells)
    for index in range(len(cells)):
        lab.run(index)
    until_says(lab, len(cells) - 1, "succeeded")
    lab.save()
    lab.server.end_sessions()
    lab.open_without_kernel(lab.path)
    dashboard = until_says(lab, len(cells) - 1, "succeeded")
    show_tab(dashboard, "Metrics")
    dashboard.locator(".nbe-chart canvas").first.wait_for()
    return dashboard


PICTURES: Mapping[str, Callable[[LabPage], Any]] = {
    "run-4-ranks": four_ranks,
    "run-64-ranks": many_ranks,
    "failure": failure,
    "dark": dark,
    "panel": panel,
    "reopened": reopened,
}


def smaller(picture: bytes) -> bytes:
    """The same picture in fewer colours, and with fewer pixels if that is not enough."""
    from PIL import Image

    whole = Image.open(io.BytesIO(picture)).convert("RGB")
    for scale, colours in SMALLER:
        size = (round(whole.width * scale), round(whole.height * scale))
        image = whole if scale == 1 else whole.resize(size, Image.Resampling.LANCZOS)
        packed = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
        if len(packed.getvalue()) < LIMIT_BYTES:
            return packed.getvalue()
    raise ValueError(f"the picture is larger than {LIMIT_BYTES} bytes however it is packed")


def picture_of(shown: Any, page: Any) -> bytes:
    """What is seen of an element, with a little room around it."""
    page.mouse.move(0, 0)
    shown.evaluate("element => element.scrollIntoView({ block: 'nearest' })")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    box, view = shown.bounding_box(), page.viewport_size
    left, top = max(0, box["x"] - MARGIN), max(0, box["y"] - MARGIN)
    width = min(view["width"], box["x"] + box["width"] + MARGIN) - left
    height = min(view["height"], box["y"] + box["height"] + MARGIN, top + HEIGHT) - top
    clip = {"x": left, "y": top, "width": width, "height": height}
    return bytes(page.screenshot(clip=clip, animations="disabled"))


def take(name: str, browser: Any, server: LabServer) -> Path:
    """Take one picture; all kernels end with it."""
    context = browser.new_context(viewport=SIZE, device_scale_factor=SHARPNESS, reduced_motion="reduce")
    try:
        lab = LabPage(context.new_page(), server)
        server.settings(THEMES, {"theme": "JupyterLab Light"})
        shown = PICTURES[name](lab)
        path = FOLDER / f"{name}.png"
        path.write_bytes(smaller(picture_of(shown, lab.page)))
    finally:
        context.close()
        server.end_sessions()
    return path


def main(names: list[str]) -> int:
    """Take the pictures of these names, all without any."""
    unknown = set(names) - set(PICTURES)
    if unknown or not CHROMIUM:
        why = (
            f"no such picture: {', '.join(sorted(unknown))}"
            if unknown
            else "needs a Chromium: apt-get install chromium"
        )
        print(why, file=sys.stderr)
        return 2
    FOLDER.mkdir(exist_ok=True)
    with lab_server() as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for name in names or PICTURES:
            path = take(name, browser, server)
            print(f"{path.relative_to(PROJECT)}  {path.stat().st_size // 1000} kB", flush=True)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
