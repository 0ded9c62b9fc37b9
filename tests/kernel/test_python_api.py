"""The Python interface and every form of cell, in a real kernel and from a plain script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.kernel import Kernel

PROJECT = Path(__file__).parents[2]


def told(kernel: Kernel, expression: str) -> str:
    """What the notebook prints for an expression."""
    return kernel.ok(f"print({expression})").stdout.rstrip("\n")


# -- what a run tells -------------------------------------------------------------------------


def test_what_ranks_report_comes_back_as_rows_in_order_of_time(notebook: Kernel):
    notebook.ok("import nb_elastic, numpy, torch")
    notebook.ok(
        "%%elastic_launch --nproc 2 --out r\nimport os\nrank = int(os.environ['RANK'])\nfor step in range(2):\n"
        "    nb_elastic.report(step, 2, loss=torch.tensor(0.5 * step), acc=numpy.float64(rank), note='x')"
    )
    rows = "[{k: v for k, v in row.items() if k != 'time_ns'} for row in r.metrics if row['rank'] == 1]"
    row = "{'round': 0, 'rank': 1, 'step': %d, 'total': 2, 'loss': %s, 'acc': 1.0, 'note': 'x'}"
    assert told(notebook, rows) == f"[{row % (0, '0.0')}, {row % (1, '0.5')}]"
    times = "[m['time_ns'] for m in r.metrics]"
    assert told(notebook, f"len({times}), {times} == sorted({times})") == "4 True"


def test_report_outside_a_rank_does_nothing(notebook: Kernel):
    assert told(notebook, "nb_elastic.report(step=1, total=2, loss=0.5)") == "None"
    assert not any(name.startswith("NB_ELASTIC_METRICS") for name in told(notebook, "list(__import__('os').environ)"))


def test_a_fresh_kernel_reads_a_finished_run_by_id_prefix_and_name(
    notebook: Kernel, notebook_home: Path, notebook_folder: Path
):
    notebook.run(
        "%%elastic_launch --nproc 2 --name post-mortem --out r\nimport os, sys\nprint('warned', file=sys.stderr)\n"
        "if os.environ['RANK'] == '1':\n    raise ValueError('bad batch')\n{'loss': 0.5}"
    )
    run_id = told(notebook, "r.id")
    others = [p.name for p in notebook_home.iterdir() if p.name != run_id]
    prefix = next(run_id[:n] for n in range(1, 99) if not any(o.startswith(run_id[:n]) for o in others))
    with Kernel(cwd=notebook_folder, env={"NB_ELASTIC_HOME": str(notebook_home)}) as fresh:
        fresh.ok("import nb_elastic")
        for word in (run_id, prefix, "post-mortem", ""):
            fresh.ok(f"run = nb_elastic.attach({word!r})")
            assert told(fresh, "run.id, run.name, run.state.value") == f"{run_id} post-mortem failed"
        assert told(
            fresh, "run.logs(0, 'stderr') == 'warned\\n', 'ValueError: bad batch' in run.logs(1, 'stderr')"
        ) == ("True True")
        assert told(fresh, "run.root_cause.rank, run.root_cause.message, [f.rank for f in run.failures]") == (
            "1 bad batch [1]"
        )
        assert told(fresh, "nb_elastic.runs()[0].id == run.id, len(nb_elastic.runs())") == f"True {len(others) + 1}"
        assert told(fresh, "run.wait(0).value, run.stop()") == "failed None"
        raised = fresh.run("run.raise_for_state()")
        assert "rank 1 failed first (ValueError: bad batch)" in raised.text
        nothing = fresh.run("nb_elastic.last_run()")
        assert nothing.reply["ename"] == "ElasticError" and "Nothing was launched" in nothing.text


def test_a_rank_or_stream_that_does_not_exist_is_told(notebook: Kernel):
    notebook.ok("%%elastic_launch --nproc 2 --out r\n1")
    wrong = {code: notebook.run(code) for code in ("r.result(2)", "r.logs(-1)", "r.logs(0, 'stdin')")}
    assert {code: cell.reply["ename"] for code, cell in wrong.items()} == dict.fromkeys(wrong, "ElasticError")
    assert "0, 1" in wrong["r.result(2)"].text and "stdin" in wrong["r.logs(0, 'stdin')"].text


def test_a_live_run_can_be_waited_for_a_while_and_stopped(notebook: Kernel):
    notebook.ok(
        "def wait():\n    import time\n    try:\n        time.sleep(600)\n    except KeyboardInterrupt:\n        return 'saved'\n"
        "r = nb_elastic.launch(wait, nproc_per_node=2, detach=True)"
    )
    assert told(notebook, "r.wait(0).is_final") == "False"
    notebook.ok(
        "while not all(w.state.value == 'running' for w in r.snapshot.workers) or not r.snapshot.workers:\n    r.wait(0.1)"
    )
    # A rank reaches its sleep some moments after it is called running: a stop before that ends it, too.
    notebook.ok("r.stop(20)")
    assert told(notebook, "r.wait(60).value, set(r.results.values()) <= {'saved'}") == "stopped True"
    raised = notebook.run("r.raise_for_state()")
    assert raised.reply["ename"] == "RunStoppedError"


def test_keywords_of_a_function_that_are_options_too_are_said_plainly(notebook: Kernel):
    notebook.ok("def work(x, name='none'):\n    return f'{name} {x}'")
    clash = notebook.run("nb_elastic.launch(work, 1, name='mine', nproc_per_node=1)")
    assert clash.reply["ename"] == "OptionError" and "options=LaunchOptions" in clash.text
    notebook.ok(
        "r = nb_elastic.launch(work, args=(1,), kwargs={'name': 'mine'}, options=nb_elastic.LaunchOptions(nproc_per_node=2, name='run'))"
    )
    assert told(notebook, "r.results, r.name") == "{0: 'mine 1', 1: 'mine 1'} run"


def test_an_edit_of_a_module_is_seen_by_the_next_run(notebook: Kernel, notebook_folder: Path):
    module = notebook_folder / "edited.py"
    module.write_text("def value():\n    return 'first'\n")
    notebook.ok("%%elastic_launch --nproc 1 --out a\nimport edited\nedited.value()")
    module.write_text("def value():\n    return 'second, longer'\n")
    notebook.ok("%%elastic_launch --nproc 1 --out b\nimport edited\nedited.value()")
    assert told(notebook, "a.result(), b.result()") == "first second, longer"


# -- from a plain script ----------------------------------------------------------------------

SCRIPT = """
import sys
from dataclasses import dataclass

