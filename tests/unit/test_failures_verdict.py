"""Each piece of evidence leads to its verdict, and missing evidence to "unknown", not to a guess."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nb_elastic.errors import LaunchError, RendezvousError
from nb_elastic.frames import OPENING
from nb_elastic.model import FailureCategory as Kind
from nb_elastic.model import Frame, WorkerFailure
from nb_elastic.supervisor import failures_judge, failures_verdict, run_verdict
from nb_elastic.supervisor.evidence import SHM, Evidence
from nb_elastic.supervisor.failures_verdict import Company

GIB = 2**30
GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:21918"
KILL = {"exit_code": -9, "signal": "SIGKILL", "message": "killed"}
BIG = Evidence(machine_oom_kills=1, is_largest=True, memory=((1, 60 * GIB),), limit_bytes=64 * GIB)


def _failure(error_type: str = "", message: str = "", **more) -> WorkerFailure:
    return WorkerFailure(rank=1, local_rank=1, round=0, time_ns=1, error_type=error_type, message=message, **more)


def _kind(failure: WorkerFailure, found: Evidence = failures_verdict.NOTHING, company: Company | None = None) -> Kind:
    return Kind(failures_verdict.give(failure, found, company).category)


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (Evidence(oom_kills=1, group="/g"), Kind.HOST_MEMORY),
        (Evidence(oom_kills=0, machine_oom_kills=3), Kind.KILLED),  # somebody else's memory was short
        (Evidence(machine_oom_kills=0), Kind.KILLED),
        (Evidence(machine_oom_kills=1, oom_line="Killed process 7 (python)"), Kind.HOST_MEMORY),
        (BIG, Kind.HOST_MEMORY),
        (replace(BIG, is_largest=False), Kind.UNKNOWN),
        (replace(BIG, memory=((1, GIB),)), Kind.UNKNOWN),
        (Evidence(machine_oom_kills=1), Kind.UNKNOWN),
        (Evidence(), Kind.UNKNOWN),  # nobody counts: not "killed by somebody"
    ],
)
def test_only_a_counted_kill_is_the_oom_killers(found, kind):
    assert _kind(_failure(**KILL), found) is kind


def test_a_kill_says_honestly_what_is_not_known():
    (reason,) = failures_verdict.give(_failure(**KILL), Evidence(oom_kills=0)).reasons
    assert reason.startswith("It died by SIGKILL, which nb_elastic had not sent; who did, the system does not tell.")


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (_failure("RuntimeError", GLOO), Kind.LOST_PEER),
        (_failure("DistBackendError", "NCCL communicator was aborted on rank 1."), Kind.LOST_PEER),
        (_failure("RuntimeError", "Timed out waiting 1800000ms for recv operation to complete"), Kind.TIMEOUT),
        (_failure("DistStoreError", "wait timeout after 1000ms, keys: /k"), Kind.TIMEOUT),
        (_failure("OSError", "[Errno 98] Address already in use"), Kind.USER_ERROR),  # a socket of the user's own
        (_failure("DistNetworkError", "The server socket has failed to listen on any local network address. EADDRINUSE"), Kind.RENDEZVOUS),
        (_failure("ValueError", "no", traceback=f"x\n{OPENING}\n"), Kind.IMPORT),
        (_failure("RuntimeError", "CUDA error: device-side assert triggered"), Kind.USER_ERROR),
        (_failure("AcceleratorError", "CUDA error: an illegal memory access was encountered"), Kind.NATIVE_CRASH),
        (_failure("KeyboardInterrupt", frames=(Frame(file="Cell In[1]", line=1, name="f", text="raise KeyboardInterrupt"),)), Kind.USER_ERROR),
        (_failure("KeyboardInterrupt", frames=(Frame(file="Cell In[1]", line=1, name="f", text="time.sleep(9)"),)), Kind.KILLED),
        (_failure(exit_code=None, message="vanished"), Kind.UNKNOWN),
        (_failure(exit_code=7), Kind.USER_ERROR),
        (_failure(exit_code=139), Kind.NATIVE_CRASH),
        (_failure(exit_code=130), Kind.KILLED),  # Python's own way to die of a SIGINT at its start and its end
        (_failure(exit_code=-13, signal="SIGPIPE"), Kind.USER_ERROR),
    ],
)  # fmt: skip
def test_words_lead_to_their_category(failure, kind):
    assert _kind(failure) is kind


def test_a_full_shared_memory_explains_a_bus_error():
    bus = _failure(exit_code=-7, signal="SIGBUS")
    assert _kind(bus) is Kind.NATIVE_CRASH
    assert _kind(bus, Evidence(full=(SHM,))) is Kind.HOST_MEMORY


def test_a_store_that_went_away_is_the_rendezvous_unless_its_host_had_finished():
    gone = _failure("DistNetworkError", "Failed to recv, got 0 bytes. Connection was likely closed.")
    assert _kind(gone) is Kind.RENDEZVOUS
    assert _kind(gone, company=Company(finished=(0,))) is Kind.LOST_PEER
    assert _kind(replace(gone, followed="lost its connection after rank 0 failed")) is Kind.LOST_PEER


WRAPPED = f"""Traceback (most recent call last):
  File "/x/site-packages/torch/distributed/distributed_c10d.py", line 9, in all_reduce
