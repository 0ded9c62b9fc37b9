"""``reap``: ends what dead runs left behind, and tells what that was.

Runs in: the command line, or the kernel (``%elastic reap``).
"""

from __future__ import annotations

from nb_elastic import reap, rundir
from nb_elastic.reap import Left
from nb_elastic.report_words import first_line

COMMAND_CHARS = 60


def reap_all(*, is_dry: bool) -> str:
    """Look at all runs of this user; returns what to print.

    Args:
        is_dry: end nothing and write nothing down.
    """
    folders = rundir.all_runs()
    found = [one for run in folders for one in (reap.left_by(run) if is_dry else reap.end_left(run))]
    lost = [run.run_id for run in folders if (reap.is_lost(run) if is_dry else reap.mark_lost(run))]
    lines = _table(found)
    verb = "Would end" if is_dry else "Ended"
    processes = f"{len(found)} process{'es' if len(found) != 1 else ''}"
    if found:
        lines.append(f"{verb} {processes} of {len({one.run_id for one in found})} run(s).")
    if lost:
        lines.append(f"{'Would mark' if is_dry else 'Marked'} as lost: {', '.join(lost)}.")
    return "\n".join(lines) or f"Nothing is left of dead runs ({len(folders)} looked at in {rundir.home()})."


def _table(found: list[Left]) -> list[str]:
    if not found:
        return []
    rows = [("RUN", "PID", "WHAT", "COMMAND")]
    rows += [(o.run_id, str(o.process.pid), o.what, first_line(o.command, limit=COMMAND_CHARS)) for o in found]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
