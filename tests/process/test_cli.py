"""The command line: what a person without a notebook, or with a broken one, can still do."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nb_elastic import rundir, snapshot
from tests.support.until import until

COMMAND = [sys.executable, "-m", "nb_elastic"]


def elastic(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, cwd=cwd, env=env, timeout=120, check=False
    )


def started(*words: str, cwd: Path) -> subprocess.Popen[str]:
    """Start the command in the background."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [*COMMAND, *words], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    (tmp_path / "hello.py").write_text(
        "import os, sys\nprint('hello', os.environ['RANK'])\nprint('warn', os.environ['RANK'], file=sys.stderr)\n"
    )
    (tmp_path / "fail.py").write_text(
        "import os, time\nif os.environ['RANK'] == '1':\n    raise RuntimeError('boom')\ntime.sleep(60)\n"
    )
    (tmp_path / "wait.py").write_text(
        "import time\nprint('ready', flush=True)\ntry:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    print('saved', flush=True)\n    raise\n"
    )
    return tmp_path


def test_a_run_in_a_pipe_prints_ranks_to_stdout_and_ends_with_status_0(scripts: Path):
    done = elastic("run", "--nproc", "2", "hello.py", cwd=scripts)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["[rank 0] hello 0", "[rank 1] hello 1"]
    assert "[rank 0 err] warn 0" in done.stderr


def test_a_failed_run_ends_with_status_1_and_its_root_cause(scripts: Path):
    done = elastic("run", "--nproc", "2", "fail.py", cwd=scripts)
    assert done.returncode == 1
    assert "rank 1 failed first (RuntimeError: boom)" in done.stderr


def test_wrong_usage_ends_with_status_2_and_one_paragraph():
    for words in (["run", "--nproc", "0", "x.py"], ["run"], ["frobnicate"], ["logs", "--grep", "("], []):
        done = elastic(*words)
        assert (done.returncode, done.stdout) == (2, "") or words == ["logs", "--grep", "("], (words, done)
        assert done.stderr.startswith(("OptionError", "ElasticError")), (words, done.stderr)
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_logs_are_found_by_rank_stream_text_and_number(scripts: Path):
    elastic("run", "--nproc", "2", "--name", "mine", "hello.py", cwd=scripts)
    told = {
        words: elastic("logs", "mine", *words.split()).stdout.splitlines()
        for words in ("--rank 1", "--stream stderr", "--grep 'hello 0'".replace("'", ""), "-n 0")
    }
    assert told["--rank 1"] == ["[rank 1] hello 1", "[rank 1 err] warn 1"]
    assert told["--stream stderr"] == ["[rank 0 err] warn 0", "[rank 1 err] warn 1"]
    assert told["-n 0"] == []


def test_a_detached_run_is_listed_followed_stopped_and_pruned_by_others(scripts: Path):
    run_id = elastic("run", "--nproc", "2", "--detach", "--name", "bg", "wait.py", cwd=scripts).stdout.strip()
    run = rundir.RunDir(rundir.home() / run_id)
    until(lambda: all(run.rank(0, n).stdout.exists() and run.rank(0, n).stdout.read_bytes() for n in (0, 1)), 60)
    listing = elastic("runs").stdout
    follower = started("attach", "bg", cwd=scripts)
    assert follower.stdout is not None
    seen = [follower.stdout.readline() for _ in range(3)]
    follower.send_signal(signal.SIGINT)
    rest = follower.communicate(timeout=60)[0]
    alive = snapshot.load(run).state.value
    refused = elastic("prune", "--keep", "0").stdout
    stopped = elastic("stop", "bg", "--grace", "20")
    assert re.search(rf"{run_id} +bg +running +2", listing), listing
    assert any("ready" in line for line in seen), seen
    assert "goes on" in rest and alive == "running", rest
    assert "Deleted 0" in refused
    assert stopped.stdout == f"Run {run_id} is stopped.\n", stopped
    assert [run.rank(0, n).stdout.read_text() for n in (0, 1)] == ["ready\nsaved\n"] * 2
    assert elastic("prune", "--keep", "0").stdout.startswith("Deleted 1")
    assert not run.path.exists()


