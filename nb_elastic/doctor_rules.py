"""From facts about a machine to checks with advice: what is well, what to know, what stops runs.

Runs in: the kernel or command line. Facts are what ``doctor_probe`` prints; ``failed`` in them says why there are none.
"""

from __future__ import annotations

import difflib
import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from nb_elastic import options
from nb_elastic.errors import OptionError
from nb_elastic.option_table import FLAGS

GIB = 1 << 30
SHM = "/dev/shm"  # noqa: S108 - a name to show
PACKAGE = Path(__file__).parent
FRONT_END_FILES = ("static/widget.js", "static/widget.css", "static/charts.js")
JUPYTER_FOLDERS = (f"{sys.prefix}/share/jupyter", "~/.local/share/jupyter")
OLDEST_TORCH = (2, 9)
OLDEST_PYTHON = (3, 10)
NOT_OPTIONS = {
    f"NB_ELASTIC_{name}"
    for name in [
        "HOME",
        "RDZV_KEY",
        "JOIN_KEY",
        "RUN_ID",
        "RUN_DIR",
        "METRICS_FILE",
        "DRIVER_ADDRESS",
        "NODE_ADDRESS",
        "NODE_LEASE_S",
        "NODE_PLACE",
    ]
}
"""Variables of ours that set no option; those from RUN_ID on are what ranks and the programs of nodes get."""
Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing the doctor looked at.

    Attributes:
        state: ``bad`` stops runs, ``warn`` is worth knowing.
        advice: what to do, or "".
    """

    name: str
    state: Literal["ok", "warn", "bad"]
    text: str
    advice: str = ""


def _ok(name: str, text: str) -> list[Check]:
    return [Check(name=name, state="ok", text=text)]


def _warn(name: str, text: str, advice: str) -> list[Check]:
    return [Check(name=name, state="warn", text=text, advice=advice)]


def _bad(name: str, text: str, advice: str) -> list[Check]:
    return [Check(name=name, state="bad", text=text, advice=advice)]


def python() -> list[Check]:
    """This interpreter and system."""
    said = f"Python {platform.python_version()} in {sys.prefix}, nb_elastic {_version('nb-elastic') or 'from a folder'}"
    if sys.version_info < OLDEST_PYTHON:
        return _bad("python", said, "nb_elastic needs Python 3.10 or newer.")
    if sys.platform != "linux":
        return _warn(
            "python",
            f"{said}, on {sys.platform}",
            "Linux comes first here: ranks start cold, and without binding to CPUs.",
        )
    return _ok("python", said)


def torch(facts: Facts, gpu_facts: Facts) -> list[Check]:
    """Is torch there, new enough, whole, and built for this machine."""
    version = _version("torch")
    if not version:
        return _bad(
            "torch", "torch is not installed in this environment.", f"{sys.executable} -m pip install 'torch>=2.9'"
        )
    number = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
    if number < OLDEST_TORCH:
        return _bad(
            "torch",
            f"torch {version} is too old: its LaunchConfig can't bind to NUMA nodes.",
            "Install torch 2.9 or newer.",
        )
    if why := facts.get("failed"):
        said = f"torch {version} is installed, and importing it {_did(why)}"
        if why.startswith("gave"):
            return _warn("torch", said, "A cold disk or a network folder takes its time: try again.")
        return _bad("torch", said, "Install torch again in this environment.")
    if not facts.get("has_distributed"):
        return _bad("torch", f"torch {version} was built without torch.distributed.", "Install a build that has it.")
    build = f"CUDA {facts['cuda']}" if facts.get("cuda") else f"ROCm {facts['hip']}" if facts.get("hip") else "CPU"
    said = f"torch {version} ({build} build; {', '.join(facts.get('backends', ()))}), imported in {facts['import_s']:.1f} s"
    count = len(gpu_facts.get("topology", {}).get("gpus", ()))
    if count and not facts.get("cuda"):
        advice = "Install torch's CUDA build (https://pytorch.org/get-started/locally)."
        return _warn("torch", f"{said}. This machine has {count} GPU(s) that this build can't use.", advice)
    if count and not facts.get("is_cuda_available"):
        driver = gpu_facts.get("driver") or "unknown"
        advice = "Update the driver, or install a torch built for an older CUDA; in a container, pass the GPUs in (--gpus all)."
        return _bad("torch", f"{said}. CUDA can't use this machine's {count} GPU(s); the driver is {driver}.", advice)
    return _ok("torch", said)


def fork(facts: Facts) -> list[Check]:
    """Can ranks be forked from a process that has imported torch."""
    if facts.get("failed"):
        return []
    if facts.get("is_cuda_initialized"):
        return _warn(
            "fork", "Importing torch initialises CUDA here, so ranks start with spawn: some seconds more.", _FORK_ADVICE
        )
    if facts.get("threads", 1) > 1:
        return _warn(
            "fork", f"Importing torch leaves {facts['threads']} threads here, so ranks start with spawn.", _FORK_ADVICE
        )
    return _ok("fork", "torch's import leaves one thread and no CUDA, so ranks start warm.")


_FORK_ADVICE = "A package that is imported with torch (a .pth file, sitecustomize, a torch backend plug-in) does it; nothing breaks."


def gpus(facts: Facts, environ: Mapping[str, str]) -> list[Check]:
    """Which GPUs there are, and who uses them."""
    if why := facts.get("failed"):
        return _bad(
            "gpus", f"Looking for GPUs {_did(why)}", "Try nvidia-smi: if it hangs or fails as well, the driver is sick."
        )
    found, notes = facts["topology"]["gpus"], list(facts["topology"].get("notes", ()))
    if not found:
        has_devices = any(name.startswith("nvidia") and name[6:].isdecimal() for name in _listed("/dev"))
        said = " ".join(
            ["No NVIDIA GPU: --nproc auto counts CPUs, and gloo is the backend.", *(notes if has_devices else ())]
        )
        return _warn("gpus", said, "The driver sees no GPU that /dev has.") if has_devices else _ok("gpus", said)
    names: dict[str, int] = {}
    for gpu in found:
        key = f"{gpu.get('name') or 'GPU'} ({gpu.get('memory_bytes', 0) / GIB:.0f} GiB)"
        names[key] = names.get(key, 0) + 1
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    said = ", ".join(f"{n} x {key}" for key, n in names.items()) + f"; driver {facts.get('driver') or 'unknown'}"
    said += f"; CUDA_VISIBLE_DEVICES={visible}" if visible is not None else ""
    checks = _ok("gpus", " ".join([said, *notes]))
    index = {gpu.get("uuid"): gpu.get("index") for gpu in found}
    used = [
        f"GPU {index.get(uuid, uuid)}: {name} (pid {pid}, {memory} MiB)"
        for uuid, pid, name, memory in facts.get("users", ())
    ]
    if used:
        advice = "Leave those GPUs out with --gpus, or restart the kernel that holds them."
        checks += _warn("gpus", f"In use: {'; '.join(used)}.", advice)
    return checks


def numa(facts: Facts, machine: Facts) -> list[Check]:
    """Does binding to NUMA nodes help here."""
    if facts.get("failed"):
        return []
    nodes, found = facts["topology"]["nodes"], facts["topology"]["gpus"]
    program = "numactl is not needed" + (" (it is there)" if machine.get("has_numactl") else "")
    with_cpus = [n for n in nodes if n["allowed"]]
    said = "; ".join(f"node {n['index']}: CPUs {n['allowed'] or 'none of ours'}" for n in nodes)
    if len(with_cpus) < 2:
        return _ok("numa", f"One NUMA node with CPUs, so nothing is bound. {said}; {program}.")
    unknown = [str(g["index"]) for g in found if g.get("numa_node") is None]
    if unknown:
        advice = (
            "A virtual machine often hides them. --numa-binding none says so plainly, or ask whoever runs the machine."
        )
        return _warn(
            "numa", f"{said}; the NUMA node of GPU {', '.join(unknown)} is not known, so nothing is bound.", advice
        )
    homes = ", ".join(f"GPU {g['index']} on {g['numa_node']}" for g in found)
    return _ok("numa", f"{said}; {homes or 'no GPU: ranks spread over the nodes'}; {program}.")


def cpus(machine: Facts, gpu_facts: Facts, environ: Mapping[str, str]) -> list[Check]:
    """How many CPUs we may use, and how ranks share them."""
    if machine.get("failed"):
        return _warn("machine", f"Looking at the machine {_did(machine['failed'])}", "Try again.")
    quota = gpu_facts.get("topology", {}).get("cpu_quota")
    said = f"{machine['allowed_cpus']} of {machine['cpus']} CPUs" + (
        f", a container's quota of {quota:g}" if quota else ""
    )
    chosen = environ.get("OMP_NUM_THREADS")
    if chosen is None:
        return _ok("cpus", f"{said}; each rank gets its share as OMP_NUM_THREADS.")
    if chosen == "1" and machine["allowed_cpus"] > 4:
        advice = "Unset it, and each rank gets its share of the CPUs."
        return _warn("cpus", f"{said}; OMP_NUM_THREADS=1 is set, so each rank computes with one thread.", advice)
    return _ok("cpus", f"{said}; OMP_NUM_THREADS={chosen} is set, and ranks keep it.")


def memory(machine: Facts) -> list[Check]:
    """Memory and shared memory."""
    if machine.get("failed"):
        return []
    total, free, limit = (
        machine.get("memory_bytes"),
        machine.get("memory_free_bytes"),
        machine.get("memory_limit_bytes"),
    )
    limit = limit if limit and total and limit < total else None
    said = f"{_gib(free)} of {_gib(total)} free" + (f", and a container's limit of {_gib(limit)}" if limit else "")
    small = min(n for n in (free, limit, 1 << 62) if n is not None) < 2 * GIB
    advice = "A rank takes about 0.3 GiB before it has loaded anything; the OOM killer ends what does not fit."
    checks = _warn("memory", said, advice) if small else _ok("memory", said)
    shm, shm_free = machine.get("shm_bytes"), machine.get("shm_free_bytes")
    if shm is None:
        return [
            *checks,
            *_warn(SHM, "There is none.", "DataLoader workers and NCCL share memory there: mount a tmpfs."),
        ]
    said = f"{_gib(shm_free)} of {_gib(shm)} free"
    if shm < GIB:
        advice = "DataLoader workers and NCCL need more: start the container with --shm-size=8g or --ipc=host (Kubernetes: an emptyDir of medium Memory)."
        return [*checks, *_warn(SHM, said, advice)]
    if shm_free is not None and shm_free < GIB // 4:
        return [*checks, *_warn(SHM, said, "Something fills it: look with ls -l /dev/shm.")]
    return [*checks, *_ok(SHM, said)]


def limits(machine: Facts) -> list[Check]:
    """Limits on files and processes, and what debuggers may do."""
    if machine.get("failed"):
        return []
    checks: list[Check] = []
    files, hard = machine["open_files"]
    if 0 <= files < 1024:
        checks += _warn(
            "open files", f"ulimit -n is {files} (at most {hard}).", "Raise it to 4096 or more: each rank opens dozens."
        )
    else:
        checks += _ok("open files", f"ulimit -n is {_limit(files)}.")
    processes, tasks = machine["processes"][0], machine.get("pids_limit")
    least = min((n for n in (processes, tasks) if n is not None and n >= 0), default=-1)
    said = (
        f"ulimit -u is {_limit(processes)}" + (f", the container's limit is {tasks}" if tasks is not None else "") + "."
    )
    if 0 <= least < 1024:
        checks += _warn(
            "processes", said, "Threads count as well, and each rank has dozens: raise it (docker run --pids-limit)."
        )
    else:
        checks += _ok("processes", said)
    scope = machine.get("ptrace_scope")
    if scope:
        checks += _ok(
            "ptrace",
            f"kernel.yama.ptrace_scope is {scope}; nothing here needs ptrace, native debuggers {'do' if scope != '0' else 'work'}.",
        )
    if not machine.get("has_memfd"):
        checks += _ok("memfd", "There is no memfd_create here: big captures go through files.")
    return checks


def names(facts: Facts) -> list[Check]:
    """The host's name, and loopback."""
    if why := facts.get("failed"):
        return _warn(
            "names", f"Looking up this host's name {_did(why)}", "Name servers don't answer. One node never asks them."
        )
    if facts.get("loopback"):
        return _bad("names", f"127.0.0.1 does not work: {facts['loopback']}.", "Bring it up: ip link set lo up.")
    host, addresses = facts["host"], facts["addresses"]
    harmless = (
        "harmless, since one node meets on 127.0.0.1, and several by the address in --rdzv-endpoint and --local-addr"
    )
    if not addresses:
        return _ok("names", f"The host's name {host} resolves nowhere: {harmless}.")
    if all(a.startswith("127.") or a == "::1" for a in addresses):
        return _ok("names", f"The host's name {host} is {', '.join(addresses)}: {harmless}.")
    return _ok("names", f"The host's name {host} is {', '.join(addresses)}.")


