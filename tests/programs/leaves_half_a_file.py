"""Dies while its result is being written, or is interrupted: half of it lies beside where it was to be."""

import os
import signal


def main(how="killed"):
    folder = os.path.dirname(os.environ["NB_ELASTIC_METRICS_FILE"])
    with open(os.path.join(folder, f".result.pkl.{os.getpid()}.0123abcd"), "wb") as file:
        file.write(b"half")
    if how == "interrupted":
        os._exit(130)
    os.kill(os.getpid(), signal.SIGKILL)
