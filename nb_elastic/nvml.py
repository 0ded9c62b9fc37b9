"""Owns the conversation with NVIDIA's management library: which GPUs there are, without a CUDA context.

Runs in: the supervisor, the kernel or CLI (dry run, doctor).

``libnvidia-ml.so.1`` is loaded with ctypes and asked only for facts; ``libcuda`` is never touched, so a process that
read this may still be forked. Signatures and struct layouts are those of NVML's public ``nvml.h``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

LIBRARY = "libnvidia-ml.so.1"
_TEXT_SIZE = 96  # NVML_DEVICE_UUID_V2_BUFFER_SIZE, NVML_DEVICE_NAME_V2_BUFFER_SIZE
_NO_PERMISSION = 4
_WHY = {
    _NO_PERMISSION: "permission denied (may this container use /dev/nvidia*?)",
    9: "the NVIDIA driver is not loaded",
    12: "a library of the driver is missing",
    15: "a GPU fell off the bus (reboot the machine)",
    18: "driver and library versions differ (reload the driver, or reboot)",
}


class NvmlError(OSError):
    """NVML refused an answer. ``code`` is its nvmlReturn_t, 0 where there was none."""

    def __init__(self, message: str, *, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class NvmlMissingError(NvmlError):
    """This machine has no NVML, or one older than what we ask it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmlMig:
    """One slice of a GPU that was cut up with MIG. ``uuid`` starts with ``MIG-``."""

    uuid: str
    name: str = ""
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmlDevice:
    """One GPU as NVML tells it.

    Attributes:
        index: NVML's number, in the order of the PCI bus; what ``nvidia-smi`` shows.
        pci: sysfs spelling, as in ``0000:3b:00.0``.
    """

    index: int
    uuid: str
    pci: str
    name: str = ""
    memory_bytes: int = 0
    migs: tuple[NvmlMig, ...] = ()


class Nvml(Protocol):
    """What the topology asks of NVML; tests put their own machine behind it."""

    def devices(self) -> Sequence[NvmlDevice]:
        """Every GPU this process may use, in PCI order.

        Raises:
            NvmlError: if the library is there but can't answer.
        """
        ...


class _PciInfo(ctypes.Structure):
    _fields_ = (
        ("bus_id_legacy", ctypes.c_char * 16),
        ("domain", ctypes.c_uint),
        ("bus", ctypes.c_uint),
        ("device", ctypes.c_uint),
        ("pci_device_id", ctypes.c_uint),
        ("pci_subsystem_id", ctypes.c_uint),
        ("bus_id", ctypes.c_char * 32),
    )


class NvmlMemory(ctypes.Structure):
    """Bytes of a GPU's memory."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class CtypesNvml:
    """NVML through ctypes; initialised for the length of one question.

    Raises:
        NvmlMissingError: if this machine has no such library.
    """

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            self._lib = ctypes.CDLL(library)
        except OSError as error:
            raise NvmlMissingError(f"{library} is not on this machine") from error

    def devices(self) -> list[NvmlDevice]:
        """Every GPU this process may use, in PCI order.

        Raises:
            NvmlError: if the library is there but can't answer.
        """
        self._call("nvmlInit_v2")
        try:
            count = ctypes.c_uint()
            self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
            handles = [(index, self._handle(index)) for index in range(count.value)]
            return [self._device(index, handle) for index, handle in handles if handle is not None]
        finally:
            self._lib.nvmlShutdown()

    def _handle(self, index: int) -> ctypes.c_void_p | None:
        """None for a GPU that a container sees but may not use: the count has it, CUDA passes over it."""
        handle = ctypes.c_void_p()
        try:
            self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
        except NvmlError as error:
            if error.code == _NO_PERMISSION:
                return None
            raise
        return handle

    def _device(self, index: int, handle: ctypes.c_void_p) -> NvmlDevice:
        pci = _PciInfo()
        self._call("nvmlDeviceGetPciInfo_v3", handle, ctypes.byref(pci))
        return NvmlDevice(
            index=index,
            uuid=self._text("nvmlDeviceGetUUID", handle),
            pci=sysfs_pci(bytes(pci.bus_id).decode("ascii", "replace")),
            name=self._text("nvmlDeviceGetName", handle),
            memory_bytes=self._memory_bytes(handle),
            migs=tuple(self._migs(handle)),
        )

    def _memory_bytes(self, handle: ctypes.c_void_p) -> int:
        memory = NvmlMemory()
        try:
            self._call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
        except NvmlError:  # not told on machines whose GPU shares the system's memory
            return 0
        return int(memory.total)

    def _migs(self, handle: ctypes.c_void_p) -> list[NvmlMig]:
        current, pending, count = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint()
        try:
            self._call("nvmlDeviceGetMigMode", handle, ctypes.byref(current), ctypes.byref(pending))
            if current.value != 1:
                return []
            self._call("nvmlDeviceGetMaxMigDeviceCount", handle, ctypes.byref(count))
        except NvmlError:  # a GPU or driver without MIG
            return []
        found = []
        for index in range(count.value):
            mig = ctypes.c_void_p()
            try:
                self._call("nvmlDeviceGetMigDeviceHandleByIndex", handle, ctypes.c_uint(index), ctypes.byref(mig))
            except NvmlError:  # an empty place: the count is the largest possible one
                continue
            uuid, name = self._text("nvmlDeviceGetUUID", mig), self._text("nvmlDeviceGetName", mig)
            found.append(NvmlMig(uuid=uuid, name=name, memory_bytes=self._memory_bytes(mig)))
        return found

    def _text(self, function: str, handle: ctypes.c_void_p) -> str:
        buffer = ctypes.create_string_buffer(_TEXT_SIZE)
        self._call(function, handle, buffer, ctypes.c_uint(_TEXT_SIZE))
        return buffer.value.decode("utf-8", "replace")

    def _call(self, function: str, *arguments: object) -> None:
        try:
            code = int(getattr(self._lib, function)(*arguments))
        except AttributeError as error:  # a driver older than the function
            raise NvmlMissingError(f"NVML has no {function}") from error
        if code:
            why = _WHY.get(code, "see nvml.h")
            raise NvmlError(f"NVML's {function} failed with code {code}: {why}", code=code)


def sysfs_pci(bus_id: str) -> str:
    """Turn NVML's ``00000000:3B:00.0`` into sysfs's ``0000:3b:00.0``."""
    bus_id = bus_id.split("\0", maxsplit=1)[0].strip().lower()
    domain, _, rest = bus_id.partition(":")
    return f"{int(domain, 16):04x}:{rest}" if rest else bus_id