RuntimeError: {GLOO}

{{link}}

Traceback (most recent call last):
  Cell In[3], line 2, in step
ValueError: step failed
"""
FROM = "The above exception was the direct cause of the following exception:"
DURING = "During handling of the above exception, another exception occurred:"


@pytest.mark.parametrize("link", [FROM, DURING])
def test_who_wraps_a_lost_connection_has_followed_all_the_same(link):
    wrapped = _failure("ValueError", "step failed", traceback=WRAPPED.replace("{link}", link))
    assert failures_judge.is_lost_peer(wrapped)
    killed = replace(_failure(**KILL), rank=2, local_rank=2, time_ns=2)
    assert [f.rank for f in failures_judge.judge([wrapped, killed])] == [2, 1]


def test_an_import_error_that_was_handled_is_not_the_cause():
    text = WRAPPED.replace("RuntimeError", "ImportError").replace(GLOO, "no apex")
    assert _kind(_failure("ValueError", "step failed", traceback=text.replace("{link}", DURING))) is Kind.USER_ERROR
    assert _kind(_failure("ValueError", "step failed", traceback=text.replace("{link}", FROM))) is Kind.IMPORT


def test_a_traceback_that_was_printed_long_before_the_end_is_not_its_cause():
    old = 'Last lines of stderr:\nTraceback (most recent call last):\n  File "a.py", line 1\nImportError: no apex\nepoch 3\n'
    assert _kind(_failure(exit_code=3, traceback=old)) is Kind.USER_ERROR
    assert _kind(_failure(exit_code=1, traceback=old.replace("epoch 3\n", ""))) is Kind.IMPORT


def test_a_time_out_goes_before_those_it_left():
    slow = replace(_failure("RuntimeError", "Timed out waiting 1000ms for recv operation to complete"), time_ns=10**6)
    lost = replace(_failure("RuntimeError", GLOO), rank=0, local_rank=0, time_ns=0)
    assert [f.rank for f in failures_judge.judge([lost, slow])] == [1, 0]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RendezvousError("nobody came"), Kind.RENDEZVOUS),
        (LaunchError("The system refused to start rank 3 of 8 (Cannot allocate memory)."), Kind.HOST_MEMORY),
        (LaunchError("The forkserver did not answer for 60 s."), Kind.UNKNOWN),
    ],
)
def test_a_run_that_could_not_start_has_a_verdict(error, kind):
    told = run_verdict.of_error(error)
    assert (told.category, str(error) in told.reasons) == (kind.value, True)
