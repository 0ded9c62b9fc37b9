"""A supervisor runs ranks of every kind of entrypoint, and keeps every byte, exit and result."""

from __future__ import annotations

import json
import os
import shutil
import sys

import pytest

from nb_elastic import payload, rundir, snapshot
from nb_elastic.model import Entrypoint, WorkerState
from tests.support import supervise
from tests.support.until import until


def test_a_function_runs_in_four_ranks_and_its_results_come_back():
    done = supervise.run("tests.programs.all_reduces:main", "a", "b", nproc=4)
    assert done.process.returncode == 0
    assert (done.state, done.end["root_rank"], done.end["text"]) == ("succeeded", None, "")
    assert [done.out(r) for r in range(4)] == [f"rank {r} of 4: sum 10, args ('a', 'b')\n".encode() for r in range(4)]
    assert [payload.load_result(done.run.rank(0, r).result) for r in range(4)] == [10] * 4
    assert done.exits() == {(0, r): (0, "succeeded") for r in range(4)}
    assert [e["result"]["text"] for e in done.of("worker_exited")] == ["10"] * 4


def test_the_journal_and_stdout_tell_the_same_story_in_order():
    done = supervise.run("all_reduces.py", nproc=2)
    assert rundir.JournalReader(done.run.journal).read() == done.events
    kinds = [e.kind for e in done.events]
    assert kinds[:4] == ["mark", "supervisor_started", "rendezvous_started", "rendezvous_finished"]
    assert kinds[-2:] == ["round_ended", "run_finished"]
    assert sorted(kinds[4:-2]) == ["worker_exited"] * 2 + ["worker_ready"] * 2 + ["worker_started"] * 2
    folded = snapshot.load(done.run)
    assert (folded.state.value, [w.state for w in folded.workers]) == ("succeeded", [WorkerState.SUCCEEDED] * 2)
    assert oct(done.run.rank(0, 0).stdout.stat().st_mode)[-3:] == "600"
    assert oct(done.run.rank(0, 0).path.stat().st_mode)[-3:] == "700"


def test_a_script_gets_its_arguments_and_a_rank_its_number_in_them():
    done = supervise.run("all_reduces.py", "--node", "${local_rank}", nproc=2)
    assert done.out(1) == b"rank 1 of 2: sum 3, args ('--node', '1')\n"


def test_a_script_finds_its_name_as_the_user_typed_it(tmp_path):
    (tmp_path / "hi.py").write_text("import sys; print(sys.argv[0] if __file__ != sys.argv[0] else 'both')")
    typed = Entrypoint(kind="script", target=str(tmp_path / "hi.py"), argv0="./hi.py")
    assert supervise.run(typed, nproc=1, cwd=str(tmp_path)).out(0) == b"./hi.py\n"


def test_a_module_runs_as_python_m_does():
    done = supervise.run("-m tests.programs.all_reduces", "x", nproc=1)
    assert done.out(0) == b"rank 0 of 1: sum 1, args ('x',)\n"


def test_any_program_runs_with_no_python():
    done = supervise.run(
        Entrypoint(kind="program", target="sh", argv=("-c", "echo $RANK of $WORLD_SIZE; exec 2>&1; echo err >&2")),
        nproc=2,
    )
    assert (done.state, done.out(1)) == ("succeeded", b"1 of 2\nerr\n")


def test_a_program_that_does_not_exist_is_told_by_name():
    done = supervise.run("!no-such-program", nproc=1)
    (failure,) = done.failures()
    assert (done.state, failure.error_type) == ("failed", "FileNotFoundError")
    assert "no-such-program" in done.end["text"]


@pytest.mark.parametrize("method", ["warm", "spawn"])
def test_every_byte_is_kept_whoever_writes_it(method):
    done = supervise.run("writes_every_way.py", nproc=1, start_method=method)
    lines = [b"os.write", b"print", b"buffer", b"puts", b"system", b"child", b"without newline"]
    assert done.out(0) == b"\n".join(lines)
    assert done.err(0) == "err\nos.write err\n"
    assert [e["start_method"] for e in done.of("worker_started")] == [method]


