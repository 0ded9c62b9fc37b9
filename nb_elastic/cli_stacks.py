"""``stacks``: where the ranks of a run stand, as text.

Runs in: the command line, or the kernel (``%elastic stacks``).
"""

from __future__ import annotations

from nb_elastic import stacks, stacks_text
from nb_elastic.errors import ElasticError
from nb_elastic.render.lines import clean
from nb_elastic.rundir import RunDir

LINE_CHARS = 2_000


def text_of(run: RunDir, *, rank: int | None) -> str:
    """The report, with nothing in it that a terminal would obey.

    Raises:
        ElasticError: if the run has no such rank.
    """
    report = stacks.report(run, rank=rank)
    if rank is not None and not report.groups and not report.headline.startswith("The run is over"):
        raise ElasticError(
            f"Run {run.run_id} has no rank {rank} now. `nb-elastic stacks {run.run_id}` shows all ranks."
        )
    return "\n".join(clean(line, limit=LINE_CHARS) for line in stacks_text.text(report).split("\n"))
