"""A Ray cluster of this machine alone, for as long as the driver lives: ``--engine ray=local`` or ``ray=local,nodes=2``.

Runs in: the driver. What it needs of Ray is handed in; several nodes are as many raylets, which pretend to be machines.

It asks for a token that nobody else has. Ray's page, its log forwarding and its autoscaler are left out: they are a second
of two cores each, and nobody asks them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STORE_BYTES = 100_000_000
LONGEST_FOLDER = 36
"""Ray adds 70 characters and binds Unix sockets there, whose names may have 107."""
NO_PORT_FILES = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
"""Where a raylet waits for its agents' ports, for 15 s at most, and dies; -1 says that there is none."""


class LocalCluster:
    """Raylets of this machine.

    Args:
        folder: private; what Ray writes lies there.
        nodes: how many machines are pretended.
        nproc: ranks that each is to have room for.
    """

    def __init__(self, folder: Path, *, nodes: int, nproc: int) -> None:
        self._folder = folder
        self._nodes = nodes
        self._cpus = max(os.cpu_count() or 1, nproc)
        self._cluster: Any = None
        self._before: dict[str, str | None] = {}

    def prepare(self) -> None:
        """Set the token; before Ray is imported."""
        token = self._folder / "ray_token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), encoding="utf-8")
        for name, value in (("RAY_AUTH_MODE", "token"), ("RAY_AUTH_TOKEN_PATH", str(token)), ("RAY_AUTH_TOKEN", None)):
            self._before[name] = os.environ.get(name)
            _put(name, value)

    def start(self, ray: Any) -> str:
        """Start it and return its address.

        Args:
            ray: the package, with its modules ``cluster_utils`` and ``_private.node``.
        """
        self._cluster = ray.cluster_utils.Cluster(shutdown_at_exit=True)
        gpus = self._gpus()
        with lightened(ray._private.node.Node):  # noqa: SLF001
            for n in range(self._nodes):
                own = gpus[n :: self._nodes]
                self._cluster.add_node(
                    num_cpus=self._cpus,
                    num_gpus=len(own),
                    object_store_memory=STORE_BYTES,
                    node_name=f"machine {n}",
                    include_dashboard=False,
                    include_log_monitor=False,
                    no_monitor=True,
                    runtime_env_agent_port=_free_port(),
                    temp_dir=self._temp_dir(),
                    env_vars={"CUDA_VISIBLE_DEVICES": ",".join(own)} if own else {},
                )
        return str(self._cluster.address)

    def close(self) -> None:
        """End it."""
        if self._cluster is not None:
            with contextlib.suppress(Exception):  # border: Ray's own, on the way out; its reapers see to the rest
                self._cluster.shutdown()
        for name, value in self._before.items():
            _put(name, value)

    def _temp_dir(self) -> str | None:
        return str(self._folder) if len(str(self._folder)) <= LONGEST_FOLDER else tempfile.gettempdir() + "/ray"

    @staticmethod
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
            for name in NO_PORT_FILES:
                Path(self.get_session_dir_path(), f"{name}_{self._node_id}").write_text("-1", encoding="ascii")
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


def _put(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
