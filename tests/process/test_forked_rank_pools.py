"""Libraries that the warm process loaded compute in a rank with as many threads as in a fresh interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support import supervise

pytest.importorskip("sklearn")
pytest.importorskip("threadpoolctl")

ONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
SETTINGS = [
    {"OMP_NUM_THREADS": "2"},
    {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "64", "MKL_NUM_THREADS": "2"},
    {},
]


def _python(code, *args, env):
    clean = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
        cwd=supervise.ROOT,
        env={**clean, "PYTHONPATH": str(supervise.ROOT), **env},
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_every_setting_gives_a_forked_process_the_pools_of_a_fresh_one():
    """A training loop that silently runs on one core is the loss."""
    warm = _python("import tests.programs.sizes_pools_after_fork", *map(json.dumps, SETTINGS), env=ONE)
    fresh = [
        _python("import json, tests.programs.computes_with_threads as t; print(json.dumps([t.pools(), t.in_a_thread()]))", env=env)[0]
        for env in SETTINGS
    ]  # fmt: skip
    assert dict(zip(map(str, SETTINGS), warm, strict=True)) == dict(zip(map(str, SETTINGS), fresh, strict=True))


@pytest.mark.parametrize("preload", [("sklearn.cluster", "scipy.linalg"), ()], ids=["warmed", "imported in the rank"])
def test_ranks_compute_with_two_threads_and_rightly(preload, tmp_path):
    told = {}
    for method in ("warm", "spawn"):
        (cwd := tmp_path / method).mkdir()
        done = supervise.run(
            "computes_with_threads.py", nproc=1, start_method=method, env={"OMP_NUM_THREADS": "2"}, cwd=str(cwd), preload=preload
        )  # fmt: skip
        assert done.state == "succeeded", done.end["text"] + done.err(0)
        told[method] = json.loads((cwd / "OUT_0.json").read_text())
    assert told["warm"] == told["spawn"]
    assert told["warm"]["results"] == [[True] * 5, True]
