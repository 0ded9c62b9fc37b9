"""Variables that act when a process starts or loads a library: a process that is forked later does not heed them.

Runs in: the kernel and the supervisor.
"""

from __future__ import annotations

from collections.abc import Mapping

EARLY = (
    "LD_", "PYTHON", "MALLOC_", "GLIBC_TUNABLES", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "GOTO_", "BLIS_", "VECLIB_", "DNNL_",
    "ONEDNN_", "ATEN_", "C10_", "TORCH_", "PYTORCH_", "CUDA_MODULE_LOADING",
)  # fmt: skip
"""How the names of such variables begin; native code reads them, so nobody sees which."""

LATE = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONASYNCIODEBUG", "PYTHONBREAKPOINT",
    "PYTHONFAULTHANDLER", "PYTHONIOENCODING", "PYTHONSTARTUP", "PYTHONWARNINGS", "PYTORCH_NVML_BASED_CUDA_CHECK",
    "TORCH_NCCL_", "TORCH_DISTRIBUTED_DEBUG", "TORCH_SHOW_CPP_STACKTRACES", "TORCH_HOME", "TORCH_EXTENSIONS_DIR",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK",
)  # fmt: skip
"""Those of them that are read when they are needed, that each rank heeds anew, or that libraries set when it is too late."""


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> set[str]:
    """Names of the variables that differ, but those that are read late."""
    return {n for n in before.keys() | now.keys() if before.get(n) != now.get(n) and not n.startswith(LATE)}


def is_early(name: str) -> bool:
    """True for a variable that acts only when a process starts or loads a library."""
    return name.startswith(EARLY) and not name.startswith(LATE)
