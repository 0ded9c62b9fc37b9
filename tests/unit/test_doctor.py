"""The doctor: sees what is wrong with a machine, says what to do, and never fails or hangs itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nb_elastic import doctor, doctor_engines
from nb_elastic import doctor_rules as rules
from nb_elastic.doctor import Check
from nb_elastic.engines.base import Settled
from nb_elastic.errors import EngineError

ROOT = Path(__file__).parents[2]
GIB = 1 << 30
NODE = {"index": 0, "cpus": "0-7", "allowed": "0-7", "memory_bytes": GIB}
OTHER_NODE = {**NODE, "index": 1, "cpus": "8-15", "allowed": "8-15"}
GPU = {"index": 0, "name": "H200", "uuid": "GPU-a", "pci": "0000:3b:00.0", "numa_node": 0, "memory_bytes": 140 * GIB}
TORCH = {
    "import_s": 1.5,
    "threads": 1,
    "cuda": "13.0",
    "hip": None,
    "is_cuda_initialized": False,
    "is_cuda_available": True,
    "has_distributed": True,
    "backends": ["gloo", "nccl"],
}
MACHINE = {
    "shm_bytes": 8 * GIB,
    "shm_free_bytes": 8 * GIB,
    "memory_bytes": 64 * GIB,
    "memory_free_bytes": 32 * GIB,
    "memory_limit_bytes": None,
    "pids_limit": None,
    "open_files": [4096, 8192],
    "processes": [-1, -1],
    "allowed_cpus": 16,
    "cpus": 16,
    "ptrace_scope": "",
    "has_memfd": True,
    "has_numactl": False,
}
HOME = {
    "path": "/h",
    "error": "",
    "runs": 3,
    "exists": True,
    "mode": 0o700,
    "is_own": True,
    "free_bytes": 9 * GIB,
    "free_files": 10**6,
}


def map_of(*gpus: dict, nodes: tuple = (NODE,), **more: object) -> dict:
    return {
        "topology": {"nodes": list(nodes), "gpus": list(gpus), "cpu_quota": None, "notes": []},
        "driver": "580.1",
        "users": [],
        **more,
    }


def states(checks: list[Check]) -> list[tuple[str, str]]:
    return [(c.name, c.state) for c in checks]


def test_this_machine_is_looked_at_from_all_sides_and_can_run_torch(elastic_home):
    checks = doctor.check(environ={**os.environ, "NB_ELASTIC_HOME": str(elastic_home)})
    found = {c.name: c for c in checks}
    assert {"python", "torch", "fork", "gpus", "numa", "cpus", "memory", "/dev/shm", "open files", "processes"} <= set(
        found
    )
    assert {"names", "home", "front end", "environment"} <= set(found)
    assert found["torch"].state == "ok" and "imported in" in found["torch"].text
    assert found["fork"].state == "ok"
    assert str(elastic_home) in found["home"].text and found["home"].state == "ok"
    assert list(elastic_home.iterdir()) == []
    assert [c for c in checks if c.state != "ok" and not c.advice] == []


def test_text_shows_state_name_and_advice_in_lines_of_a_terminals_width():
    text = doctor.text(
        [
            Check(name="a", state="ok", text="fine"),
            Check(name="longer", state="warn", text="word " * 30, advice="Do this."),
            Check(name="b", state="bad", text="broken", advice="Do that."),
        ]
    )
    assert text.splitlines()[0] == "ok   a       fine"
    assert text.splitlines()[-5:] == [
        "             -> Do this.",
        "bad  b       broken",
        "             -> Do that.",
        "",
        "1 to mend before runs can work, 1 to know about.",
    ]
    assert max(map(len, text.splitlines())) <= 100


def test_a_machine_that_answers_nothing_in_time_is_told_and_left_alone():
    checks = doctor.check(timeout_s=0.0)
    assert {c.name for c in checks if "gave no answer in 0 s" in c.text} == {
        "torch",
        "gpus",
        "machine",
        "names",
        "home",
    }


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "raise ImportError('libcudart.so.13: cannot open shared object file')",
            "failed: ImportError: libcudart.so.13",
        ),
        ("import os; os.abort()", "ended with exit code -6"),
        ("print('noise'); raise SystemExit", "ended with exit code 0"),
    ],
)
def test_a_torch_that_cannot_be_imported_is_the_first_thing_to_mend(tmp_path, body, said):
    (tmp_path / "torch.py").write_text(body)
    code = "import json; from nb_elastic import doctor; print(json.dumps([[c.name, c.state, c.text] for c in doctor.check()]))"
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True, timeout=200
    )
    found = next(row for row in json.loads(done.stdout) if row[0] == "torch")
    assert found[1] == "bad" and said in found[2] and "noise" not in found[2]


def test_a_check_that_fails_itself_does_not_hide_the_others():
    assert states(doctor._guarded(lambda: rules.home({}))) == [("doctor", "warn")]


@pytest.mark.parametrize(
    ("facts", "machine_map", "state", "said"),
    [
        (TORCH, map_of(GPU), "ok", "CUDA 13.0 build; gloo, nccl"),
        ({**TORCH, "cuda": None}, map_of(GPU), "warn", "1 GPU(s) that this build can't use"),
        ({**TORCH, "is_cuda_available": False}, map_of(GPU), "bad", "the driver is 580.1"),
        ({**TORCH, "cuda": None}, map_of(), "ok", "CPU build"),
        ({**TORCH, "has_distributed": False}, map_of(), "bad", "without torch.distributed"),
        ({"failed": "gave no answer in 60 s"}, map_of(), "warn", "gave no answer in 60 s"),
    ],
)
def test_torch_is_judged_with_the_gpus_it_should_use(facts, machine_map, state, said):
    (found,) = rules.torch(facts, machine_map)
    assert (found.state, said in found.text) == (state, True), found


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (TORCH, [("fork", "ok")]),
        ({**TORCH, "threads": 3}, [("fork", "warn")]),
        ({**TORCH, "is_cuda_initialized": True}, [("fork", "warn")]),
        ({"failed": "x"}, []),
    ],
)
def test_what_keeps_ranks_from_starting_warm_is_told(facts, expected):
    assert states(rules.fork(facts)) == expected


def test_who_uses_a_gpu_is_named():
    used = rules.gpus(
        map_of(GPU, {**GPU, "index": 1, "uuid": "GPU-b"}, users=[["GPU-b", "77", "python", "900"]]),
        {"CUDA_VISIBLE_DEVICES": "1"},
    )
    assert [c.text for c in used] == [
        "2 x H200 (140 GiB); driver 580.1; CUDA_VISIBLE_DEVICES=1",
        "In use: GPU 1: python (pid 77, 900 MiB).",
    ]
    assert states(rules.gpus({"failed": "gave no answer in 60 s"}, {})) == [("gpus", "bad")]


@pytest.mark.parametrize(
    ("machine_map", "state", "said"),
    [
        (map_of(), "ok", "One NUMA node with CPUs, so nothing is bound"),
        (map_of(GPU, nodes=(NODE, {**NODE, "index": 1, "cpus": "", "allowed": ""})), "ok", "One NUMA node with CPUs"),
        (map_of(GPU, nodes=(NODE, OTHER_NODE)), "ok", "GPU 0 on 0"),
        (map_of(nodes=(NODE, OTHER_NODE)), "ok", "ranks spread over the nodes"),
        (map_of({**GPU, "numa_node": None}, nodes=(NODE, OTHER_NODE)), "warn", "the NUMA node of GPU 0 is not known"),
    ],
)
def test_binding_is_told_before_it_is_needed(machine_map, state, said):
    (found,) = rules.numa(machine_map, MACHINE)
    assert (found.state, said in found.text) == (state, True), found


def test_one_thread_a_rank_on_a_big_machine_is_pointed_out():
    assert states(rules.cpus(MACHINE, map_of(), {"OMP_NUM_THREADS": "1"})) == [("cpus", "warn")]
    assert states(rules.cpus(MACHINE, map_of(), {"OMP_NUM_THREADS": "4"})) == [("cpus", "ok")]
    assert states(rules.cpus({**MACHINE, "allowed_cpus": 2}, map_of(), {"OMP_NUM_THREADS": "1"})) == [("cpus", "ok")]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [("memory", "ok"), ("/dev/shm", "ok")]),
        ({"memory_limit_bytes": GIB}, [("memory", "warn"), ("/dev/shm", "ok")]),
        ({"memory_free_bytes": GIB}, [("memory", "warn"), ("/dev/shm", "ok")]),
        ({"shm_bytes": 64 << 20, "shm_free_bytes": 64 << 20}, [("memory", "ok"), ("/dev/shm", "warn")]),
        ({"shm_free_bytes": 0}, [("memory", "ok"), ("/dev/shm", "warn")]),
        ({"shm_bytes": None, "shm_free_bytes": None}, [("memory", "ok"), ("/dev/shm", "warn")]),
    ],
)
def test_memory_that_is_too_small_is_pointed_out(given, expected):
    assert states(rules.memory({**MACHINE, **given})) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [("open files", "ok"), ("processes", "ok")]),
        ({"open_files": [256, 512]}, [("open files", "warn"), ("processes", "ok")]),
        ({"processes": [100, 100]}, [("open files", "ok"), ("processes", "warn")]),
        ({"pids_limit": 64}, [("open files", "ok"), ("processes", "warn")]),
        ({"ptrace_scope": "1"}, [("open files", "ok"), ("processes", "ok"), ("ptrace", "ok")]),
    ],
)
def test_limits_that_are_too_low_are_pointed_out(given, expected):
    assert states(rules.limits({**MACHINE, **given})) == expected


@pytest.mark.parametrize(
    ("given", "state", "said"),
    [
        ({}, "ok", "/h: 3 run(s), 9.0 GiB free"),
        ({"error": "/h: Read-only file system"}, "bad", "Read-only file system"),
        ({"is_own": False}, "bad", "belongs to another user"),
        ({"free_bytes": 5}, "warn", "0.0 GiB free"),
        ({"free_files": 3}, "warn", "run(s)"),
        ({"mode": 0o755}, "ok", "others may look into it"),
    ],
)
def test_a_home_that_cannot_hold_runs_is_named(given, state, said):
    (found,) = rules.home({**HOME, **given})
    assert (found.state, said in found.text) == (state, True), found


def test_variables_that_change_or_break_launches_are_named():
    assert states(rules.environment({"NB_ELASTIC_HOME": "/x", "PATH": "/bin"})) == [("environment", "ok")]
    (used,) = rules.environment({"NB_ELASTIC_MAX_RESTARTS": "2", "PET_NNODES": ""})
    assert used.text == "These set options: NB_ELASTIC_MAX_RESTARTS."
    typo, bad, rank = rules.environment({"NB_ELASTIC_MAX_RESTART": "2", "PET_NPROC_PER_NODE": "x", "RANK": "0"})
    assert (typo.state, typo.advice) == ("warn", "Did you mean NB_ELASTIC_MAX_RESTARTS?")
    assert (bad.state, "PET_NPROC_PER_NODE=x makes no sense" in bad.text) == ("bad", True)
    assert (rank.state, "RANK is set" in rank.text) == ("warn", True)


def test_no_variable_of_ours_is_taken_for_a_typing_error():
    texts = "".join(p.read_text() for p in (ROOT / "nb_elastic").rglob("*.py"))
    every = set(re.findall(r"NB_ELASTIC_[A-Z_]*[A-Z]", texts))
    assert [c.text for c in rules.environment(dict.fromkeys(every, "")) if "is no option" in c.text] == []


def probed(name: str, *wrapped: str, **environ: str) -> dict:
    """What a probe finds inside a changed system."""
    command = [*wrapped, sys.executable, "-m", "nb_elastic.doctor_probe", name]
    done = subprocess.run(command, env={**os.environ, **environ}, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def in_namespace(*flags: str) -> tuple[str, ...]:
    if shutil.which("unshare") is None or subprocess.run(["unshare", *flags, "true"], capture_output=True).returncode:
        pytest.skip("no right to make namespaces here")
    return ("unshare", *flags)


def test_a_containers_small_shared_memory_is_seen():
    unshare = in_namespace("--mount")
    found = probed("machine", *unshare, "sh", "-c", 'mount -t tmpfs -o size=64m none /dev/shm && exec "$@"', "sh")
    assert [c.text for c in rules.memory(found) if c.name == "/dev/shm"] == ["0.1 GiB of 0.1 GiB free"]


def test_a_loopback_that_is_down_is_seen():
    (found,) = rules.names(probed("names", *in_namespace("--net")))
    assert (found.state, "127.0.0.1 does not work" in found.text) == ("bad", True)


def test_a_host_name_that_resolves_nowhere_or_to_127_0_1_1_is_harmless(tmp_path):
    unshare = in_namespace("--uts", "--mount", "--net")
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n127.0.1.1 debians\n")
    script = f'ip link set lo up && mount --bind {tmp_path}/hosts /etc/hosts && hostname "$0" && exec "$@"'
    for name, said in (
        ("debians", "The host's name debians is 127.0.1.1: harmless"),
        ("nowhere", "nowhere resolves nowhere: harmless"),
    ):
        (found,) = rules.names(probed("names", *unshare, "sh", "-c", script, name))
        assert (found.state, said in found.text) == ("ok", True), found


def test_a_low_limit_on_files_is_seen():
    found = probed("machine", "sh", "-c", 'ulimit -n 200; exec "$@"', "sh")
    assert states(rules.limits(found))[0] == ("open files", "warn")


@pytest.mark.parametrize(
    ("place", "said"), [("/proc/nope", "/proc"), ("/dev/full/x", "not a folder"), ("/dev/null", "not a folder")]
)
def test_a_home_in_an_impossible_place_is_seen(place, said):
    (found,) = rules.home(probed("home", NB_ELASTIC_HOME=place))
    assert (found.state, said in found.text) == ("bad", True), found


def test_the_doctor_itself_never_imports_torch():
    code = "import sys; from nb_elastic import doctor; doctor.check(timeout_s=0.0); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout == "False\n"


def test_the_front_end_is_told_in_all_its_parts(tmp_path, monkeypatch):
    """Packages, the dashboard's built files, and the extension where JupyterLab looks for it."""
    monkeypatch.setattr(rules, "JUPYTER_FOLDERS", ())
    (bare,) = rules.front_end({}, package=tmp_path)
    assert (bare.state, bare.advice != "") == ("warn", True)
    assert "was not built (static/widget.js, static/widget.css, static/charts.js missing)" in bare.text
    for name in rules.FRONT_END_FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("built")
    (without,) = rules.front_end({}, package=tmp_path)
    assert (without.state, "its JupyterLab extension is not" in without.text) == ("ok", True)
    place = tmp_path / "jupyter" / "labextensions" / "nb-elastic"
    place.mkdir(parents=True)
    (place / "package.json").write_text("{}")
    (whole,) = rules.front_end({"JUPYTER_PATH": f"{os.pathsep}{tmp_path / 'jupyter'}"}, package=tmp_path)
    assert "and its JupyterLab extension are there" in whole.text
    version = rules._version
    monkeypatch.setattr(rules, "_version", lambda name: "" if name == "anywidget" else version(name))
    (poor,) = rules.front_end({}, package=tmp_path)
    assert (poor.state, "no anywidget" in poor.text, "anywidget" in poor.advice) == ("warn", True, True)