def home(facts: Facts) -> list[Check]:
    """The home of all runs."""
    if why := facts.get("failed"):
        return _bad("home", f"Looking at the home of runs {_did(why)}", "Choose another with NB_ELASTIC_HOME.")
    path = facts["path"]
    if facts["error"]:
        return _bad(
            "home",
            f"Runs can't be kept in {path}: {facts['error']}.",
            "Choose another with NB_ELASTIC_HOME, or --log-dir.",
        )
    if facts["exists"] and not facts["is_own"]:
        return _bad("home", f"{path} belongs to another user.", "Choose another with NB_ELASTIC_HOME.")
    said = f"{path}: {facts['runs']} run(s), {_gib(facts['free_bytes'])} free"
    if facts["free_bytes"] < GIB or facts.get("free_files") in range(1000):
        return _warn(
            "home",
            said,
            "Logs and results fill it: nb-elastic prune deletes old runs, NB_ELASTIC_HOME names another place.",
        )
    if facts["exists"] and facts["mode"] & 0o077:
        return _ok("home", f"{said}; others may look into it until the next run closes it.")
    return _ok("home", said)


def front_end(environ: Mapping[str, str], *, package: Path = PACKAGE) -> list[Check]:
    """What shows runs: packages, the dashboard's built files, and the extension of JupyterLab."""
    name = "front end"
    found = {
        name: _version(name)
        for name in ("ipython", "ipykernel", "ipywidgets", "anywidget", "jupyterlab", "notebook", "rich")
    }
    said = ", ".join(f"{name} {version}" for name, version in found.items() if version) or "none of IPython's packages"
    if not found["anywidget"]:
        advice = "Install anywidget, which brings ipywidgets, and restart the kernel; until then runs show as a table."
        return _warn(name, f"{said}; no anywidget", advice)
    if missing := [file for file in FRONT_END_FILES if not (package / file).is_file()]:
        advice = "Install a wheel, or build the front end as CONTRIBUTING.md says; until then runs show as a table."
        return _warn(name, f"{said}; the dashboard was not built ({', '.join(missing)} missing)", advice)
    folders = [*filter(None, environ.get("JUPYTER_PATH", "").split(os.pathsep)), *JUPYTER_FOLDERS]
    if any((Path(f).expanduser() / "labextensions" / "nb-elastic" / "package.json").is_file() for f in folders):
        said += "; the dashboard and its JupyterLab extension are there"
    else:
        said += "; the dashboard is there; its JupyterLab extension is not, and belongs where JupyterLab is installed"
    if not (found["jupyterlab"] or found["notebook"]):
        said += "; JupyterLab is not in this environment, which is well if it runs from another"
    return _ok(name, said)


