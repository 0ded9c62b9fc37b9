"""A variable that acts only when a process starts makes a fresh one; one that a rank heeds does not."""

from __future__ import annotations

from nb_elastic import birth


def test_what_acts_only_at_a_start_is_named_and_what_a_rank_heeds_is_not():
    before = {"LD_PRELOAD": "x.so", "OMP_NUM_THREADS": "1", "HOME": "/root", "TORCH_LOGS": "+dynamo"}
    after = {
        "OMP_NUM_THREADS": "8",
        "HOME": "/",
        "PYTHONHASHSEED": "0",
        "PYTHONWARNINGS": "error",
        "TORCH_LOGS": "+dynamo",
    }
    assert birth.changed(before, after) == {"LD_PRELOAD", "HOME", "PYTHONHASHSEED"}
    assert {n for n in birth.changed(before, after) if birth.is_early(n)} == {"LD_PRELOAD", "PYTHONHASHSEED"}
    assert birth.changed(before, before) == set()
