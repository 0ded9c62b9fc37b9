"""Stands in for a rank: loads a payload in a fresh process, runs it, leaves the result.

Runs in: a child process of a test. ``python load_payload.py PAYLOAD BUFFERS_FD RESULT``; exits 1 with a
traceback where the body fails, as a rank would.
"""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path


def main() -> None:
    from nb_elastic import payload

    path, fd, result = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    module = types.ModuleType("__main__")
    stub = result.with_name("main.py")
    payload.write_stub(stub, payload=path, buffers_fd=fd)
    module.__file__ = str(stub)
    run = payload.load(path, fd, module)
    value = run()
    payload.dump_result(value, result)


if __name__ == "__main__":
    sys.path[0] = os.getcwd()
    main()
