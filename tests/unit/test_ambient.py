"""What a notebook allows its processes is measured and taken on as it is."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

from nb_elastic import ambient
from tests.support.supervise import LIMITED_UID, ROOT


def _limited(code, *, env=None):
    """Run code in an interpreter of its own: limits can't be raised again."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
    )
    return json.loads(done.stdout)


def test_the_limits_of_this_process_are_told_by_name():
    found = ambient.rlimits()
    assert found["NOFILE"] == resource.getrlimit(resource.RLIMIT_NOFILE)
    assert found["CORE"] == resource.getrlimit(resource.RLIMIT_CORE)


def test_limits_are_taken_on_and_unknown_names_passed_over():
    code = (
        "import json; from nb_elastic import ambient\n"
        "hard = ambient.rlimits()['NOFILE'][1]\n"
        "said = ambient.take_rlimits({'NOFILE': [99, hard], 'CORE': [0, 0], 'FUTURE': [1, 2]})\n"
        "now = ambient.rlimits()\n"
        "print(json.dumps([said, now['NOFILE'][0], now['NOFILE'][1] == hard, now['CORE']]))"
    )
    assert _limited(code) == [[], 99, True, [0, 0]]


def test_a_limit_that_may_not_be_raised_comes_as_near_as_allowed_and_is_told():
    become = f"os.setuid({LIMITED_UID})\n" if os.getuid() == 0 else ""
    code = (
        "import json, os, resource; from nb_elastic import ambient\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (50, 100))\n{become}"
        "said = ambient.take_rlimits({'NOFILE': (200, 300), 'FSIZE': (-1, -1)})\n"
        "print(json.dumps([said, ambient.rlimits()['NOFILE']]))"
    )
    assert _limited(code) == [["NOFILE is 100 at most 100, not 200 at most 300"], [100, 100]]


def test_a_locale_that_the_machine_lacks_leaves_the_plain_one():
    code = (
        "import json, locale, os; from nb_elastic import ambient\n"
        "before = dict(os.environ); os.environ['LC_ALL'] = 'xx_NOWHERE'; ambient.heed(before)\n"
        "print(json.dumps(locale.setlocale(locale.LC_CTYPE)))"
    )
    assert _limited(code, env={"LC_ALL": "C.UTF-8"}) == "C"


def test_a_plain_locale_is_coerced_as_at_a_start():
    code = (
        "import json, locale, os; from nb_elastic import ambient\n"
        "before = dict(os.environ); [os.environ.pop(n, None) for n in ambient.LOCALE_VARIABLES]; ambient.heed(before)\n"
        "print(json.dumps([locale.setlocale(locale.LC_CTYPE), os.environ.get('LC_CTYPE')]))"
    )
    assert _limited(code, env={"LC_ALL": "C.utf8"}) == ["C.UTF-8", "C.UTF-8"]
