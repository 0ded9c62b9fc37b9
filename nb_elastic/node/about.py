"""What a node says of itself: versions, address, CPUs and GPUs, and which machine it is.

Runs in: the node program.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import socket
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from nb_elastic import machine, topology
from nb_elastic.errors import ElasticError
from nb_elastic.supervisor import addresses

PROTOCOL = 1
"""Of the words between driver and node program."""

VARIABLES = (
    "NB_ELASTIC_NODE_ADDRESS",
    "NB_ELASTIC_NODE_PLACE",
    "NB_ELASTIC_DRIVER_ADDRESS",
    "NB_ELASTIC_NODE_LEASE_S",
)
"""What the engine tells a node program by its environment; no rank sees it."""


def hello(told: Mapping[str, str]) -> dict[str, Any]:
    """All that the driver needs to know of this node.

    Args:
        told: of ``VARIABLES``, those that the engine set.
    """
    return {
        "protocol": PROTOCOL,
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "torch": version("torch"),
        "nb_elastic": version("nb-elastic"),
        "host": socket.gethostname() or platform.node(),
        "pid": os.getpid(),
        "address": address(told),
        "cpus": _cpus(),
        "gpus": _gpus(),
        "boot_id": machine.boot_id(),
        "place": told.get("NB_ELASTIC_NODE_PLACE", ""),
        "time_ns": time.time_ns(),
    }


def version(name: str) -> str:
    """Version of an installed package without its build (``+cu126``); "" where it isn't installed."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return ""


def address(told: Mapping[str, str]) -> str:
    """Address at which other nodes reach this one: told, or on the way to the driver, or the outward one."""
    if given := told.get("NB_ELASTIC_NODE_ADDRESS", ""):
        return given
    if driver := told.get("NB_ELASTIC_DRIVER_ADDRESS", ""):
        with contextlib.suppress(ElasticError, OSError):
            host, _ = addresses.split_endpoint(driver, default_port=1)
            if found := addresses.source_address(addresses.resolve(host)):
                return found
    return addresses.outward_address() or addresses.LOOPBACK


@functools.lru_cache(maxsize=1)
def here() -> topology.Topology:
    """This machine's map, as it was when it was first asked for."""
    return topology.read()


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> int:
    """GPUs that ranks would see here."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() and name.strip() != "-1"])
    with contextlib.suppress(OSError):
        return len(here().gpus)
    return 0
