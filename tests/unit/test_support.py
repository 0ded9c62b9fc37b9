"""The tests' own support must not lie: it waits, it fails, and it finds what was left."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys

import pytest

from tests.support import leaks
from tests.support.until import until


def test_until_returns_the_first_true_value():
    values = iter([0, "", None, "yes"])
    assert until(lambda: next(values)) == "yes"


def test_until_tells_what_it_waited_for():
    with pytest.raises(AssertionError, match=r"still waiting after 0.01 s for the moon; last: 0"):
        until(lambda: 0, 0.01, "the moon")


def test_a_process_whose_parent_is_gone_is_still_found():
    mark = secrets.token_hex(8)
    before = {p.pid for p in leaks.processes(mark)}  # a browser that other tests share, say
    code = "import subprocess, sys; print(subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL).pid)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, leaks.MARK: mark},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found = [p for p in leaks.processes(mark) if p.pid not in before]
    assert [p.pid for p in found] == [int(done.stdout)]
    leaks.end(found)
    until(lambda: not {p.pid for p in leaks.processes(mark)} - before, 10, "the orphan's end")
