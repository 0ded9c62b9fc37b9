"""Ranks that behave oddly: the cell tells what happened in clear words, nothing hangs and the kernel goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.kernel import Kernel
from tests.support.until import until

RANK = "import os, sys, signal\nrank = int(os.environ['RANK'])\n"

ENDS_OK = [
    ("prints invalid UTF-8 and NUL bytes", "os.write(1, b'\\xff\\xfe bad \\x00 end\\n')", "bad"),
    ("prints one line of 50 MB", "sys.stdout.write('x' * 50_000_000 + '\\n')\nprint('after it')", "after it"),
    ("closes fd 1", "os.close(1)\nprint('still here', file=sys.stderr)", "still here"),
    ("leaves by SystemExit(0)", "print('leaving')\nraise SystemExit(0)", "leaving"),
    ("returns what can't be pickled", "print('made')\n(x for x in ())", "made"),
    ("prints markup", "print('<script>alert(1)</script> \\x1b[31mred\\x1b[0m')", "<script>"),
]

FAILS = [
    ("os._exit(3)", "os._exit(3)", ["code 3"]),
    ("SystemExit('text')", "raise SystemExit('gave up')", ["gave up"]),
    ("KeyboardInterrupt", "raise KeyboardInterrupt", ["KeyboardInterrupt"]),
    ("SIGKILL", "os.kill(os.getpid(), signal.SIGKILL)", ["SIGKILL"]),
    (
        "an exception whose __str__ raises",
        "class Odd(Exception):\n    def __str__(self):\n        raise RuntimeError('no')\nraise Odd",
        ["Odd"],
    ),
    (
        "an exception that can't be pickled",
        "class Local(Exception):\n    lock = __import__('threading').Lock()\nraise Local('kept', lambda: 0)",
        ["Local", "kept"],
    ),
    ("a syntax error in an imported file", "import badly_written", ["SyntaxError", "badly_written"]),
    ("endless recursion", "def deeper():\n    deeper()\ndeeper()", ["RecursionError"]),
]


@pytest.mark.parametrize(("what", "body", "seen"), ENDS_OK, ids=[w for w, _, _ in ENDS_OK])
def test_a_rank_may_be_odd_and_still_end_well(notebook: Kernel, what: str, body: str, seen: str):
    cell = notebook.ok(f"%%elastic_launch --nproc 2\n{RANK}{body}")
    assert seen in cell.text
    assert len(cell.text) < 100_000
    assert notebook.ok("import nb_elastic\nprint(nb_elastic.last_run().state.value)").stdout == "succeeded\n"


@pytest.mark.parametrize(("what", "body", "words"), FAILS, ids=[w for w, _, _ in FAILS])
def test_a_rank_that_fails_oddly_is_named_as_the_root_cause(
    notebook: Kernel, notebook_folder: Path, what: str, body: str, words: list[str]
):
    (notebook_folder / "badly_written.py").write_text("def f(:\n")
    inner = "".join(f"    {line}\n" for line in body.splitlines())
    cell = notebook.run(f"%%elastic_launch --nproc 2\n{RANK}if rank == 1:\n{inner}import time\ntime.sleep(120)")
    report = cell.messages[-1].text
    assert cell.reply["ename"] == "WorkerFailedError", cell.text
    assert "rank 1 failed first" in report.splitlines()[0]
    assert [w for w in words if w not in report] == [], report
    assert notebook.ok("import nb_elastic\nprint(nb_elastic.last_run().root_cause.rank)").stdout == "1\n"


def test_a_result_that_cannot_travel_is_explained_when_asked_for(notebook: Kernel):
    notebook.ok("%%elastic_launch --nproc 1 --out r\nimport threading\n{'a': [threading.Lock()]}")
    cell = notebook.run("r.result()")
    assert cell.reply["ename"] == "PayloadError"
    assert "_thread.lock" in cell.text and "succeeded" in cell.text


def test_a_result_of_one_gibibyte_comes_back(notebook: Kernel):
    notebook.ok("%%elastic_launch --nproc 1 --out r\nimport numpy as np\nnp.full(1 << 27, 7.0)", timeout_s=120)
    assert (
        notebook.ok("x = r.result()\nprint(x.nbytes, float(x[0]), float(x[-1]))\ndel x", timeout_s=120).stdout
        == f"{1 << 30} 7.0 7.0\n"
    )
    notebook.ok("import shutil\nshutil.rmtree(r.dir)\ndel r")


def test_the_kernel_is_never_forked_by_a_launch(notebook: Kernel):
    notebook.ok("import os\nforks = []\nos.register_at_fork(before=lambda: forks.append(1))")
    notebook.ok("%%elastic_launch --nproc 2\n1")
    assert notebook.ok("print(forks)").stdout == "[]\n"


def test_no_thread_or_descriptor_stays_behind_in_the_kernel(notebook: Kernel):
    count = (
        "import gc, os, threading\ngc.collect()\nfds = os.listdir('/proc/self/fd')\n"
        "kinds = [os.readlink(f'/proc/self/fd/{n}') for n in fds if os.path.lexists(f'/proc/self/fd/{n}')]\n"
        "print(sum('pipe:' in k or 'memfd' in k or str(nb_elastic.last_run().dir.parent) in k for k in kinds))\n"
        "print(sorted(t.name for t in threading.enumerate()))"
    )

    def held() -> str:
        text = notebook.ok(count).stdout
        assert "nb-elastic-wakes" not in text, "Linux still closes the last run's inotify descriptor"
        return text

    notebook.ok("%%elastic_launch --nproc 2\n1")
    before = until(held, 30)
    for _ in range(3):
        notebook.ok("%%elastic_launch --nproc 2\n1")
    assert until(held, 30) == before
