"""Executes a notebook in a real kernel and prints what its reader would see; ``--write`` keeps the outputs in the file.

What a reader types at a prompt stands in the cell's metadata: ``{"answers": ["p batch", "q"]}``.

Runs in: the tests and `make demo`.

usage: python -m tests.support.run_notebook notebooks/01_first_launch.ipynb [--write]
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

DEFAULT_HOME = "~/.local/state/nb_elastic"
"""What a reader's own folder of runs is called; stands in kept outputs for the folder used here."""
PROJECT = Path(__file__).parents[2]
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_CELL_S = 300
_THINKING_S = 0.3
"""A reader looks at what was printed before answering; it is all here by then."""


def execute(path: Path, *, tell: Callable[[str], None] = lambda _line: None) -> nbformat.NotebookNode:
    """Run every cell of a notebook in a fresh kernel of this interpreter, in an empty folder, with an empty home of runs.

    Args:
        path: the notebook; it is not changed.
        tell: called with each piece of text the reader sees, as soon as its cell has ended.

    Returns:
        The notebook with its new outputs, without this machine's paths, host name and times.

    Raises:
        CellExecutionError: if a cell fails that is not tagged ``raises-exception``.
        AssertionError: if a cell with that tag does not fail.
    """
    notebook = nbformat.read(path, as_version=4)
    room = Path(tempfile.mkdtemp(prefix="nbe-"))
    home = room / "runs"
    (room / "work").mkdir()
    names = {str(home): DEFAULT_HOME, str(room / "work"): "~", sys.prefix: "~/venv", str(PROJECT): "~/nb_elastic"}
    if sys.base_prefix not in {sys.prefix, "/usr"}:
        names[sys.base_prefix] = "/usr"
    names[socket.gethostname()] = "machine"
    manager = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(room / "k"))
    manager.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]

    def before(cell: nbformat.NotebookNode, cell_index: int) -> None:  # noqa: ARG001
        if cell.cell_type == "markdown":
            tell(f"\n{cell.source}\n")
        else:
            tell("\n" + _indent(cell.source, "In:  "))

    def after(cell: nbformat.NotebookNode, cell_index: int, **_reply: Any) -> None:  # noqa: ARG001
        _tidy(cell, names)
        for text in texts(cell):
            tell(_indent(text.rstrip("\n"), "Out: "))

    client: NotebookClient

    def asking(cell: nbformat.NotebookNode, cell_index: int) -> None:  # noqa: ARG001
        answers = cell.metadata.get("answers", [])
        client.kc.allow_stdin = bool(answers)
        if answers:
            typists.append(asyncio.ensure_future(_type(client, cell, list(answers))))

    typists: list[asyncio.Future[None]] = []
    client = NotebookClient(
        notebook, km=manager, timeout=_CELL_S, resources={"metadata": {"path": str(room / "work")}},
        on_cell_start=before, on_cell_execute=asking, on_cell_executed=after, record_timing=False, store_widget_state=False, coalesce_streams=True,
    )  # fmt: skip
    try:
        client.execute(env={**os.environ, "NB_ELASTIC_HOME": str(home)}, cleanup_kc=True)
    finally:
        shutil.rmtree(room, ignore_errors=True)
    for cell in notebook.cells:
        if "raises-exception" in cell.metadata.get("tags", []):
            assert any(o.output_type == "error" for o in cell.outputs), f"this cell should have failed:\n{cell.source}"
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


async def _type(client: NotebookClient, cell: nbformat.NotebookNode, answers: list[str]) -> None:
    """Answer a cell's questions, and keep question and answer where a front end shows them."""
    for answer in answers:
        question = await client.kc.get_stdin_msg(timeout=_CELL_S)
        await asyncio.sleep(_THINKING_S)
        text = f"{question['content']['prompt']}{answer}\n"
        last = cell.outputs[-1] if cell.outputs else None
        if last is not None and last.output_type == "stream" and last.name == "stdout":
            last.text += text
        else:
            cell.outputs.append(nbformat.v4.new_output("stream", name="stdout", text=text))
        client.kc.input(answer)


def texts(cell: nbformat.NotebookNode) -> Iterator[str]:
    """What a reader without a browser sees of a cell's outputs, without colours."""
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            yield _COLOURS.sub("", output.text)
        elif output.output_type == "error":
            yield _COLOURS.sub("", "\n".join(output.traceback))
        else:
            yield _COLOURS.sub("", output.data.get("text/plain", ""))


def _tidy(cell: nbformat.NotebookNode, names: Mapping[str, str]) -> None:
    """Put neutral names for this machine's own into a cell's outputs."""

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            for name, neutral in names.items():
                value = value.replace(name, neutral)
            return value
        if isinstance(value, dict):
            return type(value)({k: clean(v) for k, v in value.items()})
        return [clean(v) for v in value] if isinstance(value, list) else value

    if cell.cell_type == "code":
        cell.outputs = [nbformat.from_dict(clean(o)) for o in cell.outputs]
        cell.metadata.pop("execution", None)


def _indent(text: str, first: str) -> str:
    lines = text.splitlines() or [""]
    return "\n".join([first + lines[0], *(" " * len(first) + line for line in lines[1:])])


def main(argv: list[str]) -> int:
    """Run one notebook; 0 if every cell did what it should."""
    path = Path(argv[0])
    try:
        notebook = execute(path, tell=lambda text: print(text, flush=True))
    except Exception as e:  # the border: the reader sees which cell failed, and how
        print(f"\n{path} FAILED: {_COLOURS.sub('', str(e))}", file=sys.stderr)
        return 1
    if "--write" in argv[1:]:
        nbformat.write(notebook, path)
    print(f"\n{path}: every cell did what it should.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
