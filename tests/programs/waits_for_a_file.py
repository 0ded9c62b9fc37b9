"""Waits until somebody makes the file ``go`` in the run folder."""

import os
import time


def main():
    print("waiting", flush=True)
    while not os.path.exists(os.path.join(os.environ["NB_ELASTIC_RUN_DIR"], "go")):
        time.sleep(0.01)
