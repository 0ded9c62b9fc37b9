"""One launch as the kernel orders it of the driver.

Runs in: the driver.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nb_elastic.driver.post import Parcel
from nb_elastic.engines.base import Settled, Wanted
from nb_elastic.lifeline import ProcessId
from nb_elastic.model import LaunchSpec, from_json
from nb_elastic.rundir_paths import RunDir


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A launch.

    Attributes:
        engine: its name.
        versions: python, torch and nb_elastic of whoever launches.
        started_at: when (``time.monotonic``) it came.
        parcels: files that each node needs.
    """

    spec: LaunchSpec
    engine: str
    settled: Settled
    wanted: Wanted
    versions: Mapping[str, str]
    started_at: float
    received_ns: int
    parcels: tuple[Parcel, ...] = ()
    owner: ProcessId | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> RunDir:
        """The run folder."""
        return RunDir(Path(self.spec.run_dir))

    def close(self) -> None:
        """Close the files that nodes needed."""
        for parcel in self.parcels:
            os.close(parcel.fd)


def read(message: Mapping[str, Any], fds: list[int]) -> Job:
    """Read the kernel's launch frame.

    Args:
        fds: descriptors that came with it: the payload's buffers, where it has some.

    Raises:
        OSError: if the payload can't be opened.
    """
    spec = from_json(LaunchSpec, message["spec"])
    parcels = []
    if spec.payload:
        fd = os.open(spec.payload, os.O_RDONLY | os.O_CLOEXEC)
        parcels.append(Parcel(name="payload.pkl", fd=fd, size=os.fstat(fd).st_size))
    if fds and message.get("has_buffers"):
        parcels.append(Parcel(name="buffers.bin", fd=fds[0], size=os.fstat(fds[0]).st_size))
        fds = fds[1:]
    for fd in fds:
        os.close(fd)
    settled = message["settled"]
    return Job(
        spec=spec,
        engine=message["engine"],
        settled=Settled(
            label=settled["label"],
            value=settled["value"],
            notes=tuple(settled["notes"]),
            has_queue=bool(settled.get("has_queue")),
        ),
        wanted=Wanted(**message["wanted"]),
        versions=message["versions"],
        started_at=time.monotonic(),
        received_ns=time.time_ns(),
        parcels=tuple(parcels),
        owner=ProcessId(spec.owner_pid, spec.owner_start_ticks) if spec.owner_pid and not spec.is_detached else None,
    )
