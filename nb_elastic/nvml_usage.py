"""Asks NVIDIA's management library what processes use of the GPUs, again and again.

Runs in: the supervisor.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from nb_elastic.nvml import LIBRARY, CtypesNvml, NvmlError, NvmlMemory

MOST_PROCESSES = 1024
NOT_FOUND = 6
NOT_AVAILABLE = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUsage:
    """What a GPU's processes use of it. Pids are those that the driver knows: in some containers not ours.

    Attributes:
        percent: how busy the GPU is; None where it is not told (of MIG slices, say).
        memory_of: bytes by pid, 0 where they are not told.
        percent_of: how busy each process keeps it, by pid; None where it is not told by process.
    """

    used_bytes: int
    total_bytes: int
    percent: float | None = None
    memory_of: Mapping[int, int] = field(default_factory=dict)
    percent_of: Mapping[int, float] | None = None


class _ProcessInfo(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used_bytes", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class _Sample(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint),
        ("time_us", ctypes.c_ulonglong),
        ("sm_percent", ctypes.c_uint),
        ("memory_percent", ctypes.c_uint),
        ("encoder_percent", ctypes.c_uint),
        ("decoder_percent", ctypes.c_uint),
    )


class _Rates(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class NvmlGauge(CtypesNvml):
    """NVML, initialised from ``open`` to ``close``. One thread may use it.

    Raises:
        NvmlMissingError: if this machine has no such library.
    """

    def __init__(self, library: str = LIBRARY) -> None:
        super().__init__(library)
        self._handles: dict[str, ctypes.c_void_p] = {}
        self._seen_us: dict[str, int] = {}

    def open(self) -> None:
        """Initialise the library.

        Raises:
            NvmlError: if it can't be.
        """
        self._call("nvmlInit_v2")

    def close(self) -> None:
        """Let the library go."""
        self._lib.nvmlShutdown()

    def look(self, uuid: str) -> DeviceUsage:
        """Ask about one GPU or MIG slice.

        Raises:
            NvmlError: if not even its memory is told.
        """
        handle = self._handle_of(uuid)
        memory = NvmlMemory()
        self._call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
        return DeviceUsage(
            used_bytes=int(memory.used),
            total_bytes=int(memory.total),
            percent=self._percent(handle),
            memory_of=self._memory_of(handle),
            percent_of=self._percent_of(uuid, handle),
        )

    def _handle_of(self, uuid: str) -> ctypes.c_void_p:
        if uuid not in self._handles:
            handle = ctypes.c_void_p()
            self._call("nvmlDeviceGetHandleByUUID", ctypes.c_char_p(uuid.encode()), ctypes.byref(handle))
            self._handles[uuid] = handle
        return self._handles[uuid]

    def _percent(self, handle: ctypes.c_void_p) -> float | None:
        rates = _Rates()
        try:
            self._call("nvmlDeviceGetUtilizationRates", handle, ctypes.byref(rates))
        except NvmlError:
            return None
        return float(rates.gpu)

    def _memory_of(self, handle: ctypes.c_void_p) -> dict[int, int]:
        count, infos = ctypes.c_uint(MOST_PROCESSES), (_ProcessInfo * MOST_PROCESSES)()
        try:
            self._call("nvmlDeviceGetComputeRunningProcesses_v3", handle, ctypes.byref(count), infos)
        except NvmlError:
            return {}
        found = infos[: min(count.value, MOST_PROCESSES)]
        return {int(i.pid): 0 if i.used_bytes == NOT_AVAILABLE else int(i.used_bytes) for i in found}

    def _percent_of(self, uuid: str, handle: ctypes.c_void_p) -> dict[int, float] | None:
        """Mean of the samples since the last look. The library keeps some seconds of them."""
        since_us = self._seen_us.get(uuid, time.time_ns() // 1000 - 10**6)
        count, samples = ctypes.c_uint(MOST_PROCESSES), (_Sample * MOST_PROCESSES)()
        try:
            self._call(
                "nvmlDeviceGetProcessUtilization", handle, samples, ctypes.byref(count), ctypes.c_ulonglong(since_us)
            )
        except NvmlError as error:
            return {} if error.code == NOT_FOUND else None  # nobody kept it busy
        told: dict[int, list[int]] = {}
        for sample in samples[: min(count.value, MOST_PROCESSES)]:
            if sample.time_us > since_us and sample.sm_percent <= 100:
                told.setdefault(int(sample.pid), []).append(int(sample.sm_percent))
                self._seen_us[uuid] = max(self._seen_us.get(uuid, 0), int(sample.time_us))
        return {pid: sum(found) / len(found) for pid, found in told.items()}
