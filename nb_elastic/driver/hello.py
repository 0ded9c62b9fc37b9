"""What a node says of itself, and whether it fits the run.

Runs in: the driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nb_elastic import untrusted

PROTOCOL = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """A node's first words.

    Attributes:
        address: by which the other nodes reach it.
        place: what the engine calls the machine, or "".
    """

    protocol: int = 0
    python: str = ""
    torch: str = ""
    nb_elastic: str = ""
    host: str = ""
    pid: int = 0
    address: str = ""
    cpus: int = 0
    gpus: int = 0
    boot_id: str = ""
    place: str = ""

    @property
    def where(self) -> str:
        """The machine, as its user knows it."""
        return self.place or self.host or self.address or "a node"


def read(message: Mapping[str, Any]) -> Hello:
    """Read a hello, field by field."""

    def word(name: str) -> str:
        return untrusted.word(message.get(name), limit=200)

    def number(name: str) -> int:
        return untrusted.integer(message.get(name))

    return Hello(
        protocol=number("protocol"),
        python=word("python"),
        torch=word("torch"),
        nb_elastic=word("nb_elastic"),
        host=word("host"),
        pid=number("pid"),
        address=word("address"),
        cpus=number("cpus"),
        gpus=number("gpus"),
        boot_id=word("boot_id"),
        place=word("place"),
    )


def misfit(hello: Hello, versions: Mapping[str, str]) -> str:
    """Why a node can't take part, in one sentence that names both sides; "" if it can.

    Args:
        versions: python, torch and nb_elastic of whoever launches; what is "" there is not compared.
    """
    if hello.protocol != PROTOCOL:
        return (
            f"{hello.where} has another version of nb_elastic ({hello.nb_elastic or 'unknown'}, which speaks protocol "
            f"{hello.protocol}) than the notebook ({versions.get('nb_elastic', '')}, protocol {PROTOCOL})."
        )
    names = {"python": "Python", "torch": "torch", "nb_elastic": "nb_elastic"}
    theirs = {"python": _minor(hello.python), "torch": _public(hello.torch), "nb_elastic": hello.nb_elastic}
    ours = {
        "python": _minor(versions.get("python", "")),
        "torch": _public(versions.get("torch", "")),
        "nb_elastic": versions.get("nb_elastic", ""),
    }
    for key, name in names.items():
        if ours[key] and theirs[key] != ours[key]:
            return (
                f"{hello.where} has {name} {theirs[key] or 'none'}, and the notebook has {name} {ours[key]}: "
                "install the same on both."
            )
    return ""


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _public(version: str) -> str:
    """Without the build (``+cpu``): a notebook without a GPU may well launch on nodes that have some."""
    return version.partition("+")[0]
