"""A module whose import never ends: it waits for a server that is down, and tries again whatever happens."""

import time

while True:
    try:
        time.sleep(60)
    except Exception:
        continue
