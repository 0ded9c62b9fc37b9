"""Rank 0's own file is empty; rank 1 fails in another way 20 ms later."""

import os
import pickle
import time


def main():
    if os.environ["RANK"] == "0":
        pickle.loads(b"")
    time.sleep(0.02)
    raise ValueError("later")
