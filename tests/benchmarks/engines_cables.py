"""A cable is pulled, and put back: how long until the machines that are left compute again, and until all do.

Runs in: the benchmarks (``make bench-engines``; ``ARGS=cables`` measures nothing else). Needs root, for pretended machines.

Nobody closes a connection here. An engine's own word comes late (Ray's after a minute), so the silence must tell.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import nb_elastic
from nb_elastic import tokens
from nb_elastic.engines import driven
from nb_elastic.engines import join as join_engine
from tests.benchmarks.engines_places import SECRET, Missing
from tests.benchmarks.engines_runs import WAIT_S, wait_for_world
from tests.benchmarks.table import Row, at_most
from tests.engines.joiners import joiners
from tests.programs import on_many_nodes as programs
from tests.support import slurm_cluster
from tests.support.cluster_hosts import Host, hosts
from tests.support.dask_cluster import dask_cluster
from tests.support.ray_cluster import RayCluster

TIMES = 3
PULLED_S = 17.0

Two = tuple[str, Host]
"""What ``--engine`` says to have two machines, and the one whose cable is pulled."""


@contextlib.contextmanager
def _join(net: list[Host], _: Path) -> Iterator[Two]:
    os.environ[join_engine.KEY_VARIABLE] = SECRET
    address, port = net[0].address, join_engine._free_port(net[0].address)
    with joiners() as start:
        token = tokens.Token(key=join_engine._derived(SECRET), addresses=(address,), port=port)
        for host in net[1:]:
            start(token.text, "--wait", "600", prefix=host.prefix)
        # here=no: this process has the network of the first, but not its empty resolv.conf, and would wait for a name service
        yield f"join=address={address},port={port},here=no", net[2]


@contextlib.contextmanager
def _slurm(net: list[Host], _: Path) -> Iterator[Two]:
    if not slurm_cluster.CAN_RUN:
        raise Missing(slurm_cluster.WHY_NOT)
    with slurm_cluster.slurm_cluster(on=net, cpus=4) as cluster:
        os.environ.update(SLURM_CONF=str(cluster.conf), PATH=cluster.env["PATH"])
        yield "slurm=exclusive", net[2]


@contextlib.contextmanager
def _ray(net: list[Host], _: Path) -> Iterator[Two]:
    if importlib.util.find_spec("ray") is None:
        raise Missing("the package ray is not installed (extra ray)")
    folder = Path(tempfile.mkdtemp(prefix="nbr"))  # short: sockets lie there
    try:
        token = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
        cluster = RayCluster(folder, net[0], env=token)
        cluster.start(net[1])
        yield f"ray={cluster.address}", net[1]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _dask(net: list[Host], folder: Path) -> Iterator[Two]:
    if importlib.util.find_spec("distributed") is None:
        raise Missing("the package distributed is not installed (extra dask)")
    with dask_cluster(folder, host=net[0].address, on=net[0]) as cluster:
        for host in net[1:]:
            cluster.work(host.name, host.address, on=host)
        cluster.wait(*(host.name for host in net[1:]))
        yield f"dask={cluster.address}", net[2]


WAYS = {"join": _join, "slurm": _slurm, "ray": _ray, "dask": _dask}


def _pull(engine: str, cut: Host, folder: Path, pulled: Row, back: Row, tell: Callable[[str], None]) -> None:
    go = folder / "go"
    run = nb_elastic.launch(
        programs.tick_until, str(go), engine=engine, nnodes="1:2", nproc_per_node=1, max_restarts=9, detach=True
    )
    try:
        wait_for_world(run, 2)
        for _ in range(TIMES):
            for act, row, size in ((cut.unplug, pulled, 1), (cut.plug, back, 2)):
                act()
                began = time.monotonic()
                wait_for_world(run, size)
                row.samples.append(time.monotonic() - began)
                tell(f"  {row.who}: {row.what}  {row.samples[-1]:.3f} s")
    finally:
        cut.plug()
        run.stop(0.0)
        run.wait(WAIT_S)
        driven.drivers.close()


def measure(tell: Callable[[str], None], chosen: list[str]) -> list[Row]:
    """Two rows for each of these engines, or of all."""
    rows: list[Row] = []
    for name, way in WAYS.items():
        if chosen and name not in chosen:
            continue
        pulled = Row("a cable is pulled (1:2): world 1 runs again", name)
        back = Row("it is put back: world 2", name)
        at_most(pulled, PULLED_S)
        try:
            with tempfile.TemporaryDirectory(prefix="nbp") as folder, hosts(3) as net, net[0].entered():
                tell(f"{name}: starts, on machines with cables")
                with way(net, Path(folder)) as (engine, cut):
                    _pull(engine, cut, Path(folder), pulled, back, tell)
        except (Missing, pytest.skip.Exception) as e:
            tell(f"{name} is left out: {e}")
            continue
        except Exception as e:  # the others are still worth their figures
            pulled.failures, pulled.note = 1, f"{type(e).__name__}: {str(e).splitlines()[0]}"[:200]
            tell(f"  {name}: {pulled.what}  failed: {e}")
        rows += [pulled, back]
    return sorted(rows, key=lambda row: row.what)
