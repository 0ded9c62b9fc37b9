"""``python -m nb_elastic.node``: one node, led by frames on stdin, heard by lines on stdout.

Runs in: the node program.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from nb_elastic.node import program


def _exit() -> NoReturn:
    code = program.main()
    sys.stderr.flush()
    os._exit(code)  # threads may still wait for a reader that is gone


if __name__ == "__main__":
    _exit()
