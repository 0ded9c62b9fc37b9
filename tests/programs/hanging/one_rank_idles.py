"""No hang: rank 2 sleeps, and the others compute and tell of it."""

import os
import time

end = time.monotonic() + 6
print("ready", flush=True)
if os.environ["RANK"] == "2":
    time.sleep(6)
else:
    while time.monotonic() < end:
        sum(range(1000))
        time.sleep(0.2)
        print("step", flush=True)
print("done", flush=True)