def environment(environ: Mapping[str, str]) -> list[Check]:
    """Variables that change launches."""
    checks: list[Check] = []
    known = {v for flag in FLAGS for v in flag.variables} | NOT_OPTIONS
    ours = [name for name in environ if name.startswith("NB_ELASTIC_")]
    for name in sorted(set(ours) - known):
        close = difflib.get_close_matches(name, sorted(known), n=1)
        checks += _warn(
            "environment", f"{name} is set, and is no option.", f"Did you mean {close[0]}?" if close else "Unset it."
        )
    try:
        options.parse([], environ=environ, target="forbidden")
    except OptionError as e:
        checks += _bad("environment", str(e).replace(" Nothing was started.", ""), "Unset or mend it.")
    if left := [name for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name in environ]:
        checks += _warn(
            "environment",
            f"{', '.join(left)} is set, as inside a rank.",
            "Ranks get their own values. Unset it if nothing else needs it.",
        )
    used = sorted(name for name in environ if name in known and environ[name])
    said = f"These set options: {', '.join(used)}." if used else "No variable changes options."
    return checks or _ok("environment", said)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _did(why: str) -> str:
    return f"{why}." if why.startswith(("gave", "ended", "could")) else f"failed: {why}."


def _gib(size_bytes: float | None) -> str:
    return "?" if size_bytes is None else f"{size_bytes / GIB:.1f} GiB"


def _limit(number: int) -> str:
    return "unlimited" if number < 0 or number >= 1 << 62 else str(number)


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
