"""Interrupts and deaths of a real kernel: what stops, what goes on, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from nb_elastic.lifeline import ProcessId
from tests.support import leaks
from tests.support.detached import started_by
from tests.support.kernel import Kernel
from tests.support.until import until

DEAF = (
    "import os, signal, subprocess, time\n"
    "for number in (signal.SIGINT, signal.SIGTERM):\n    signal.signal(number, signal.SIG_IGN)\n"
    "subprocess.Popen(['setsid', 'sleep', '600'])\n"
    "print('deaf', flush=True)\n"
    "while True:\n    time.sleep(60)"
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Home of this test's runs."""
    return tmp_path / "home"


@pytest.fixture
def kernel(home: Path, tmp_path: Path) -> Iterator[Kernel]:
    """A kernel of this test's own, which may be killed."""
    with Kernel(cwd=tmp_path, env={"NB_ELASTIC_HOME": str(home)}) as started:
        started.ok("%load_ext nb_elastic\nimport nb_elastic")
        yield started


def newest(home: Path) -> Path:
    """Folder of the newest run of a home; one that does not exist while there is none."""
    return max(home.glob("*"), key=lambda p: p.stat().st_ctime_ns, default=home / "none")


def journal(run: Path) -> list[dict[str, Any]]:
    """Events of a run so far."""
    try:
        lines = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def kinds(run: Path) -> list[str]:
    """Kinds of a run's events so far."""
    return [event["event"] for event in journal(run)]


def written(run: Path) -> list[str]:
    """What each rank wrote to stdout so far."""
    return [path.read_text() for path in sorted(run.glob("round_0/*/stdout.log"))]


def goes(home: Path, *, save: Collection[ProcessId] = ()) -> None:
    """Wait until every process of a home is gone, but those in ``save``; tells which are not."""

    def gone() -> bool:
        left = started_by(home) - set(save)
        assert not left, [leaks.describe(p) for p in left]
        return True

    until(gone, 15)


STAGES = [
    "",
    "run_created",
    "supervisor_started",
    "rendezvous_started",
    "rendezvous_finished",
    "worker_started",
    "worker_ready",
]


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupt_at_any_moment_stops_all_and_leaves_a_working_kernel(
    notebook: Kernel, notebook_home: Path, stage: str
):
    """Without a stage: the very moment the cell begins to run, before anything is imported or started."""
    before, runs = started_by(notebook_home), set(notebook_home.glob("*"))

    def made() -> list[Path]:
        return list(set(notebook_home.glob("*")) - runs)

    cell = notebook.start(
        "import time\nprint('begun', flush=True)\n"
        "get_ipython().run_cell_magic('elastic_launch', '--nproc 2', 'import time\\ntime.sleep(600)')"
    )
    notebook.wait_for(cell, "begun")
    if stage:
        until(lambda: any(stage in kinds(run) for run in made()), 60, stage)
    notebook.interrupt()
    notebook.wait(cell)
    early = {"KeyboardInterrupt"} if stage in {"", "run_created"} else set()
    assert cell.reply["ename"] in {"RunStoppedError"} | early, cell.text
    goes(notebook_home, save=before)
    assert [journal(run)[-1]["state"] for run in made()] in (["stopped"], [] if early else ["stopped"])
    notebook.ok("%%elastic_launch --nproc 2 --render none --out r\nimport os\nint(os.environ['RANK']) + 40")
    assert notebook.ok("print(r.results, r.state.value)").stdout == "{0: 40, 1: 41} succeeded\n"


def test_an_interrupt_while_a_detached_run_is_launched_leaves_no_run_that_nobody_knows_of(
    notebook: Kernel, notebook_home: Path
):
    """The cell ends without the run's id: it would hold its GPUs until somebody looks at the list."""
    before, runs = started_by(notebook_home), set(notebook_home.glob("*"))
    notebook.ok(
        "import os, signal\nfrom nb_elastic import launching\nstart = launching.start\ndef interrupted(request):\n"
        "    run = start(request)\n    os.kill(os.getpid(), signal.SIGINT)\n    return run\nlaunching.start = interrupted"
    )
    cell = notebook.run("%%elastic_launch --nproc 2 --detach\nimport time\ntime.sleep(600)")
    notebook.ok("launching.start = start")
    assert cell.reply["ename"] == "KeyboardInterrupt", cell.text
    goes(notebook_home, save=before)
    (run,) = set(notebook_home.glob("*")) - runs
    assert [(e["state"], e["text"]) for e in journal(run) if e["event"] == "run_finished"] == [
        ("stopped", "stopped by interrupt")
    ]