def test_bytes_that_are_no_text_do_no_harm():
    done = supervise.run("prints_bytes.py", nproc=1)
    out = done.out(0)
    head, tail = b"invalid \xff\xfe utf-8\nnul \0\0 bytes\n", b"\n\rstep 1\rstep 2\ndone\n"
    assert (done.state, len(out)) == ("succeeded", len(head) + 50_000_000 + len(tail))
    assert (out[: len(head)], out[-len(tail) :]) == (head, tail)
    assert out.count(b"x") == 50_000_000
    assert done.err(0) == "surrogate \\udcff\n"


def test_a_rank_may_close_its_stdout():
    done = supervise.run("closes_fd_1.py", nproc=1)
    assert (done.state, done.out(0), done.err(0)) == ("succeeded", b"before\n", "told: 9\n")


def test_a_result_that_cannot_be_pickled_fails_nothing_and_says_why():
    done = supervise.run("tests.programs.returns_things:lock", nproc=1)
    (told,) = [e["result"] for e in done.of("worker_exited")]
    assert (done.state, told["size_bytes"]) == ("succeeded", 0)
    assert told["text"].startswith("<unlocked _thread.lock")
    assert "_thread.lock" in told["error"]
    assert not done.run.rank(0, 0).result.exists()


def test_a_result_whose_repr_raises_is_told():
    done = supervise.run("tests.programs.returns_things:odd", nproc=1)
    (told,) = [e["result"] for e in done.of("worker_exited")]
    assert (done.state, told["text"].split(" at ")[0] + ">") == ("succeeded", "<Odd instance>")


def test_a_restart_succeeds_although_ranks_are_out_of_step_and_keeps_all_logs():
    done = supervise.run("tests.programs.first_attempt_fails:main", nproc=2, max_restarts=2)
    assert done.state == "succeeded"
    assert [(e["round"], e["attempt"], e["cause"]) for e in done.of("round_ended")] == [
        (0, 0, "failure"),
        (1, 1, "success"),
    ]
    assert "the first time goes wrong" in done.of("round_ended")[0]["text"]
    assert [done.out(r, round_number=n) for n in (0, 1) for r in (0, 1)] == [
        b"attempt 0\n", b"attempt 0\n", b"attempt 1\n", b"attempt 1\n",
    ]  # fmt: skip
    assert payload.load_result(done.run.rank(1, 0).result) == 4.0
    (root, *_) = done.failures(0)
    assert (root.rank, root.message) == (1, "the first time goes wrong")


def test_duplicate_filters_write_what_torchrun_writes():
    done = supervise.run(
        "all_reduces.py", nproc=2, duplicate_stdout_filters=("sum 3",), duplicate_stderr_filters=("never",)
    )
    lines = (done.run.round(0) / "filtered_stdout.log").read_text().splitlines()
    assert sorted(lines) == ["[default0]:rank 0 of 2: sum 3, args ()", "[default1]:rank 1 of 2: sum 3, args ()"]
    assert (done.run.round(0) / "filtered_stderr.log").read_text() == ""


@pytest.mark.parametrize(
    ("options", "needle"),
    [
        ({"logs_specs": "nobody"}, "--logs-specs nobody"),
        ({"event_log_handler": "nobody"}, "--event-log-handler nobody"),
        ({"gpus": ("7",)}, "--gpus 7"),
        ({"nproc_per_node": 0}, "--nproc-per-node 0"),
    ],
)
def test_what_cannot_start_says_so_and_starts_nothing(options, needle):
    nproc = options.pop("nproc_per_node", 2)
    done = supervise.run("all_reduces.py", nproc=nproc, **options)
    assert (done.process.returncode, done.state, done.of("worker_started")) == (3, "failed", [])
    assert needle in done.end["text"]


def test_a_preload_that_fails_is_noted_and_the_run_goes_on():
    done = supervise.run("all_reduces.py", nproc=1, preload=("no_such_module_at_all", "json.tool"))
    assert done.state == "succeeded"
    assert [e["text"] for e in done.of("note")] == [
        (
            "--preload no_such_module_at_all failed (ModuleNotFoundError: No module named 'no_such_module_at_all'); "
            "ranks import it themselves."
        )
    ]


