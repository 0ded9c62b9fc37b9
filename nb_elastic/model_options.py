"""The options of a launch, by their Python names.

Runs in: every process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

START_METHODS = ("warm", "spawn", "fork", "forkserver")
NUMA_MODES = ("auto", "none", "node", "socket", "exclusive", "core-complex")
RENDER_MODES = ("auto", "widget", "terminal", "plain", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """Options of a launch, by their Python names; the flags are these names with dashes.

    Meaning, defaults and help are told once, in ``nb_elastic.options``; here is only their shape.
    Times are seconds. ``nproc_per_node`` is a positive int or ``auto``, ``gpu``, ``cpu``.
    """

    nproc_per_node: int | str = "auto"
    nnodes: str = "1"
    node_rank: int = 0
    rdzv_backend: str = ""
    rdzv_endpoint: str = ""
    rdzv_id: str = ""
    rdzv_conf: Mapping[str, str] = field(default_factory=dict)
    standalone: bool = False
    master_addr: str = ""
    master_port: int | None = None
    local_addr: str | None = None
    max_restarts: int = 0
    monitor_interval: float = 0.1
    start_method: str = "warm"
    role: str = "default"
    module: bool = False
    no_python: bool = False
    run_path: bool = False
    log_dir: str | None = None
    redirects: str = "0"
    tee: str = "0"
    local_ranks_filter: tuple[int, ...] = ()
    duplicate_stdout_filters: tuple[str, ...] = ()
    duplicate_stderr_filters: tuple[str, ...] = ()
    logs_specs: str | None = None
    log_line_prefix_template: str | None = None
    event_log_handler: str = "null"
    metrics_cfg: Mapping[str, str] = field(default_factory=dict)
    numa_binding: str = "auto"
    signals_to_handle: str = "SIGTERM,SIGINT,SIGHUP,SIGQUIT"
    shutdown_timeout: int = 30
    virtual_local_rank: bool = False
    # ours
    out: str | None = None
    pull: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    name: str | None = None
    timeout: float | None = None
    detach: bool = False
    preload: tuple[str, ...] = ()
    render: str = "auto"
    hold: bool = False
    hang_after: float | None = None
    on_hang: str = "tell"
    hide_values: bool = False
    dry_run: bool = False
    engine: str = "local"

    @property
    def min_nodes(self) -> int:
        """Least number of nodes the run needs."""
        return int(self.nnodes.partition(":")[0])

    @property
    def max_nodes(self) -> int:
        """Largest number of nodes the run admits."""
        low, _, high = self.nnodes.partition(":")
        return int(high or low)

    @property
    def is_one_node(self) -> bool:
        """True for the common case: exactly one node, for the whole run."""
        return self.nnodes in {"1", "1:1"}
