"""``python -m nb_elastic.driver``: runs of one kernel on many nodes, in a process of its own.

Runs in: the driver.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from nb_elastic import lifeline
from nb_elastic.driver.serving import Serving


def main() -> int:
    """Run the driver; returns its exit code."""
    serving = Serving()
    for number in lifeline.DEATH_SIGNALS:
        signal.signal(number, lambda n, _frame: serving.hear_signal(n))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, lifeline.DEATH_SIGNALS)
    return serving.serve()


def _exit() -> NoReturn:
    code = main()
    sys.stderr.flush()
    os._exit(code)  # threads that wait for nodes must not be waited for


if __name__ == "__main__":
    _exit()
