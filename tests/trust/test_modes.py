"""All that a run leaves is closed to others, whatever the umask; and the user's own umask still reaches the ranks.

A user would lose: data, to everybody with an account; or, with a closed umask, the run itself.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from nb_elastic.lifeline import descendants
from tests.support.kernel import Kernel

pytestmark = pytest.mark.slow

CELL = """
import os, nb_elastic, pathlib, matplotlib
import torch.distributed as dist
dist.init_process_group("gloo")
nb_elastic.report(step=1, loss=0.5)
from IPython.display import display, HTML
display(HTML("<b>x</b>"))
pathlib.Path({own!r} + os.environ["RANK"]).touch()
os.umask(0o{umask:o})
print("hello", flush=True)
kept = list(range(1000))
if {fails} and dist.get_rank() == 1:
    raise ValueError("wanted")
dist.barrier()
kept
"""


def walk(folder: Path) -> dict[str, str]:
    """What lies in a folder, itself included, with other rights than a closed one's: name -> kind and mode."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        about = path.lstat()
        wanted = 0o700 if stat.S_ISDIR(about.st_mode) else 0o600
        if stat.S_IMODE(about.st_mode) != wanted or stat.S_ISLNK(about.st_mode) or about.st_uid != os.geteuid():
            found[str(path.relative_to(folder.parent))] = stat.filemode(about.st_mode)
    return found


def opened(pids: list[int]) -> set[Path]:
    """Files in shared places that these processes hold open."""
    found = set()
    for pid in pids:
        try:
            links = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        found |= {
            Path(link)
            for link in links
            if link.startswith(("/tmp/", "/dev/shm/", "/var/tmp/")) and not link.endswith("(deleted)")
        }
    return found


@pytest.mark.parametrize("umask", [0, 0o777], ids=["umask 0", "umask 777"])
def test_all_that_runs_leave_is_closed_to_others(umask: int, elastic_home: Path, tmp_path: Path):
    own = tmp_path / "own-"
    own_folders = {elastic_home, *tmp_path.parents, tmp_path}
    with Kernel(cwd=tmp_path) as kernel:
        elastic_home.rmdir()
        kernel.ok(f"import os\nos.umask({umask})\n%load_ext nb_elastic\nimport nb_elastic")
        for line, fails in (
            ("-n 2 --pull kept --duplicate-stdout-filters hello", False),
            ("-n 2 --start-method spawn", False),
            ("-n 2", True),
        ):
            cell = kernel.run(f"%%elastic_launch {line}" + CELL.format(own=str(own), fails=fails, umask=umask))
            assert cell.is_ok != fails, cell.text
            held = opened(descendants(kernel.pid))
            assert [
                p
                for p in held
                if not any(p.is_relative_to(f) for f in own_folders) and p.exists() and p.stat().st_mode & 0o077
            ] == []
            for path in tmp_path.glob("own-*"):
                assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, "the user's umask is the ranks'"
                path.unlink()
        assert walk(elastic_home) == {}
    names = {path.name for path in elastic_home.rglob("*") if path.is_file()}
    assert names >= {
        "run.json", "journal.jsonl", "payload.pkl", "supervisor.log", "stdout.log", "stderr.log", "worker.json", "failure.json", "result.pkl",
        "pulled.pkl", "metrics.jsonl", "outputs.jsonl", "growth.jsonl", "filtered_stdout.log",
    }  # fmt: skip
    assert walk(elastic_home) == {}


def test_the_walk_finds_what_is_open(tmp_path: Path):
    """Else it would prove nothing."""
    tmp_path.chmod(0o700)
    (tmp_path / "open").touch(0o644)
    (tmp_path / "shut").touch(0o600)
    (tmp_path / "folder").mkdir(0o755)
    (tmp_path / "link").symlink_to("shut")
    assert sorted(Path(name).name for name in walk(tmp_path)) == ["folder", "link", "open"]
