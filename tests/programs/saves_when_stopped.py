"""Waits; on KeyboardInterrupt it saves and says so. How it takes the interrupt is the first argument."""

import os
import signal
import sys
import time


def main(how="save"):
    if how == "deaf":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if how == "stone":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("waiting", flush=True)
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        if how == "disk_full":
            raise OSError(28, "No space left on device")
        print("saved the model", flush=True)
        if how == "end_well":
            return "saved"
        raise


if __name__ == "__main__":
    main(*sys.argv[1:])
