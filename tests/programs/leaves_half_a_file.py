"""Dies while its result is being written: half of it lies beside where it was to be."""

import os
import signal


def main():
    folder = os.path.dirname(os.environ["NB_ELASTIC_METRICS_FILE"])
    with open(os.path.join(folder, f".result.pkl.{os.getpid()}.0123abcd"), "wb") as file:
        file.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
