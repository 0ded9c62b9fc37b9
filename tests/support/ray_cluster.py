"""A real Ray cluster on pretended machines: a head, and nodes that join.

Runs in: the tests and benchmarks.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.support.cluster_hosts import Host
from tests.support.until import until

ROOT = Path(__file__).parents[2]
PORT = 6379
CLIENT_PORT = 10001
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # else a head takes the token that somebody's ray.init() left at home, and lets no test in
    # Else each driver that comes makes Ray start workers in advance, which compete with the one that is waited for.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
}
START_S = 240.0
"""Only a hang takes so long; each node is half a dozen interpreters that start at once."""


class RayCluster:
    """A head on the first of the machines; others are joined by ``start``.

    Args:
        folder: what Ray writes, with a short name: it holds Unix sockets. Each machine has NAME.log there.
        env: of the whole cluster, such as a token.
        is_for_clients: with the server for ``ray://``.

    Attributes:
        address: of the head, for those who are on one of the machines.
    """

    def __init__(
        self, folder: Path, head: Host, *options: str, env: dict[str, str] | None = None, is_for_clients: bool = False
    ) -> None:
        self.folder = folder
        self.address = f"{head.address}:{PORT}"
        self.client_address = f"ray://{head.address}:{CLIENT_PORT}"
        self._env = {
            **QUIET,
            "NBE_RAY_CLIENT": "1" if is_for_clients else "",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            **(env or {}),
        }
        self._begin(head, "--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={folder}", *options)
        self.wait(head)

    def start(self, *hosts: Host, options: tuple[str, ...] = ()) -> None:
        """Have machines join, all at once, and wait until they have."""
        for host in hosts:
            self._begin(host, f"--address={self.address}", *options)
        self.wait(*hosts)

    def wait(self, *hosts: Host) -> None:
        """Wait until Ray runs on these."""
        for host in hosts:
            log = self.folder / f"{host.name}.log"
            until(lambda log=log, host=host: self._is_up(log, host), START_S, f"Ray on {host.name}, see {log}")

    def _is_up(self, log: Path, host: Host) -> bool:
        text = log.read_text()
        if all(program.poll() is not None for program in host.programs):
            raise RuntimeError(f"Ray has ended on {host.name}: {text}")
        return "Ray runtime started" in text

    def _begin(self, host: Host, *options: str) -> None:
        command = [sys.executable, "-m", "tests.support.ray_start", "start", "--block", "--disable-usage-stats"]
        sizes = ["--num-cpus=2", "--object-store-memory=100000000", f"--node-ip-address={host.address}"]
        with (self.folder / f"{host.name}.log").open("wb") as log:
            host.popen(*command, *sizes, *options, env=self._env, stdout=log, stderr=log)
