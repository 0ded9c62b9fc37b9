"""By which signals a rank is asked where it stands: two numbers that both sides must agree on.

Runs in: every process.

``ASK`` runs a handler written in Python: it answers where Python code runs, and harms nothing. ``DUMP`` has faulthandler
write from inside the signal's own handler: it answers where the main thread waits in native code, and there alone is it
safe. Sent to a thread that runs Python code, it reads frames that are being changed, and crashed Python 3.10 to 3.13
within some hundred tries.
"""

from __future__ import annotations

import signal

_FIRST = int(getattr(signal, "SIGRTMIN", 0))

ASK = _FIRST + 8 if _FIRST else 0
"""Asks Python; 0 where the system has no such signals."""
DUMP = _FIRST + 9 if _FIRST else 0
"""Asks faulthandler."""


def is_in(mask: int, number: int) -> bool:
    """True if a signal is in a mask as /proc/<pid>/status tells it."""
    return number > 0 and bool(mask >> (number - 1) & 1)
