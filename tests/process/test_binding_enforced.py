"""Binding for real: on a pretended machine of two nodes, the kernel keeps each rank where we say it is.

Runs in: the tests. The pretended machine is bind mounts over sysfs in a mount namespace of our own: the map is
pretended, the CPUs and the scheduler are real. Needs root and two CPUs.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nb_elastic.topology import parse_ranges
from tests.support import fake_sys
from tests.support.fake_sys import FakeGpu, Machine

REPOSITORY = Path(__file__).parents[2]
MINE = sorted(os.sched_getaffinity(0))
FIRST, SECOND = (MINE * 2)[:2]
MOUNTED = ("sys/devices/system/node", "sys/devices/system/cpu", "sys/bus/pci/devices")
CPUSETS = Path("/sys/fs/cgroup/cpuset")
TWO_NODES = Machine(
    nodes={0: str(FIRST), 1: str(SECOND)},
    sockets={0: 0, 1: 1},
    gpus=[FakeGpu(1), FakeGpu(0)],
)


def _can_pretend() -> bool:
    if len(MINE) < 2 or os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    mount = "mount --bind /sys/devices/system/node /sys/devices/system/node"
    return subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _can_pretend(), reason="needs root, mount namespaces and two CPUs")


def pretended(root: Path, *command: str) -> list[str]:
    """The command line that runs ``command`` on the pretended machine below ``root``, as one process."""
    mounts = " && ".join(f"mount --bind {root}/{path} /{path}" for path in MOUNTED)
    return ["unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh", *command]


@contextlib.contextmanager
def rank(
    root: Path, number: int, nproc: int, mode: str, *, gpus: int = 0, before: str = ""
) -> Iterator[dict[str, Any]]:
    """A process bound as one local rank: what it told, plus ``kernel``: the CPUs of its threads, from outside."""
    command = [sys.executable, "-m", "tests.support.bound_rank", str(number), str(nproc), mode, str(gpus)]
    if before:
        command = ["sh", "-c", f'{before} && exec "$@"', "sh", *command]
    process = subprocess.Popen(
        pretended(root, *command), cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    tasks = Path(f"/proc/{process.pid}/task")
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        told = json.loads(process.stdout.readline())
        yield {**told, "kernel": sorted({cpus for task in tasks.iterdir() if (cpus := _allowed(task))})}
    finally:
        process.stdin.close()
        process.stdout.close()
        assert process.wait(60) == 0


def _allowed(task: Path) -> tuple[int, ...]:
    """CPUs of a thread, as the kernel tells; empty for one that has just ended."""
    try:
        status = (task / "status").read_text()
    except OSError:
        return ()
    line = next(line for line in status.splitlines() if line.startswith("Cpus_allowed_list:"))
    return parse_ranges(line.partition(":")[2])


def bound_to(*cpus: int, note: str = "") -> dict[str, Any]:
    """What a rank tells, and the kernel says of all its threads, when it is where it should be."""
    where = list(cpus)
    return {"planned": where, "got": where, "seen": where, "note": note, "kernel": [cpus]}


@pytest.mark.parametrize("mode", ["auto", "node", "socket", "exclusive", "core-complex"])
def test_each_rank_runs_on_its_gpus_node_and_nowhere_else(mode: str, tmp_path: Path) -> None:
    """GPU 0 is on node 1: rank 0 must run there, its older threads and those it starts included."""
    root = fake_sys.write(TWO_NODES, tmp_path)
    with rank(root, 0, 2, mode, gpus=2) as told:
        assert told == bound_to(SECOND)
    with rank(root, 1, 2, mode, gpus=2) as told:
        assert told == bound_to(FIRST)


def test_ranks_without_gpus_are_spread_over_the_nodes(tmp_path: Path) -> None:
    root = fake_sys.write(TWO_NODES.but(gpus=()), tmp_path)
    with rank(root, 0, 2, "auto") as told:
        assert told == bound_to(FIRST)
    with rank(root, 1, 2, "auto") as told:
        assert told == bound_to(SECOND)


def test_none_leaves_the_rank_all_its_cpus(tmp_path: Path) -> None:
    root = fake_sys.write(TWO_NODES, tmp_path)
    with rank(root, 0, 2, "none", gpus=2) as told:
        assert (told["planned"], told["got"], told["kernel"]) == ([], MINE, [tuple(MINE)])


def test_cpus_taken_away_by_taskset_or_slurm_are_never_used(tmp_path: Path) -> None:
    """GPU 0's node has no CPU left for us: its rank runs on the other node instead of failing."""
    root = fake_sys.write(TWO_NODES, tmp_path)
    with rank(root, 0, 2, "node", gpus=2, before=f"taskset -p -c {FIRST} $$ >/dev/null") as told:
        assert told == bound_to(FIRST)


@pytest.mark.skipif(not os.access(CPUSETS / "tasks", os.W_OK), reason="needs a writable cpuset hierarchy (cgroup v1)")
def test_a_real_cpuset_is_obeyed(tmp_path: Path) -> None:
    root = fake_sys.write(TWO_NODES, tmp_path)
    cpuset = CPUSETS / f"nb-elastic-test-{os.getpid()}"
    cpuset.mkdir()
    try:
        (cpuset / "cpuset.cpus").write_text(str(SECOND))
        (cpuset / "cpuset.mems").write_text((CPUSETS / "cpuset.mems").read_text())
        with rank(root, 1, 2, "node", gpus=2, before=f"echo $$ > {cpuset}/tasks") as told:
            assert told == bound_to(SECOND)
        with rank(root, 1, 2, "auto", gpus=2, before=f"echo $$ > {cpuset}/tasks") as told:
            assert (told["planned"], told["kernel"]) == ([], [(SECOND,)])
            assert told["note"] == "CPU binding is off: there is one NUMA node to run on."
    finally:
        cpuset.rmdir()


TORCH = """
import sys
from types import SimpleNamespace
from unittest import mock
import torch
from torch.numa import binding
def properties(device):
    return SimpleNamespace(pci_domain_id=0, pci_bus_id=0x10 + device, pci_device_id=0)
with mock.patch.object(torch.cuda, "device_count", lambda: 2), mock.patch.object(torch.cuda, "get_device_properties", properties):
    for mode in binding.AffinityMode:
        options = binding.NumaOptions(affinity_mode=mode)
        print(mode.value, [sorted(binding._get_logical_cpus_to_bind_to(gpu_index=gpu, numa_options=options)) for gpu in (0, 1)])
"""


def test_torch_itself_sees_the_same_machine(tmp_path: Path) -> None:
    """Nothing of torch's file reading is pretended here: a check of the unit tests' way of letting torch look."""
    root = fake_sys.write(TWO_NODES, tmp_path)
    done = subprocess.run(pretended(root, sys.executable, "-c", TORCH), capture_output=True, text=True, check=True)
    expected = f"[[{SECOND}], [{FIRST}]]"
    assert done.stdout.splitlines() == [
        f"{mode} {expected}" for mode in ("node", "socket", "exclusive", "core-complex")
    ]
