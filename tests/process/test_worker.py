"""A rank is a fresh process in all a user's code can see, and ends as an interpreter ends."""

from __future__ import annotations

import os
import stat
import sys

import pytest

from nb_elastic import cell, payload
from nb_elastic.model import Entrypoint
from nb_elastic.rankstacks import HIGH_FD
from tests.support import supervise


@pytest.fixture(scope="module", params=["warm", "spawn"])
def told(request, tmp_path_factory):
    """What two ranks saw of themselves."""
    home = tmp_path_factory.mktemp("home")
    before, os.environ["NB_ELASTIC_HOME"] = os.environ.get("NB_ELASTIC_HOME"), str(home)
    try:
        done = supervise.run(
            "tests.programs.returns_things:environment",
            nproc=2,
            start_method=request.param,
            env={"MINE": "1", "NB_ELASTIC_HOME": str(home)},
        )
    finally:
        os.environ.pop("NB_ELASTIC_HOME")
        if before:
            os.environ["NB_ELASTIC_HOME"] = before
    assert done.state == "succeeded", done.end["text"]
    return done, [payload.load_result(done.run.rank(0, r).result) for r in range(2)]


def test_the_environment_is_the_notebooks_and_torchruns(told):
    done, ranks = told
    (formed,) = done.of("rendezvous_finished")
    folder = str(done.run.rank(0, 1).path)
    expected = {
        "MINE": "1",
        "NB_ELASTIC_HOME": str(done.run.path.parent),
        "NB_ELASTIC_METRICS_FILE": f"{folder}/metrics.jsonl",
        "NB_ELASTIC_RUN_DIR": str(done.run.path),
        "NB_ELASTIC_RUN_ID": done.run.run_id,
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1",
        "ROLE_RANK": "1", "ROLE_NAME": "default", "ROLE_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(formed["master_port"]),
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // 2)),
        "PYTHONUNBUFFERED": "1",
        "TORCHELASTIC_ERROR_FILE": f"{folder}/error.json",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_RUN_ID": done.run.run_id,
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCH_FR_BUFFER_SIZE": "64",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    }  # fmt: skip
    env = ranks[1]["env"]
    assert {k: env.get(k) for k in expected} == expected
    assert set(env) - set(expected) <= set(os.environ) | {"PYTEST_CURRENT_TEST", "LC_CTYPE"}


def test_the_supervisors_own_settings_do_not_leak_into_the_ranks(told):
    _, ranks = told
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PYTORCH_NVML_BASED_CUDA_CHECK"):
        assert ranks[0]["env"].get(name) == os.environ.get(name)
    assert ranks[0]["threads"] == int(ranks[0]["env"]["OMP_NUM_THREADS"])


def test_a_rank_leads_its_own_session_and_has_nothing_on_its_stdin(told):
    _, ranks = told
    assert [(r["sid"] == r["pid"], r["stdin"], r["masked"], r["umask"]) for r in ranks] == [(True, "", [], 0o022)] * 2


def test_no_descriptor_is_inherited(told):
    """But one of ours, out of the way of the numbers that the user's code gets: for the stacks of a rank that hangs."""
    _, ranks = told
    assert [[fd for fd in r["fds"] if fd > 2][1:] for r in ranks] == [
        [HIGH_FD],
        [HIGH_FD],
    ]  # the first is that of the listing


def test_main_is_fresh_and_the_path_is_the_notebooks(told):
    done, ranks = told
    assert (ranks[0]["main"], ranks[0]["cwd"]) == ([], str(done.run.path))
    assert ranks[0]["path"][0] == str(supervise.ROOT)
    assert ranks[0]["argv"] == ["tests.programs.returns_things:environment"]


def test_a_rank_is_named_in_ps(told):
    pytest.importorskip("setproctitle")
    done, ranks = told
    assert [r["title"] for r in ranks] == [f"nb_elastic:{done.run.run_id}:rank{r}" for r in range(2)]


def test_what_a_rank_got_is_told_in_worker_json(told):
    done, ranks = told
    worker = done.worker(1)
    assert (worker["pid"], worker["rank"], worker["local_rank"]) == (ranks[1]["pid"], 1, 1)
    assert worker["cpus"] == sorted(os.sched_getaffinity(0))
    ready = {e["local_rank"]: e["worker"] for e in done.of("worker_ready")}
    later = {"result", "done_ns"}
    assert {k: v for k, v in worker.items() if k not in later} == {k: v for k, v in ready[1].items() if k not in later}


def test_ranks_draw_different_random_numbers():
    """Forked from one state, they would all train on the same shuffles without a word."""
    done = supervise.run("tests.programs.returns_things:draws", nproc=2)
    one, two = (payload.load_result(done.run.rank(0, r).result) for r in range(2))
    assert all(a != b for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("method", ["warm", "spawn"])
def test_a_rank_ends_as_an_interpreter_ends(method, tmp_path):
    done = supervise.run("leaves_like_python.py", "x", nproc=1, start_method=method, cwd=str(tmp_path))
    assert done.state == "succeeded", done.end["text"] + done.err(0)
    assert sorted(done.out(0).decode().splitlines()) == sorted(
        ["pool 42", "end ['x'] __main__ True", "executor", "thread", "process", "atexit", "deleted"]
    )
    assert (tmp_path / "unflushed.txt").read_text() == "all of it"


def test_a_warm_rank_computes_with_as_many_threads_as_a_fresh_one(tmp_path):
    script = tmp_path / "threads.py"
    script.write_text(
        "import numpy, torch\nfrom threadpoolctl import threadpool_info\n"
        "print(torch.get_num_threads(), sorted((i['internal_api'], i['num_threads']) for i in threadpool_info()))\n"
    )
    told = {}
    for method in ("warm", "spawn"):
        done = supervise.run(
            Entrypoint(kind="script", target=str(script)), nproc=1, start_method=method, env={"OMP_NUM_THREADS": "2"}
        )
        told[method] = done.run.rank(0, 0).stdout.read_text()
    assert told["warm"] == told["spawn"] == "2 [('openblas', 2), ('openmp', 2)]\n"


def test_a_script_leaves_the_exit_code_of_python(tmp_path):
    (tmp_path / "five.py").write_text("import sys\nsys.exit(5)\n")
    done = supervise.run(Entrypoint(kind="script", target=str(tmp_path / "five.py")), nproc=1)
    assert done.exits() == {(0, 0): (5, "failed")}


def test_a_script_in_a_folder_finds_its_neighbours_first(tmp_path):
    (tmp_path / "colorsys.py").write_text("word = 'neighbour'\n")
    (tmp_path / "main.py").write_text("import colorsys\nprint(colorsys.word, __file__, __name__)\n")
    done = supervise.run(Entrypoint(kind="script", target="main.py"), nproc=1, cwd=str(tmp_path))
    assert done.out(0).decode() == f"neighbour {tmp_path}/main.py __main__\n"  # absolute, as in Python since 3.9


def test_the_umask_and_a_missing_folder(tmp_path):
    gone = tmp_path / "gone"
    done = supervise.run("all_reduces.py", nproc=1, cwd=str(gone))
    (failure,) = done.failures()
    assert (failure.error_type, str(gone) in failure.message) == ("FileNotFoundError", True)


def _cell(text: str, tmp_path, *, namespace=None):
    code = cell.analyze(text, label="Cell In[12]")
    packed = payload.dump_cell(code, namespace or {"__name__": "__main__"}, sources={}, labels={})
    path = tmp_path / "payload.pkl"
    return Entrypoint(kind="cell", target="Cell In[12]"), str(path), payload.write(packed, path)


def test_a_cell_runs_and_its_last_expression_comes_back(tmp_path):
    entry, path, fd = _cell("x = 20\nimport os\nx * 2 + int(os.environ['RANK'])", tmp_path)
    done = supervise.run(entry, payload=path, buffers_fd=fd, nproc=2, pull=("x", "nothing"))
    assert done.state == "succeeded", done.end["text"]
    assert [payload.load_result(done.run.rank(0, r).result) for r in range(2)] == [40, 41]
    assert payload.load_result(done.run.rank(0, 0).pulled) == {"x": 20}
    assert done.worker(0)["pull"] == {"missing": ["nothing"], "error": ""}
    assert not done.run.rank(0, 1).pulled.exists()


def test_big_arrays_arrive_through_the_buffers(tmp_path):
    numpy = pytest.importorskip("numpy")
    data = numpy.arange(1 << 20)
    entry, path, fd = _cell("int(data.sum())", tmp_path, namespace={"__name__": "__main__", "data": data})
    assert fd >= 0
    try:
        for method in ("warm", "spawn"):
            done = supervise.run(entry, payload=path, buffers_fd=fd, nproc=1, start_method=method)
            assert done.state == "succeeded", done.end["text"]
            assert payload.load_result(done.run.rank(0, 0).result) == int(data.sum())
    finally:
        os.close(fd)


def test_a_failing_cell_shows_the_notebooks_lines(tmp_path):
    entry, path, fd = _cell("def f(x):\n    return 1 / x\n\nf(0)\n", tmp_path)
    done = supervise.run(entry, payload=path, buffers_fd=fd, nproc=1)
    (failure,) = done.failures()
    text = failure.traceback.splitlines()
    kept = [line for line in text if set(line.strip()) - set("~^")]
    assert kept == [
        "Traceback (most recent call last):",
        "  Cell In[12], line 4, in <module>",
        "    f(0)",
        "  Cell In[12], line 2, in f",
        "    return 1 / x",
        "ZeroDivisionError: division by zero",
    ]
    assert [(f.file, f.line, f.name, f.text) for f in failure.frames] == [
        ("Cell In[12]", 4, "<module>", "f(0)"), ("Cell In[12]", 2, "f", "return 1 / x"),
    ]  # fmt: skip
    assert done.err(0) == failure.traceback


def test_a_missing_payload_is_told(tmp_path):
    entry = Entrypoint(kind="cell", target="Cell In[1]")
    done = supervise.run(entry, payload=str(tmp_path / "none.pkl"), nproc=1)
    assert (done.state, done.failures()[0].error_type) == ("failed", "FileNotFoundError")


def test_logs_belong_to_the_user_alone():
    done = supervise.run("tests.programs.returns_things:nothing", nproc=1)
    folder = done.run.rank(0, 0)
    modes = {p.name: oct(stat.S_IMODE(p.stat().st_mode)) for p in folder.path.iterdir()}
    assert modes == dict.fromkeys(["stdout.log", "stderr.log", "stacks.log", "worker.json", "result.pkl"], "0o600")
    assert payload.load_result(folder.result) is None
    assert sys.executable


def test_a_cell_may_spawn_processes_that_use_its_functions(tmp_path):
    text = (
        "import multiprocessing\n"
        "def double(x):\n    return 2 * x\n"
        "with multiprocessing.get_context('spawn').Pool(1) as pool:\n    found = pool.map(double, [21])\n"
        "found"
    )
    entry, path, fd = _cell(text, tmp_path)
    done = supervise.run(entry, payload=path, buffers_fd=fd, nproc=1)
    assert done.state == "succeeded", done.end["text"]
    assert payload.load_result(done.run.rank(0, 0).result) == [42]


def test_a_child_that_the_user_forks_does_not_speak_for_the_rank(tmp_path):
    """It runs on to the end of the cell, as in plain Python, but leaves no result and no failure of its own."""
    text = "import os\npid = os.fork()\nif pid == 0:\n    raise ValueError('in the child')\nos.waitpid(pid, 0)[1] >> 8"
    entry, path, fd = _cell(text, tmp_path)
    done = supervise.run(entry, payload=path, buffers_fd=fd, nproc=1)
    assert (done.state, done.failures()) == ("succeeded", [])
    assert payload.load_result(done.run.rank(0, 0).result) == 1
    assert "ValueError: in the child" in done.err(0)
