"""numba and numexpr, where they are installed, compute in a rank with as many threads as in a fresh interpreter."""

from __future__ import annotations

import json

import pytest

from tests.support import supervise

pytest.importorskip("numba")
pytest.importorskip("numexpr")


@pytest.mark.slow
@pytest.mark.parametrize("env", [{"OMP_NUM_THREADS": "2"}, {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "3"}])
def test_parallel_loops_and_expressions_have_the_threads_of_a_fresh_rank(env, tmp_path):
    told = {}
    for method in ("warm", "spawn"):
        (cwd := tmp_path / method).mkdir()
        done = supervise.run(
            "loops_in_parallel.py", nproc=1, start_method=method, env=env, cwd=str(cwd), preload=("numba", "numexpr")
        )
        assert done.state == "succeeded", done.end["text"] + done.err(0)
        told[method] = json.loads((cwd / "OUT.json").read_text())
    assert told["warm"] == told["spawn"]
