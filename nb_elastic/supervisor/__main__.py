"""``python -m nb_elastic.supervisor``: one launch, read from stdin, in a process of its own.

Runs in: the supervisor.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import NoReturn

from nb_elastic import lifeline
from nb_elastic.supervisor import starting


def main() -> int:
    """Run the supervisor; returns its exit code."""
    # Until somebody can heed them: an early stop is neither lost nor half a start.
    signal.pthread_sigmask(signal.SIG_BLOCK, lifeline.DEATH_SIGNALS)
    # A Ctrl-C that came before this process left its starter's group: the starter had it, too, and says who stops the run.
    signal.signal(signal.SIGINT, signal.signal(signal.SIGINT, signal.SIG_IGN))
    gc.disable()  # until the imports are done and frozen: there is little garbage, and looking for it takes a while
    lifeline.become_subreaper()
    return starting.serve()


def _exit() -> NoReturn:
    code = main()
    sys.stderr.flush()
    os._exit(code)  # torch's teardown takes longer than the run's end should


if __name__ == "__main__":
    _exit()
