"""What a rank tells the dashboard about its progress.

Runs in: a worker; a no-op everywhere else.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

METRICS_FILE = "NB_ELASTIC_METRICS_FILE"
"""Environment variable that names the rank's metrics file."""


def report(step: int | None = None, total: int | None = None, **metrics: Any) -> None:
    """Report progress and metrics of this rank to the run's dashboard and ``run.metrics``.

    Outside a rank this does nothing. It never raises because of the disk: training goes on.

    Args:
        step: steps done so far.
        total: steps there will be.
        metrics: numbers by name; one-element tensors and NumPy scalars are taken as their value.
    """
    path = os.environ.get(METRICS_FILE)
    if not path:
        return
    record: dict[str, Any] = {"time_ns": time.time_ns(), "rank": int(os.environ.get("RANK", "0"))}
    if step is not None:
        record["step"] = int(step)
    if total is not None:
        record["total"] = int(total)
    record.update({name: _number(value) for name, value in metrics.items()})
    line = json.dumps(record, default=str).encode() + b"\n"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    try:
        os.write(fd, line)
    except OSError:
        return
    finally:
        os.close(fd)


def _number(value: Any) -> Any:
    if isinstance(value, (int, float, str)) or value is None:
        return value
    item = getattr(value, "item", None)
    return item() if callable(item) else str(value)
