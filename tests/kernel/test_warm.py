"""A launch in a kernel is forked from its launcher, sees every edit, and falls back when it must; real kernels."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nb_elastic.lifeline import ProcessId, descendants, stat_fields
from tests.support import leaks
from tests.support.kernel import Kernel
from tests.support.until import until

ABOVE = (
    "%%elastic_launch --nproc 2 --render none --out r\nimport os\ndef title(pid):\n"
    "    return open(f'/proc/{pid}/cmdline').read().split(chr(0))[0].replace(os.environ['NB_ELASTIC_RUN_ID'], 'RUN')\n"
    "def parent(pid):\n    return int(open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[1])\n"
    "above, pid = [], os.getpid()\nwhile (pid := parent(pid)) > 1 and title(pid).startswith('nb_elastic:'):\n"
    "    above.append(title(pid))\nabove"
)
WARM = ["nb_elastic:RUN:forkserver", "nb_elastic:RUN:supervisor", "nb_elastic:launcher"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Home of this test's runs."""
    return tmp_path / "home"


@pytest.fixture
def kernel(home: Path, tmp_path: Path) -> Iterator[Kernel]:
    """A kernel of this test's own, with the extension, in a folder of the test's own."""
    folder = tmp_path / "work"
    folder.mkdir()
    with Kernel(cwd=folder, env={"NB_ELASTIC_HOME": str(home)}) as started:
        started.ok("%load_ext nb_elastic\nimport nb_elastic, os, sys")
        yield started


def words(pid: int) -> str:
    """What ps shows of a process; empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]
    except OSError:
        return ""


def launcher(kernel: Kernel) -> int:
    """Pid of the kernel's launcher."""

    def found() -> list[int]:
        return [p for p in descendants(kernel.pid) if words(p) == "nb_elastic:launcher" and parent(p) == kernel.pid]

    return until(found, 60)[0]


def parent(pid: int) -> int:
    """Pid of a process's parent; 0 for one that is gone."""
    fields = stat_fields(pid)
    return int(fields[1]) if fields else 0


def standing_by(kernel: Kernel) -> list[int]:
    """Pids of what waits for the next launch: supervisor, forkserver and spare ranks."""
    return [p for p in descendants(kernel.pid) if words(p) == "nb_elastic:standby"]


def result(kernel: Kernel, cell: str) -> str:
    """What rank 0 returns, as text."""
    kernel.ok(cell)
    return kernel.ok("print(r.result())").stdout.strip()


def test_a_launch_is_forked_from_the_launcher_also_one_sent_while_that_still_imports(kernel: Kernel):
    assert result(kernel, ABOVE) == str(WARM)
    assert result(kernel, ABOVE) == str(WARM)


def test_the_next_launch_is_made_of_what_stood_by(kernel: Kernel):
    kernel.ok(ABOVE)
    waiting = until(lambda: standing_by(kernel) if len(standing_by(kernel)) == 4 else [], 60)
    kernel.ok("%%elastic_launch --nproc 2 --render none --out r\nimport os\nos.getpid()")
    ranks = set(map(int, kernel.ok("print(*r.results.values())").stdout.split()))
    assert len(ranks) == 2 and ranks < set(waiting)


def test_more_ranks_than_stood_by_and_fewer_are_right_as_well(kernel: Kernel):
    for count in (2, 4, 1, 3):
        kernel.ok(f"%%elastic_launch --nproc {count} --render none --out r\nimport os\nint(os.environ['RANK'])")
        assert kernel.ok("print(r.results)").stdout == f"{dict(zip(range(count), range(count), strict=True))}\n"


def test_standby_can_be_switched_off(kernel: Kernel):
    kernel.ok(ABOVE)
    until(lambda: standing_by(kernel), 60)
    kernel.ok("%config Elastic.standby = False")
    assert result(kernel, ABOVE) == str(WARM)
    until(lambda: not standing_by(kernel), 30)
    kernel.ok("1")
    assert standing_by(kernel) == []