def test_a_probe_that_ended_after_it_was_given_up_leaves_no_pipe_open():
    """A ResourceWarning, and descriptors until the next collection."""
    process = doctor._start("machine", os.environ)
    process.wait(60)
    doctor._end(process)
    assert [process.stdout.closed, process.stderr.closed] == [True, True]


class _Settles:
    """An engine that says where it would place nodes, or why it can't."""

    def __init__(self, said):
        self._said = said

    def settle(self, wanted, environ):
        if isinstance(self._said, Exception):
            raise self._said
        return self._said


def engine_checks(environ, **said):
    return doctor_engines.engines(environ, load=lambda name: _Settles(said[name]), names=lambda: ["local", *said])


def test_engines_that_could_place_nodes_are_told_with_their_place_and_the_others_with_what_they_lack():
    found = engine_checks(
        {},
        ray=EngineError('The package ray is missing: pip install "nb-elastic[ray]". Nothing was started.'),
        slurm=Settled(label="Slurm allocation 42", notes=("Two of its nodes are drained.",)),
    )
    assert found == [
        Check(
            name="engines",
            state="ok",
            text="Nodes can be placed by local, slurm (Slurm allocation 42). Not from here: "
            'ray (The package ray is missing: pip install "nb-elastic[ray]".).',
        ),
        Check(name="engines", state="warn", text="Two of its nodes are drained.", advice="SECURITY.md, between nodes."),
    ]


def test_an_engine_that_the_environment_asks_for_and_that_cannot_is_worth_knowing():
    found = engine_checks({"RAY_ADDRESS": "10.0.0.1:6379"}, ray=EngineError("Nobody answers at 10.0.0.1:6379."))
    assert found[1:] == [
        Check(
            name="engines",
            state="warn",
            text="RAY_ADDRESS is set, but: Nobody answers at 10.0.0.1:6379.",
            advice="Runs of one machine work.",
        )
    ]
