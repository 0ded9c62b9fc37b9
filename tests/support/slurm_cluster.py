"""A real Slurm on this machine, or on pretended ones: munged, slurmctld and a slurmd for each node, without systemd.

Runs in: the tests. All of it lies in one temporary folder, has its own ports and its own key, and is ended by pid.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nb_elastic.lifeline import descendants, die_with_parent
from tests.support.cluster_hosts import Host
from tests.support.until import until

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "salloc", "sbatch", "squeue", "scontrol", "sinfo", "scancel")
IS_INSTALLED = all(shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") for name in PROGRAMS)
WHY_NOT = "Slurm (munge slurmctld slurmd slurm-client) is not installed, or this is not root"
CAN_RUN = IS_INSTALLED and os.geteuid() == 0

CONF = """
ClusterName=nbe
SlurmctldHost={host}({address})
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SwitchType=switch/none
SlurmdTimeout=5
SlurmctldTimeout=5
MessageTimeout=20
KillWait=2
InactiveLimit=0
MinJobAge=60
{gres}
{nodes}
PartitionName=main Nodes={main} Default=YES MaxTime=INFINITE State=UP
PartitionName=small Nodes={first} MaxTime=10 State=UP
{pairs}
"""


class SlurmCluster:
    """A Slurm of a few nodes.

    Args:
        nodes: how many; they are called n1, n2, ...
        on: pretended machines: the first has the controller, the others are the nodes and give them their names; else
            all are on this machine.
        cpus: of each node.
        pairs: names of partitions that have two more nodes each, which are in no other.
        gpus: of each node; devices that only look like it, or plain files.

    Attributes:
        has_gpus: Slurm gives them out, as CUDA_VISIBLE_DEVICES; it does so with devices only.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 3,
        on: Sequence[Host] = (),
        cpus: int = 2,
        gpus: int = 0,
        pairs: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self._hosts = {host.name: host for host in on[1:]}
        self._controller = on[0] if on else None
        nodes = len(self._hosts) or nodes
        self.names = tuple(self._hosts) or tuple(f"n{i + 1}" for i in range(nodes + 2 * len(pairs)))
        self.pairs = {name: self.names[nodes + 2 * i : nodes + 2 * i + 2] for i, name in enumerate(pairs)}
        self.conf = folder / "slurm.conf"
        self.env = {**os.environ, "SLURM_CONF": str(self.conf)}
        self.env["PATH"] = f"{self.env.get('PATH', '')}:/usr/sbin:/sbin"
        self._cpus, self._gpus, self._main = cpus, gpus, self.names[:nodes]
        self.has_gpus = False
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> SlurmCluster:
        """Start it and wait until all nodes are idle."""
        self._write()
        self._start_munged("munge")
        self._start("slurmctld", "-D", "-i", on=self._controller)
        for name in self.names:
            self.start_node(name)
        until(lambda: self.states() == dict.fromkeys(self.names, "idle"), 30, f"idle nodes; {self.logs()}")
        return self

    @contextlib.contextmanager
    def with_another_key(self) -> Iterator[Path]:
        """A slurm.conf for those who have another key than this cluster."""
        self._start_munged("stranger")
        conf = self.folder / "stranger" / "slurm.conf"
        conf.write_text(self.conf.read_text().replace(f"{self.folder}/munge/socket", f"{self.folder}/stranger/socket"))
        try:
            yield conf
        finally:
            process = self._processes.pop("stranger")
            process.kill()
            process.wait()

    def start_node(self, name: str) -> None:
        """Start a node's slurmd, for the first time or again."""
        self._start(name, "-D", "-N", name, program="slurmd", on=self._hosts.get(name))

    def crash_node(self, name: str) -> None:
        """Kill a node's slurmd and all that it runs, at once."""
        process = self._processes.pop(name)
        for pid in [process.pid, *self.steps(name)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def steps(self, name: str) -> list[int]:
        """Pids of the slurmstepds of a node and of all below them; they are nobody's children, but have its log open."""
        log = str(self.folder / f"slurmd-{name}.log")
        found: list[int] = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (entry / "cmdline").read_bytes().startswith(b"slurmstepd") and any(
                    os.readlink(fd) == log for fd in (entry / "fd").iterdir()
                ):
                    found += [int(entry.name), *descendants(int(entry.name))]
        return found

    def states(self) -> dict[str, str]:
        """State of each node, as sinfo says it."""
        return dict(
            line.split()
            for line in self.ask("sinfo", "-h", "-N", "-p", ",".join(["main", *self.pairs]), "-o", "%N %T").splitlines()
        )

    def jobs(self) -> list[str]:
        """Ids of jobs that run or wait."""
        return self.ask("squeue", "-h", "-t", "all", "-o", "%i %T").splitlines()

    def queue(self) -> list[str]:
        """Ids of the jobs that hold nodes, or wait for them."""
        return [line.split()[0] for line in self.jobs() if line.split()[1] in {"PENDING", "RUNNING", "COMPLETING"}]

    def ask(self, *words: str) -> str:
        """Run one of Slurm's commands; its stdout, "" if it fails."""
        done = subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout if done.returncode == 0 else ""

    def allocate(self, *words: str, nodes: int = 2) -> str:
        """An allocation as ``salloc --no-shell`` makes it; its job's id."""
        done = subprocess.run(
            ["salloc", "--no-shell", f"--nodes={nodes}", *words], env=self.env, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        return next(word for line in done.stderr.splitlines() if "Granted" in line for word in line.split()[-1:])

    def cancel(self, *ids: str) -> None:
        """Cancel jobs, all if none is named, and wait until the nodes are free."""
        ids = ids or tuple(self.queue())
        if ids:
            self.ask("scancel", *ids)
        until(lambda: not set(ids) & set(self.queue()), 30, "cancelled jobs to be over")

    def logs(self) -> str:
        """Ends of the daemons' logs, for the text of a failure."""
        return "\n".join(
            f"{path.name}: {path.read_text(errors='replace')[-800:]}"
            for path in sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        )

    def stop(self) -> None:
        """End all of it."""
        for pid in [pid for name in self.names for pid in self.steps(name)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in reversed(self._processes.values()):
            process.kill()
            process.wait()
        self._processes.clear()

    def _start_munged(self, name: str) -> None:
        """Start one with a key of its own."""
        folder = self.folder / name
        folder.mkdir()
        folder.chmod(0o711)
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(0o600)
        paths = [f"--{what}-file={folder}/{what}" for what in ("key", "pid", "log", "seed")]
        options = ("--foreground", "--force", "--num-threads=2", f"--socket={folder}/socket")
        self._start(name, *options, *paths, program="munged")
        until((folder / "socket").exists, 60, "munged")

    def _start(self, name: str, *arguments: str, program: str = "", on: Host | None = None) -> None:
        path = shutil.which(program or name, path=self.env["PATH"])
        assert path
        parent = os.getpid()
        with (self.folder / f"{name}.out").open("ab") as out:
            if on is not None:
                self._processes[name] = on.popen(path, *arguments, env=self.env, stdout=out, stderr=out)
                return
            self._processes[name] = subprocess.Popen(
                [path, *arguments], env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                preexec_fn=lambda: die_with_parent(parent=parent),
            )  # fmt: skip

    def _write(self) -> None:
        for name in ("state", *(f"spool-{n}" for n in self.names)):
            (self.folder / name).mkdir(mode=0o700)
        own, local = socket.gethostname().partition(".")[0], "127.0.0.1"
        with contextlib.ExitStack() as stack:  # all held until all are chosen, so that none is chosen twice
            ports = [stack.enter_context(_bound()).getsockname()[1] for _ in range(len(self.names) + 1)]
        where = {n: (h.name, h.address) for n, h in self._hosts.items()} or dict.fromkeys(self.names, (own, local))
        controller = self._controller
        gres = f" Gres=gpu:{self._gpus}" if self._gpus else ""
        self.conf.write_text(
            CONF.format(
                host=controller.name if controller else own,
                address=controller.address if controller else local,
                port=ports[0],
                folder=self.folder,
                main=",".join(self._main),
                pairs="\n".join(f"PartitionName={p} Nodes={','.join(two)} State=UP" for p, two in self.pairs.items()),
                first=self.names[0],
                gres="GresTypes=gpu" if gres else "",
                nodes="\n".join(
                    f"NodeName={n} NodeHostname={where[n][0]} NodeAddr={where[n][1]} Port={p} CPUs={self._cpus} "
                    f"RealMemory=1000{gres} State=UNKNOWN"
                    for n, p in zip(self.names, ports[1:], strict=True)
                ),
            )
        )
        if gres:
            devices = [self.folder / f"gpu{i}" for i in range(self._gpus)]
            for device in devices:
                try:
                    os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(1, 3))
                    self.has_gpus = True
                except OSError:
                    device.touch()
            (self.folder / "gres.conf").write_text("".join(f"Name=gpu File={d}\n" for d in devices))


def _bound() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


@contextlib.contextmanager
def slurm_cluster(**options: Any) -> Iterator[SlurmCluster]:
    """A cluster that is up, and gone at the end; see ``SlurmCluster``."""
    with tempfile.TemporaryDirectory(prefix="nbs-", ignore_cleanup_errors=True) as folder:
        cluster = SlurmCluster(Path(folder), **options)
        try:
            yield cluster.start()
        finally:
            cluster.stop()
