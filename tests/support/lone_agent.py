"""One node with torch's own agent and our rendezvous, and nothing else of ours around it.

Runs in: a process of the tests: ``python -m tests.support.lone_agent '<JSON>'`` with keys ``options``, ``program``
(``module:function``, run by each rank in a fork), ``nproc``, ``rdzv_id``, ``key`` (hex), ``is_stock`` (torch's own
handler, to show what it does). Prints one JSON line for each thing that happens; ``tests.support.nodes`` starts it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import traceback
from typing import Any

from torch.distributed.elastic.agent.server import WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousParameters, rendezvous_handler_registry

from nb_elastic import lifeline
from nb_elastic.errors import ElasticError
from nb_elastic.model import from_json
from nb_elastic.model_options import LaunchOptions
from nb_elastic.supervisor.rendezvous import make_handler


def tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


class LoneAgent(LocalElasticAgent):
    """Tells each round as it begins, and why it ended."""

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        super()._rendezvous(worker_group)
        tell(
            world_size=worker_group.workers[0].world_size,
            rank=worker_group.workers[0].global_rank,
            master_addr=worker_group.master_addr,
            master_port=worker_group.master_port,
            restarts=worker_group.spec.max_restarts - self._remaining_restarts,
        )


def stock_handler(options: LaunchOptions, rdzv_id: str) -> RendezvousHandler:
    return rendezvous_handler_registry.create_handler(
        RendezvousParameters(
            "c10d",
            options.rdzv_endpoint or "localhost:0",
            rdzv_id,
            options.min_nodes,
            options.max_nodes,
            "127.0.0.1",
            **options.rdzv_conf,
        )
    )


def main(asked: dict[str, Any]) -> int:
    lifeline.die_with_parent(parent=os.getppid())
    options = from_json(LaunchOptions, asked["options"])
    nproc, rdzv_id = asked.get("nproc", 1), asked.get("rdzv_id", "test")
    if asked.get("is_stock"):
        handler, env = stock_handler(options, rdzv_id), {}
    else:
        key = bytes.fromhex(asked.get("key", ""))
        bundle = make_handler(options, rdzv_id=rdzv_id, key=key, nproc=nproc, note=lambda text: tell(note=text))
        handler, env = bundle.handler, dict(bundle.env)
        tell(backend=bundle.backend, env=env, local_addr=bundle.local_addr)
    os.environ.update(env)
    module, _, function = asked["program"].partition(":")
    spec = WorkerSpec(
        role="default",
        local_world_size=nproc,
        rdzv_handler=handler,
        entrypoint=getattr(importlib.import_module(module), function),
        max_restarts=options.max_restarts,
        monitor_interval=0.05,
    )
    with tempfile.TemporaryDirectory(prefix="nbe-agent-") as folder:
        agent = LoneAgent(
            spec, DefaultLogsSpecs(log_dir=folder, redirects=Std.NONE), start_method="fork", exit_barrier_timeout=20
        )
        result = agent.run()
    tell(
        state=result.state.name,
        results={str(rank): value for rank, value in result.return_values.items()},
        failures={str(rank): str(failure.message) for rank, failure in result.failures.items()},
    )
    handler.shutdown()
    return int(result.is_failed())


def run(asked: str) -> int:
    """Do what a command line asks for; returns the exit code."""
    try:
        return main(json.loads(asked))
    except ElasticError as e:
        tell(error=type(e).__name__, text=str(e))
    except Exception as e:  # the test wants to see whatever ends an agent
        tell(error=type(e).__name__, text=str(e))
        traceback.print_exc()
    return 1


if __name__ == "__main__":
    sys.exit(run(sys.argv[1]))
