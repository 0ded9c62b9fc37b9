"""The bytes of a payload or result: one stream in band, big buffers apart.

Runs in: the kernel or command line, and the worker.

A file is a magic line, a JSON header of one line, then the pickle stream. Buffers of OUT_OF_BAND_BYTES or
more lie at page boundaries after it (results) or in a descriptor that every rank maps (payloads).
"""

from __future__ import annotations

import json
import mmap
import os
import pickle
import secrets
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from nb_elastic import opening
from nb_elastic.errors import PayloadError
from nb_elastic.lifeline import HeldInterrupts

MAGIC = b"nb_elastic pickle 1\n"
OUT_OF_BAND_BYTES = 1 << 20
PAGE_BYTES = 4096
MAX_HEADER_BYTES = 256 << 20
MAP_LAZY = mmap.MAP_PRIVATE | (0x4000 if sys.platform == "linux" else 0)
"""Private, and no memory is set aside for it (MAP_NORESERVE, which Python has no name for)."""


class PickleStream:
    """What a pickler writes to: keeps small writes in band and big ones, uncopied, apart.

    CPython's pickler hands a big ``bytes``, ``bytearray`` or ``str`` to ``write`` as one object, so these
    travel out of band as PEP 574 buffers do.
    """

    def __init__(self) -> None:
        self.regions: list[memoryview] = []
        self.is_readonly: list[bool] = []
        self.picklable: list[int] = []
        self.segments: list[list[int]] = []
        self._parts: list[bytes] = []

    @property
    def size_bytes(self) -> int:
        """Bytes taken so far, in band and out of band."""
        return sum(map(len, self._parts)) + sum(r.nbytes for r in self.regions)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take what the pickler writes."""
        size = len(data)
        if size >= OUT_OF_BAND_BYTES:
            self.segments.append([1, len(self.regions)])
            self._add(memoryview(data))
        else:
            if self.segments and not self.segments[-1][0]:
                self.segments[-1][1] += size
            else:
                self.segments.append([0, size])
            self._parts.append(bytes(data))
        return size

    def take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a PEP 574 buffer; true sends it back in band because it is small."""
        view = buffer.raw()
        if view.nbytes < OUT_OF_BAND_BYTES:
            return True
        self.picklable.append(len(self.regions))
        self._add(view)
        return False

    def in_band(self) -> bytes:
        """Everything written in band."""
        return b"".join(self._parts)

    def layout(self) -> dict[str, Any]:
        """How to read it back: segments of the stream, regions as (offset, size, read-only), order of buffers."""
        regions, offset = [], 0
        for view, readonly in zip(self.regions, self.is_readonly, strict=True):
            regions.append([offset, view.nbytes, readonly])
            offset = aligned(offset + view.nbytes)
        return {"segments": self.segments, "regions": regions, "buffers": self.picklable, "buffers_bytes": offset}

    def _add(self, view: memoryview) -> None:
        self.regions.append(view.cast("B") if view.format != "B" or view.ndim != 1 else view)
        self.is_readonly.append(view.readonly)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A payload or result read back, before anything of it is unpickled.

    Attributes:
        header: the JSON header.
        segments: the pickle stream in order.
        buffers: out-of-band buffers in the order in which the pickle asks for them.
    """

    header: Mapping[str, Any]
    segments: tuple[memoryview, ...]
    buffers: tuple[memoryview, ...] = field(default=())


class SegmentReader:
    """What an unpickler reads from: several pieces of memory as one stream."""

    def __init__(self, segments: Iterable[memoryview]) -> None:
        self._segments = [s for s in segments if s.nbytes]
        self._index = 0
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        """Read up to ``size`` bytes."""
        parts = []
        while size and self._index < len(self._segments):
            segment = self._segments[self._index]
            part = segment[self._position : self._position + size] if size > 0 else segment[self._position :]
            self._advance(part.nbytes)
            parts.append(part)
            size -= part.nbytes if size > 0 else 0
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def readinto(self, target: Any) -> int:
        """Read straight into ``target``, so that big bytes are copied once."""
        view = memoryview(target).cast("B")
        done = 0
        while done < view.nbytes and self._index < len(self._segments):
            part = self._segments[self._index][self._position : self._position + view.nbytes - done]
            view[done : done + part.nbytes] = part
            done += part.nbytes
            self._advance(part.nbytes)
        return done

    def readline(self) -> bytes:
        """Read up to and with the next line feed."""
        line = bytearray()
        while (byte := self.read(1)) not in (b"", b"\n"):
            line += byte
        return bytes(line + byte)

    def _advance(self, size: int) -> None:
        self._position += size
        if self._position == self._segments[self._index].nbytes:
            self._index += 1
            self._position = 0


def aligned(size: int) -> int:
    """Round up to a whole page."""
    return -(-size // PAGE_BYTES) * PAGE_BYTES


def encode(header: Mapping[str, Any], in_band: bytes) -> bytes:
    """Magic line, header and stream as one piece."""
    return b"".join([MAGIC, json.dumps(header).encode(), b"\n", in_band])


def decode(data: memoryview, *, name: str) -> tuple[dict[str, Any], memoryview]:
    """Split into header and what follows it.

    Raises:
        PayloadError: if it is no file of ours.
    """
    raw = bytes(data[: len(MAGIC)])
    if raw != MAGIC:
        raise PayloadError(f"{name} is not a payload or result that this version of nb_elastic wrote. Launch again.")
    line = bytearray()
    position = len(MAGIC)
    while position < data.nbytes and len(line) < MAX_HEADER_BYTES:
        chunk = bytes(data[position : position + (1 << 16)])
        end = chunk.find(b"\n")
        line += chunk if end < 0 else chunk[:end]
        position += len(chunk) if end < 0 else end + 1
        if end >= 0:
            break
    try:
        header: dict[str, Any] = dict(json.loads(line))
    except (ValueError, TypeError, RecursionError) as e:
        raise PayloadError(f"{name} is torn: its header can't be read ({str(e)[:200]}). Launch again.") from e
    return header, data[position:]


def to_descriptor(regions: Iterable[memoryview], *, size_bytes: int) -> int:
    """Write buffers, page aligned, into a fresh memory file and seal it; return its descriptor.

    Where the system has no memfd, an unlinked temporary file takes its place.
    """
    has_memfd = hasattr(os, "memfd_create")
    if has_memfd:
        fd = os.memfd_create("nb_elastic", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        fd, path = tempfile.mkstemp(prefix="nb_elastic")
        os.unlink(path)
    try:
        os.ftruncate(fd, size_bytes)
        offset = 0
        for view in regions:
            write_at(fd, view, offset)
            offset = aligned(offset + view.nbytes)
        if has_memfd:
            _seal(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _seal(fd: int) -> None:
    """No rank may change what the others map, nor cut it short under them (a bus error)."""
    import fcntl

    if hasattr(fcntl, "F_ADD_SEALS"):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)


def write_at(fd: int, view: memoryview, offset: int) -> None:
    """Write all of ``view`` at ``offset``."""
    done = 0
    while done < view.nbytes:
        done += os.pwrite(fd, view[done : done + (1 << 30)], offset + done)


def map_private(fd: int) -> memoryview:
    """Map a whole file: pages are shared with every other process until this one writes to them."""
    size = os.fstat(fd).st_size
    if not size:
        return memoryview(b"")
    return memoryview(mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE))


def split(header: Mapping[str, Any], rest: memoryview, buffers: memoryview) -> Packed:
    """Cut the stream and the buffers along the header's layout."""
    regions = [
        (part.toreadonly() if readonly else part)
        for offset, size, readonly in header["regions"]
        for part in [buffers[offset : offset + size]]
    ]
    segments, position = [], 0
    for is_region, number in header["segments"]:
        if is_region:
            segments.append(regions[number])
        else:
            segments.append(rest[position : position + number])
            position += number
    return Packed(header=header, segments=tuple(segments), buffers=tuple(regions[i] for i in header["buffers"]))