def test_an_interrupt_wakes_a_supervisor_that_somebody_stopped(notebook: Kernel, notebook_home: Path):
    """Else the cell, and with it the notebook, would wait for ever."""
    before = started_by(notebook_home)
    cell = notebook.start("%%elastic_launch --nproc 2\nimport time\nprint('up', flush=True)\ntime.sleep(600)")
    notebook.wait_for(cell, "up")
    (started,) = [e for e in journal(newest(notebook_home)) if e["event"] == "supervisor_started"]
    assert ProcessId(started["pid"], started["start_ticks"]).signal(signal.SIGSTOP)
    notebook.interrupt()
    notebook.wait(cell, 60)
    assert cell.reply["ename"] == "RunStoppedError", cell.text
    goes(notebook_home, save=before)


def test_a_second_interrupt_does_not_wait_for_a_rank_that_does_not_listen(notebook: Kernel, notebook_home: Path):
    before = started_by(notebook_home)
    cell = notebook.start(f"%%elastic_launch --nproc 2\n{DEAF}")
    notebook.wait_for(cell, "deaf")
    run = newest(notebook_home)
    until(lambda: written(run) == ["deaf\n"] * 2, 60)
    notebook.interrupt()
    until(lambda: kinds(run).count("signal_sent") == 2, 60)
    notebook.interrupt()
    notebook.wait(cell)
    goes(notebook_home, save=before)
    asked = [(e["by"], e["grace_s"]) for e in journal(run) if e["event"] == "stop_requested"]
    order = [e.get("signal", "stop") for e in journal(run) if e["event"] in {"stop_requested", "signal_sent"}]
    assert cell.reply["ename"] == "RunStoppedError"
    assert asked == [("interrupt", 5.0), ("interrupt", 0.0)]
    assert order[:3] == ["stop", "SIGINT", "SIGINT"], order
    assert order.index("stop", 1) < order.index("SIGKILL"), order  # told when it is heeded, by another thread
    assert set(order[4:]) <= {"SIGTERM", "SIGKILL"} and "SIGKILL" in order, order


def test_a_killed_kernel_takes_its_attached_run_and_all_children_with_it(kernel: Kernel, home: Path):
    cell = kernel.start(f"%%elastic_launch --nproc 2\n{DEAF}")
    kernel.wait_for(cell, "deaf")
    run = newest(home)
    until(lambda: written(run) == ["deaf\n"] * 2, 60)
    assert len(started_by(home)) == 7  # the kernel, the supervisor, the forkserver, two ranks and their children
    kernel.kill()
    goes(home)
    assert [e["state"] for e in journal(run) if e["event"] == "run_finished"] in (["stopped"], [])


def test_a_detached_run_outlives_a_killed_kernel_and_a_new_one_gets_its_results(
    kernel: Kernel, home: Path, tmp_path: Path
):
    kernel.ok("from dataclasses import dataclass\n@dataclass\nclass Loss:\n    value: float")
    kernel.ok(
        "%%elastic_launch --nproc 2 --detach --name background\nimport os, time\nfrom pathlib import Path\n"
        "print('waits', flush=True)\nwhile not Path('go').exists():\n    time.sleep(0.05)\n"
        "print('goes on', flush=True)\n(int(os.environ['RANK']), Loss(0.5))"
    )
    run = newest(home)
    until(lambda: written(run) == ["waits\n"] * 2, 60)
    kernel.kill()
    until(lambda: not kernel._manager.is_alive(), 30)
    with Kernel(cwd=tmp_path, env={"NB_ELASTIC_HOME": str(home)}) as fresh:
        fresh.ok("%load_ext nb_elastic\nimport nb_elastic\nfrom dataclasses import dataclass")
        fresh.ok("@dataclass\nclass Loss:\n    value: float")
        fresh.ok("run = nb_elastic.attach('background')")
        assert fresh.ok("print(run.state.value, run.wait(0).value)").stdout == "running running\n"
        follows = fresh.start("%elastic attach background")
        fresh.wait_for(follows, "waits")
        (tmp_path / "go").touch()
        assert fresh.wait(follows).is_ok and "goes on" in follows.text, follows.text
        assert fresh.ok("print(run.wait(60).value, run.results, type(run.result()[1]) is Loss)").stdout == (
            "succeeded {0: (0, Loss(value=0.5)), 1: (1, Loss(value=0.5))} True\n"
        )
        assert fresh.ok("print([run.logs(1)], run.failures, run.root_cause)").stdout == (
            "['waits\\ngoes on\\n'] () None\n"
        )
    goes(home)


