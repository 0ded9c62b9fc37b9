"""What ``--engine ray=...`` says, and whether a cluster answers there; asked without importing Ray, which takes a second.

Runs in: the kernel or the command line.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from nb_elastic.engines.base import Settled, Wanted
from nb_elastic.errors import EngineError, OptionError

LOCAL = "local"
AUTO = "auto"
CLIENT = "ray://"
CLIENT_PORT = 10001
GCS_PORT = 6379
REACH_S = 3.0
INSTALL = 'pip install "nb-elastic[ray]"'
HOW = "ray=HOST:PORT, ray=ray://HOST:10001, ray=auto or ray=local"


def settle(wanted: Wanted, environ: Mapping[str, str]) -> Settled:
    """Find the cluster.

    Raises:
        OptionError: if the settings make no sense.
        EngineError: if Ray isn't installed, or no cluster answers.
    """
    value = parse(wanted.settings)
    if importlib.util.find_spec("ray") is None:
        raise EngineError(f"--engine ray needs Ray: {INSTALL}. Nothing was started.")
    address = str(value["address"])
    if address == LOCAL:
        n = value["nodes"]
        return Settled(label="a Ray cluster on this machine" + (f" of {n} nodes" if n > 1 else ""), value=value)
    if address in {"", AUTO}:
        address = _find(address, environ)
    if address.startswith(CLIENT):
        _check_client()
        host, port = split_address(address[len(CLIENT) :].partition("?")[0].rstrip("/"), CLIENT_PORT)
        address = f"{CLIENT}{join_address(host, port)}"
    else:
        host, port = split_address(address, GCS_PORT)
        address = join_address(host, port)
    _reach(host, port, address)
    return Settled(label=f"the Ray cluster at {address}", value={**value, "address": address})


def parse(settings: str) -> dict[str, Any]:
    """Split ``ADDRESS,NAME=VALUE,...``.

    Raises:
        OptionError: if they make no sense.
    """
    value: dict[str, Any] = {"address": "", "nodes": 1, "cpus": 0, "ships": False}
    for i, part in enumerate(settings.split(",")):
        name, equals, text = part.strip().partition("=")
        if name == "ship" and not equals:
            value["ships"] = True
        elif name in {"nodes", "cpus"} and equals:
            if not (text.isdecimal() and int(text) > 0):
                raise OptionError(f"--engine ray={settings}: {name} is a number from 1 on. Nothing was started.")
            value[name] = int(text)
        elif i == 0 and not equals:
            value["address"] = name
        else:
            raise OptionError(
                f"--engine ray={settings}: {part!r} is no setting; behind the address (of {HOW}) may stand cpus=N, ship, "
                f"and behind local nodes=N. Nothing was started."
            )
    address = str(value["address"])
    if value["nodes"] > 1 and address != LOCAL:
        raise OptionError(
            f"--engine ray={settings}: nodes=N is for ray=local; say --nnodes for how many nodes of a cluster. "
            "Nothing was started."
        )
    if "://" in address and not address.startswith(CLIENT):
        raise OptionError(f"--engine ray={settings}: no such address; it is {HOW}. Nothing was started.")
    return value


def split_address(address: str, port: int) -> tuple[str, int]:
    """Host and port; ``port`` where none is said.

    Raises:
        OptionError: if that is no address.
    """
    host, colon, number = address.rpartition(":")
    if not colon or address.endswith("]"):
        host, number = address, str(port)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not number.isdecimal() or not 0 < int(number) < 1 << 16:
        raise OptionError(f"--engine ray={address}: no such address; it is {HOW}. Nothing was started.")
    return host, int(number)


def join_address(host: str, port: int) -> str:
    """As Ray writes it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _find(address: str, environ: Mapping[str, str]) -> str:
    """The cluster that the notebook is connected to, that the environment names, or that runs on this machine."""
    if found := _connected():
        return found
    if found := environ.get("RAY_ADDRESS", ""):
        return found
    folder = Path(environ.get("RAY_TMPDIR") or environ.get("RAY_TEMP_DIR") or "/tmp") / "ray"  # noqa: S108  (Ray's own)
    try:
        found = (folder / "ray_current_cluster").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        found = ""
    if found:
        return found
    said = (
        "RAY_ADDRESS isn't set, and no cluster was started on this machine" if not address else "no cluster was found"
    )
    raise EngineError(
        f"--engine ray: {said}. Say which ({HOW}); ray=local starts one on this machine. Nothing was started."
    )


def _connected() -> str:
    """Address of the cluster that this very process has joined by ``ray.init``; "" for none."""
    ray: Any = sys.modules.get("ray")
    try:
        return str(ray.get_runtime_context().gcs_address) if ray is not None and ray.is_initialized() else ""
    except Exception:  # noqa: BLE001  border: another library, in whatever state the notebook left it
        return ""


def _check_client() -> None:
    if importlib.util.find_spec("grpc") is None:
        raise EngineError(f"--engine ray=ray://...: Ray Client needs grpcio: {INSTALL}. Nothing was started.")


def _reach(host: str, port: int, address: str) -> None:
    try:
        socket.create_connection((host, port), REACH_S).close()
    except OSError as e:
        why = (
            "it takes too long to answer"
            if isinstance(e, TimeoutError)
            else (os.strerror(e.errno) if e.errno and e.errno > 0 else str(e))
        )
        raise EngineError(
            f"--engine ray: no cluster answers at {address}: {why}. Is it up (ray status), and the address right? "
            "Nothing was started."
        ) from e


def version() -> str:
    """Of Ray, here."""
    return metadata.version("ray")