def write_file(path: Path, header: Mapping[str, Any], stream: PickleStream) -> int:
    """Write header, stream and buffers into one file, atomically, 0600; return its size in bytes. An interrupt waits."""
    head = encode({**header, **stream.layout()}, stream.in_band())
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with HeldInterrupts():
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            try:
                end = _write_whole(fd, head, stream)
            finally:
                os.close(fd)
            os.rename(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
    return end


def _write_whole(fd: int, head: bytes, stream: PickleStream) -> int:
    os.fchmod(fd, 0o600)  # whatever the umask took away
    write_at(fd, memoryview(head), 0)
    end, offset = len(head), aligned(len(head))
    for view in stream.regions:
        write_at(fd, view, offset)
        end = offset + view.nbytes
        offset = aligned(end)
    return end


def read_file(path: Path) -> Packed:
    """Read a file that ``write_file`` wrote, into memory of this process.

    A file with holes, or one that is big for this machine, is mapped instead: only what is used costs memory.

    Raises:
        PayloadError: if it is absent, not ours, not written by this user, or more than memory holds.
    """
    try:
        with HeldInterrupts(most=1):
            opened = open(opening.to_read(path), "rb")  # noqa: SIM115  what follows may take long, and can be interrupted
    except OSError as e:
        raise PayloadError(f"{path} can't be opened: {e.strerror or e}. The rank may not have left a result.") from e
    with opened as f:
        about = os.fstat(opened.fileno())
        if about.st_uid != os.geteuid():
            raise PayloadError(f"{path} was not written by you, so it isn't opened: unpickling runs code.")
        try:
            view = _contents(f, about)
        except (MemoryError, OSError, ValueError, OverflowError) as e:
            raise PayloadError(
                f"{path} can't be read: {e or 'memory is short'}. It has {about.st_size} bytes; "
                "have the rank return less, or save it to a file and return the path."
            ) from e
    try:
        header, rest = decode(view, name=str(path))
        in_band = sum(number for is_region, number in header["segments"] if not is_region)
        base = aligned(view.nbytes - rest.nbytes + in_band)
        if (header["regions"] and base + sum(header["regions"][-1][:2]) > view.nbytes) or in_band > rest.nbytes:
            raise PayloadError(f"{path} is cut short: the disk may have been full.")
        return split(header, rest, view[base:])
    except (KeyError, TypeError, IndexError, ValueError, OverflowError, MemoryError) as e:
        raise PayloadError(f"{path} is torn: {e!r}.") from e


def _contents(file: BinaryIO, about: os.stat_result) -> memoryview:
    """All of a file: copied, or mapped where a copy might not fit. What is changed in memory never reaches the file."""
    size = about.st_size
    has_holes = about.st_blocks * 512 < size - PAGE_BYTES
    if not has_holes and size < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4:
        data = bytearray(size)
        return memoryview(data)[: file.readinto(data)]  # type: ignore[attr-defined]
    try:
        return memoryview(mmap.mmap(file.fileno(), size, flags=MAP_LAZY, prot=mmap.PROT_READ | mmap.PROT_WRITE))
    except OSError:  # more than the system promises to anybody who may write: then for reading only
        return memoryview(mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ))
