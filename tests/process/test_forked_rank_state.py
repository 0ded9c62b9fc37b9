"""A rank forked from a warm process is told apart from a fresh interpreter by nothing that a user's code looks at."""

from __future__ import annotations

import json
import os
import resource

import pytest

from tests.support import supervise

WARMED = ("sklearn.utils", "logging.config")
ENV = {
    "TZ": "Asia/Tokyo",
    "LC_ALL": "C.UTF-8",
    "TORCH_DISTRIBUTED_DEBUG": "DETAIL",
    "PYTHONWARNINGS": "error::BytesWarning,ignore:spam",
}
"""Set in the notebook after the warm process had started, which has other values or none."""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each of two ranks saw of itself in each of two attempts: {method: {(rank, attempt): facts}}."""
    home = tmp_path_factory.mktemp("home")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NB_ELASTIC_HOME", str(home))
        for method in ("warm", "spawn"):
            cwd, temporary = tmp_path_factory.mktemp(method), tmp_path_factory.mktemp("temporary")
            done = supervise.run(
                "tells_of_itself.py",
                "word",
                nproc=2,
                max_restarts=1,
                start_method=method,
                preload=WARMED if method == "warm" else (),
                cwd=str(cwd),
                env={**ENV, "TMPDIR": str(temporary)},
                supervisor_env={"TZ": "UTC", "LC_ALL": "C.utf8", "PYTHONWARNINGS": "ignore:eggs"},
            )
            assert done.state == "succeeded", done.end["text"] + done.log
            assert [e["text"] for e in done.of("note") if "spawn" in e["text"]] == []
            found[method] = {
                (r, a): json.loads((cwd / f"OUT_{r}_{a}.json").read_text()) | {"err": done.err(r, round_number=a)}
                for r in range(2)
                for a in range(2)
            }
            found[method]["temporary"] = str(temporary)
    return found


def _but(facts, *names):
    """Facts without those that two processes can't share."""
    return {k: v for k, v in facts.items() if k not in names}


@pytest.mark.parametrize("method", ["warm", "spawn"])
def test_no_two_ranks_or_attempts_draw_the_same(told, method):
    """Forked from one state, they would all train on the same shuffles, and name their files alike."""
    drawn = [told[method][r, a]["draws"] for r in range(2) for a in range(2)]
    same = [name for name in drawn[0] if len({json.dumps(d[name]) for d in drawn}) < len(drawn)]
    assert same == []


@pytest.mark.parametrize("part", ["streams", "signals", "processes", "threads", "loggers", "main", "argv"])
def test_what_a_rank_is_does_not_tell_that_it_was_forked(told, part):
    warm, spawn = (told[method][1, 1][part] for method in ("warm", "spawn"))
    assert warm == spawn


def test_the_interpreter_has_the_settings_of_a_fresh_one(told):
    """Filters of sklearn, which the fresh rank did not import, are the warm one's alone."""
    warm, spawn = (told[method][0, 1]["interpreter"] for method in ("warm", "spawn"))
    of_imports = "filters", "exit functions", "exit runs"
    assert _but(warm, *of_imports) == _but(spawn, *of_imports)
    assert [f for f in spawn["filters"] if f not in warm["filters"]] == []


def test_pythonwarnings_set_in_the_notebook_are_heeded_as_at_a_start(told):
    """Below the filters that libraries put in place, above Python's own."""
    for method in ("warm", "spawn"):
        filters = told[method][0, 1]["interpreter"]["filters"]
        mine = next(i for i, f in enumerate(filters) if "BytesWarning" in f)
        assert "spam" in filters[mine - 1]
        assert "DeprecationWarning" in filters[mine + 1]
        assert [f for f in filters if "eggs" in f] == []


def test_limits_priority_locale_time_zone_and_temporary_folder_are_the_notebooks(told):
    warm, spawn = (told[method][1, 0]["place"] for method in ("warm", "spawn"))
    assert _but(warm, "tempdir") == _but(spawn, "tempdir")
    assert warm["zone"] == [["JST", "JST"], -32400, -32400, 0, "09 JST"]
    assert warm["locale"][0] == "C.UTF-8"
    assert warm["debug level"] == "DebugLevel.DETAIL"
    assert {m: told[m][1, 0]["place"]["tempdir"] for m in ("warm", "spawn")} == {
        m: told[m]["temporary"] for m in ("warm", "spawn")
    }


@pytest.mark.parametrize("method", ["warm", "spawn"])
def test_compiled_code_sees_the_same_environment_as_python(told, method):
    """gloo, NCCL and CUDA ask getenv."""
    seen = told[method][0, 1]["environment"]
    assert seen["c"] == seen["python"]
    assert {k: seen["c"].get(k) for k in ENV} == ENV
    assert seen["python"].get("OPENBLAS_NUM_THREADS") == os.environ.get("OPENBLAS_NUM_THREADS")


def test_a_rank_has_both_methods_variables_alike(told):
    warm, spawn = (set(told[method][0, 1]["environment"]["python"]) for method in ("warm", "spawn"))
    assert warm == spawn


def test_only_installed_packages_are_there_before_they_are_imported(told):
    """The user's own modules are imported anew by each run, so that edits are seen."""
    extra = set(told["warm"][0, 1]["modules"]) - set(told["spawn"][0, 1]["modules"])
    assert [m for m in extra if m.split(".")[0] in {"tests", "conftest", "pytest", "IPython", "ipykernel"}] == []
    assert "torch" in extra


@pytest.mark.parametrize("method", ["warm", "spawn"])
def test_loggers_of_imported_libraries_write_to_the_ranks_own_stderr(told, method):
    for rank in range(2):
        assert "torch's own logger speaks" in told[method][rank, 1]["err"]


@pytest.mark.parametrize("entry", ["tests.programs.returns_things:allowances", "!sh"])
@pytest.mark.parametrize("method", ["warm", "spawn"])
def test_limits_priority_and_cpus_that_the_notebook_has_by_now_reach_the_ranks(method, entry):
    """The warm process was started before `resource.setrlimit`, `os.nice` or `taskset` in a cell."""
    cpu = max(os.sched_getaffinity(0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    nice = os.getpriority(os.PRIO_PROCESS, 0) + 3
    ambient = {"rlimits": {"NOFILE": (123, hard)}, "niceness": nice, "affinity": (cpu,)}
    script = "ulimit -n; nice; grep Cpus_allowed_list /proc/self/status | cut -f2"
    argv = ["-c", script] if entry == "!sh" else []
    done = supervise.run(entry, *argv, nproc=1, start_method=method, ambient=ambient)
    assert done.state == "succeeded", done.end["text"] + done.err(0)
    assert (done.out(0).decode().split(), done.err(0)) == (["123", str(nice), str(cpu)], "")
    assert done.worker(0)["cpus"] == [cpu]


def test_a_limit_that_a_rank_may_not_have_is_told_once(tmp_path):
    """The launch goes on, and the first rank's log says what is short."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < 0 or os.getuid() == 0:
        name, far = "NOFILE", 2**40  # above the kernel's own highest, so refused to root, too
    else:
        name, far = "NOFILE", hard + 1
    done = supervise.run("tests.programs.returns_things:nothing", nproc=2, ambient={"rlimits": {name: (far, far)}})
    assert done.state == "succeeded", done.end["text"]
    told = f"nb_elastic: a limit of the notebook can't be had in the ranks: NOFILE is {hard} at most {hard}, not {far} at most {far}.\n"
    assert (done.err(0), done.err(1)) == (told, "")
