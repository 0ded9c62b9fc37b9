"""Looks at one side of this machine and prints what it found as one JSON object.

Runs in: short processes of its own, ``python -m nb_elastic.doctor_probe NAME``, so that a driver that hangs or crashes,
a name server that is silent or a network folder that is gone can't take the doctor with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Facts = dict[str, Any]
SHM = "/dev/shm"  # noqa: S108 - looked at, never written to


def probe_torch() -> Facts:
    """Import torch as the launcher does, and see what that leaves: threads, CUDA, backends."""
    began = time.monotonic()
    import torch
    import torch.distributed as dist

    found: Facts = {
        "import_s": time.monotonic() - began,
        "threads": len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 0,
        "version": str(torch.__version__),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "is_cuda_initialized": bool(torch.cuda.is_initialized()),  # type: ignore[no-untyped-call]
        "has_distributed": dist.is_available(),
    }
    if dist.is_available():
        found["backends"] = [n for n in ("gloo", "nccl", "mpi", "ucc") if getattr(dist, f"is_{n}_available", bool)()]
    # Asks NVML, as the launcher's environment says, so no CUDA context is made.
    found["is_cuda_available"] = torch.cuda.is_available()
    return found


def probe_gpus() -> Facts:
    """GPUs and NUMA nodes, the driver, and who uses the GPUs."""
    from nb_elastic import topology

    found: Facts = {"topology": topology.to_json(topology.read()), "users": []}
    driver = _read("/proc/driver/nvidia/version").splitlines()
    found["driver"] = driver[0].removeprefix("NVRM version:").strip() if driver else ""
    if found["topology"]["gpus"] and (program := shutil.which("nvidia-smi")):
        query = "--query-compute-apps=gpu_uuid,pid,process_name,used_memory"
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(
                [program, query, "--format=csv,noheader,nounits"],
                capture_output=True,
                text=True,
                timeout=15,
                check=False,
            )
            rows = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()]
            found["users"] = [row for row in rows if len(row) == 4]
    return found


def probe_machine() -> Facts:
    """Shared memory, memory, limits and settings of the system."""
    shm = os.statvfs(SHM) if os.path.isdir(SHM) else None
    return {
        "shm_bytes": shm.f_frsize * shm.f_blocks if shm else None,
        "shm_free_bytes": shm.f_frsize * shm.f_bavail if shm else None,
        "memory_bytes": _meminfo("MemTotal"),
        "memory_free_bytes": _meminfo("MemAvailable"),
        "memory_limit_bytes": _cgroup_limit("memory", ("memory.max", "memory.limit_in_bytes")),
        "pids_limit": _cgroup_limit("pids", ("pids.max",)),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "processes": resource.getrlimit(resource.RLIMIT_NPROC),
        "allowed_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpus": os.cpu_count(),
        "ptrace_scope": _read("/proc/sys/kernel/yama/ptrace_scope"),
        "has_memfd": hasattr(os, "memfd_create"),
        "has_numactl": shutil.which("numactl") is not None,
    }


def probe_names() -> Facts:
    """How this host's own name resolves, and whether loopback works."""
    found: Facts = {"host": socket.gethostname(), "addresses": [], "loopback": ""}
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=5),
        ):
            pass
    except OSError as e:
        found["loopback"] = str(e)
    with contextlib.suppress(OSError, UnicodeError):
        found["addresses"] = sorted({str(info[4][0]) for info in socket.getaddrinfo(found["host"], None)})
    return found


def probe_home() -> Facts:
    """The home of all runs: may we write there, and how much fits."""
    from nb_elastic import rundir

    home = rundir.home()
    found: Facts = {"path": str(home), "error": "", "runs": len(rundir.all_runs())}
    place = next(p for p in (home, *home.parents) if p.exists())
    found["exists"] = place == home
    if not place.is_dir():
        return {**found, "error": f"{place} is not a folder"}
    info, disk = place.stat(), os.statvfs(place)
    found |= {"mode": info.st_mode & 0o777, "is_own": info.st_uid == os.getuid()}
    found |= {"free_bytes": disk.f_frsize * disk.f_bavail, "free_files": disk.f_favail if disk.f_files else None}
    aside = place / f".nb_elastic-doctor-{os.getpid()}"
    try:
        with open(aside, "xb") as f:
            f.write(b"x" * 4096)
            f.flush()
            os.fsync(f.fileno())
    except OSError as e:
        found["error"] = f"{place}: {e.strerror or e}"
    finally:
        aside.unlink(missing_ok=True)
    return found


PROBES: dict[str, Callable[[], Facts]] = {
    "torch": probe_torch,
    "gpus": probe_gpus,
    "machine": probe_machine,
    "names": probe_names,
    "home": probe_home,
}


def main(name: str) -> int:
    """Print what one probe found; stdout carries nothing else, whatever imports print."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with out:
        json.dump(PROBES[name](), out)
    return 0


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _meminfo(key: str) -> int | None:
    lines = (line.split() for line in _read("/proc/meminfo").splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == f"{key}:"), None)


def _cgroup_limit(controller: str, files: tuple[str, ...]) -> int | None:
    """The least limit on the way from this process's cgroup to the root; None where there is none."""
    found = [_read(folder / name) for folder in _cgroup_folders(controller) for name in files]
    # Version 1 writes "no limit" as a number near 2**63.
    return min((int(text) for text in found if text.isdecimal() and int(text) < 1 << 60), default=None)


def _cgroup_folders(controller: str) -> Iterator[Path]:
    base = Path("/sys/fs/cgroup")
    for line in _read("/proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number != "0" and controller not in controllers.split(","):
            continue
        top = base / controller if controllers else base
        parts = [part for part in path.split("/") if part not in {"", ".."}]
        yield from (top.joinpath(*parts[:n]) for n in range(len(parts) + 1))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