def test_imports_that_leave_threads_fall_back_to_spawn_and_say_so():
    done = supervise.run("all_reduces.py", nproc=1, preload=("tests.programs.leaves_a_thread",))
    assert done.state == "succeeded"
    assert [e["text"] for e in done.of("note")] == [
        "Ranks are started with spawn instead of warm: imports left 2 threads."
    ]
    assert [e["start_method"] for e in done.of("worker_started")] == ["spawn"]


def test_a_variable_that_acts_at_start_falls_back_to_spawn():
    done = supervise.run("tests.programs.returns_things:environment", nproc=1, env={"PYTHONHASHSEED": "7"})
    assert done.state == "succeeded"
    assert [e["start_method"] for e in done.of("worker_started")] == ["spawn"]


def test_a_program_under_record_tells_its_exception():
    """torch's own error file is read: programs that torchrun users have are explained as well."""
    code = (
        "from torch.distributed.elastic.multiprocessing.errors import record\n"
        "@record\ndef main():\n    raise ValueError('from a recorded program')\nmain()"
    )
    done = supervise.run(Entrypoint(kind="program", target=sys.executable, argv=("-c", code)), nproc=1)
    (failure,) = done.failures()
    assert (failure.error_type, failure.message) == ("ValueError", "from a recorded program")


def test_torchs_tools_find_the_error_file_they_know():
    done = supervise.run("one_rank_raises.py", "0", nproc=1)
    data = json.loads((done.run.rank(0, 0).path / "error.json").read_text())
    assert data["message"]["message"] == "ValueError: bad batch"
    assert set(data["message"]["extraInfo"]) == {"py_callstack", "timestamp"}


def test_events_come_before_the_run_is_over():
    with supervise.start(supervise.entry("saves_when_stopped.py"), nproc=1) as one:
        one.until_event("worker_ready")
        until(lambda: one.out(0) == b"waiting\n")
        assert one.of("run_finished") == []
        one.stop(grace_s=0)
        one.wait()
    assert rundir.read_json(one.run.rank(0, 0).worker_json)["rank"] == 0


def test_a_users_own_logs_specs_get_a_link_to_every_log(tmp_path):
    """``--logs-specs`` names a class of an installed package; no byte is written twice or lost."""
    info = tmp_path / "site" / "own_logs-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-logs\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[torchrun.logs_specs]\nown = own_logs:OwnLogs\n")
    (tmp_path / "site" / "own_logs.py").write_text(
        "import os\nfrom torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std\n"
        f"class OwnLogs(DefaultLogsSpecs):\n    def __init__(self):\n        super().__init__(log_dir={str(tmp_path)!r} + '/own', redirects=Std.OUT)\n"
    )
    done = supervise.run(
        "all_reduces.py", nproc=2, logs_specs="own", supervisor_env={"PYTHONPATH": f"{supervise.ROOT}:{tmp_path / 'site'}"},
        sys_path=(str(tmp_path / "site"),),
    )  # fmt: skip
    assert done.state == "succeeded", done.end["text"]
    links = sorted((tmp_path / "own").rglob("stdout.log"))
    assert [p.resolve() for p in links] == [done.run.rank(0, r).stdout.resolve() for r in range(2)]
    assert links[1].read_bytes() == done.out(1) == b"rank 1 of 2: sum 3, args ()\n"


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="becomes a user whose processes are limited"
)
def test_a_process_limit_is_told_and_nothing_is_left():
    with supervise.start(supervise.entry("all_reduces.py"), nproc=16, max_processes=12) as one:
        one.wait()
    assert (one.state, one.process.returncode, one.of("worker_started")) == ("failed", 3, [])
    assert "The system refused to start rank" in one.end["text"]
    assert "ulimit -u" in one.end["text"]


@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_half_a_file_goes_with_the_rank_that_ended_while_it_wrote(how):
    """A result of gigabytes would lie beside the runs, and nobody would ever ask for it."""
    done = supervise.run(supervise.entry("tests.programs.leaves_half_a_file:main", how), nproc=2)
    assert done.state == "failed"
    assert [path.name for path in done.run.path.rglob(".*")] == []
