"""What each rank uses of the GPUs: a thread that asks NVML, and keeps its last answer.

Runs in: the supervisor. NVML may fail, be slow or never answer: that costs the numbers, and nothing else.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from nb_elastic.nvml import NvmlError
from nb_elastic.nvml_usage import DeviceUsage, NvmlGauge

LOOK_S = 1.0
STALE_S = 3.0
"""An answer older than this is no answer."""

JOIN_S = 0.5
"""How long the end of a run waits for a call that does not come back."""


class Gauge(Protocol):
    """Who tells of the GPUs; ``NvmlGauge``, or a test."""

    def open(self) -> None:
        """Begin."""
        ...

    def look(self, uuid: str) -> DeviceUsage:
        """Tell of one GPU."""
        ...

    def close(self) -> None:
        """End."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUsage:
    """What one rank uses; ``percent`` is None where nobody can tell."""

    percent: float | None
    memory_bytes: int
    memory_total_bytes: int

    def record(self) -> dict[str, float | int]:
        """As it stands in usage.jsonl."""
        known = {} if self.percent is None else {"gpu_percent": round(self.percent, 1)}
        return {**known, "gpu_memory_bytes": self.memory_bytes, "gpu_memory_total_bytes": self.memory_total_bytes}


class GpuWatch:
    """Asks once a second, in a thread of its own.

    Args:
        homes: local rank -> UUID of the GPU that is meant for it.
        others: UUIDs of further GPUs that the ranks can see.
        pids: tells the processes of each local rank.
    """

    def __init__(
        self,
        homes: Mapping[int, str],
        others: Sequence[str],
        pids: Callable[[], Mapping[int, Sequence[int]]],
        *,
        make_gauge: Callable[[], Gauge] = NvmlGauge,
    ) -> None:
        self._homes = {rank: uuid for rank, uuid in homes.items() if uuid}
        self._uuids = tuple(dict.fromkeys((*self._homes.values(), *filter(None, others))))
        self._pids = pids
        self._make_gauge = make_gauge
        self._last: tuple[float, Mapping[int, GpuUsage]] = (float("-inf"), {})
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nb_elastic-gpus", daemon=True)

    def start(self) -> None:
        """Begin to ask, if there is a GPU."""
        if self._uuids:
            self._thread.start()

    def last(self) -> Mapping[int, GpuUsage]:
        """What was told last, by local rank; nothing where that is too long ago."""
        told_at, usage = self._last
        return usage if time.monotonic() - told_at < STALE_S else {}

    def end(self) -> None:
        """Ask nothing more. Waits for nothing: letting the library go may take a while."""
        self._over.set()

    def join(self) -> None:
        """Wait for the thread; a call that does not come back is left to itself."""
        if self._thread.ident is not None:
            self._thread.join(JOIN_S)

    def _run(self) -> None:
        try:
            gauge = self._make_gauge()
            gauge.open()
        except NvmlError:
            return
        try:
            while not self._over.is_set():
                self._last = time.monotonic(), self._look(gauge)
                self._over.wait(LOOK_S)
        finally:
            gauge.close()

    def _look(self, gauge: Gauge) -> dict[int, GpuUsage]:
        devices: dict[str, DeviceUsage] = {}
        for uuid in self._uuids:
            try:
                devices[uuid] = gauge.look(uuid)
            except NvmlError:
                continue
        return attribute(devices, self._homes, self._pids())


def attribute(
    devices: Mapping[str, DeviceUsage],
    homes: Mapping[int, str],
    pids: Mapping[int, Sequence[int]],
    *,
    is_known: Callable[[int], bool] = lambda pid: os.path.exists(f"/proc/{pid}"),
) -> dict[int, GpuUsage]:
    """Give each rank its part of the GPUs: what its processes use, or, where the pids are not ours, its GPU as a whole.

    Args:
        devices: by UUID.
        homes: local rank -> UUID of the GPU that is meant for it.
        pids: processes of each local rank.
        is_known: whether there is such a process here; the driver of a container may tell pids of the machine.
    """
    found: dict[int, GpuUsage] = {}
    for rank, home in homes.items():
        own = set(pids.get(rank, ()))
        used = [d for d in devices.values() if own & d.memory_of.keys()]
        if not used and home in devices:
            whole = devices[home]
            is_ours_to_see = any(map(is_known, whole.memory_of))  # and no process of the rank is there yet
            found[rank] = GpuUsage(
                percent=0.0 if is_ours_to_see else whole.percent,
                memory_bytes=0 if is_ours_to_see else whole.used_bytes,
                memory_total_bytes=whole.total_bytes,
            )
        elif used:
            is_alone = sum(uuid == home for uuid in homes.values()) == 1
            percents = [p for p in (_percent(d, own, is_alone=is_alone) for d in used) if p is not None]
            found[rank] = GpuUsage(
                percent=sum(percents) / len(percents) if percents else None,
                memory_bytes=sum(d.memory_of[pid] for d in used for pid in own & d.memory_of.keys()),
                memory_total_bytes=sum(d.total_bytes for d in used),
            )
    return found


def _percent(device: DeviceUsage, own: set[int], *, is_alone: bool) -> float | None:
    """How busy the rank keeps a GPU; of one that it has for itself, how busy it is."""
    if device.percent_of is not None:
        return min(100.0, sum(p for pid, p in device.percent_of.items() if pid in own))
    return device.percent if is_alone else None
