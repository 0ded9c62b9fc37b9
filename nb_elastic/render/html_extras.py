"""What the saved HTML tells beside states and logs: progress, what ranks displayed, and the values where it failed.

Runs in: the kernel. Everything that came from a rank is escaped; its HTML is shown as its text, its images as images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from nb_elastic import report_words
from nb_elastic.model import WorkerFailure
from nb_elastic.render.html_style import CELL, MONO, MUTED, pre

IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
METRICS = 12
"""So many metrics have a column."""
VALUE_CHARS = 400
VALUES = 30
TEXT_CHARS = 10_000
_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]+")


def progress(rows: Sequence[Mapping[str, Any]], *, ranks: int) -> str:
    """A table of what each rank reported last."""
    last = {row["rank"]: row for row in rows if isinstance(row.get("rank"), int)}
    if not last:
        return ""
    own = {"time_ns", "rank", "step", "total"}
    names = list(dict.fromkeys(name for row in last.values() for name in row if name not in own))[:METRICS]
    head = "".join(f'<th style="{CELL};font-weight:600">{escape(name[:40])}</th>' for name in ("rank", "step", *names))
    body = ""
    for rank in sorted(last)[:ranks]:
        row = last[rank]
        steps = [_number(row[key]) for key in ("step", "total") if key in row]
        cells = (str(rank), " of ".join(steps), *(_number(row.get(name)) for name in names))
        body += "<tr>" + "".join(f'<td style="{CELL}">{escape(cell)}</td>' for cell in cells) + "</tr>"
    style = f"{MONO};border-collapse:collapse;margin:4px 0;border:none"
    table = f'<table style="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div style="font-weight:600;margin-top:4px">Last reports</div>{table}'


def outputs(shown: Sequence[Mapping[str, Any]]) -> str:
    """What the ranks displayed, rank after rank; rank 0's unfolded."""
    by_rank: dict[int, list[str]] = {}
    for one in shown:
        by_rank.setdefault(one["rank"], []).append(_output(one))
    return "\n".join(
        f'<details{" open" if rank == 0 else ""} style="margin-top:4px"><summary style="cursor:pointer">'
        f"rank {rank} displayed</summary>{''.join(by_rank[rank])}</details>"
        for rank in sorted(by_rank)
    )


def values(failure: WorkerFailure) -> str:
    """The variables in the failing frames, the innermost frame first."""
    parts: list[str] = []
    for frame in reversed(failure.frames):
        found: Mapping[str, str] = getattr(frame, "values", {})
        if not found:
            continue
        lines = [f"{name} = {report_words.clean_text(str(text)[:VALUE_CHARS])}" for name, text in found.items()]
        place = f"{frame.file}, line {frame.line}, in {frame.name}"
        parts.append(f'<div style="font-size:12px;{MUTED};margin-top:4px">{escape(place)}</div>')
        parts.append(pre("\n".join(lines[:VALUES])))
    if not parts:
        return ""
    summary = f'<summary style="cursor:pointer">Values where rank {failure.rank} failed</summary>'
    return f'<details style="margin:4px 0">{summary}{"".join(parts)}</details>'


def _output(one: Mapping[str, Any]) -> str:
    data, note = one["data"], one["note"]
    told = (
        f'<div style="font-size:12px;{MUTED}">{escape(report_words.first_line(note, limit=400))}</div>' if note else ""
    )
    text = data.get("text/plain")
    for kind in IMAGES:
        image = data.get(kind)
        if isinstance(image, str) and _BASE64.fullmatch(image):
            alt = escape(report_words.first_line(text) if isinstance(text, str) else "image", quote=True)
            source = f"data:{kind};base64,{''.join(image.split())}"
            return f'<div><img style="max-width:100%" alt="{alt}" src="{source}"></div>{told}'
    return (pre(report_words.clean_text(text[:TEXT_CHARS])) if isinstance(text, str) and text else "") + told


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else report_words.first_line(str(value), limit=40)
