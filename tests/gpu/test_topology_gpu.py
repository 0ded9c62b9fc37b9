"""The map of real GPUs against what CUDA says of them, and that reading it leaves CUDA untouched.

Runs in: the tests, on a machine with NVIDIA GPUs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from nb_elastic import topology

pytestmark = pytest.mark.gpu

CUDA = """
import json, torch
found = []
for index in range(torch.cuda.device_count()):
    p = torch.cuda.get_device_properties(index)
    pci = f"{p.pci_domain_id:04x}:{p.pci_bus_id:02x}:{p.pci_device_id:02x}.0"
    found.append([f"GPU-{p.uuid}", pci, p.name, p.total_memory])
print(json.dumps(found))
"""


def cuda_sees(**environ: str) -> list[list[object]]:
    done = subprocess.run(
        [sys.executable, "-c", CUDA],
        env={**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[list[object]] = json.loads(done.stdout)
    return found


def test_the_map_names_the_gpus_that_cuda_names() -> None:
    gpus = topology.read().gpus
    cuda = cuda_sees()
    assert [[gpu.uuid, gpu.pci, gpu.name] for gpu in gpus] == [told[:3] for told in cuda]
    # NVML counts what the driver keeps for itself; CUDA does not.
    assert [gpu.memory_bytes >= int(str(told[3])) > 0 for gpu, told in zip(gpus, cuda, strict=True)] == [True] * len(
        gpus
    )


def test_visible_devices_by_number_and_uuid_mean_what_cuda_means() -> None:
    found = topology.read()
    last = found.gpus[-1]
    for variable in (str(last.index), last.uuid, last.uuid[:12], "-1", "99", f"{last.index},99,0"):
        visible = topology.visible_gpus(found, cuda_visible_devices=variable)
        assert [gpu.uuid for gpu in visible] == [told[0] for told in cuda_sees(CUDA_VISIBLE_DEVICES=variable)], variable


UNTOUCHED = """
import os, subprocess, sys
from nb_elastic import topology
assert topology.read().gpus
maps = open("/proc/self/maps").read()
files = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
users = subprocess.run([sys.argv[1], "--query-compute-apps=pid", "--format=csv,noheader"], capture_output=True, text=True)
print("libcuda.so" in maps, "/dev/nvidia-uvm" in files, str(os.getpid()) in users.stdout.split())
import torch
pid = os.fork()
if not pid:
    torch.ones(1, device="cuda").cpu()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_reading_the_map_starts_no_cuda_so_ranks_can_still_be_forked() -> None:
    """A context here would cost GPU memory in the supervisor, and break CUDA in every rank forked from it."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        pytest.skip("needs nvidia-smi")
    done = subprocess.run([sys.executable, "-c", UNTOUCHED, smi], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False False False", "0"]
