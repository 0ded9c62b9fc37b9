"""A Ray cluster of this machine alone, for as long as the driver lives: ``--engine ray=local`` or ``ray=local,nodes=2``.

Runs in: the driver (``LocalCluster``) and a process of its own (``serve``), since Ray wants the main thread and its signals. What
is needed of Ray is handed in; several nodes are as many raylets, which pretend to be machines.

It asks for a token that nobody else has. Ray's page, its log forwarding and its autoscaler are left out: they are a second
of two cores each, and nobody asks them.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nb_elastic.errors import EngineError

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Else Ray starts a worker for each CPU, in advance and for nothing.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
}
STORE_BYTES = 100_000_000
LONGEST_FOLDER = 36
"""Ray adds 70 characters and binds Unix sockets there, whose names may have 107."""
NO_PORT_FILES = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
"""Where a raylet waits for its agents' ports, for 15 s at most, and dies; -1 says that there is none."""


class LocalCluster:
    """The process that has the cluster, seen from the driver.

    Args:
        command: that runs ``serve``.
        folder: private; what Ray writes lies there.
        nodes: how many machines are pretended.
        nproc: ranks that each is to have room for.
    """

    def __init__(self, command: tuple[str, ...], folder: Path, log: Path, *, nodes: int, nproc: int) -> None:
        self._command, self._log = command, log
        self._asked = {"folder": str(folder), "nodes": nodes, "cpus": max(os.cpu_count() or 1, nproc)}
        self._process: subprocess.Popen[bytes] | None = None
        # This process is the cluster's driver, and must know its token, too; before Ray is imported.
        token = folder / "ray_token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), encoding="utf-8")
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
        os.environ.pop("RAY_AUTH_TOKEN", None)

    def start(self) -> str:
        """Start it and return its address.

        Raises:
            EngineError: if it can't be started.
        """
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env={**QUIET, **os.environ},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        if self._process.stdin is None or self._process.stdout is None:
            raise EngineError("A Ray cluster can't be started here: no pipes.")
        self._process.stdin.write(json.dumps(self._asked).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise EngineError(f"A Ray cluster can't be started here: {self._last_words()}")
        return str(json.loads(line)["address"])

    def close(self) -> None:
        """End it."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def _last_words(self) -> str:
        words = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.strip() for line in reversed(words) if line.strip()), "it ended without a word")


def serve(ray: Any) -> None:
    """Start what stdin says, tell the address on stdout, and end it with stdin.

    Args:
        ray: the package, with its modules ``_private.node`` and ``_private.parameter``.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    asked = json.loads(sys.stdin.readline())
    tell, sys.stdout = sys.stdout, sys.stderr
    node, parameter = ray._private.node, ray._private.parameter  # noqa: SLF001
    nodes: list[Any] = []
    with lightened(node.Node):
        for n in range(asked["nodes"]):
            # As ray.cluster_utils does; that would also write down that this is the cluster that all others here find by "auto".
            head = {"gcs_address": nodes[0].gcs_address} if nodes else {}
            params = parameter.RayParams(**_node(asked, n), **head)
            nodes.append(node.Node(params, head=not nodes, shutdown_at_exit=True, spawn_reaper=True))
    tell.write(json.dumps({"address": nodes[0].gcs_address}) + "\n")
    tell.flush()
    sys.stdin.read()
    for one in reversed(nodes):
        one.kill_all_processes(check_alive=False, allow_graceful=True)


def _node(asked: Mapping[str, Any], n: int) -> dict[str, Any]:
    gpus = _gpus()[n :: asked["nodes"]]
    folder = asked["folder"]
    return {
        "num_cpus": asked["cpus"],
        "num_gpus": len(gpus),
        "object_store_memory": STORE_BYTES,
        "node_name": f"machine {n}",
        "node_manager_port": 0,
        "min_worker_port": 0,
        "max_worker_port": 0,
        "include_dashboard": False,
        "include_log_monitor": False,
        "no_monitor": True,
        "runtime_env_agent_port": _free_port(),
        "temp_dir": folder if len(folder) <= LONGEST_FOLDER else tempfile.gettempdir() + "/ray",
        "env_vars": {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {},
    }


def _gpus() -> list[str]:
    """Names of this machine's GPUs, as CUDA has them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in {"", "-1"}]
    return [str(n) for n, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


@contextlib.contextmanager
def lightened(node_class: Any) -> Iterator[None]:
    """Start raylets without agents that they would wait for, and heads without a page.

    These are private names of Ray; where one is gone, Ray's own way is taken.
    """
    saved = {name: vars(node_class).get(name) for name in ("start_raylet", "start_api_server")}
    start_raylet = saved["start_raylet"]

    def start_at_once(self: Any, *arguments: Any, **more: Any) -> Any:
        with contextlib.suppress(AttributeError, OSError):
            ports = dict.fromkeys(NO_PORT_FILES, -1)
            if port := self._ray_params.runtime_env_agent_port:
                ports["runtime_env_agent_port"] = port
            for name, port in ports.items():
                Path(self.get_session_dir_path(), f"{name}_{self._node_id}").write_text(str(port), encoding="ascii")
        return start_raylet(self, *arguments, **more)

    if all(saved.values()):
        node_class.start_raylet = start_at_once
        node_class.start_api_server = lambda *_, **__: None
    try:
        yield
    finally:
        if all(saved.values()):
            for name, value in saved.items():
                setattr(node_class, name, value)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
