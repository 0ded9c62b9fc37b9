"""Reports far more than anybody can look at, as fast as it can; returns the last step."""

from nb_elastic import report


def main(times=8_000):
    for step in range(times):
        report(step=step, **{f"m{n}": "x" * 500 for n in range(10)})
    return step
