"""What stands behind ``--engine slurm=``: the user's allocation, or srun's own long options for a new one.

Runs in: the kernel or the command line.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from nb_elastic.engines.base import Wanted
from nb_elastic.errors import OptionError

FLAGS = frozenset({"contiguous", "exclusive", "oversubscribe", "reboot", "spread-job", "use-min-nodes"})
"""Options that may stand without a value."""

LISTS = frozenset({"constraint", "dependency", "exclude", "gpus", "gpus-per-node", "gpus-per-task", "gres", "licenses", "nodelist", "partition", "qos", "tres-per-task"})  # fmt: skip
"""Options whose values may have commas."""

ASKED = FLAGS | LISTS | frozenset({
    "account", "acctg-freq", "begin", "bell", "burst-buffer", "bb", "bbf", "cluster-constraint", "clusters", "container", "core-spec",
    "cores-per-socket", "cpu-freq", "cpus-per-gpu", "cpus-per-task", "chdir", "deadline", "delay-boot", "extra", "extra-node-info",
    "gid", "gpu-bind", "gpu-freq", "hint", "immediate", "job-name", "mail-type", "mail-user", "mcs-label", "mem", "mem-bind", "mem-per-cpu",
    "mem-per-gpu", "mincpus", "network", "nice", "power", "prefer", "priority", "profile", "propagate", "reservation", "segment",
    "sockets-per-node", "switches", "task-epilog", "task-prolog", "threads-per-core", "time", "time-min", "tmp", "uid", "wckey",
})  # fmt: skip
"""Options of srun and salloc that say which nodes, for how long, and at whose cost."""

OURS = {
    "nodes": "--nnodes says it",
    "ntasks": "--nproc-per-node says it",
    "ntasks-per-node": "--nproc-per-node says it",
    "ntasks-per-core": "--nproc-per-node says it",
    "ntasks-per-socket": "--nproc-per-node says it",
    "ntasks-per-gpu": "--nproc-per-node says it",
    "jobid": "job= says it",
    "comment": "nb_elastic finds its jobs by it",
    "export": "--env says what ranks see besides",
}
GPU_OPTIONS = frozenset({"gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task", "gres", "tres-per-task"})
CPU_OPTIONS = frozenset({"cpus-per-task", "cpus-per-gpu", "exclusive", "mincpus", "tres-per-task"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Attributes:
    job: id of an allocation to use, or "".
    python: interpreter on the nodes, or "" for the path of this one.
    options: of srun, name and value; the value is "" where there is none.
    """  # noqa: D205

    job: str = ""
    python: str = ""
    options: tuple[tuple[str, str], ...] = ()

    @property
    def words(self) -> list[str]:
        """The options as srun takes them."""
        return [f"--{name}={value}" if value else f"--{name}" for name, value in self.options]

    def get(self, name: str) -> str:
        """Value of an option, or ""."""
        return dict(self.options).get(name, "")

    def has(self, names: frozenset[str]) -> bool:
        """Whether one of these options is given."""
        return any(name in names for name, _value in self.options)


def parse(text: str) -> Settings:
    """Take ``partition=gpu,time=60,exclusive`` apart.

    Raises:
        OptionError: for what srun would not know, or nb_elastic says itself.
    """
    found: dict[str, str] = {}
    last = ""
    for piece in filter(None, (p.strip() for p in text.split(","))):
        name, is_valued, value = piece.partition("=")
        name = name.strip().lstrip("-").replace("_", "-")
        if not is_valued and last in LISTS and name not in FLAGS:  # the next item of nodelist=n1,n2
            found[last] += f",{piece}"
            continue
        _check(name, value.strip(), is_valued=bool(is_valued))
        if name in found:
            raise OptionError(f"--engine slurm={text}: {name} stands there twice. Nothing was started.")
        found[name] = value.strip()
        last = name
    job, python = found.pop("job", ""), found.pop("python", "")
    if job and not job.replace("_", "").isdecimal():
        raise OptionError(f"--engine slurm=job={job}: a job's id is a number, as squeue shows it. Nothing was started.")
    if job and found:
        raise OptionError(
            f"--engine slurm={text}: job={job} is an allocation that exists already, so {next(iter(found))} can't be asked of it."
            " Nothing was started."
        )
    return Settings(job=job, python=python, options=tuple(found.items()))


def _check(name: str, value: str, *, is_valued: bool) -> None:
    if name in {"job", "python"} | ASKED:
        if not value and (is_valued or name not in FLAGS):
            raise OptionError(f"--engine slurm={name}: {name} needs a value, as in {name}=VALUE. Nothing was started.")
        return
    if name in OURS:
        raise OptionError(f"--engine slurm={name}: {name} can't be set here: {OURS[name]}. Nothing was started.")
    near = difflib.get_close_matches(name, ASKED | {"job", "python"}, n=1)
    hint = f" Is {near[0]} meant?" if near else ""
    raise OptionError(
        f"--engine slurm={name}: neither job=ID, python=PATH nor an option with which srun asks for nodes (partition=,"
        f" time=, account=, gpus-per-node=, ...).{hint} Nothing was started."
    )


def share(settings: Settings, wanted: Wanted, kinds: Sequence[tuple[int, int]]) -> list[str]:
    """Options for the CPUs and GPUs of each node, where the user gave none.

    Args:
        kinds: CPUs and GPUs of a node, for each kind of node in the partition.
    """
    words = []
    with_gpus = [(cpus, gpus) for cpus, gpus in kinds if gpus]
    most = min((gpus for _cpus, gpus in with_gpus), default=0)
    gpus = max(0, wanted.gpus)
    if wanted.gpus < 0 or (not wanted.gpus and wanted.prefers_gpus):
        gpus = min(wanted.nproc, most) if wanted.nproc and not wanted.gpus else most
    if settings.has(GPU_OPTIONS):
        gpus = 0
    elif gpus:
        words.append(f"--gpus-per-node={gpus}")
    if settings.has(CPU_OPTIONS):
        return words
    if not gpus and not wanted.nproc:
        return [*words, "--exclusive"]
    # As large a part of the node's CPUs as of its GPUs: ranks that read data need more than one each.
    fair = min((cpus * gpus // there for cpus, there in with_gpus), default=0)
    cpus = min(max(fair, wanted.nproc, 1), max((cpus for cpus, _gpus in kinds), default=wanted.nproc))
    return [*words, f"--cpus-per-task={cpus}"] if cpus > 1 else words