def test_an_attached_runs_ctrl_c_stops_the_ranks_and_ends_with_130(scripts: Path):
    running = started("run", "--nproc", "2", "wait.py", cwd=scripts)
    assert running.stdout is not None
    text = ""
    while "ready" not in text:
        line = running.stdout.readline()
        assert line, text
        text += line
    running.send_signal(signal.SIGINT)
    rest = running.communicate(timeout=60)[0]
    assert running.returncode == 130
    assert "saved" in rest, rest


def test_a_terminal_gets_a_live_view_and_every_line_of_the_ranks(scripts: Path):
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(scripts)
        env = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "TERM": "xterm-256color",
            "COLUMNS": "100",
            "LINES": "40",
        }
        os.execve(sys.executable, [*COMMAND, "run", "--nproc", "2", "hello.py"], env)
    shown, deadline = b"", time.monotonic() + 120
    while time.monotonic() < deadline:
        if not select.select([fd], [], [], 1)[0]:
            continue
        try:
            data = os.read(fd, 65536)
        except OSError:
            break
        if not data:
            break
        shown += data
    status = os.waitpid(pid, 0)[1]
    os.close(fd)
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode()
    assert os.waitstatus_to_exitcode(status) == 0, text
    assert all(word in text for word in ("hello 0", "hello 1", "warn 1", "Succeeded")), text


def test_logs_of_several_rounds_are_told_apart_and_followed_on_any_node(scripts: Path):
    (scripts / "once.py").write_text(
        "import os\nprint('try', os.environ['TORCHELASTIC_RESTART_COUNT'], flush=True)\n"
        "if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':\n    os._exit(5)\n"
    )
    options = [
        "--nnodes",
        "1:2",
        "--rdzv-endpoint",
        "127.0.0.1:0",
        "--rdzv-conf",
        "last_call_timeout=1",
        "--max-restarts",
        "1",
    ]
    assert elastic("run", *options, "-n", "1", "once.py", cwd=scripts).returncode == 0
    expected = "--- round 0 ---\n[rank 0] try 0\n--- round 1 ---\n[rank 0] try 1\n"
    assert [elastic("logs").stdout, elastic("logs", "--follow").stdout] == [expected, expected]


def test_an_export_overwrites_nothing_and_names_a_folder_that_is_not_there(scripts: Path):
    elastic("run", "-n", "1", "hello.py", cwd=scripts)
    (scripts / "mine.py").write_text("precious")
    told = [elastic("export", "--to", str(scripts / name)) for name in ("mine.py", "no/such/x.py")]
    assert [t.returncode for t in told] == [1, 1]
    assert all("can't be written" in t.stderr for t in told)
    assert (scripts / "mine.py").read_text() == "precious"


def test_an_exported_script_line_is_printed_for_a_script_run(scripts: Path):
    elastic("run", "--nproc", "2", "--name", "exp", "hello.py", cwd=scripts)
    told = elastic("export", "exp").stdout
    assert "torchrun" in told and "--nproc-per-node" in told and "hello.py" in told


def test_the_command_line_starts_cold_and_leaves_nothing_standing_by(scripts: Path):
    (scripts / "above.py").write_text(
        "import os\npid, above = os.getppid(), []\nwhile pid > 1:\n    above.append(open(f'/proc/{pid}/cmdline').read())\n"
        "    pid = int(open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[1])\n"
        "print('launcher' if any('nb_elastic:launcher' in one for one in above) else 'cold', flush=True)\n"
    )
    running = started("run", "--nproc", "1", "above.py", cwd=scripts)
    assert running.communicate(timeout=120)[0].count("cold\n") == 1
    assert running.returncode == 0