import nb_elastic
import beside

SCALE = 10


@dataclass
class Loss:
    value: float

    def scaled(self):
        return Loss(self.value * SCALE)


def rank():
    import os
    return int(os.environ["RANK"])


def train(start, *, fails=False):
    if fails and rank() == 1:
        raise ValueError("bad batch")
    return Loss(beside.shift(start) + rank()).scaled()


def outer(step):
    run = nb_elastic.launch(lambda x: (x + step) * rank(), 2, nproc_per_node=2, render="none")
    return run.results


if __name__ == "__main__":
    run = nb_elastic.launch(train, 1, nproc_per_node=2, render="none", fails="--fail" in sys.argv)
    print(run.results, all(type(r) is Loss for r in run.results.values()))
    print(outer(3))
"""


def script(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the script as a user does."""
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, "job.py", *words],
        cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_plain_script_launches_its_own_functions_and_closures(tmp_path: Path):
    (tmp_path / "job.py").write_text(SCRIPT)
    (tmp_path / "beside.py").write_text("def shift(x):\n    return x + 100\n")
    first = script(tmp_path)
    (tmp_path / "beside.py").write_text("def shift(x):\n    return x - 1\n")
    second = script(tmp_path)
    failed = script(tmp_path, "--fail")
    assert [(r.returncode, r.stdout) for r in (first, second)] == [
        (0, "{0: Loss(value=1010), 1: Loss(value=1020)} True\n{0: 0, 1: 5}\n"),
        (0, "{0: Loss(value=0), 1: Loss(value=10)} True\n{0: 0, 1: 5}\n"),
    ], first.stderr
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "WorkerFailedError" in failed.stderr and "rank 1 failed first (ValueError: bad batch)" in failed.stderr
    assert 'job.py", line 26, in train' in failed.stderr, failed.stderr