def test_what_the_notebook_imports_is_in_the_ranks_before_they_start(kernel: Kernel):
    probe = "%%elastic_launch --nproc 1 --render none --out r\nimport sys\n'joblib' in sys.modules"
    assert result(kernel, probe) == "False"
    kernel.ok("import joblib")
    until(lambda: result(kernel, probe) == "True", 120)
    assert result(kernel, ABOVE).endswith("'nb_elastic:launcher:mold', 'nb_elastic:launcher']")


def test_an_import_that_sets_variables_does_not_make_the_launcher_stale(kernel: Kernel):
    """joblib, scikit-learn and others write into the environment of whoever imports them."""
    before = launcher(kernel)
    kernel.ok("import sklearn.linear_model")
    probe = "%%elastic_launch --nproc 1 --render none --out r\nimport sys\n'sklearn.linear_model' in sys.modules"
    until(lambda: result(kernel, probe) == "True", 120)
    assert launcher(kernel) == before
    assert result(kernel, ABOVE).endswith("'nb_elastic:launcher:mold', 'nb_elastic:launcher']")


def test_a_module_that_cannot_be_kept_is_told_once_and_left_out(kernel: Kernel):
    kernel.ok("%config Elastic.preload = ['joblib', 'no_such_module']")
    cell = "%%elastic_launch --nproc 1 --out r\nimport sys\n'joblib' in sys.modules"
    sentence = "no_such_module is not imported ahead of the ranks: its import fails (ModuleNotFoundError"
    shown = until(lambda: text if sentence in (text := kernel.ok(cell).text) else "", 120)
    assert shown.count(sentence) == 1
    kernel.ok("%config Elastic.preload = ['joblib']")
    until(lambda: kernel.ok(cell).is_ok and kernel.ok("print(r.result())").stdout == "True\n", 120)
    assert sentence not in kernel.ok(cell).text


def test_an_edit_of_a_module_of_the_users_own_is_seen_by_the_next_run(kernel: Kernel, tmp_path: Path):
    module = tmp_path / "work" / "my_model.py"
    cell = "%%elastic_launch --nproc 1 --render none --out r\nmy_model.WIDTH"
    module.write_text("WIDTH = 8\n")
    kernel.ok("import my_model")
    assert result(kernel, cell) == "8"
    module.write_text("WIDTH = 1024\n")
    assert result(kernel, cell) == "1024"


