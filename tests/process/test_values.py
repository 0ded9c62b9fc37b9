"""A rank that fails tells what the notebook's variables were, unless it is told not to."""

from __future__ import annotations

from nb_elastic import rundir, snapshot
from tests.support import supervise

VALUES = {"size": "2", "batch": "Tensor(shape=(2, 3), dtype=float32, device=cpu)", "password": "<hidden>"}


def test_a_failure_carries_the_values_to_its_file_and_to_the_journal() -> None:
    done = supervise.run("fails_with_values.py", nproc=1)
    (failure,) = done.failures()
    assert failure.frames[-1].name == "step"
    assert dict(failure.frames[-1].values) == VALUES
    assert rundir.read_json(done.run.rank(0, 0).failure_json)["frames"][-1]["values"] == VALUES
    root = snapshot.load(done.run).root
    assert root is not None
    assert dict(root.frames[-1].values) == VALUES
    told = b"".join(path.read_bytes() for path in done.run.path.rglob("*") if path.is_file())
    assert b"hunter2" not in told.replace(b'step(torch.zeros(2, 3), "hunter2")', b"").replace(
        b'step(torch.zeros(2, 3), \\"hunter2\\")', b""
    )


def test_hide_values_keeps_them_all() -> None:
    done = supervise.run("fails_with_values.py", nproc=1, hide_values=True)
    (failure,) = done.failures()
    assert failure.error_type == "ZeroDivisionError"
    assert [dict(f.values) for f in failure.frames] == [{}] * len(failure.frames)
