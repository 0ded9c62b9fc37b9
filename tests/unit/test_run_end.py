"""How following a run ends: with what became of the run, whatever happens to the drawing."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from nb_elastic import events, rundir
from nb_elastic.errors import RunLostError, RunStoppedError, WorkerFailedError
from nb_elastic.render.base import SilentRenderer
from nb_elastic.run import Run
from nb_elastic.rundir import Journal, RunDir


def made(*told: events.Event) -> RunDir:
    run = rundir.create()
    rundir.write_json(run.run_json, {})
    journal = Journal(run.journal)
    for event in (events.make("run_created", run_id=run.run_id, nproc=1), *told):
        journal.append(event)
    journal.close()
    return run


class BrokenRenderer(SilentRenderer):
    """A face whose last drawing fails."""

    def close(self, snapshot: Any) -> None:
        """Fail."""
        raise TypeError("a mistake of ours")


def test_a_mistake_in_the_last_drawing_does_not_hide_why_the_run_failed(capsys: pytest.CaptureFixture[str]):
    run = Run(made(events.make("run_finished", state="failed", root_rank=None, text="the agent failed")))
    assert run.follow(BrokenRenderer()).value == "failed"
    with pytest.raises(WorkerFailedError, match="the agent failed"):
        run.raise_for_state()
    told = capsys.readouterr().err
    assert "the last drawing of run" in told
    assert "a mistake of ours" in told


def test_a_mistake_in_the_last_drawing_does_not_hide_an_interrupt():
    class Interrupted(BrokenRenderer):
        def update(self, snapshot: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Run(made()).follow(Interrupted())


@pytest.mark.parametrize(
    ("state", "error"), [("stopped", RunStoppedError), ("lost", RunLostError), ("failed", WorkerFailedError)]
)
def test_a_run_without_its_folder_does_not_point_there(state: str, error: type[Exception]):
    folder = made(events.make("run_lost" if state == "lost" else "run_finished", state=state, text="why"))
    run = Run(folder)
    with pytest.raises(error) as kept:
        run.raise_for_state()
    shutil.rmtree(folder.path)
    with pytest.raises(error) as gone:
        run.raise_for_state()
    assert str(folder.path) in str(kept.value)
    assert "was deleted" not in str(kept.value)
    assert f"The run folder {folder.path} was deleted while the run lasted" in str(gone.value)
    assert "kept" not in str(gone.value)
    assert "Logs: " not in str(gone.value)
    assert "What is known" not in str(gone.value)


def test_waiting_for_a_run_whose_folder_is_gone_ends():
    folder = made()
    run = Run(folder)
    shutil.rmtree(folder.path)
    assert run.wait(30).value == "lost"
