"""Code that starts, signals and watches processes works in a forked rank as in a fresh interpreter."""

from __future__ import annotations

import pytest

from nb_elastic.model import Entrypoint
from tests.support import supervise

WORKED = """\
signals: ['KeyboardInterrupt', 'SIG_DFL', 'SIGTERM', 'SIG_DFL', 'SIGHUP', 'SIG_DFL', 'SIGCHLD', \
'SIG_DFL', 'SIGALRM', 'BrokenPipeError', -1, True]
subprocess: ('xy\\n', 3, ['SigBlk:', '0000000000000000', 'SigIgn:', '0000000000000000'], 4)
asyncio: (b'through cat', 0, 3)
faulthandler: True
module: ('found', 'before')
fork: 6
managers: ({'a': 1, 'b': 2}, 5)
multiprocessing fork: ('ForkProcess', 0, 7000.0, [True, True], [1, 2])
dataloader fork: ([0, 1, 4, 9, 16, 25, 36, 49], [0, 1], 4)
multiprocessing spawn: ('SpawnProcess', 0, 7000.0, [True, True], [1, 2])
dataloader spawn: ([0, 1, 4, 9, 16, 25, 36, 49], [0, 1], 4)
multiprocessing forkserver: ('ForkServerProcess', 0, 7000.0, [True, True], [1, 2])
dataloader forkserver: ([0, 1, 4, 9, 16, 25, 36, 49], [0, 1], 4)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["warm", "spawn"])
def test_pools_loaders_subprocesses_loops_and_signals_work(method, tmp_path):
    (tmp_path / "written_before.py").write_text("word = 'before'\n")
    done = supervise.run("uses_everything.py", nproc=1, start_method=method, cwd=str(tmp_path), timeout_s=280)
    assert done.state == "succeeded", done.end["text"] + done.err(0)
    assert done.out(0).decode() == WORKED
    assert "in uses_faulthandler" in done.err(0)


@pytest.mark.parametrize("method", ["warm", "spawn"])
def test_a_segfault_leaves_the_python_stack_in_stderr(method):
    done = supervise.run("ends_oddly.py", "segv", nproc=1, start_method=method)
    assert done.exits() == {(0, 0): (-11, "failed")}
    assert "Fatal Python error: Segmentation fault" in done.err(0)
    assert 'ends_oddly.py", line' in done.err(0)


FOLDER_MAIN = """\
import multiprocessing, pickle, sys
class Here:
    pass
def make(_):
    return Here()
if __name__ == "__main__":
    found = [pickle.loads(pickle.dumps(Here()))]
    if not __spec__.name.endswith("__main__"):  # else children of spawn do not look for it, in Python itself
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found += pool.map_async(make, [0]).get(100)
    print([type(f) is Here for f in found], __name__, __spec__.name, repr(__package__), sys.argv, sys.modules["__main__"].make is make)
"""


@pytest.mark.parametrize("method", ["warm", "spawn"])
@pytest.mark.parametrize(
    ("kind", "target", "told"),
    [
        ("script", "folder", "[True] __main__ __main__ '' ['folder', 'x'] True"),
        ("module", "package.main", "[True, True] __main__ package.main 'package' ['{cwd}/package/main.py', 'x'] True"),
        ("module", "package", "[True] __main__ package.__main__ 'package' ['{cwd}/package/__main__.py', 'x'] True"),
    ],
)
def test_folders_and_modules_run_in_the_main_that_children_find_again(method, kind, target, told, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "__main__.py").write_text(FOLDER_MAIN)
    (tmp_path / "package").mkdir()
    for name in ("main.py", "__main__.py"):
        (tmp_path / "package" / name).write_text(FOLDER_MAIN)
    (tmp_path / "package" / "__init__.py").write_text("")
    done = supervise.run(
        Entrypoint(kind=kind, target=target, argv=("x",)), nproc=1, start_method=method, cwd=str(tmp_path)
    )
    assert done.state == "succeeded", done.end["text"] + done.err(0)
    assert done.out(0).decode().strip() == told.format(cwd=tmp_path)
