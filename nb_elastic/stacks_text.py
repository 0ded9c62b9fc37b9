"""A report of stacks as plain text, for a terminal, a pipe or a notebook without widgets.

Runs in: the kernel or command line.
"""

from __future__ import annotations

from collections.abc import Iterator

from nb_elastic.model import StackGroup, StackReport
from nb_elastic.stacks_flight import ranks_text

MAX_FRAMES = 30


def text(report: StackReport) -> str:
    """The whole report: headline, advice, and a paragraph for each group of ranks."""
    head = [report.headline]
    if report.advice:
        head.append(report.advice)
    return "\n\n".join(["\n".join(head), *("\n".join(_group(g)) for g in report.groups)])


def _group(group: StackGroup) -> Iterator[str]:
    name = ranks_text(group.ranks)
    yield f"{name[:1].upper()}{name[1:]} ({group.state}{', the odd one' if group.is_odd else ''}): {group.doing}"
    yield from (f"  {note}" for note in group.notes)
    frames = group.frames
    if len(frames) > MAX_FRAMES:
        yield f"  [... {len(frames) - MAX_FRAMES} frames above ...]"
    for frame in frames[-MAX_FRAMES:]:
        file = frame.file if frame.file.startswith("Cell In[") else f'File "{frame.file}"'
        yield f"  {file}, line {frame.line}, in {frame.name}"
        if frame.text:
            yield f"    {frame.text}"
