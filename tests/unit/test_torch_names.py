"""torch still has the private names that our agent hangs on: when it moves one, this fails and says which."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.distributed import distributed_c10d
from torch.distributed.elastic.agent.server.api import SimpleElasticAgent, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, PContext
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from nb_elastic import rankflight
from tests.support.until import until


@pytest.mark.parametrize(
    "name",
    [
        "_rendezvous", "_start_workers", "_monitor_workers", "_stop_workers", "_restart_workers", "_shutdown", "_exit_barrier",
        "_construct_event", "_setup_local_watchdog", "_setup_healthcheck", "_invoke_run", "_initialize_workers",
    ],
)  # fmt: skip
def test_the_agent_has_the_hook(name):
    assert callable(getattr(LocalElasticAgent, name))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_rendezvous", ["self", "worker_group"]),
        ("_start_workers", ["self", "worker_group"]),
        ("_monitor_workers", ["self", "worker_group"]),
        ("_restart_workers", ["self", "worker_group"]),
        ("_stop_workers", ["self", "worker_group"]),
    ],
)
def test_the_hook_takes_what_we_give(name, parameters):
    assert list(inspect.signature(getattr(LocalElasticAgent, name)).parameters) == parameters


def test_torchs_loop_calls_the_hooks_that_we_override():
    """If the loop went other ways, restarts and stops would go past the journal."""
    loop = inspect.getsource(SimpleElasticAgent._invoke_run)
    for call in (
        "self._initialize_workers(",
        "self._monitor_workers(",
        "self._restart_workers(",
        "self._stop_workers(",
        "self._exit_barrier(",
    ):
        assert call in loop
    assert "self._rendezvous(" in inspect.getsource(SimpleElasticAgent._initialize_workers)
    assert "self._start_workers(" in inspect.getsource(SimpleElasticAgent._initialize_workers)
    assert "self._pcontext.wait(0)" in inspect.getsource(LocalElasticAgent._monitor_workers)
    assert "self._shutdown(" in inspect.getsource(SimpleElasticAgent.run)


def test_the_agent_keeps_its_state_where_we_read_it():
    source = inspect.getsource(SimpleElasticAgent.__init__) + inspect.getsource(LocalElasticAgent.__init__)
    for name in ("_remaining_restarts", "_worker_group", "_pcontext", "_logs_specs"):
        assert f"self.{name}" in source


def test_the_process_context_has_the_hooks():
    assert {"_start", "_poll", "pids", "_close"} == set(PContext.__abstractmethods__)
    assert list(inspect.signature(PContext._close).parameters) == ["self", "death_sig", "timeout"]
    known = inspect.signature(PContext.__init__).parameters
    assert {"name", "entrypoint", "args", "envs", "logs_specs"} <= set(known)


def test_logs_and_failures_have_their_fields():
    assert {"stdouts", "stderrs", "error_files"} <= set(LogsDest.__dataclass_fields__)
    assert {"reify", "root_log_dir"} == set(LogsSpecs.__abstractmethods__)
    assert list(inspect.signature(ProcessFailure).parameters) == ["local_rank", "pid", "exitcode", "error_file"]
    assert {"role", "local_world_size", "entrypoint", "rdzv_handler", "monitor_interval"} <= set(
        inspect.signature(WorkerSpec).parameters
    )


def test_signals_are_handled_as_the_variable_says():
    """We name a harmless one there, so that torch leaves our handlers alone."""
    assert "TORCHELASTIC_SIGNALS_TO_HANDLE" in inspect.getsource(PContext.start)


# -- what rankflight reads in a rank: without it a hang's verdict knows no collective's number -------------------------


def test_torch_tells_when_the_default_group_is_made_and_destroyed():
    assert callable(getattr(distributed_c10d, rankflight.HOOK))
    for caller in (distributed_c10d.init_process_group, distributed_c10d.destroy_process_group):
        assert f"{rankflight.HOOK}(" in inspect.getsource(caller)


def test_a_process_group_s_numbers_and_last_collectives_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FR_BUFFER_SIZE", "64")
    begun: list[str] = []
    plain = getattr(distributed_c10d, rankflight.HOOK)
    monkeypatch.setattr(distributed_c10d, rankflight.HOOK, plain)  # put back at the end
    rankflight.watch(distributed_c10d, lambda: begun.append("begin"), lambda: begun.append("end"))
    store = f"file://{tmp_path}/store"
    distributed_c10d.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        for _ in range(2):
            distributed_c10d.all_reduce(torch.ones(3))
        # A thread of torch's notes it.
        until(lambda: all(e["is_done"] for e in rankflight.read()["entries"] if e["group"] == "0"))
        told = rankflight.read()
    finally:
        distributed_c10d.destroy_process_group()
    assert begun == ["begin", "end"]
    assert told["groups"] == [{"name": "0", "ranks": [0], "seq": 2}]
    ours = [e for e in told["entries"] if e["group"] == "0"][-2:]
    assert [(e["op"], e["seq"], e["shapes"], e["is_p2p"], e["is_done"]) for e in ours] == [
        ("all_reduce", 1, "[[3]]", False, True),
        ("all_reduce", 2, "[[3]]", False, True),
    ]


def test_a_rank_without_a_process_group_tells_of_none():
    assert rankflight.read() == {"groups": [], "entries": rankflight.read()["entries"]}
