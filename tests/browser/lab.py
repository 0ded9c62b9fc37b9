"""A real JupyterLab (and Notebook 7) in a real browser: the server, and a driver of its page.

Runs in: the tests, and the script that makes the screenshots.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nb_elastic import lifeline
from tests.support.until import until

ROOT = Path(__file__).parents[2]
FRONT = ROOT / "labextension"
BUILT = (ROOT / "nb_elastic/static/widget.js", ROOT / "nb_elastic/labextension/package.json")
MIME = "application/vnd.nb-elastic.run.v1+json"
EXTENSION = "nb-elastic"


def ensure_built() -> None:
    """Build the front end if a source is newer than what was built."""
    folders = [FRONT / part / kind for part in ("core", "widget", "lab") for kind in ("src", "style", "schema")]
    sources = [f for folder in folders for f in folder.rglob("*") if f.is_file()]
    newest = max(f.stat().st_mtime for f in [*sources, *FRONT.glob("*.json"), *FRONT.glob("*/package.json")])
    if all(f.is_file() and f.stat().st_mtime >= newest for f in BUILT):
        return
    if not shutil.which("npm"):
        raise RuntimeError("the front end is older than its sources, and there is no Node.js to build it")
    if not (FRONT / "node_modules").is_dir():
        _npm("ci")
    _npm("run", "build")
    for file in BUILT:
        file.touch()


def _npm(*words: str) -> None:
    done = subprocess.run(["npm", *words], cwd=FRONT, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise RuntimeError(f"npm {' '.join(words)} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")


@dataclass(frozen=True, kw_only=True)
class LabServer:
    """A running server.

    Attributes:
        root: folder of the notebooks.
        home: NB_ELASTIC_HOME of its kernels.
    """

    url: str
    token: str
    root: Path
    home: Path
    config: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    def api(self, path: str, method: str = "GET") -> Any:
        """Ask the server itself."""
        request = urllib.request.Request(f"{self.url}/{path}", method=method)
        request.add_header("Authorization", f"token {self.token}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def end_sessions(self) -> None:
        """Shut all kernels down, wait until they are gone, and forget their runs."""
        for session in self.api("api/sessions"):
            self.api(f"api/sessions/{session['id']}", "DELETE")
        for kernel in self.api("api/kernels"):
            self.api(f"api/kernels/{kernel['id']}", "DELETE")
        until(lambda: not self.api("api/kernels"), what="kernels to be gone")
        for run in self.home.glob("*/run.json"):
            shutil.rmtree(run.parent, ignore_errors=True)

    @contextmanager
    def disabled(self, *extensions: str) -> Iterator[None]:
        """Have pages that load now do without these lab extensions."""
        file = self.config / "labconfig" / "page_config.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"disabledExtensions": dict.fromkeys(extensions, True)}))
        try:
            yield
        finally:
            file.unlink()

    def settings(self, plugin: str, values: Mapping[str, Any]) -> None:
        """Set what the user set of a plugin (``nb-elastic:plugin``); no values: back to the defaults."""
        package, _, name = plugin.partition(":")
        file = self.config / "settings" / package / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))


@contextmanager
def lab_server() -> Iterator[LabServer]:
    """Start JupyterLab with the lab extension and the Python package of this tree, apart from all that its user has set."""
    ensure_built()
    with tempfile.TemporaryDirectory(prefix="nbe-", ignore_cleanup_errors=True) as folder:
        base = Path(folder)
        for name in ("root", "home", "config", "data", "runtime", "ipython", "prefix/labextensions", "workspaces"):
            (base / name).mkdir(parents=True)
        (base / "home").chmod(0o700)
        (base / "prefix/labextensions" / EXTENSION).symlink_to(ROOT / "nb_elastic/labextension")
        token, port = secrets.token_hex(8), _free_port()
        log = (base / "server.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *_arguments(base / "root", port, token)],
            env=_environment(base),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=functools.partial(lifeline.die_with_parent, signal.SIGTERM, parent=os.getpid()),
        )
        server = LabServer(
            url=f"http://127.0.0.1:{port}",
            token=token,
            root=base / "root",
            home=base / "home",
            config=base / "config",
            process=process,
        )
        server.settings("@jupyterlab/apputils-extension:notification", {"fetchNews": "false", "checkForUpdates": False})
        try:
            until(lambda: _answers(server), 120, "JupyterLab to answer")
            yield server
            server.end_sessions()
        except AssertionError as error:
            raise AssertionError(f"{error}\n{(base / 'server.log').read_text()[-4000:]}") from error
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.close()


def _arguments(root: Path, port: int, token: str) -> Sequence[str]:
    return (
        "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True", "--JupyterNotebookApp.expose_app_in_browser=True",
    )  # fmt: skip


def _environment(base: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "NB_ELASTIC_HOME": str(base / "home"),
        "JUPYTER_PATH": str(base / "prefix"),
        "JUPYTER_CONFIG_DIR": str(base / "config"),
        "JUPYTER_DATA_DIR": str(base / "data"),
        "JUPYTER_RUNTIME_DIR": str(base / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(base / "config/settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(base / "workspaces"),
        "IPYTHONDIR": str(base / "ipython"),
    }


def _answers(server: LabServer) -> bool:
    assert server.process.poll() is None, "the server ended"
    try:
        return bool(server.api("api/status"))
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


class LabPage:
    """One browser tab on one notebook.

    Args:
        is_notebook7: drive Notebook 7 instead of JupyterLab.
    """

    def __init__(self, page: Any, server: LabServer, *, is_notebook7: bool = False) -> None:
        self.page, self.server, self.is_notebook7 = page, server, is_notebook7
        self.path = ""
        self._workspace = secrets.token_hex(4)
        page.set_default_timeout(60_000)

    def write(self, *cells: str, name: str = "", outputs: Mapping[int, list[Any]] | None = None) -> str:
        """Make a notebook of these code cells in the server's folder; returns its path there."""
        path = name or f"nb-{secrets.token_hex(4)}.ipynb"
        made = [
            {
                "cell_type": "code", "id": f"c{i}", "metadata": {}, "source": text, "execution_count": None,
                "outputs": list((outputs or {}).get(i, [])),
            }
            for i, text in enumerate(cells)
        ]  # fmt: skip
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        book = {"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": made}
        (self.server.root / path).write_text(json.dumps(book))
        return path

    def new(self, *cells: str) -> LabPage:
        """Make a notebook of these cells, open it, and wait for its kernel."""
        return self.open(self.write(*cells))

    def open(self, path: str, *, is_busy: bool = False) -> LabPage:
        """Open a notebook and wait for its kernel, unless that is busy."""
        self.path = path
        where = f"notebooks/{path}" if self.is_notebook7 else f"lab/workspaces/{self._workspace}/tree/{path}"
        self.page.goto(f"{self.server.url}/{where}?token={self.server.token}")
        self.until_open()
        return self if is_busy else self.until_idle()

    def open_without_kernel(self, path: str) -> LabPage:
        """Open a notebook in JupyterLab, and start no kernel for it."""
        self.path = path
        self.page.goto(f"{self.server.url}/lab/workspaces/{self._workspace}?token={self.server.token}")
        self.page.wait_for_function("() => window.jupyterapp?.commands.hasCommand('docmanager:open')")
        self.page.evaluate(
            """async path => {
                await jupyterapp.restored;
                const kernelPreference = { shouldStart: false, autoStartDefault: false };
                await jupyterapp.commands.execute('docmanager:open', { path, factory: 'Notebook', kernelPreference });
            }""",
            path,
        )
        return self.until_open()

    def until_open(self) -> LabPage:
        """Wait until the notebook is there with all its cells."""
        self.page.wait_for_function(
            """name => {
                const panel = window.jupyterapp?.shell.currentWidget;
                return panel?.context?.isReady && panel.context.path === name && panel.content.widgets.length > 0;
            }""",
            arg=self.path,
        )
        return self

    def until_idle(self) -> LabPage:
        """Wait until the kernel has nothing to do."""
        self.page.wait_for_function(
            """() => {
                const context = window.jupyterapp.shell.currentWidget.sessionContext;
                return context.session?.kernel?.status === 'idle' && !context.pendingInput;
            }"""
        )
        return self

    def until_ended(self, index: int) -> LabPage:
        """Wait until a cell has ended: a subshell's messages make a busy kernel look idle, so its status does not tell."""
        self.page.wait_for_function(
            """i => {
                const model = window.jupyterapp.shell.currentWidget.content.widgets[i].model;
                return model.executionCount !== null && model.executionState === 'idle';
            }""",
            arg=index,
        )
        return self

    def start(self, index: int) -> LabPage:
        """Run a cell and wait for nothing."""
        self.page.evaluate(
            """i => {
                const panel = jupyterapp.shell.currentWidget;
                panel.content.deselectAll();
                panel.content.activeCellIndex = i;
                window.__run = jupyterapp.commands.execute('notebook:run-cell').catch(() => undefined);
            }""",
            index,
        )
        return self

    def run(self, index: int) -> LabPage:
        """Run a cell to its end."""
        return self.start(index).until_ended(index)

    def cell(self, index: int) -> Any:
        """A cell, as a Playwright locator."""
        return self.page.locator(f".jp-Notebook .jp-Cell[data-windowed-list-index='{index}']")

    def output(self, index: int) -> Any:
        """What a cell displays."""
        return self.cell(index).locator(".jp-Cell-outputArea")

    def dashboard(self, index: int) -> Any:
        """The dashboard that a cell shows, whichever door drew it."""
        return self.output(index).locator(".nbe").first

    def stop_button(self, index: int) -> Any:
        """Stop of the cell's dashboard."""
        return self.dashboard(index).get_by_role("button", name="Stop").first

    def outputs(self, index: int) -> list[dict[str, Any]]:
        """A cell's outputs as the notebook's model has them."""
        found: list[dict[str, Any]] = self.page.evaluate(
            "i => jupyterapp.shell.currentWidget.content.widgets[i].model.outputs.toJSON()", index
        )
        return found

    def source(self, index: int) -> str:
        """A cell's text."""
        text: str = self.page.evaluate(
            "i => jupyterapp.shell.currentWidget.content.widgets[i].model.sharedModel.getSource()", index
        )
        return text

    def command(self, name: str, **arguments: Any) -> Any:
        """Execute one of JupyterLab's commands."""
        return self.page.evaluate("([name, args]) => jupyterapp.commands.execute(name, args)", [name, arguments])

    def save(self) -> dict[str, Any]:
        """Save the notebook; returns what is in its file."""
        self.page.evaluate("() => jupyterapp.shell.currentWidget.context.save()")
        return self.saved()

    def saved(self) -> dict[str, Any]:
        """What is in the notebook's file."""
        book: dict[str, Any] = json.loads((self.server.root / self.path).read_text())
        return book

    def until_saved(self, what: str = MIME) -> LabPage:
        """Wait until the notebook's file has this text in it; the extension itself saves when a launch starts."""
        until(lambda: what in (self.server.root / self.path).read_text(), what=f"{what} to be saved")
        return self

    def reload(self) -> LabPage:
        """Load the page anew, as F5 does."""
        self.page.reload()
        return self.until_open()

    def interrupt(self) -> None:
        """What the notebook's stop button does."""
        self.page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.interrupt()")

    def restart(self) -> LabPage:
        """Restart the kernel."""
        self.page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
        return self.until_idle()

    def subshells(self) -> list[str]:
        """Ids of the kernel's subshells."""
        found: list[str] = self.page.evaluate(
            """async () => {
                const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
                return (await kernel.requestListSubshell({}).done).content.subshell_id;
            }"""
        )
        return found

    def workspace(self) -> dict[str, Any]:
        """What JupyterLab has saved of its layout."""
        data: dict[str, Any] = self.server.api(f"lab/api/workspaces/{self._workspace}")["data"]
        return data

    def show_runs(self) -> Any:
        """Open the list of runs; returns it."""
        self.command("nb-elastic:open-runs")
        panel = self.page.locator("#nb-elastic-runs")
        panel.wait_for(state="visible")
        return panel

    def screenshot(self, path: Path) -> None:
        """Take a picture of the page."""
        self.page.screenshot(path=str(path))