def test_changed_variables_path_folder_and_limits_of_the_notebook_reach_the_next_run(kernel: Kernel, tmp_path: Path):
    kernel.ok(ABOVE)
    until(lambda: standing_by(kernel), 60)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "found_there.py").write_text("HERE = 'yes'\n")
    kernel.ok(f"os.environ['MINE'] = 'set'\nsys.path.insert(0, {str(tmp_path / 'elsewhere')!r})")
    kernel.ok(f"os.chdir({str(tmp_path)!r})\nold = os.umask(0o027)")
    kernel.ok(
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (777, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))"
    )
    cell = (
        "%%elastic_launch --nproc 1 --render none --out r\nimport os, resource, found_there\n"
        "(os.environ['MINE'], found_there.HERE, os.getcwd(), oct(os.umask(0)), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    assert result(kernel, cell) == str(("set", "yes", str(tmp_path), "0o27", 777))
    kernel.ok("del os.environ['MINE']")
    gone = "%%elastic_launch --nproc 1 --render none --out r\nimport os\nos.environ.get('MINE')"
    assert result(kernel, gone) == "None"


def test_a_variable_that_acts_only_at_a_start_is_heeded(kernel: Kernel):
    cell = "%%elastic_launch --nproc 1 --render none --out r\nhash('nb_elastic')"
    kernel.ok("os.environ['PYTHONHASHSEED'] = '7'")
    told = result(kernel, cell)
    kernel.ok("import subprocess")
    fresh = kernel.ok(
        "print(subprocess.check_output([sys.executable, '-c', \"print(hash('nb_elastic'))\"], text=True))"
    )
    assert told == fresh.stdout.strip()
    assert result(kernel, ABOVE) == str(WARM)


def test_a_package_of_the_users_own_hides_an_installed_one_as_it_does_in_the_notebook(kernel: Kernel, tmp_path: Path):
    cell = "%%elastic_launch --nproc 1\nimport tqdm\nprint('found', tqdm.__version__)"
    (tmp_path / "work" / "tqdm.py").write_text("__version__ = 'my own'\n")
    shown = kernel.ok(cell).text
    assert "found my own" in shown and "tqdm.py hides an installed package" in shown
    (tmp_path / "work" / "tqdm.py").unlink()
    assert "found my own" not in kernel.ok(cell).text


def test_a_launcher_that_was_killed_costs_nothing_but_its_warmth(kernel: Kernel):
    kernel.ok(ABOVE)
    before = launcher(kernel)
    os.kill(before, signal.SIGKILL)
    until(lambda: ProcessId.of(before) is None, 30)
    assert result(kernel, ABOVE) == str(WARM)
    assert launcher(kernel) != before


@pytest.mark.parametrize("which", [0, 1, 2], ids=["supervisor", "forkserver", "rank"])
def test_whatever_is_killed_while_it_stands_by_costs_no_launch(kernel: Kernel, which: int):
    """The OOM killer takes what is idle and large: the next launch must not fail for it."""
    kernel.ok(ABOVE)
    pids = until(lambda: len(found := standing_by(kernel)) == 4 and found, 60, "supervisor, forkserver and two ranks")
    os.kill(pids[which], signal.SIGKILL)
    kernel.ok(ABOVE)
    assert kernel.ok("print(r.state.value, r.results)").stdout.startswith("succeeded {0: ")


def test_a_launcher_that_is_killed_under_a_run_does_not_end_it(kernel: Kernel, tmp_path: Path):
    cell = kernel.start(
        "%%elastic_launch --nproc 2 --out r\nimport os, time\nprint('up', flush=True)\n"
        "while not os.path.exists('go'):\n    time.sleep(0.05)\nint(os.environ['RANK'])"
    )
    kernel.wait_for(cell, "up")
    os.kill(launcher(kernel), signal.SIGKILL)
    (tmp_path / "work" / "go").touch()
    assert kernel.wait(cell).is_ok, cell.text
    assert kernel.ok("print(r.results, r.state.value)").stdout == "{0: 0, 1: 1} succeeded\n"


def test_a_stop_does_not_wait_for_a_launcher_that_does_not_answer(kernel: Kernel, home: Path):
    pid = launcher(kernel)
    os.kill(pid, signal.SIGSTOP)
    try:
        cell = kernel.start("%%elastic_launch --nproc 2\nimport time\ntime.sleep(600)")
        until(lambda: [p for p in home.glob("*/journal.jsonl") if '"sent"' in p.read_text()], 60)
        kernel.interrupt()
        kernel.wait(cell, 45)
        assert cell.reply["ename"] == "RunStoppedError", cell.text
    finally:
        os.kill(pid, signal.SIGCONT)
    assert result(kernel, ABOVE) == str(WARM)


def test_a_killed_kernel_takes_launcher_and_all_that_stands_by_with_it(kernel: Kernel):
    kernel.ok("import joblib")
    kernel.ok(ABOVE)
    until(lambda: len(standing_by(kernel)) == 4, 60)
    below = [p for p in map(ProcessId.of, descendants(kernel.pid)) if p is not None]
    kernel.kill()
    until(lambda: not [leaks.describe(p) for p in below if p.is_alive], 5)
    assert len(below) >= 5


def test_unloading_the_extension_ends_the_launcher(kernel: Kernel):
    pid = launcher(kernel)
    kernel.ok("%unload_ext nb_elastic")
    until(lambda: not words(pid), 30)
    kernel.ok("%load_ext nb_elastic")
    assert result(kernel, ABOVE) == str(WARM)


def test_a_detached_run_is_warm_and_outlives_the_launcher(kernel: Kernel, home: Path, tmp_path: Path):
    kernel.ok(
        "%%elastic_launch --nproc 1 --detach --name d\nimport os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.05)\n42"
    )
    kernel.ok("%unload_ext nb_elastic")
    (tmp_path / "work" / "go").touch()
    assert (
        kernel.ok("run = nb_elastic.attach('d')\nprint(run.wait(60).value, run.results)").stdout
        == "succeeded {0: 42}\n"
    )
    until(lambda: not [p for p in descendants(kernel.pid) if words(p).startswith("nb_elastic:")], 30)
    assert len(list(home.glob("2*"))) == 1