# -- forms of a cell --------------------------------------------------------------------------

FORMS = [
    ("only comments", "# nothing\n# to do", "None"),
    ("a comment after the last value", "6 * 7  # the answer", "42"),
    ("a comment after the semicolon", "6 * 7;  # hidden", "None"),
    ("a comment below the last value", "6 * 7\n# the answer\n", "42"),
    ("blank lines and a comment above", "\n\n# first\nx = 4\n\nx + 1\n\n", "5"),
    ("functions in functions", "def a(x):\n    def b(y):\n        def c():\n            return x + y + base\n        return c\n    return b\na(1)(2)()", "103"),
    ("global and nonlocal", "count = 0\ndef up():\n    global count\n    count += 1\n    inner = 5\n    def deeper():\n        nonlocal inner\n        inner += 1\n        return inner\n    return deeper()\n(up(), count)", "(6, 1)"),
    ("a global that the notebook defined", "def up():\n    global base\n    base += 1\nup()\nbase", "101"),
    ("a star import", "from math import *\nround(cos(0) + pi, 2)", "4.14"),
    ("a walrus, a comprehension and an f-string", "[y for x in range(3) if (y := x * base)], f'{base:>5}{base!r}'", "([100, 200], '  100100')"),
    ("del and augmented assignment", "x = base\nx += 1\nkeep = x\ndel x\n(keep, 'x' in globals())", "(101, False)"),
    ("a class and its instance", "class A:\n    size = base\n    items = [size for _ in range(2)] if False else [base]\n    def f(self):\n        return __class__.size\nA().f(), A.items", "(100, [100])"),
    ("match and a decorator", "import functools\n@functools.lru_cache\ndef f(x):\n    match x:\n        case {'a': y}:\n            return y\n        case _:\n            return base\nf(1)", "100"),
    ("top-level await", "import asyncio\nasync def later(x):\n    await asyncio.sleep(0)\n    return x + base\n[await later(n) for n in range(2)]", "[100, 101]"),
    ("text of other alphabets", "größe = 'ü'\nπ = 3\n(größe, π, '日本')", "('ü', 3, '日本')"),
    ("tabs and a line that goes on", "if True:\n\tx = 1 + \\\n\t\t2\nx", "3"),
    ("its own name and file", "(__name__, 'train' in dir())", "('__main__', False)"),
]  # fmt: skip


def test_every_form_of_cell_gives_the_value_a_notebook_gives(notebook: Kernel):
    notebook.ok("base = 100")
    found = {}
    for what, body, _ in FORMS:
        cell = notebook.run(f"%%elastic_launch --nproc 1 --render none --out r\n{body}")
        found[what] = told(notebook, "repr(r.result())") if cell.is_ok else cell.text
    assert found == {what: value for what, _, value in FORMS}
    assert told(notebook, "base") == "100"


def test_a_progress_bar_is_shown_by_its_last_state(notebook: Kernel):
    cell = notebook.ok(
        "%%elastic_launch --nproc 1 --out r\nimport sys\nfor n in range(1, 101):\n"
        "    print(f'\\r{n}%|{\"#\" * (n // 10):10}| {n}/100', end='', file=sys.stderr, flush=True)\nprint(file=sys.stderr)\nprint('trained')"
    )
    last = "100%|##########| 100/100"
    bars = [line for line in cell.text.replace("\r", "\n").splitlines() if "/100" in line]
    assert bars[-1].endswith(last) and "trained" in cell.stdout
    assert len([line for line in cell.text.splitlines() if "/100" in line]) == 1, cell.text
    assert told(notebook, "r.logs(0, 'stderr').count('\\r')") == "100"


