"""How the saved HTML looks: styles that stand in the elements, for pages that keep no style sheet of ours.

Runs in: the kernel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape

from nb_elastic.render.lines import clean

MONO = "font-family:var(--jp-code-font-family,ui-monospace,Menlo,Consolas,monospace);font-size:12px;line-height:1.4"
LINE = "1px solid rgba(128,128,128,.35)"
PRE = f"{MONO};margin:4px 0 0 0;padding:6px 8px;border:{LINE};border-radius:4px;background:transparent;color:inherit"
PRE += ";white-space:pre-wrap;overflow-wrap:anywhere;max-height:360px;overflow:auto"
CELL = "padding:2px 12px 2px 0;text-align:left;border:none"
MUTED = "opacity:.7"
GREEN, RED, AMBER, BLUE, GREY, PURPLE = "#2e7d32", "#c62828", "#a15c00", "#1565c0", "#616161", "#7a3fc4"
COLOURS: Mapping[str, str] = {
    "running": BLUE,
    "joined": BLUE,
    "held": PURPLE,
    "succeeded": GREEN,
    "failed": RED,
    "lost": RED,
    "restarting": AMBER,
    "stopping": AMBER,
    "stopped": AMBER,
}


def chip(state: str, *, text: str = "") -> str:
    """A state as a coloured label; it says the word (or ``text``), too, for those who don't see the colour."""
    style = f"background:{COLOURS.get(state, GREY)};color:#fff;border-radius:4px;padding:1px 7px;font-size:12px"
    return f'<span style="{style}">{escape(text or state)}</span>'


def pre(text: str, *, style: str = "") -> str:
    """Text as it is, in a box."""
    return f'<pre style="{PRE};{style}">{escape(text)}</pre>'


def code(text: str) -> str:
    """A path or a command."""
    return f'<code style="{MONO};background:transparent;color:inherit">{escape(text)}</code>'


def lined(inner: str, *, colour: str) -> str:
    """A part that stands out by a line in a colour; ``inner`` is HTML."""
    return f'<div style="border-left:3px solid {colour};padding:2px 10px;margin:4px 0">{inner}</div>'


def ticked(text: str, *, limit: int = 4_000) -> str:
    """Sentences with commands in them: what stands between backticks is code."""
    harmless = "\n".join(clean(line) for line in text[:limit].split("\n"))
    parts = re.split("`([^`\n]+)`", harmless)
    return "".join(code(part) if i % 2 else escape(part) for i, part in enumerate(parts)).replace("\n", "<br>")
