"""The root cause is the first failure that is its rank's own; what only followed is told as such."""

from __future__ import annotations

import json

import pytest

from nb_elastic.model import Frame, WorkerFailure, to_json
from nb_elastic.rundir import RankDir
from nb_elastic.supervisor import failures, failures_judge, failures_words
from nb_elastic.supervisor.evidence import Evidence

GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:21918"
NCCL = (
    "[PG 0 Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3, OpType=ALLREDUCE) ran for 600012 "
    "milliseconds before timing out."
)
STORE = "Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash?"


def _failure(rank: int, ms: int, error_type: str = "ValueError", message: str = "own", **more) -> WorkerFailure:
    return WorkerFailure(
        rank=rank, local_rank=rank, round=0, time_ns=ms * 10**6, error_type=error_type, message=message, **more
    )


def _judged(*found: WorkerFailure) -> list[tuple[int, str]]:
    return [(f.rank, f.followed) for f in failures_judge.judge(found)]


def test_the_first_one_is_the_cause():
    assert _judged(_failure(0, 30), _failure(1, 10), _failure(2, 20)) == [(1, ""), (2, ""), (0, "")]


@pytest.mark.parametrize(
    ("error_type", "message"),
    [
        ("RuntimeError", GLOO),
        ("DistBackendError", NCCL),
        ("DistNetworkError", STORE),
        ("RuntimeError", "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection reset by peer"),
        ("DistBackendError", "NCCL communicator was aborted on rank 1."),
        ("RuntimeError", "Timed out waiting 1800000ms for recv operation to complete"),
    ],
)
def test_a_lost_peer_follows_even_if_it_was_seen_first(error_type, message):
    """A SIGKILLed rank is seen by the system a moment after its peers lose their connections."""
    lost, own = (
        _failure(0, 10, error_type, message),
        _failure(1, 12, "", "killed from outside (SIGKILL)", signal="SIGKILL"),
    )
    assert _judged(lost, own) == [(1, ""), (0, "lost its connection after rank 1 failed")]


TORCH = '  File "/x/site-packages/torch/distributed/distributed_c10d.py", line 9, in all_reduce\n    work.wait()\n'
USERS = '  File "/home/me/data.py", line 3, in load\n    pickle.loads(b"")\n'


@pytest.mark.parametrize("error_type", ["EOFError", "ConnectionResetError", "BrokenPipeError"])
def test_the_systems_errors_are_the_users_own_unless_torch_raised_them(error_type):
    own = _failure(1, 12)
    assert _judged(_failure(0, 10, error_type, "Ran out", traceback=USERS), own) == [(0, ""), (1, "")]
    assert _judged(_failure(0, 10, error_type, "Ran out", traceback=TORCH + USERS), own) == [(0, ""), (1, "")]
    assert _judged(_failure(0, 10, error_type, "Ran out", traceback=USERS + TORCH), own)[0] == (1, "")


def test_a_users_runtime_error_about_a_connection_is_the_users_own():
    found = [_failure(0, 10, "RuntimeError", "database: connection reset", traceback=USERS), _failure(1, 12)]
    assert _judged(*found) == [(0, ""), (1, "")]


def test_nobody_followed_what_came_long_after():
    """A lost connection three seconds before a death, or a tenth before an exception, has another cause."""
    lost = _failure(0, 1000, "RuntimeError", GLOO)
    assert _judged(lost, _failure(1, 1100)) == [(0, ""), (1, "")]
    assert _judged(lost, _failure(1, 4000, "", "killed", signal="SIGKILL")) == [(0, ""), (1, "")]
    assert _judged(lost, _failure(1, 1020))[0] == (1, "")
    assert _judged(lost, _failure(1, 2500, "", "killed", signal="SIGKILL"))[0] == (1, "")


CRASH = b"""step 3
Fatal Python error: Segmentation fault

Thread 0x00007f8 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 331 in wait

Current thread 0x00007f9 (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "Cell In[3]", line 2 in <module>
  File "/x/nb_elastic/cell.py", line 171 in execute
  File "/x/nb_elastic/payload_file.py", line 99 in run
  File "/x/nb_elastic/worker.py", line 216 in _call
  File "/x/nb_elastic/supervisor/forkserver.py", line 150 in _become_rank
  File "<frozen runpy>", line 88 in _run_code

Extension modules: numpy._core._multiarray_umath, torch._C (total: 2)
"""


def test_a_native_crash_shows_the_users_frames_not_ours(tmp_path):
    (tmp_path / "stderr.log").write_bytes(CRASH)
    told = _explain(tmp_path, exit_code=-11).traceback.splitlines()
    assert told[-3:] == [
        "Current thread 0x00007f9 (most recent call first):",
        '  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at',
        '  File "Cell In[3]", line 2 in <module>',
    ]
    assert told[:3] == ["Last lines of stderr:", "step 3", "Fatal Python error: Segmentation fault"]
    assert (tmp_path / "stderr.log").read_bytes() == CRASH


