"""Where ``--engine dask[=SETTINGS]`` finds its scheduler, and how it proves who it is.

Runs in: the kernel or the command line. Dask is never imported here: the notebook's own client is found where the notebook
has imported it already.

Settings, separated by commas: the address of a scheduler (``tcp://HOST:PORT``, ``tls://HOST:PORT``) or
``scheduler-file=PATH``; ``ca=``, ``cert=`` and ``key=``, files for ``tls://``; ``per=worker``, where several nodes may share a
host. Without an address it is that of the notebook's own client, else of ``DASK_SCHEDULER_ADDRESS``.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from nb_elastic.engines.base import Settled
from nb_elastic.errors import EngineError, OptionError

KNOWN = ("scheduler-file", "ca", "cert", "key", "per")
TLS = ("ca", "cert", "key")
PER = ("host", "worker")
SCHEMES = ("tcp", "tls", "ws", "wss", "ucx", "ucxx")
CONNECT_S = 3.0
NOTHING = "Nothing was started."


def settle(settings: str, environ: Mapping[str, str]) -> Settled:
    """Find the scheduler, and see that something answers there.

    Raises:
        OptionError: if the settings make no sense.
        EngineError: if Dask isn't installed, or no scheduler is named, or none answers.
    """
    if find_spec("distributed") is None:
        raise EngineError(
            '--engine dask needs the package "distributed", which isn\'t installed here: '
            f'pip install "nb-elastic[dask]". {NOTHING}'
        )
    value, source = _find(parse(settings), environ)
    scheme, host, port = _endpoint(value["address"])
    _reach(value["address"], host, port)
    notes = () if scheme in {"tls", "wss"} or _is_loopback(host) else (OPEN.format(value["address"]),)
    return Settled(label=f"Dask cluster at {value['address']}{source}", value=value, notes=notes)


OPEN = (
    "The Dask cluster at {} asks nobody who they are: whoever reaches it can run code there and read what is sent; "
    "tls:// with certificates protects it."
)


def parse(text: str) -> dict[str, str]:
    """Settings by name; what has no name is the ``address``.

    Raises:
        OptionError: if one is unknown, given twice, or makes no sense beside another.
    """
    found: dict[str, str] = {}
    for item in filter(None, (item.strip() for item in text.split(","))):
        name, is_named, setting = item.partition("=")
        if not is_named:
            name, setting = "address", item if "://" in item else f"tcp://{item}"
        elif name not in KNOWN:
            raise OptionError(
                f"--engine dask={text}: {name!r} is no setting; it takes HOST:PORT, {', '.join(KNOWN)}. {NOTHING}"
            )
        if not setting or name in found:
            raise OptionError(f"--engine dask={text}: {name} is {'given twice' if setting else 'empty'}. {NOTHING}")
        found[name] = setting
    if "address" in found and "scheduler-file" in found:
        raise OptionError(f"--engine dask={text}: give either an address or a scheduler-file. {NOTHING}")
    if found.get("per", "host") not in PER:
        raise OptionError(f"--engine dask={text}: per is {' or '.join(PER)}. {NOTHING}")
    for name in {*TLS, "scheduler-file"} & set(found):
        found[name] = os.path.abspath(os.path.expanduser(found[name]))
        if not os.access(found[name], os.R_OK):
            raise OptionError(f"--engine dask={text}: {name}={found[name]} can't be read. {NOTHING}")
    if "key" in found and "cert" not in found:
        raise OptionError(f"--engine dask={text}: a key needs its cert. {NOTHING}")
    return found


def _find(given: dict[str, str], environ: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """The settled value, and where it comes from, in words."""
    value: dict[str, Any] = {name: given[name] for name in ("address", *TLS, "per") if name in given}
    if "address" in given:
        return value, ""
    if "scheduler-file" in given:
        return value | {"address": _address_in(given["scheduler-file"])}, ""
    if own := _own_client():
        return own | value, " (this notebook's client)"
    address = environ.get("DASK_SCHEDULER_ADDRESS", "")
    if not address:
        raise EngineError(
            "--engine dask: this notebook has no Dask client, and DASK_SCHEDULER_ADDRESS isn't set; make a "
            f"distributed.Client, or say where the scheduler is: --engine dask=tcp://HOST:8786. {NOTHING}"
        )
    return value | {"address": address if "://" in address else f"tcp://{address}"}, ""


def _address_in(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return str(json.load(file)["address"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise EngineError(
            f"--engine dask: {path} isn't a Dask scheduler file ({type(e).__name__}: {e}). {NOTHING}"
        ) from e


def _own_client() -> dict[str, Any]:
    """Address and certificates of the client that this process has made; {} without one."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return {}
    try:
        client = distributed.default_client()
    except ValueError:
        return {}
    if client.status != "running":
        raise EngineError(f"--engine dask: this notebook's Dask client is {client.status}. {NOTHING}")
    address = str(client.scheduler.address)
    if address.startswith("inproc:"):
        raise EngineError(
            "--engine dask: this notebook's Dask cluster lives in the notebook's own process; make it with "
            f"LocalCluster(processes=True). {NOTHING}"
        )
    security = client.security
    if type(security) is not distributed.Security:
        raise EngineError(
            f"--engine dask: the {type(security).__name__} of this notebook's Dask client can't be handed to another "
            f"process; say where the scheduler is: --engine dask=tls://HOST:PORT,ca=...,cert=...,key=.... {NOTHING}"
        )
    files = {"ca": security.tls_ca_file, "cert": security.tls_client_cert, "key": security.tls_client_key}
    # Files keep their names; certificates that live in memory only (Security.temporary) travel as text.
    return {"address": address} | {
        name: text if "\n" in text else os.path.abspath(text) for name, text in files.items() if text
    }


def _endpoint(address: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.scheme not in SCHEMES:
        raise OptionError(
            f"--engine dask: {address} is no address of a Dask scheduler that a process of its own can reach; it looks "
            f"like tcp://HOST:8786 or tls://HOST:8786. {NOTHING}"
        )
    return parts.scheme, host, port


def _reach(address: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError as e:
        raise EngineError(f"No Dask scheduler answers at {address}: {e.strerror or e}. {NOTHING}") from e


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
