"""Tells, as JSON in the file OUT.json, how many threads numba and numexpr have, and what they compute with them."""

import json

import numba
import numexpr
import numpy


@numba.njit(parallel=True)
def total(n):
    found = 0.0
    for i in numba.prange(n):
        found += i
    return found


if __name__ == "__main__":
    results = total(100_000), float(numexpr.evaluate("sum(a * 2)", {"a": numpy.arange(1e6)}))
    with open("OUT.json", "w") as f:
        json.dump(
            [
                numba.config.NUMBA_NUM_THREADS,
                numba.get_num_threads(),
                numexpr.get_num_threads(),
                numexpr.nthreads,
                results,
            ],
            f,
        )