def test_where_ranks_were_when_the_time_was_up():
    def at(rank: int, line: int) -> WorkerFailure:
        frames = (
            Frame(file="Cell In[3]", line=line, name="main", text="work.wait()"),
            Frame(file="/x/site-packages/torch/distributed/c10d.py", line=9, name="wait"),
        )
        return _failure(rank, 5, "KeyboardInterrupt", "", frames=frames, traceback=f"Traceback of {rank}\n")

    assert failures_words.where_text([]) == ""
    assert failures_words.where_text([at(2, 7), at(0, 7), at(1, 8)]).splitlines() == [
        "Where the ranks were:",
        "  ranks 0, 2: Cell In[3], line 7, in main: work.wait()",
        "  rank 1: Cell In[3], line 8, in main: work.wait()",
        "",
        "Rank 0:",
        "Traceback of 0",
    ]


def test_if_all_lost_a_peer_the_first_is_the_best_guess():
    found = [_failure(0, 20, "RuntimeError", GLOO), _failure(1, 10, "RuntimeError", GLOO)]
    assert _judged(*found) == [(1, ""), (0, "lost its connection after rank 1 failed")]


def test_who_was_being_ended_is_never_the_cause():
    ended = _failure(0, 5, followed="raised while it was being ended")
    assert _judged(ended, _failure(1, 9)) == [(1, ""), (0, "raised while it was being ended")]
    assert _judged(ended) == [(0, "raised while it was being ended")]
    assert failures_judge.judge([]) == []


def test_a_user_error_about_connections_is_the_users_own():
    assert _judged(_failure(0, 10, "ValueError", "connection reset by peer in my log"), _failure(1, 5, "RuntimeError", GLOO)) == [
        (0, ""), (1, "lost its connection after rank 0 failed"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error_type", "message", "word"),
    [
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 20.00 GiB", "GPU's memory"),
        ("OSError", "[Errno 98] Address already in use", "port"),
        ("RuntimeError", "The server socket has failed to listen on any local network address. EADDRINUSE", "port"),
        ("DistBackendError", "NCCL error in: ProcessGroupNCCL.cpp:1, unhandled cuda error", "NCCL_DEBUG"),
        ("RuntimeError", "CUDA error: invalid device ordinal", "nproc"),
        ("ModuleNotFoundError", "No module named 'x'", "install"),
        ("ValueError", "just wrong", ""),
    ],
)
def test_frequent_failures_come_with_a_hint(error_type, message, word):
    hint = failures_words.hint_for(_failure(0, 1, error_type, message))
    assert (word in hint) if word else (hint == "")


def _explain(tmp_path, **more) -> WorkerFailure:
    settings = {"rank": 2, "local_rank": 1, "round_number": 3, "pid": 77, "exit_code": 1, "time_ns": 5, **more}
    return failures.explain(RankDir(tmp_path), **settings)


def test_the_out_of_memory_killer_is_named_where_it_is_known(tmp_path):
    told = _explain(tmp_path, exit_code=-9, found=Evidence(oom_kills=1, group="/x"))
    assert (
        told.message == "killed by the kernel's OOM killer (SIGKILL): the memory of this machine or container was full"
    )
    assert told.hint != ""
    assert "by somebody, or by the OOM killer" in _explain(tmp_path, exit_code=-9).message


def test_the_last_lines_of_stderr_speak_for_a_native_crash(tmp_path):
    (tmp_path / "stderr.log").write_bytes(b"one\n" * 100 + b"Fatal Python error: \xff Segmentation fault\n")
    told = _explain(tmp_path, exit_code=-11)
    assert told.traceback.startswith("Last lines of stderr:\none\n")
    assert told.traceback.endswith("Fatal Python error: \N{REPLACEMENT CHARACTER} Segmentation fault")
    assert told.traceback.count("\n") == failures.TAIL_LINES


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"time_ns": "x", "error_type": "E"}', '{"error_type": 3, "time_ns": {}}']
)
def test_a_broken_failure_file_does_no_harm(tmp_path, text):
    (tmp_path / "failure.json").write_text(text)
    told = _explain(tmp_path, exit_code=4)
    assert (told.message, told.time_ns, told.pid) == ("exited with code 4 without a Python exception", 5, 77)


def test_a_rank_cannot_speak_for_another(tmp_path):
    (tmp_path / "failure.json").write_text(json.dumps(to_json(_failure(9, 8))))
    told = _explain(tmp_path)
    assert (told.rank, told.local_rank, told.round, told.time_ns, told.message) == (2, 1, 3, 8 * 10**6, "own")


def test_the_message_names_the_root_then_each_other_rank():
    root = _failure(2, 10, traceback="Traceback ...\nValueError: own\n", hint="Do better.")
    late = _failure(0, 30)
    lost = _failure(1, 20, "RuntimeError", GLOO)
    text = failures_words.text_of(
        failures_judge.judge([root, late, lost]), others=["rank 3: ended by the agent"], run_dir="/runs/x"
    )
    assert text.splitlines() == [
        "Rank 2 failed: ValueError: own",
        "",
        "Traceback ...",
        "ValueError: own",
        "",
        "Hint: Do better.",
        "",
        "rank 0: ValueError: own (20 ms later)",
        f"rank 1: RuntimeError: {GLOO} (lost its connection after rank 2 failed)",
        "rank 3: ended by the agent",
        "",
        "Logs and tracebacks of all ranks: /runs/x",
    ]
