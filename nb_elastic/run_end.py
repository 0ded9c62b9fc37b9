"""The error that tells how a run ended, where it did not end well.

Runs in: the kernel or the command line.
"""

from __future__ import annotations

from nb_elastic.errors import ElasticError, RunLostError, RunStoppedError, WorkerFailedError
from nb_elastic.model import RunState
from nb_elastic.report_failure import failure_text, stopped_text
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import RunSnapshot


def error(now: RunSnapshot, folder: RunDir) -> ElasticError | None:
    """The error of a run that failed, was stopped or is lost; None for one that succeeded or still runs."""
    run_id = folder.run_id
    if now.state is RunState.FAILED:
        return WorkerFailedError(failure_text(now, folder=folder), run_id=run_id, rank=now.root_rank)
    is_there = folder.path.is_dir()
    gone = f"The run folder {folder.path} was deleted while the run lasted: its logs and results are gone."
    if now.state is RunState.STOPPED:
        text = stopped_text(now, folder=folder if is_there else None)
        return RunStoppedError(text if is_there else f"{text}\n{gone}", run_id=run_id)
    if now.state is RunState.LOST:
        kept = f"What is known lies in {folder.path} (supervisor.log, journal.jsonl)." if is_there else gone
        text = (now.text or "its supervisor is gone without a last word").rstrip(".")
        return RunLostError(f"Run {run_id} is lost: {text}.{' ' if is_there else chr(10)}{kept}", run_id=run_id)
    return None
