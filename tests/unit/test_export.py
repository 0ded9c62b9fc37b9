"""A run's cell as a script: plain Python that the real torchrun runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nb_elastic import export
from nb_elastic.errors import ElasticError
from nb_elastic.model import to_json
from nb_elastic.model_options import LaunchOptions

CELLS = {
    "Cell In[1]": "from __future__ import annotations\nimport os, sys\nimport torch\nimport torch.distributed as dist\nfrom string import *\n",
    "Cell In[2]": "def scaled(x):\n    return x * WRONG\n",
    "Cell In[3]": "FACTOR = -2.5\nlimits = (1, 'a')\nhistory = []\nimages, labels = load_digits()\n",
    "Cell In[10]": (
        "import functools\n\n@functools.cache\ndef scaled(x):\n    # why: the factor\n    return x * FACTOR\n\n"
        "class Mean(Base):\n    '''Sums.'''\n\n    def of(self, t):\n        dist.all_reduce(t)\n        return t / dist.get_world_size()\n"
    ),
    "Cell In[4]": "class Base:\n    limits = limits\n\ndef unused(): return history\n",
    "Cell In[5]": "get_ipython().run_cell_magic('elastic_launch', '', 'x')\n",
}
CELL = """dist.init_process_group("gloo")
total = Mean().of(torch.tensor([scaled(float(dist.get_rank() + 1))]))
print(f"rank {dist.get_rank()} has {total.item()} {Mean.limits}", flush=True)
dist.destroy_process_group()
"""


def asked(
    cell: str = "", *, kind: str = "cell", target: str = "Cell In[5]", argv: tuple[str, ...] = (), **more: object
) -> dict[str, object]:
    options = to_json(more.pop("options", LaunchOptions()))
    found = {
        "run_id": "r1",
        "entry": {"kind": kind, "target": target, "argv": list(argv)},
        "options": {**options, "env": []},
    }
    return {**found, "cell": cell, "sources": CELLS, "captured": [], **more}


def run(line: str, folder: Path) -> str:
    environ = {k: v for k, v in os.environ.items() if k not in {"RANK", "WORLD_SIZE"}}
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
    done = subprocess.run(line, shell=True, cwd=folder, env=environ, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_script_holds_what_the_cell_uses_in_the_notebooks_order_and_nothing_else():
    assert (
        export.script(asked(CELL))
        == '''"""Exported from the run r1 of nb_elastic."""

# torchrun sets OMP_NUM_THREADS=1 in each rank; nb_elastic shares the CPUs out among them.

from __future__ import annotations

import torch
import torch.distributed as dist
from string import *
import functools

FACTOR = -2.5


limits = (1, 'a')


class Base:
    limits = limits


@functools.cache
def scaled(x):
    # why: the factor
    return x * FACTOR


class Mean(Base):
    \'\'\'Sums.\'\'\'

    def of(self, t):
        dist.all_reduce(t)
        return t / dist.get_world_size()


dist.init_process_group("gloo")
total = Mean().of(torch.tensor([scaled(float(dist.get_rank() + 1))]))
print(f"rank {dist.get_rank()} has {total.item()} {Mean.limits}", flush=True)
dist.destroy_process_group()
'''
    )


@pytest.mark.slow
def test_torchrun_runs_an_exported_cell(tmp_path):
    given = asked(CELL, options=LaunchOptions(nproc_per_node=2))
    (tmp_path / "a cell.py").write_text(export.script(given))
    line = export.torchrun_line(given, "a cell.py")
    assert line == "torchrun --standalone --nproc-per-node=2 'a cell.py'"
    # torchrun's ranks share one console, where a line break may come late
    told = sorted(re.findall(r"rank \d has \S+ \(1, 'a'\)", run(line, tmp_path)))
    assert told == ["rank 0 has -3.75 (1, 'a')", "rank 1 has -3.75 (1, 'a')"]


def test_captured_data_is_told_on_top_with_what_made_it():
    captured = [
        {"name": "images", "type_name": "numpy.ndarray", "size_bytes": 1_000_000},
        {"name": "net", "type_name": "Net", "size_bytes": 20},
        {"name": "scaled", "type_name": "function", "size_bytes": 90},
        {"name": "torch", "type_name": "module", "size_bytes": 9},
    ]
    given = asked("net(torch.tensor(images)), scaled(1)", captured=captured, options=LaunchOptions(timeout=3.0))
    given["options"]["env"] = ["SECRET", "OMP_NUM_THREADS"]
    notes = [line for line in export.script(given).splitlines() if line.startswith("#")]
    assert notes == [
        "# Data of the notebook. It has no source: load or make it here, before it is used.",
        "#   images: numpy.ndarray, 1,000,000 bytes",
        "#     Cell In[3] bound it with:",
        "#         images, labels = load_digits()",
        "#   net: Net, 20 bytes",
        "# The ranks had these environment variables from --env: OMP_NUM_THREADS, SECRET.",
        "# torchrun has no --timeout (stop the run after so many seconds).",
    ]


def test_what_made_captured_data_can_be_taken_over_since_its_imports_come_along():
    sources = {"Cell In[1]": "import math\nimport json", "Cell In[2]": "data = [math.pi]"}
    text = export.script({**asked("print(data)"), "sources": sources})
    assert "import math" in text and "import json" not in text


def python(text: str, tmp_path: Path, *argv: str) -> str:
    (tmp_path / "s.py").write_text(text)
    return subprocess.run(
        [sys.executable, "s.py", *argv], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("x = 1\nx += 1\nprint(x)", "2\n"),
        (
            "import asyncio\nawait asyncio.sleep(0)\nn = 1\ndef f():\n    return '''a\n  b''', n\nprint(f())",
            "('a\\n  b', 1)\n",
        ),
        ("!echo hello\nwords = !echo a b\nprint(words[0])", "hello\na b\n"),
        ("from __future__ import annotations\ndef f(x: Nowhere): return 1\nprint(f(1))", "1\n"),
        ("print(FACTOR); print(limits)", "-2.5\n(1, 'a')\n"),
        ("", ""),
    ],
)
def test_a_cell_that_is_more_than_python_runs_as_a_script(tmp_path, cell, shown):
    text = export.script({**asked(cell), "sources": {"Cell In[1]": CELLS["Cell In[3]"]}})
    assert python(text, tmp_path).replace("\r\n", "\n") == shown


def test_a_function_is_called_with_the_lines_arguments(tmp_path):
    sources = {
        "Cell In[1]": "import json\nif True:\n    def helper(x): return json.dumps(x)\n",
        "Cell In[2]": "def train(*a):\n    print(helper(a))\n",
    }
    given = {**asked(kind="function", target="train", argv=("1", "a b")), "sources": sources}
    assert python(export.script(given), tmp_path, "1", "a b") == '["1", "a b"]\n'
    assert export.torchrun_line(given, "s.py") == "torchrun --standalone --nproc-per-node=auto s.py 1 'a b'"


@pytest.mark.parametrize("target", ["<lambda>", "make.<locals>.f", "gone"])
def test_a_function_without_source_says_so_instead_of_failing_oddly(target):
    text = export.script(asked(kind="function", target=target))
    assert f"The source of {target} is not known" in text
    compile(text, "s.py", "exec")


def test_an_imported_function_needs_no_source(tmp_path):
    (tmp_path / "pkg.py").write_text("import sys\nclass T:\n    @staticmethod\n    def run(*a): print(a)\n")
    assert python(export.script(asked(kind="import", target="pkg:T.run")), tmp_path, "x") == "('x',)\n"


LINES = [
    ("script", "/x/train.py", {}, "torchrun --standalone --nproc-per-node=auto /x/train.py --lr 3"),
    (
        "module",
        "pkg.train",
        {"module": True, "max_restarts": 2},
        "torchrun --standalone --nproc-per-node=auto --max-restarts=2 --module pkg.train --lr 3",
    ),
    (
        "program",
        "nvidia-smi",
        {"no_python": True},
        "torchrun --standalone --nproc-per-node=auto --no-python nvidia-smi --lr 3",
    ),
    (
        "script",
        "/x/train.py",
        {"nproc_per_node": 2, "gpus": ("0", "2"), "run_path": True, "tee": "0:3", "virtual_local_rank": True},
        "CUDA_VISIBLE_DEVICES=0,2 torchrun --standalone --nproc-per-node=2 --tee=0:3 --virtual-local-rank --run-path /x/train.py --lr 3",
    ),
    (
        "script",
        "/x/train.py",
        {
            "nnodes": "1:2",
            "rdzv_endpoint": "h:1",
            "rdzv_id": "my run",
            "rdzv_conf": {"timeout": "3"},
            "numa_binding": "node",
        },
        (
            "torchrun --nnodes=1:2 --nproc-per-node=auto --rdzv-backend=c10d --rdzv-endpoint=h:1 '--rdzv-id=my run' "
            "--rdzv-conf=timeout=3 --numa-binding=node /x/train.py --lr 3"
        ),
    ),
    (
        "script",
        "/x/train.py",
        {
            "nnodes": "2",
            "master_addr": "h",
            "master_port": 1,
            "node_rank": 1,
            "numa_binding": "none",
            "start_method": "spawn",
        },
        (
            "torchrun --nnodes=2 --nproc-per-node=auto --rdzv-backend=static --node-rank=1 --master-addr=h --master-port=1 "
            "--start-method=spawn /x/train.py --lr 3"
        ),
    ),
    (
        "script",
        "/x/train.py",
        {"log_line_prefix_template": "[${rank}] ", "duplicate_stdout_filters": ("a,b", "c")},
        (
            "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE='[${rank}] ' torchrun --standalone --nproc-per-node=auto "
            "--duplicate-stdout-filters=a,,b,c /x/train.py --lr 3"
        ),
    ),
]


@pytest.mark.parametrize(("kind", "target", "given", "line"), LINES)
def test_the_line_says_what_the_options_said(kind, target, given, line):
    found = asked(kind=kind, target=target, argv=("--lr", "3"), options=LaunchOptions(**given))
    assert export.torchrun_line(found, "unused.py") == line
    assert "nothing to export" in export.script(found)


def test_every_line_is_one_that_torchrun_itself_takes():
    import shlex

    from torch.distributed.run import get_args_parser

    for _, target, _, line in LINES:
        words = shlex.split(line)
        found = get_args_parser().parse_args(words[words.index("torchrun") + 1 :])
        assert (found.training_script, found.training_script_args) == (target, ["--lr", "3"])


def test_a_cell_that_is_no_code_is_refused():
    with pytest.raises(ElasticError, match="can't be exported"):
        export.script(asked("x = = 3"))


def test_a_run_folder_of_another_version_still_exports():
    assert export.torchrun_line({}, "s.py") == "torchrun --standalone --nproc-per-node=auto s.py"
    assert export.script({}).startswith('"""Exported from the run ?')