def test_stdout_and_stderr_stay_apart_in_the_output(notebook: Kernel):
    cell = notebook.ok("%%elastic_launch --nproc 2\nimport sys\nprint('fine')\nprint('careful', file=sys.stderr)")
    streams = {
        name: "".join(m.text for m in cell.messages if m.kind == "stream" and m.content["name"] == name)
        for name in ("stdout", "stderr")
    }
    assert "fine" in streams["stdout"] and "careful" not in streams["stdout"]
    assert "careful" in streams["stderr"] and "fine" not in streams["stderr"]


# -- torch ------------------------------------------------------------------------------------


def test_a_notebook_dataset_is_loaded_by_workers_inside_a_rank(notebook: Kernel):
    notebook.ok(
        "import torch\nfrom torch.utils.data import DataLoader, Dataset\noffset = 100\n"
        "class Numbers(Dataset):\n    def __len__(self):\n        return 8\n    def __getitem__(self, i):\n        return torch.tensor(offset + i)\n"
        "numbers = Numbers()"
    )
    notebook.ok(
        "%%elastic_launch --nproc 2 --out r\nloader = DataLoader(numbers, batch_size=4, num_workers=2)\n[batch.tolist() for batch in loader]"
    )
    rows = [[100, 101, 102, 103], [104, 105, 106, 107]]
    assert told(notebook, "r.results") == str({0: rows, 1: rows})


def test_what_a_rank_saves_with_torch_loads_in_the_notebook_and_back(notebook: Kernel, notebook_folder: Path):
    notebook.ok(
        "import torch\nfrom dataclasses import dataclass\n@dataclass\nclass Config:\n    width: int\n"
        "class Net(torch.nn.Module):\n    def __init__(self, config):\n        super().__init__()\n        self.config = config\n"
        "        self.layer = torch.nn.Linear(config.width, 1)\n    def forward(self, x):\n        return self.layer(x)"
    )
    notebook.ok("%%elastic_launch --nproc 1\nnet = Net(Config(3))\ntorch.save(net, 'net.pt')")
    notebook.ok("net = torch.load('net.pt', weights_only=False)\ntorch.save(net, 'again.pt')")
    assert told(notebook, "type(net) is Net, net.config == Config(3), net(torch.ones(2, 3)).shape") == (
        "True True torch.Size([2, 1])"
    )
    notebook.ok(
        "%%elastic_launch --nproc 1 --out r\nagain = torch.load('again.pt', weights_only=False)\n"
        "type(again) is Net, again.config, all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), net.state_dict().values()))"
    )
    assert told(notebook, "r.result()") == "(True, Config(width=3), True)"


@pytest.mark.parametrize("method", ["warm", "spawn"])
def test_torch_compiles_and_scripts_notebook_functions_in_a_rank(notebook: Kernel, method: str):
    notebook.ok(
        "import torch\nscale = 3.0\ndef scaled(x):\n    return x * scale + 1\ndef typed(x: torch.Tensor) -> torch.Tensor:\n    return x + 1"
    )
    notebook.ok(
        f"%%elastic_launch --nproc 1 --start-method {method} --out r\nimport inspect\n"
        "compiled = torch.compile(scaled, backend='eager', fullgraph=True)\nscripted = torch.jit.script(typed)\n"
        "(compiled(torch.ones(2)).tolist(), scripted(torch.ones(1)).tolist(), inspect.getsource(scaled))"
    )
    assert told(notebook, "r.result()") == str(([4.0, 4.0], [2.0], "def scaled(x):\n    return x * scale + 1\n"))
