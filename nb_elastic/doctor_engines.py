"""Which engines could place nodes from here, as each of them finds out itself; a part of the doctor.

Runs in: the kernel or command line. Nothing is placed, and no cluster is asked to do anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nb_elastic.doctor_rules import Check
from nb_elastic.engines import base
from nb_elastic.engines.base import Engine, Wanted
from nb_elastic.errors import ElasticError

ASKED_BY = {"ray": "RAY_ADDRESS", "slurm": "SLURM_JOB_ID", "dask": "DASK_SCHEDULER_ADDRESS"}
"""A variable that says somebody means to use the engine here."""
UNFINISHED = " Nothing was started."


def engines(
    environ: Mapping[str, str],
    *,
    load: Callable[[str], Engine] = base.load,
    names: Callable[[], list[str]] = base.names,
) -> list[Check]:
    """Ask each installed engine where it would place two nodes."""
    usable, absent, checks = [base.LOCAL], [], []
    for name in names():
        if name == base.LOCAL:
            continue
        try:
            settled = load(name).settle(Wanted(run_id="doctor", min_nodes=1, max_nodes=2), environ)
        except ElasticError as e:
            why = str(e).removesuffix(UNFINISHED)
            variable = ASKED_BY.get(name, "")
            if environ.get(variable):
                text = f"{variable} is set, but: {why}"
                checks.append(Check(name="engines", state="warn", text=text, advice="Runs of one machine work."))
            else:
                absent.append(f"{name} ({why})")
            continue
        usable.append(f"{name} ({settled.label})")
        checks += [
            Check(name="engines", state="warn", text=note, advice="SECURITY.md, between nodes.")
            for note in settled.notes
        ]
    said = f"Nodes can be placed by {', '.join(usable)}."
    if absent:
        said += f" Not from here: {'; '.join(absent)}."
    return [Check(name="engines", state="ok", text=said), *checks]
