"""Options on the magic's line in a real kernel: each does to the ranks what its help says."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.kernel import Cell, Kernel
from tests.support.until import until


def completions(kernel: Kernel, code: str) -> list[str]:
    """The lines that a front end would offer when Tab is pressed at the end of ``code``."""
    content: dict[str, Any] = kernel._client.complete(code, len(code), reply=True, timeout=60)["content"]
    return [code[: content["cursor_start"]] + match for match in content["matches"]]


def told(kernel: Kernel, expression: str) -> str:
    """What the notebook prints for an expression."""
    return kernel.ok(f"print({expression})").stdout.rstrip("\n")


def lines(cell: Cell) -> list[str]:
    """The ranks' lines in the cell's output, sorted."""
    return sorted(line for line in cell.text.splitlines() if line.startswith("[rank"))


def test_tab_offers_options_their_values_and_the_notebooks_functions(notebook: Kernel):
    notebook.ok("def train_net():\n    return 1\ntraining_data = 3")
    offered = {
        code: completions(notebook, code)
        for code in (
            "%%elastic_launch --np",
            "%%elastic_launch --nproc 2 --render w",
            "%%elastic_launch --start-method sp",
            "%elastic_launch --nproc 2 train_n",
        )
    }
    assert offered == {
        "%%elastic_launch --np": ["%%elastic_launch --nproc", "%%elastic_launch --nproc-per-node"],
        "%%elastic_launch --nproc 2 --render w": ["%%elastic_launch --nproc 2 --render widget"],
        "%%elastic_launch --start-method sp": ["%%elastic_launch --start-method spawn"],
        "%elastic_launch --nproc 2 train_n": ["%elastic_launch --nproc 2 train_net"],
    }


def test_names_and_expressions_expand_and_variables_reach_every_rank(notebook: Kernel):
    notebook.ok("n = 1\nlabel = 'two words'")
    notebook.ok(
        '%%elastic_launch --nproc {n*2} --env A=$n --env "B=$label" --env C=first --env C=last --env D= --out r\n'
        "import os\n[os.environ[name] for name in ('A', 'B', 'C', 'D', 'WORLD_SIZE')]"
    )
    assert told(notebook, "r.results") == str({rank: ["1", "two words", "last", "", "2"] for rank in (0, 1)})
    assert told(notebook, "'A' in __import__('os').environ") == "False"


def test_a_flag_beats_config_and_config_beats_the_environment(notebook: Kernel):
    first = {}
    try:
        notebook.ok("import os\nos.environ['NB_ELASTIC_NPROC_PER_NODE'] = '1'")
        first["environment"] = notebook.ok("%%elastic_launch --dry-run\n1").stdout
        notebook.ok("%config Elastic.nproc_per_node = 2")
        first["config"] = notebook.ok("%%elastic_launch --dry-run\n1").stdout
        first["flag"] = notebook.ok("%%elastic_launch --dry-run --nproc 3\n1").stdout
        by_call = told(notebook, "sorted(nb_elastic.launch(lambda: 1, render='none').results)")
    finally:
        notebook.ok("%config Elastic.nproc_per_node = None\ndel os.environ['NB_ELASTIC_NPROC_PER_NODE']")
    found = {where: [n for n in (1, 2, 3) if f"{n} rank(s)" in text] for where, text in first.items()}
    assert [found, by_call] == [{"environment": [1], "config": [2], "flag": [3]}, "[0, 1]"]


def test_a_bad_value_in_config_is_told_and_not_kept(notebook: Kernel):
    cell = notebook.run("%config Elastic.nproc_per_node = 'many'")
    assert "nproc_per_node" in cell.text and "many" in cell.text
    assert told(notebook, "get_ipython().run_line_magic('config', 'Elastic.nproc_per_node')") == "None"


@pytest.mark.parametrize("method", ["warm", "fork", "forkserver", "spawn"])
def test_every_start_method_gives_the_same_results(notebook: Kernel, method: str):
    notebook.ok(
        "import torch, torch.distributed as dist\nfrom dataclasses import dataclass\n@dataclass\nclass Loss:\n    value: float\n"
        "weights = torch.arange(4.0)\n"
        "def total():\n    dist.init_process_group('gloo')\n    x = weights * (dist.get_rank() + 1)\n    dist.all_reduce(x)\n"
        "    dist.destroy_process_group()\n    return Loss(x.sum().item())"
    )
    notebook.ok(f"%%elastic_launch --nproc 2 --start-method {method} --out r\ntotal()")
    assert (
        told(notebook, "r.results, [w.start_method for w in r.snapshot.workers], type(r.result()) is Loss")
        == f"{{0: Loss(value=18.0), 1: Loss(value=18.0)}} {[method] * 2} True"
    )


def test_a_rank_that_ignores_sigterm_is_killed_after_the_shutdown_timeout(notebook: Kernel, notebook_folder: Path):
    cell = notebook.run(
        "%%elastic_launch --nproc 2 --shutdown-timeout 1 --out r\n"
        "import os, signal, time\nfrom pathlib import Path\ndeaf = Path('deaf')\n"
        "if os.environ['RANK'] == '0':\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    deaf.touch()\n    time.sleep(600)\n"
        "while not deaf.exists():\n    pass\nraise ValueError('over')"
    )
    assert (notebook_folder / "deaf").exists()
    assert "rank 1 failed first (ValueError: over)" in cell.text
    ended = told(notebook, "[(w.rank, w.state.value, w.exit_code) for w in r.snapshot.workers]")
    assert ended == "[(0, 'ended', -9), (1, 'failed', 1)]"


def test_the_users_own_signal_stops_the_run(notebook: Kernel):
    notebook.ok(
        "%%elastic_launch --nproc 1 --detach --signals-to-handle SIGUSR1,SIGTERM --out r\n"
        "import time\nprint('up', flush=True)\ntime.sleep(600)"
    )
    until(lambda: told(notebook, "r.logs() if r.snapshot.workers else ''") == "up", 60)
    os.kill(int(told(notebook, "r.snapshot.supervisor_pid")), signal.SIGUSR1)
    assert told(notebook, "r.wait(60).value") == "stopped"


def test_run_path_runs_a_script_as_main_in_the_ranks_own_interpreter(notebook: Kernel, notebook_folder: Path):
    script = notebook_folder / "by_path.py"
    script.write_text("import sys, __main__\nprint(__name__, __file__ == __main__.__file__, sys.argv)\n")
    cell = notebook.ok(f"%elastic_launch --nproc 1 --run-path {script} --lr 1")
    assert f"\n__main__ True {[str(script), '--lr', '1']}\n" in cell.text


def test_a_run_over_its_time_fails_and_says_so(notebook: Kernel):
    cell = notebook.run("%%elastic_launch --nproc 2 --timeout 2 --out r\nimport time\ntime.sleep(600)")
    assert cell.reply["ename"] == "WorkerFailedError", cell.text
    assert "the time was up after 2 s; raise --timeout" in cell.text, cell.text
    assert told(notebook, "r.state.value, r.results") == "failed {}"


def test_a_restart_succeeds_and_keeps_what_each_round_wrote(notebook: Kernel):
    cell = notebook.ok(
        "%%elastic_launch --nproc 2 --max-restarts 2 --out r\nimport os\nattempt = int(os.environ['TORCHELASTIC_RESTART_COUNT'])\n"
        "print('attempt', attempt, flush=True)\nif attempt == 0 and os.environ['RANK'] == '1':\n    raise ValueError('first time')\n"
        "while attempt == 0:\n    pass\nattempt"
    )
    folder = Path(told(notebook, "r.dir"))
    kept = {f"{n}/{rank}": (folder / f"round_{n}/{rank}/stdout.log").read_text() for n in (0, 1) for rank in (0, 1)}
    failure = json.loads((folder / "round_0/1/failure.json").read_text())
    rounds = told(notebook, "[(x.number, x.attempt, x.cause, [f.rank for f in x.failures]) for x in r.snapshot.rounds]")
    assert kept == {"0/0": "attempt 0\n", "0/1": "attempt 0\n", "1/0": "attempt 1\n", "1/1": "attempt 1\n"}
    assert failure["message"] == "first time"
    assert rounds == "[(0, 0, 'failure', [1]), (1, 1, 'success', [])]"
    assert told(notebook, "r.results, r.failures, r.root_cause") == "{0: 1, 1: 1} () None"
    assert "attempt 0" in cell.text and "attempt 1" in cell.text


def test_restarts_that_do_not_help_end_with_the_last_failure(notebook: Kernel):
    cell = notebook.run(
        "%%elastic_launch --nproc 1 --max-restarts 1 --out r\nimport os\nraise ValueError('try ' + os.environ['TORCHELASTIC_RESTART_COUNT'])"
    )
    assert cell.reply["ename"] == "WorkerFailedError"
    assert "rank 0 failed first (ValueError: try 1)" in cell.text
    assert told(notebook, "[(x.number, x.cause) for x in r.snapshot.rounds]") == "[(0, 'failure'), (1, 'failure')]"


SPEAK = "import os, sys\nprint('out', os.environ['RANK'])\nprint('err', os.environ['RANK'], file=sys.stderr)"
EVERY_LINE = ["[rank 0 err] err 0", "[rank 0] out 0", "[rank 1 err] err 1", "[rank 1] out 1"]


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        ("--render plain", EVERY_LINE),
        ("--render none", []),
        ("--redirects 3", []),
        ("--redirects 1", ["[rank 0 err] err 0", "[rank 1 err] err 1"]),
        ("-r 0:3", ["[rank 1 err] err 1", "[rank 1] out 1"]),
        ("--tee 3", EVERY_LINE),
        ("--redirects 3 --tee 2", ["[rank 0 err] err 0", "[rank 1 err] err 1"]),
        ("--local-ranks-filter 0", ["[rank 0 err] err 0", "[rank 0] out 0"]),
    ],
)
def test_what_is_shown_can_be_chosen_and_the_files_get_all(notebook: Kernel, flags: str, shown: list[str]):
    cell = notebook.ok(f"%%elastic_launch --nproc 2 {flags} --out r\n{SPEAK}")
    assert lines(cell) == shown, cell.text
    assert told(notebook, "[r.logs(n, s) for n in (0, 1) for s in ('stdout', 'stderr')]") == str(
        ["out 0\n", "err 0\n", "out 1\n", "err 1\n"]
    )


def test_render_none_says_nothing_at_all(notebook: Kernel):
    cell = notebook.ok(f"%%elastic_launch --nproc 2 --render none\n{SPEAK}")
    assert cell.messages == []


def test_a_log_folder_and_a_name_of_the_users_choice(notebook: Kernel, tmp_path: Path):
    notebook.ok(f"%%elastic_launch --nproc 1 --log-dir {tmp_path / 'mine'} --name 'my run' --out r\nprint('kept')\n5")
    folder = Path(told(notebook, "r.dir"))
    assert folder.parent == tmp_path / "mine"
    assert told(notebook, "(r.name, r.result(), r.logs())") == "('my run', 5, 'kept\\n')"
    for word in (told(notebook, "r.id"), "my run"):
        assert told(notebook, f"nb_elastic.attach({word!r}).dir, nb_elastic.attach({word!r}).result()") == f"{folder} 5"


def test_filtered_copies_and_modules_imported_beforehand(notebook: Kernel):
    notebook.ok(
        "%%elastic_launch --nproc 2 --duplicate-stdout-filters loss --log-line-prefix-template '<${role_name} ${rank}> ' --role trainer --preload colorsys --out r\n"
        "import os, sys\nprint('loss', os.environ['RANK'])\nprint('noise')\n'colorsys' in sys.modules"
    )
    folder = Path(told(notebook, "r.dir"))
    copies = {p.name: p.read_text() for p in folder.rglob("filtered*")}
    assert told(notebook, "r.results") == "{0: True, 1: True}"
    assert sorted("".join(copies.values()).splitlines()) == ["<trainer 0> loss 0", "<trainer 1> loss 1"], copies
