"""The thread pools of compiled libraries (OpenMP, OpenBLAS, BLIS, MKL, numexpr, numba): as many threads as a fresh process would have.

Runs in: the process that forks ranks, which finds them, and the worker, which sizes them.

Libraries read the number of their threads from the environment when they are loaded. Those that the forking
process loaded read its own environment, which says one. Those loaded later read the rank's, and need nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_NAMES = re.compile(
    rb"(?P<openmp>/lib[gi]?omp5?[-.])|(?P<openblas>openblas)|(?P<blis>/libblis[-.])|(?P<mkl>/libmkl_rt[-.])"
)
_CALLS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "openmp": (("omp_get_max_threads", "omp_set_num_threads"),),
    "openblas": tuple(
        (f"{prefix}openblas_get_num_threads{suffix}", f"{prefix}openblas_set_num_threads{suffix}")
        for prefix in ("", "scipy_")
        for suffix in ("", "64_", "_64")
    ),
    "blis": (("bli_thread_get_num_threads", "bli_thread_set_num_threads"),),
    "mkl": (("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),),
}
"""For each kind, under which names it tells and takes its number of threads."""

_OWN_VARIABLE: Mapping[str, str] = {
    "openblas": "OPENBLAS_NUM_THREADS",
    "blis": "BLIS_NUM_THREADS",
    "mkl": "MKL_NUM_THREADS",
}


class _LoadedLibrary(ctypes.Structure):
    """The first fields of ``struct dl_phdr_info``."""

    _fields_ = (("address", ctypes.c_void_p), ("path", ctypes.c_char_p))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One library's pool: its kind, and how to ask for and set its number of threads."""

    kind: str
    get_count: Callable[[], int]
    set_count: Callable[[int], Any]


@dataclass(frozen=True, slots=True)
class Pools:
    """The pools of the libraries that were loaded when ``find`` looked."""

    found: tuple[Pool, ...]

    def size(self, env: Mapping[str, str]) -> None:
        """Give each pool what a process that starts with this environment gives it.

        OpenMP keeps the number for the calling thread alone: threads that the rank starts later, and that use another
        OpenMP than torch's, still have what the forking process had.
        """
        cpus = _cpu_count()
        count = _number(env.get("OMP_NUM_THREADS", "")) or cpus
        for pool in self.found:
            wanted = _number(env.get(_OWN_VARIABLE.get(pool.kind, ""), "")) or count
            if pool.kind != "openmp":
                wanted = min(wanted, cpus)
            if wanted != pool.get_count():  # setting may start threads, even where nothing changes
                pool.set_count(wanted)
        _size_torch(env, count)
        _size_numexpr(_number(env.get("NUMEXPR_NUM_THREADS", "")) or count)
        _size_numba(env, cpus)


def find() -> Pools:
    """Find the pools of all libraries loaded into this process by now; nothing is loaded for it.

    A process that is forked later has the answer already, unless it loads more.
    """
    return _of(tuple(_loaded()))


@functools.lru_cache(maxsize=1)
def _of(paths: tuple[bytes, ...]) -> Pools:
    pools: list[Pool] = []
    for path in paths:
        if found := _NAMES.search(path):
            kind = str(found.lastgroup)
            with contextlib.suppress(OSError):  # a file replaced since it was loaded
                library = ctypes.CDLL(os.fsdecode(path), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
                calls = [names for names in _CALLS[kind] if all(hasattr(library, name) for name in names)]
                pools += [
                    Pool(kind=kind, get_count=getattr(library, get), set_count=getattr(library, set_))
                    for get, set_ in calls[:1]
                ]
    return Pools(tuple(pools))


def _loaded() -> list[bytes]:
    """Paths of the loaded libraries: the loader's own list, which is much shorter than /proc/self/maps."""
    paths: list[bytes] = []

    def note(info: Any, _size: int, _data: Any) -> int:
        paths.append(info.contents.path or b"")
        return 0

    walk = getattr(ctypes.CDLL(None), "dl_iterate_phdr", None) if sys.platform == "linux" else None
    if walk is not None:
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_LoadedLibrary), ctypes.c_size_t, ctypes.c_void_p)
        walk(kind(note), None)
    return paths


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _number(text: str) -> int:
    """A number of threads as OpenMP reads it (``4``, or ``4,2`` for nested regions); 0 where it is none."""
    first = text.partition(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def _size_torch(env: Mapping[str, str], count: int) -> None:
    """Settle torch's number now, and for all threads of the rank: each would ask OpenMP at its first use."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if torch._C.has_mkl:  # noqa: SLF001  as torch.backends.mkl.is_available()
        count = min(_number(env.get("MKL_NUM_THREADS", "")) or count, _core_count())
    torch.set_num_threads(count)


def _core_count() -> int:
    """Cores that this process may use: MKL counts no hyper-threads."""
    cpus = _cpu_count()
    root = "/sys/devices/system/cpu"
    try:
        with open(f"{root}/smt/active", encoding="ascii") as f:
            if f.read().strip() == "0":
                return cpus
        cores = set()
        for cpu in os.sched_getaffinity(0):
            with open(f"{root}/cpu{cpu}/topology/thread_siblings_list", encoding="ascii") as f:
                cores.add(f.read())
    except (OSError, AttributeError):
        return cpus
    return len(cores)


def _size_numexpr(count: int) -> None:
    if (numexpr := sys.modules.get("numexpr")) and numexpr.get_num_threads() != count:
        with contextlib.suppress(Exception):  # more than the most that it was compiled or told to allow
            numexpr.set_num_threads(count)
            numexpr.nthreads = count  # type: ignore[attr-defined]


def _size_numba(env: Mapping[str, str], cpus: int) -> None:
    """Have numba read the environment anew; it starts its threads only when they are first used."""
    if config := sys.modules.get("numba.core.config"):
        wanted = _number(env.get("NUMBA_NUM_THREADS", "")) or cpus
        if wanted != config.NUMBA_NUM_THREADS:
            config.reload_config()
            if parallel := sys.modules.get("numba.np.ufunc.parallel"):
                parallel.NUM_THREADS = wanted  # type: ignore[attr-defined]
