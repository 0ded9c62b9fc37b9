"""Wrong input in a real kernel: one clear paragraph that names the value, nothing started, nothing lost."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kernel import Kernel

REFUSED = [
    ("%%elastic_launch --nproc 0\n1", "OptionError", ["--nproc", "0"]),
    ("%%elastic_launch --nproc -1\n1", "OptionError", ["--nproc", "-1"]),
    ("%%elastic_launch --nproc x\n1", "OptionError", ["--nproc", "x"]),
    ("%%elastic_launch --nproc 10000\n1", "OptionError", ["--nproc", "10000"]),
    ("%%elastic_launch --nprok 2\n1", "OptionError", ["--nprok", "--nproc"]),
    ("%%elastic_launch --nproc\n1", "OptionError", ["--nproc"]),
    ("%%elastic_launch --nnodes 2:1\n1", "OptionError", ["--nnodes", "2:1"]),
    ("%%elastic_launch --gpus 0,7\n1", "OptionError", ["--gpus", "0"]),
    ("%%elastic_launch --hold --max-restarts 1\n1", "OptionError", ["--hold", "--max-restarts"]),
    ("%%elastic_launch --engine nope\n1", "OptionError", ["nope"]),
    ("%%elastic_launch\n", "UsageError", ["empty"]),
    ("%%elastic_launch\n   \n\n", "OptionError", ["empty"]),
    ("%%elastic_launch --nproc 1 stray\n1", "OptionError", ["stray"]),
    ("%%elastic_launch 'unclosed\n1", "OptionError", ["unclosed"]),
    ("%elastic_launch", "OptionError", ["TARGET"]),
    ("%elastic_launch nowhere.py", "OptionError", ["nowhere.py"]),
    ("%%elastic_launch --nproc 1\nprint(no_such_name)", "PayloadError", ["no_such_name"]),
    ("lock = __import__('threading').Lock()\ndef f():\n    return lock", "", []),
    ("%%elastic_launch --nproc 1\nf()", "PayloadError", ["f", "lock", "_thread.lock"]),
    ("%elastic nonsense", "OptionError", ["nonsense"]),
    ("%elastic logs no-such-run", "ElasticError", ["no-such-run"]),
]


@pytest.mark.parametrize(("code", "error", "words"), REFUSED, ids=[c.splitlines()[0][:40] for c, _, _ in REFUSED])
def test_wrong_input_is_refused_by_name_and_starts_nothing(
    notebook: Kernel, notebook_home: Path, code: str, error: str, words: list[str]
):
    before = sorted(notebook_home.iterdir())
    cell = notebook.run(code, timeout_s=30)
    assert cell.reply.get("ename", "") == error, cell.text
    assert [w for w in words if w not in cell.text] == [], cell.text
    assert cell.text.count("\n") <= 8, cell.text
    assert sorted(notebook_home.iterdir()) == before


def test_a_syntax_error_is_shown_as_ipython_shows_it_on_the_right_line(notebook: Kernel, notebook_home: Path):
    before = sorted(notebook_home.iterdir())
    cell = notebook.run("%%elastic_launch --nproc 1\nx = 1\ny = = 2\n")
    assert cell.reply["ename"] == "SyntaxError"
    plain = notebook.run("first = 0\nx = 1\ny = = 2\n").text.replace(
        f"In[{cell.reply['execution_count'] + 1}]", "In[N]"
    )
    assert cell.text.replace(f"In[{cell.reply['execution_count']}]", "In[N]") == plain
    assert "line 3" in plain
    assert sorted(notebook_home.iterdir()) == before


def test_a_log_folder_that_is_a_file_or_read_only_is_named(notebook: Kernel, notebook_folder: Path):
    plain = notebook_folder / "plain"
    plain.write_text("a file")
    for place in (plain, Path("/proc/nope")):
        cell = notebook.run(f"%%elastic_launch --nproc 1 --log-dir {place}\n1", timeout_s=60)
        assert cell.reply["ename"] == "OptionError", cell.text
        assert str(place) in cell.text


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system without a free byte."""
    place = tmp_path / "full"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        with contextlib.suppress(OSError):
            (place / "filler").write_bytes(b"x" * (64 << 10))
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_disk_is_told_and_starts_nothing(notebook: Kernel, notebook_home: Path, full_disk: Path):
    before = sorted(notebook_home.iterdir())
    cell = notebook.run(f"%%elastic_launch --nproc 1 --log-dir {full_disk}\n1", timeout_s=60)
    assert cell.reply["ename"] in {"LaunchError", "OptionError"}, cell.text
    assert str(full_disk) in cell.text and "No space left" in cell.text
    assert sorted(notebook_home.iterdir()) == before


def test_help_lists_torchruns_flags_and_ours(notebook: Kernel):
    told = notebook.ok("%elastic_launch --help").stdout
    assert "--nproc-per-node" in told and "--pull" in told and "--rdzv-backend" in told


def test_a_dry_run_tells_what_would_travel_and_starts_nothing(notebook: Kernel, notebook_home: Path):
    before = sorted(notebook_home.iterdir())
    notebook.ok("weights = list(range(1000))")
    told = notebook.ok("%%elastic_launch --nproc 3 --dry-run\nprint(sum(weights))").stdout
    assert "3 rank(s)" in told and "weights" in told and "list" in told and "Nothing was started" in told
    assert sorted(notebook_home.iterdir()) == before


def test_a_launch_without_descriptors_left_keeps_none_and_leaves_no_run(notebook: Kernel):
    """A user would lose: each try in a kernel that ran out of descriptors takes one more, and lists a run that never was."""
    told = notebook.ok(
        "import os, resource\nfrom nb_elastic import ElasticError\n"
        "limits, told = resource.getrlimit(resource.RLIMIT_NOFILE), []\n"
        "nb_elastic.launch(print, nproc_per_node=1, render='none')\n"
        "runs, fds = len(nb_elastic.runs()), len(os.listdir('/proc/self/fd'))\n"
        "for more in range(-3, 12):\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (fds + more, limits[1]))\n"
        "    try:\n        nb_elastic.launch(print, nproc_per_node=1, render='none')\n"
        "    except ElasticError as e:\n        told.append(type(e).__name__)\n"
        "    else:\n        break\n"
        "    finally:\n        resource.setrlimit(resource.RLIMIT_NOFILE, limits)\n"
        "held = [os.path.realpath(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')]\n"
        "print(told)\nprint(len(nb_elastic.runs()) - runs, [path for path in held if os.environ['NB_ELASTIC_HOME'] in path])"
    ).stdout.splitlines()
    assert set(eval(told[0])) <= {"LaunchError", "EngineError", "OptionError"} and len(eval(told[0])) > 2, told
    assert told[1] == "1 []", told  # the one that had enough
