"""What options must hold between each other, after each one made sense by itself.

Runs in: the kernel or command line.
"""

from __future__ import annotations

from pathlib import Path

from nb_elastic.errors import OptionError
from nb_elastic.model_options import LaunchOptions

SET_BY_STANDALONE = ("nnodes", "node_rank", "rdzv_backend", "rdzv_endpoint", "master_addr", "master_port")
"""A ``--standalone`` overrides these where they come from a place of lower precedence."""


def check_together(options: LaunchOptions) -> None:
    """Refuse options that contradict each other.

    Raises:
        OptionError: naming both sides.
    """
    _check_nodes(options)
    if options.engine != "local":
        _check_engine(options)
    elif options.is_one_node:
        _check_one_node(options)
    else:
        _check_several_nodes(options)
    if options.no_python and options.module:
        _refuse("--no-python and --module contradict each other: a module needs Python")
    if options.run_path and options.module:
        _refuse("--run-path and --module contradict each other: one takes a path, the other the name of a module")
    if options.detach and options.pull:
        _refuse(
            "--pull and --detach contradict each other: a detached run is not waited for, so nothing can be bound at its end. "
            "Take its results later with nb_elastic.attach(run_id).results"
        )
    if options.no_python and options.pull:
        _refuse("--pull needs Python in rank 0, and --no-python starts any program")
    if options.hold and options.no_python:
        _refuse("--hold needs Python in the ranks, whose frames `debug` looks at, and --no-python starts any program")
    if options.hold and options.max_restarts:
        _refuse(
            "--hold and --max-restarts contradict each other: a group that is held at its failure isn't formed again"
        )
    if options.hold and options.min_nodes != options.max_nodes:
        _refuse(
            f"--hold and --nnodes {options.nnodes} contradict each other: a node that comes or goes would end the held group, "
            "which is formed anew then. Give one number of nodes"
        )
    if options.gpus and "CUDA_VISIBLE_DEVICES" in options.env:
        _refuse("--gpus and --env CUDA_VISIBLE_DEVICES both choose the GPUs: keep one of them")
    count = options.nproc_per_node
    if options.local_ranks_filter and isinstance(count, int) and min(options.local_ranks_filter) >= count:
        shown = ",".join(map(str, options.local_ranks_filter))
        _refuse(f"--local-ranks-filter {shown} would show nothing: the local ranks are 0 to {count - 1}")


def check_target(options: LaunchOptions, target: str) -> None:
    """Refuse options that don't fit TARGET.

    Raises:
        OptionError: naming the option.
    """
    if options.run_path and not Path(target).is_absolute():
        _refuse(
            f"--run-path needs the absolute path of a script, and {target!r} is not one: it would be {Path(target).absolute()}"
        )


def backend(options: LaunchOptions) -> str:
    """Rendezvous backend of a run of several nodes: what was asked, else what the other options tell."""
    if options.rdzv_backend:
        return options.rdzv_backend
    return "static" if options.master_addr or options.master_port is not None else "c10d"


def _check_nodes(options: LaunchOptions) -> None:
    if options.node_rank >= options.max_nodes:
        _refuse(
            f"--node-rank {options.node_rank} is too high: ranks of --nnodes {options.nnodes} go from 0 to {options.max_nodes - 1}"
        )
    if options.rdzv_endpoint and (options.master_addr or options.master_port is not None):
        _refuse(
            f"--rdzv-endpoint {options.rdzv_endpoint} and --master-addr/--master-port both say where the nodes meet: keep one of them"
        )


def _check_one_node(options: LaunchOptions) -> None:
    if not options.standalone:
        return
    if options.rdzv_backend not in {"", "c10d"}:
        _refuse(
            f"--standalone uses c10d on this machine alone, and --rdzv-backend {options.rdzv_backend} asks for another"
        )
    if options.rdzv_endpoint or options.master_addr or options.master_port is not None:
        _refuse(
            "--standalone chooses where the ranks meet by itself, so --rdzv-endpoint, --master-addr and --master-port contradict it"
        )


def _check_engine(options: LaunchOptions) -> None:
    """An engine places the nodes, and the driver says where they meet."""
    engine = f"--engine {options.engine.partition('=')[0]}"
    if options.standalone:
        _refuse(f"--standalone is for this machine alone, and {engine} places the run on others")
    meeting = {
        "--rdzv-endpoint": options.rdzv_endpoint,
        "--master-addr": options.master_addr,
        "--master-port": options.master_port,
        "--local-addr": options.local_addr,
    }
    for flag, value in meeting.items():
        if value:
            _refuse(
                f"{flag} {value} and {engine} contradict each other: with an engine the nodes are told where they meet"
            )
    if options.node_rank:
        _refuse(
            f"--node-rank {options.node_rank} is for nodes that are started by hand, and {engine} starts and numbers them"
        )
    if options.rdzv_backend not in {"", "c10d"}:
        _refuse(f"--rdzv-backend {options.rdzv_backend} and {engine} contradict each other: its nodes meet by c10d")


def _check_several_nodes(options: LaunchOptions) -> None:
    nodes = f"--nnodes {options.nnodes}"
    if options.standalone:
        _refuse(f"--standalone is for one node, and {nodes} asks for more")
    chosen = backend(options)
    has_master = bool(options.master_addr) or options.master_port is not None
    if chosen == "static":
        if options.min_nodes != options.max_nodes:
            _refuse(
                f"The static rendezvous can't grow or shrink, as {nodes} asks: use --rdzv-backend c10d with --rdzv-endpoint HOST:PORT"
            )
        if not has_master and not options.rdzv_endpoint:
            _refuse(f"The static rendezvous of {nodes} needs --master-addr and --master-port, the same on every node")
    else:
        if has_master:
            _refuse(f"--master-addr is for the static rendezvous, and {chosen} takes --rdzv-endpoint HOST:PORT instead")
        if not options.rdzv_endpoint:
            _refuse(
                f"{nodes} needs a place where the nodes meet: --rdzv-endpoint HOST:PORT, the same on every node "
                "(or --master-addr, --master-port and --node-rank)"
            )
        if options.node_rank:
            _refuse(f"--node-rank {options.node_rank} is for the static rendezvous; {chosen} numbers the nodes itself")


def _refuse(text: str) -> None:
    raise OptionError(f"{text}. Nothing was started.")
