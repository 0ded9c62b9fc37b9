"""Questions to Slurm, by its own commands: what an allocation has, what partitions have, where a job waits.

Runs in: the kernel or the command line, and the driver.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nb_elastic.errors import EngineError

ANSWER_S = 30.0
"""A busy slurmctld may take many seconds to answer."""
KEPT = frozenset({"SLURM_CONF", "SLURM_JWT"})
KEPT_OUTSIDE = KEPT | {f"SLURM_{n}" for n in ("ACCOUNT", "CLUSTERS", "CONSTRAINT", "PARTITION", "QOS", "RESERVATION", "TIMELIMIT", "WCKEY")}  # fmt: skip
_GPUS = re.compile(r"\bgpu(?::[\w.+-]+)?:(\d+)")


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment in which srun heeds its arguments.

    In an allocation each variable that srun takes for an option is set to what suits the allocation's own script: one CPU
    a task, say. Outside, the user may have set some on purpose.
    """
    kept = KEPT if own_job(environ) else KEPT_OUTSIDE
    return {
        name: value
        for name, value in environ.items()
        if name in kept or not name.startswith(("SLURM_", "SLURMD_", "SRUN_", "SALLOC_", "SBATCH_", "PMI_", "PMIX_"))
    }


def own_job(environ: Mapping[str, str]) -> str:
    """The allocation in which this process runs, or ""."""
    return environ.get("SLURM_JOB_ID") or environ.get("SLURM_JOBID") or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """Attributes:
    state: as Slurm says it: RUNNING, PENDING, ...
    gpus: of each node; -1 where nodes have different numbers.
    """  # noqa: D205

    job: str
    state: str
    uid: int
    nodes: tuple[str, ...]
    gpus: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A job as squeue lists it.

    Attributes:
        reason: why it waits, in one word: Priority, Resources, ...
    """

    job: str
    state: str
    partition: str
    reason: str


class Slurm:
    """The commands of one Slurm.

    Args:
        environ: of this process; see ``clean``.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.env = clean(environ)

    def allocation(self, job: str) -> Allocation:
        """Look at an allocation.

        Raises:
            EngineError: if Slurm knows none of that id, or does not answer.
        """
        text = self._ask(["scontrol", "--oneliner", "--details", "show", "job", job], f"There is no Slurm job {job}")
        for record in text.splitlines():
            found = dict(word.partition("=")[::2] for word in record.split(" ") if "=" in word)
            if job not in {found.get("JobId"), f"{found.get('ArrayJobId')}_{found.get('ArrayTaskId')}"}:
                continue
            uid = re.search(r"\((\d+)\)", found.get("UserId", ""))
            gpus = [sum(map(int, _GPUS.findall(g))) for g in re.findall(r"\sCPU_IDs=\S+ Mem=\S+ GRES=(\S*)", record)]
            return Allocation(
                job=found["JobId"],
                state=found.get("JobState", "?"),
                uid=int(uid[1]) if uid else -1,
                nodes=self.names(found.get("NodeList", "")),
                gpus=(gpus[0] if len(set(gpus)) == 1 else -1) if gpus else 0,
            )
        raise EngineError(f"There is no Slurm job {job}. Nothing was started.")

    def names(self, nodelist: str) -> tuple[str, ...]:
        """Names of nodes: n[1-2] is n1 and n2."""
        if not nodelist or nodelist == "(null)":
            return ()
        if not set("[,") & set(nodelist):
            return (nodelist,)
        text = self._ask(["scontrol", "show", "hostnames", nodelist], f"Slurm can't read the list of nodes {nodelist}")
        return tuple(text.split())

    def partitions(self) -> list[tuple[str, bool, int, int]]:
        """Name of each partition, whether it is the default one, and CPUs and GPUs of a node of it; a line for each kind."""
        text = self._ask(["sinfo", "-h", "-a", "-e", "-o", "%P|%c|%G"], "sinfo fails")
        found = []
        for line in text.splitlines():
            name, cpus, gres = line.split("|", 2)
            found.append((name.rstrip("*"), name.endswith("*"), int(re.sub(r"\D.*", "", cpus) or 0), sum(map(int, _GPUS.findall(gres)))))  # fmt: skip
        return found

    def are_up(self, names: Sequence[str]) -> list[str]:
        """Those of these nodes that answer Slurm."""
        text = self._ask(["sinfo", "-h", "-N", "-n", ",".join(names), "-o", "%N|%t"], "sinfo fails")
        states = dict(line.split("|", 1) for line in text.splitlines())
        return [
            name
            for name in names
            if (state := states.get(name, "down")).isalpha() and not state.startswith(("down", "fail", "unk"))
        ]

    def waiting(self, mark: str) -> Waiting | None:
        """The job with this comment; None if there is none (yet, or any more)."""
        text = self._ask(["squeue", "-h", "-u", str(os.getuid()), "-o", "%i|%T|%P|%r|%k"], "squeue fails")
        for line in text.splitlines():
            job, state, partition, reason, comment = line.split("|", 4)
            if comment == mark:
                return Waiting(job=job, state=state, partition=partition, reason=reason)
        return None

    def refuses(self, words: Sequence[str]) -> str:
        """Why srun would get no nodes with these options, in Slurm's words; "" if it would, sooner or later."""
        done = self._run(["srun", "--test-only", *words, "true"])
        return "" if done.returncode == 0 else said(done.stderr)

    def cancel(self, job: str) -> None:
        """Cancel a job, if it is still there."""
        self._run(["scancel", "--quiet", job])

    def _ask(self, words: Sequence[str], what: str) -> str:
        done = self._run(words)
        if done.returncode:
            raise EngineError(f"{what} ({said(done.stderr)}). Nothing was started.")
        return done.stdout

    def _run(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                words, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=ANSWER_S, start_new_session=True, check=False,
            )  # fmt: skip
        except FileNotFoundError as e:
            raise EngineError(no_command(words[0])) from e
        except subprocess.TimeoutExpired as e:
            raise EngineError(
                f"Slurm does not answer: {words[0]} took more than {ANSWER_S:g} s. Nothing was started."
            ) from e


def no_command(name: str) -> str:
    """Say that Slurm isn't installed here."""
    return (
        f"--engine slurm: there is no {name} on the PATH. Slurm's own commands (slurm-client) are needed where the notebook"
        " runs: on a login node, say, or in an allocation. Nothing was started."
    )


def said(stderr: str) -> str:
    """What a command of Slurm's said, in one line; of its several lines the ones that tell most."""
    lines = [
        re.sub(r"^(srun|squeue|sinfo|scontrol|allocation failure|slurm_load_\w+ error): (error: |fatal: )?", "", line)
        for line in map(str.strip, stderr.splitlines())
        if line and not line.startswith("Try ") and not line.endswith(": No error")
    ]
    unique = list(dict.fromkeys(line.rstrip(".") for line in lines))
    return "; ".join(unique[:3]) or "it gives no reason"
