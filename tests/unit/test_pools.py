"""OMP_NUM_THREADS is read as OpenMP reads it."""

from __future__ import annotations

import pytest

from nb_elastic import pools
from nb_elastic.pools import Pool, Pools


@pytest.mark.parametrize(("text", "count"), [("4", 4), (" 3 , 2", 3), ("many", 1), ("", 1), ("0", 1)])
def test_a_pool_gets_what_the_first_level_is_given(monkeypatch: pytest.MonkeyPatch, text: str, count: int):
    """In a nested setting the first number counts; where it says nothing, the CPUs do."""
    monkeypatch.setattr(pools, "_cpu_count", lambda: 1)
    monkeypatch.setattr("torch.set_num_threads", lambda _count: None, raising=False)
    given: list[int] = []
    one = Pool(kind="openmp", get_count=lambda: -1, set_count=given.append)
    Pools((one,)).size({"OMP_NUM_THREADS": text})
    assert given == [count]
