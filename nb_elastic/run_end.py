"""The error that tells how a run ended, where it did not end well.

Runs in: the kernel or the command line.
"""

from __future__ import annotations

from nb_elastic.errors import ElasticError, RunLostError, RunStoppedError, WorkerFailedError
from nb_elastic.model import RunState
from nb_elastic.report_failure import failure_text, gone_text, stopped_text
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import RunSnapshot


def error(now: RunSnapshot, folder: RunDir) -> ElasticError | None:
    """The error of a run that failed, was stopped or is lost; None for one that succeeded or still runs."""
    run_id = folder.run_id
    if now.state is RunState.FAILED:
        return WorkerFailedError(failure_text(now, folder=folder), run_id=run_id, rank=now.root_rank)
    if now.state is RunState.STOPPED:
        return RunStoppedError(stopped_text(now, folder=folder), run_id=run_id)
    if now.state is RunState.LOST:
        text = (now.text or "its supervisor is gone without a last word").rstrip(".")
        gone = gone_text(folder)
        kept = f"\n{gone}" if gone else f" What is known lies in {folder.path} (supervisor.log, journal.jsonl)."
        return RunLostError(f"Run {run_id} is lost: {text}.{kept}", run_id=run_id)
    return None
