"""What a node gets of a launch: no path, process or secret of the machine that launched, and few of its variables.

Runs in: the driver.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nb_elastic.model import LaunchSpec, to_json

TRAVELLING = (
    "NCCL_*", "GLOO_*", "TORCH_*", "TORCHELASTIC_*", "PYTORCH_*", "TORCHINDUCTOR_*", "OMP_*", "MKL_*", "OPENBLAS_*", "KMP_*",
    "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING", "CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_DEVICE_ORDER", "CUBLAS_*", "CUDNN_*",
    "TOKENIZERS_PARALLELISM", "HF_*", "TRANSFORMERS_*", "WANDB_*", "MLFLOW_*", "PYTHONHASHSEED", "PYTHONWARNINGS",
    "PYTHONUNBUFFERED", "PYTHONFAULTHANDLER", "TZ", "LC_ALL", "LANG",
)  # fmt: skip
"""Variables of the notebook that say how to compute, not where things lie."""

STAYING = (
    "*_SOCKET_IFNAME",
    "*_HOME",
    "*_DIR",
    "*_CACHE",
    "*_PATH",
    "*_FILE",
    "*_ROOT",
    "TORCHELASTIC_RUN_ID",
    "TORCH_LIB*",
)
"""Those among them that name what only this machine has."""


def variables(spec: LaunchSpec) -> dict[str, str]:
    """Variables that go to the nodes: the user's own by ``--env``, and those of the notebook that travel."""
    found = {name: value for name, value in spec.env.items() if _travels(name)}
    return {**found, **spec.options.env}


def frame(
    spec: LaunchSpec, each: Mapping[str, Mapping[str, Any]], *, endpoint: str, key: bytes, variables: Mapping[str, str]
) -> dict[str, Any]:
    """The message that starts the shares of the nodes of one link. All of them read it: what is alike stands in it once.

    Args:
        each: by a node's token what it alone is told: its number (``node``) and under which ``address`` the others reach it.
        key: of the group, made for this run; the journal's own key stays here.
    """
    options = spec.options
    share = replace(
        spec,
        options=replace(options, timeout=None, detach=False, log_dir=None, render="none"),
        env={},
        run_dir="",
        key_hex="",
        is_detached=False,
        affinity=(),
        niceness=None,
        rlimits={},
        machine="",
        owner_pid=0,
        owner_start_ticks=0,
        buffers_fd=-1,
    )
    return {
        "type": "run",
        "run_id": spec.run_id,
        "to": list(each),
        "each": dict(each),
        "spec": to_json(share),
        "env": dict(variables),
        "endpoint": endpoint,
        "key_hex": key.hex(),
        "min_nodes": options.min_nodes,
        "max_nodes": options.max_nodes,
    }


def _travels(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, p) for p in TRAVELLING) and not any(
        fnmatch.fnmatchcase(name, p) for p in STAYING
    )
