"""A cell, a function and a script launched from a real kernel: what a reader of the notebook counts on."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.kernel import Kernel

TRAIN = """
import torch
import torch.distributed as dist

base = 10

def offset(rank):
    return base * rank

def train(scale):
    dist.init_process_group("gloo")
    x = torch.ones(1) * dist.get_rank() * scale
    dist.all_reduce(x)
    dist.destroy_process_group()
    return x.item() + offset(dist.get_rank() if dist.is_initialized() else 0)
"""


def test_a_cell_trains_on_four_ranks_and_its_results_come_back(notebook: Kernel):
    notebook.ok(TRAIN)
    cell = notebook.ok(
        "%%elastic_launch --nproc 4 --out run\nimport os\nprint('hello from', os.environ['RANK'])\ntrain(2)"
    )
    told = notebook.ok(
        "print(sorted(run.results.items()), run.state.value, run is __import__('nb_elastic').last_run())"
    )
    assert told.stdout == "[(0, 12.0), (1, 12.0), (2, 12.0), (3, 12.0)] succeeded True\n"
    assert all(f"hello from {rank}" in cell.text for rank in range(4))


def test_the_notebooks_names_are_left_alone_save_out_and_pull(notebook: Kernel):
    notebook.ok("counter = [1]\nkeep = set(globals())")
    notebook.ok(
        "%%elastic_launch --nproc 2 --pull model,losses\ncounter.append(2)\nmodel = {'w': 3}\nlosses = [0.5]\nnew = 1"
    )
    told = notebook.ok(
        "print(counter, model, losses, sorted(set(globals()) - keep - {'keep', '_i', '_ii', '_iii'} - {n for n in globals() if n.startswith('_i')}))"
    )
    assert told.stdout == "[1] {'w': 3} [0.5] ['losses', 'model']\n"


def test_magics_shell_and_await_work_in_the_body(notebook: Kernel):
    cell = notebook.ok(
        "%%elastic_launch --nproc 1 --out r\nimport asyncio\n!echo from the shell\nfiles = !echo captured\nawait asyncio.sleep(0)\n%env ELASTIC_PROBE=set\nfiles"
    )
    assert "from the shell" in cell.text
    assert notebook.ok("print(list(r.result()))").stdout == "['captured']\n"


def test_a_semicolon_hides_the_last_value(notebook: Kernel):
    notebook.ok("%%elastic_launch --nproc 1 --out r\n40 + 2;")
    assert notebook.ok("print(r.results)").stdout == "{0: None}\n"


def test_instances_of_a_notebook_class_come_back_as_that_class(notebook: Kernel):
    notebook.ok(
        "from dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int\n    def double(self):\n        return self.x * 2"
    )
    notebook.ok("%%elastic_launch --nproc 2 --out r\nPoint(int(__import__('os').environ['RANK']) + 1)")
    assert (
        notebook.ok("print(type(r.result(1)) is Point, r.result(1).double(), r.result(0) == Point(1))").stdout
        == "True 4 True\n"
    )


def test_a_failing_rank_is_named_with_the_notebooks_own_lines(notebook: Kernel):
    notebook.ok(
        "def step(rank):\n    if rank == 1:\n        raise ValueError('bad batch')\n    import time\n    time.sleep(60)"
    )
    cell = notebook.run("%%elastic_launch --nproc 2\nimport os\nrank = int(os.environ['RANK'])\n\nstep(rank)")
    report = cell.messages[-1].text
    assert cell.reply["ename"] == "WorkerFailedError"
    assert "rank 1" in report.splitlines()[0]
    assert "ValueError: bad batch" in report
    count = cell.reply["execution_count"]
    assert f"Cell In[{count}], line 5" in report, report
    assert f"Cell In[{count - 1}], line 3" in report, report
    assert "raise ValueError('bad batch')" in report
    assert (
        notebook.ok(
            "import nb_elastic\nr = nb_elastic.last_run()\nprint(r.root_cause.rank, r.root_cause.error_type, [f.rank for f in r.failures])"
        ).stdout
        == "1 ValueError [1]\n"
    )


def test_a_function_is_launched_by_its_name_with_words(notebook: Kernel):
    notebook.ok("def greet(*words):\n    import os\n    return (os.environ['LOCAL_RANK'], words)")
    notebook.ok("%elastic_launch --nproc 2 --out r greet hello --not-ours 3")
    assert (
        notebook.ok("print(r.results)").stdout
        == "{0: ('0', ('hello', '--not-ours', '3')), 1: ('1', ('hello', '--not-ours', '3'))}\n"
    )


def test_scripts_modules_and_programs_are_launched_with_their_arguments(notebook: Kernel, notebook_folder: Path):
    (notebook_folder / "script.py").write_text(
        "import sys, os, __main__\nfrom beside import here\nprint('script', sys.argv[1:], __name__, os.path.basename(__main__.__file__), here)\n"
    )
    (notebook_folder / "beside.py").write_text(
        "here = 'beside'\ndef entry(*a):\n    print('entry', a)\n    return len(a)\n"
    )
    script = notebook.ok("%elastic_launch --nproc 2 script.py --lr 0.1")
    module = notebook.ok("%elastic_launch --nproc 1 -m json.tool --help")
    program = notebook.ok("%elastic_launch --nproc 2 --no-python sh -c 'echo program $RANK of $WORLD_SIZE'")
    function = notebook.ok("%elastic_launch --nproc 1 --out r beside:entry a b")
    assert "script ['--lr', '0.1'] __main__ script.py beside" in script.text
    assert "usage:" in module.text
    assert "program 0 of 2" in program.text and "program 1 of 2" in program.text
    assert "entry ('a', 'b')" in function.text and notebook.ok("print(r.result())").stdout == "2\n"


def test_the_python_call_returns_the_run_with_its_results(notebook: Kernel):
    notebook.ok(
        "import nb_elastic\ndef work(a, *, factor=1):\n    import os\n    return a * factor + int(os.environ['RANK'])"
    )
    cell = notebook.ok("run = nb_elastic.launch(work, 20, nproc_per_node=2, factor=2)\nprint(run.results)")
    assert cell.stdout.endswith("{0: 40, 1: 41}\n")


def test_an_interrupt_reaches_the_ranks_and_leaves_a_working_kernel(notebook: Kernel):
    before = notebook.ok("import signal\nprint(signal.getsignal(signal.SIGINT))").stdout
    running = notebook.start(
        "%%elastic_launch --nproc 2\nimport time\nprint('started', flush=True)\ntry:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    print('saved by rank', flush=True)\n    raise"
    )
    notebook.wait_for(running, "started")
    notebook.interrupt()
    stopped = notebook.wait(running)
    assert stopped.reply["ename"] == "RunStoppedError", stopped.text
    assert "saved by rank" in stopped.text
    assert notebook.ok("import signal\nprint(signal.getsignal(signal.SIGINT))").stdout == before
    assert notebook.ok("print(nb_elastic.last_run().state.value)").stdout == "stopped\n"


def test_two_runs_at_once_from_one_kernel_do_not_meet(notebook: Kernel):
    notebook.ok(TRAIN)
    notebook.ok(
        "a = nb_elastic.launch(train, 1, nproc_per_node=2, detach=True)\nb = nb_elastic.launch(train, 3, nproc_per_node=2, detach=True)"
    )
    told = notebook.ok("print(a.wait(120).value, b.wait(120).value, a.results, b.results)")
    assert told.stdout == "succeeded succeeded {0: 1.0, 1: 1.0} {0: 3.0, 1: 3.0}\n"


def test_the_run_folder_alone_tells_the_whole_story(notebook: Kernel, notebook_home: Path):
    notebook.ok(
        "%%elastic_launch --nproc 2 --name story --out r\nimport sys\nprint('out')\nprint('err', file=sys.stderr)\n7"
    )
    folder = Path(notebook.ok("print(r.dir)").stdout.strip())
    asked = json.loads((folder / "run.json").read_text())
    kinds = [json.loads(line)["event"] for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert folder.parent == notebook_home
    assert [asked["name"], asked["options"]["nproc_per_node"], asked["cell"].splitlines()[-1]] == ["story", 2, "7"]
    assert kinds[0] == "run_created" and kinds[-1] == "run_finished"
    for rank in "01":
        place = folder / "round_0" / rank
        assert [(place / "stdout.log").read_bytes(), (place / "stderr.log").read_bytes()] == [b"out\n", b"err\n"]
        assert {"worker.json", "result.pkl"} <= {p.name for p in place.iterdir()}
    modes = {oct(p.stat().st_mode & 0o077) for p in [folder, *folder.rglob("*")]}
    assert modes == {"0o0"}


def test_runs_logs_show_and_export_work_from_the_magic(notebook: Kernel):
    notebook.ok("%%elastic_launch --nproc 2 --name listed\nimport os\nprint('line of', os.environ['RANK'])")
    listing, logs = notebook.ok("%elastic runs").stdout, notebook.ok("%elastic logs listed --rank 1").stdout
    shown, script = notebook.ok("%elastic show listed").text, notebook.ok("%elastic export listed").stdout
    assert "listed" in listing.splitlines()[1] and "succeeded" in listing.splitlines()[1]
    assert logs == "[rank 1] line of 1\n"
    assert "succeeded" in shown
    assert "torchrun" in script and "print('line of', os.environ['RANK'])" in script
