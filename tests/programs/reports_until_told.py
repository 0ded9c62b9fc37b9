"""Reports steps until somebody makes the file that NBE_GO names; prints nothing, so that a full disk does not end it."""

import os
import time

from nb_elastic import report


def main():
    step = 0
    while not os.path.exists(os.environ["NBE_GO"]):
        step += 1
        report(step=step, text="x" * 300)
        time.sleep(0.002)
    return step
