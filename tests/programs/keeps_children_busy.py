"""Each rank has as many children that compute as its number says, writes a line now and then, and ends when it is told to.

Runs in: a rank of the tests.
"""

import os
import signal
import sys
from pathlib import Path

rank = int(os.environ["RANK"])
for _ in range(rank):
    if os.fork() == 0:
        ballast = bytearray(os.urandom(1 << 20)) * 64
        while True:
            pass
print("ready", rank, flush=True)
if os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0" and os.environ.get("TORCHELASTIC_MAX_RESTARTS") != "0":
    sys.exit("the first round fails")
end = Path(os.environ["NBE_TEST_FOLDER"]) / "end"
while not end.exists():
    signal.sigtimedwait([], 0.02)
    print(".", end="", flush=True)
print("\nlast words of", rank)
