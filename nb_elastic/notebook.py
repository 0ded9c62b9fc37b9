"""What IPython knows of the notebook: its names, the sources of its cells and their numbers.

Runs in: the kernel. The only place that looks into IPython's state.
"""

from __future__ import annotations

import inspect
import linecache
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_MAGIC_LINE = re.compile(r"^[ \t]*%%", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Texts of the notebook's cells.

    Attributes:
        texts: source by the file name that code objects of the cell carry.
        labels: what the user calls it (``Cell In[12]``), by the same file name.
    """

    texts: Mapping[str, str]
    labels: Mapping[str, str]


def shell() -> InteractiveShell | None:
    """IPython's shell of this process, or None outside IPython; never imports it."""
    module = sys.modules.get("IPython")
    found: InteractiveShell | None = module.get_ipython() if module else None
    return found


def allows_stdin(ip: Any) -> bool:
    """True if the front end that sent the running cell can be asked by ``input()``."""
    parent: Any = getattr(ip, "get_parent", dict)()
    content = parent.get("content") if isinstance(parent, Mapping) else None
    return isinstance(content, Mapping) and content.get("allow_stdin") is True


def sources(ip: InteractiveShell | None) -> Sources:
    """Sources of all cells run so far, by the file names IPython compiled them under."""
    if ip is None:
        return Sources(texts={}, labels={})
    counts: Mapping[str, int] = getattr(ip.compile, "_filename_map", {})
    texts: dict[str, str] = {}
    labels: dict[str, str] = {}
    for filename, count in list(counts.items()):
        entry = linecache.cache.get(filename)
        if entry is not None and len(entry) > 2:
            texts[filename] = "".join(entry[2])
            labels[filename] = f"Cell In[{count}]"
    return Sources(texts=texts, labels=labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningCell:
    """The cell that runs now.

    Attributes:
        label: what the user calls it, ``Cell In[12]``.
        filename: what IPython compiled it under, or "".
    """

    label: str
    filename: str = ""


def running_cell(ip: InteractiveShell | None) -> RunningCell:
    """Tell which cell runs now, by its code's own file name.

    The execution counter alone does not tell: IPython 9 counts up before a cell runs, 8 after it.
    """
    if ip is None:
        return RunningCell(label="Cell In[1]")
    counts: Mapping[str, int] = getattr(ip.compile, "_filename_map", {})
    found = RunningCell(label=f"Cell In[{ip.execution_count}]")
    frame = inspect.currentframe()
    while frame is not None:
        filename = frame.f_code.co_filename
        if filename in counts:
            found = RunningCell(label=f"Cell In[{counts[filename]}]", filename=filename)
        frame = frame.f_back
    return found


def line_offset(ip: InteractiveShell | None, body: str) -> int:
    """Number of lines above the cell's body: the magic's own line and blank ones before it."""
    if ip is None:
        return 1
    raw, text = raw_cell(ip).rstrip("\n"), body.rstrip("\n")  # IPython ends the body with a line break
    if text and raw.endswith(text):
        return raw[: len(raw) - len(text)].count("\n")
    found = _MAGIC_LINE.search(raw)
    return raw[: found.start()].count("\n") + 1 if found else 1


def raw_cell(ip: InteractiveShell) -> str:
    """Text of the running cell as the front end sent it, or ""."""
    parent = ip.get_parent() if hasattr(ip, "get_parent") else {}
    code = parent.get("content", {}).get("code", "") if isinstance(parent, Mapping) else ""
    return str(code or "")


def config(ip: InteractiveShell | None) -> Mapping[str, Any]:
    """What ``%config Elastic`` sets in this notebook; empty where the extension is not loaded."""
    configurables: list[Any] = ip.configurables if ip is not None else []
    for found in configurables:
        if type(found).__module__ == "nb_elastic.config":
            values: Mapping[str, Any] = found.as_mapping()
            return values
    return {}
