"""What the saved HTML tells of a run that stands still, of the verdict on it, and of a run that was lost.

Runs in: the kernel. Everything that came from a rank is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from nb_elastic import report_words
from nb_elastic.dashboard import messages
from nb_elastic.model import FailureCategory, RunState, StackGroup
from nb_elastic.render import standstill
from nb_elastic.render.html_style import AMBER, MUTED, PURPLE, chip, lined, pre, ticked
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import RunSnapshot

STACKS_CHARS = 40_000
"""Characters of all stacks together, escaped; groups that come later are told in a line."""
REASONS = 8
SENTENCE_CHARS = 400


def held(snapshot: RunSnapshot) -> str:
    """Ranks that wait to be looked at."""
    if snapshot.state.is_final or not snapshot.held:
        return ""
    lines = standstill.held_lines(snapshot.held, snapshot, is_attended=False)
    return lined("".join(f"<div>{ticked(line)}</div>" for line in lines), colour=PURPLE)


def hang(snapshot: RunSnapshot, *, folder: RunDir, now_ns: int, has_frames: bool = True) -> str:
    """Where the ranks stand, or stood when the run ended, while nothing moves."""
    report = snapshot.hang
    if report is None:
        return ""
    end_ns = snapshot.finished_ns or now_ns
    still_s = standstill.hang_after_s(folder) + max(0, end_ns - report.time_ns) / 1e9
    title = standstill.hang_title(report, still_s, is_over=snapshot.state.is_final)
    slim = messages.slim_report(report, groups=len(report.groups), frames=messages.SAVED_FRAMES if has_frames else 0)
    groups, most = sorted(slim.groups, key=lambda g: not g.is_odd), messages.SAVED_GROUPS
    parts = [f"<div><b>{escape(title)}</b></div>", f"<div>{ticked(report.headline)}</div>"]
    room = STACKS_CHARS
    for group in groups[:most]:
        stack = _stack(group)
        room -= len(stack)
        parts.append(_group(group, stack if room > 0 else ""))
    if len(groups) > most:
        parts.append(f'<div style="{MUTED}">and {len(groups) - most} more groups</div>')
    if report.advice:
        parts.append(f"<div>{ticked(report.advice)}</div>")
    return lined("".join(parts), colour=AMBER)


def verdict(snapshot: RunSnapshot, *, told: str) -> str:
    """What kind of failure it was and the evidence; ``told`` is what stands there already."""
    root = snapshot.root
    category, reasons = snapshot.category, snapshot.reasons
    if root is not None and root.category and not (root.followed and category):
        is_own = root.category == FailureCategory.USER_ERROR.value and root.error_type not in {"", "SystemExit"}
        is_own = is_own or root.category == FailureCategory.LOST_NODE.value
        category, reasons = root.category, () if is_own else root.reasons  # its traceback, or the report, says it all
    if not category:
        return ""
    label = "cause unknown" if category == "unknown" else report_words.first_line(category, limit=80)
    return f"<div>{chip('failed', text=label)}</div>{_list([r for r in reasons if r not in told])}"


def lost(snapshot: RunSnapshot) -> str:
    """Why a run is taken for lost, and what to do about what it may have left."""
    if snapshot.state is not RunState.LOST or not snapshot.text:
        return ""
    return lined(f"<div>{ticked(snapshot.text)}</div>", colour=AMBER)


def _group(group: StackGroup, stack: str) -> str:
    line = f"<div>{escape(standstill.group_text(group))}</div>{_list(group.notes[: standstill.NOTES])}"
    return f'<div style="margin-top:4px">{line}{stack}</div>'


def _stack(group: StackGroup) -> str:
    if not group.frames:
        return ""
    frames = [f'File "{f.file}", line {f.line}, in {f.name}\n    {f.text.strip()}' for f in group.frames]
    text = report_words.clean_text("\n".join(frames))
    return f'<details><summary style="cursor:pointer;{MUTED}">stack</summary>{pre(text)}</details>'


def _list(sentences: Sequence[str]) -> str:
    rows = "".join(f"<li>{ticked(sentence, limit=SENTENCE_CHARS)}</li>" for sentence in sentences[:REASONS])
    return f'<ul style="margin:0;padding-left:18px">{rows}</ul>' if rows else ""