def test_a_detached_run_that_fails_after_its_kernel_died_tells_why(kernel: Kernel, home: Path, tmp_path: Path):
    kernel.ok(
        "%%elastic_launch --nproc 2 --detach\nimport os, time\nfrom pathlib import Path\n"
        "while not Path('go').exists():\n    time.sleep(0.05)\nif os.environ['RANK'] == '1':\n    raise ValueError('bad batch')\n"
        "time.sleep(600)"
    )
    run = newest(home)
    until(lambda: kinds(run).count("worker_ready") == 2, 60)
    kernel.kill()
    until(lambda: not kernel._manager.is_alive(), 30)
    (tmp_path / "go").touch()
    with Kernel(cwd=tmp_path, env={"NB_ELASTIC_HOME": str(home)}) as fresh:
        fresh.ok("import nb_elastic\nrun = nb_elastic.attach()")
        assert fresh.ok("print(run.wait(60).value, run.root_cause.rank, run.root_cause.message)").stdout == (
            "failed 1 bad batch\n"
        )
        told = fresh.run("run.raise_for_state()").text
        assert "rank 1 failed first (ValueError: bad batch)" in told and "Cell In[2], line 7" in told, told
    goes(home)


def test_processes_of_the_notebooks_own_outlive_every_end_of_a_run(kernel: Kernel, home: Path):
    """Children of the kernel, one in a session of its own, with the names and command lines that ranks have."""
    kernel.ok(
        "import os, signal, subprocess, time\n"
        "code = 'import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(600)'  # Jupyter interrupts its whole group\n"
        "argv = ['nb_elastic:rank 0', '-c', code, 'nb_elastic.supervisor']\n"
        "decoys = [subprocess.Popen(argv, executable=__import__('sys').executable, start_new_session=own) for own in (False, True)]"
    )
    alive = "print([one.poll() for one in decoys])"

    def supervisor() -> int:
        (pid,) = [e["pid"] for e in journal(newest(home)) if e["event"] == "supervisor_started"]
        return int(pid)

    def rank() -> int:
        return int(next(e["pid"] for e in journal(newest(home)) if e["event"] == "worker_started"))

    ends: dict[str, Callable[[], object]] = {
        "WorkerFailedError": lambda: os.kill(rank(), signal.SIGKILL),
        "RunStoppedError": kernel.interrupt,
        "RunLostError": lambda: os.kill(supervisor(), signal.SIGKILL),
    }
    for error, end in ends.items():
        cell = kernel.start("%%elastic_launch --nproc 2\nimport time\nprint('up', flush=True)\ntime.sleep(600)")
        kernel.wait_for(cell, "up")
        until(lambda: kinds(newest(home)).count("worker_ready") == 2, 60)
        end()
        kernel.wait(cell)
        assert cell.reply["ename"] == error, cell.text
        assert kernel.ok(alive).stdout == "[None, None]\n", error
    kernel.ok("for one in decoys:\n    one.kill()\n    one.wait()")


def test_a_kernel_that_leaves_politely_takes_its_attached_run_with_it(kernel: Kernel, home: Path):
    cell = kernel.start("%%elastic_launch --nproc 1\nimport time\nprint('up', flush=True)\ntime.sleep(600)")
    kernel.wait_for(cell, "up")
    kernel.close()
    goes(home)
