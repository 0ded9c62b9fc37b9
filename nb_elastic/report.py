"""What a rank tells the dashboard about its progress.

Runs in: a worker; a no-op everywhere else.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from nb_elastic import opening

METRICS_FILE = "NB_ELASTIC_METRICS_FILE"
"""Environment variable that names the rank's metrics file."""

OWN = frozenset({"time_ns", "rank", "round", "step", "total"})
"""Fields of a record that are not the user's: a metric of that name is recorded as ``metric_<name>``."""

MAX_TEXT = 500
"""Most characters of a value that is no number."""


def report(step: int | None = None, total: int | None = None, **metrics: Any) -> None:
    """Report progress and metrics of this rank to the run's dashboard and ``run.metrics``.

    Outside a rank this does nothing. It never raises because of the disk or of a value: training goes on.

    Args:
        step: steps done so far.
        total: steps there will be.
        metrics: numbers by name; one-element tensors and NumPy scalars are taken as their value, anything else
            as its text, shortened. ``nan`` and infinities are kept. The names ``rank``, ``time_ns`` and ``round``
            are the record's own: a metric of such a name is recorded as ``metric_rank`` and so on.
    """
    path = os.environ.get(METRICS_FILE)
    if not path:
        return
    record: dict[str, Any] = {"time_ns": time.time_ns(), "rank": _rank()}
    aside: dict[str, Any] = dict(metrics)
    for name, count in (("step", step), ("total", total)):
        whole = _whole(count)
        if whole is not None:
            record[name] = whole
        elif count is not None:
            aside[name] = _text(count)
    for name, value in aside.items():
        own = name
        while name in OWN and own in {*OWN, *metrics}:
            own = f"metric_{own}"
        record[own] = _number(value)
    _append(path, json.dumps(record).encode() + b"\n")


def _append(path: str, line: bytes) -> None:
    with contextlib.suppress(OSError):
        fd = opening.to_append(Path(path))
        try:
            os.write(fd, line)
        finally:
            os.close(fd)


def _rank() -> int:
    try:
        return int(os.environ.get("RANK", "0"))
    except ValueError:
        return 0


def _whole(count: Any) -> int | None:
    """The count as an integer that JSON can hold, or None."""
    try:
        found = int(count)
        json.dumps(found)
    except Exception:  # noqa: BLE001  border: int() runs code of the user's value; a count must not end the training
        return None
    return found


def _number(value: Any) -> Any:
    """The value as JSON has it: a number, a truth, a short text, or None."""
    try:
        if not isinstance(value, (int, float, str)) and value is not None:
            value = value.item()
        if isinstance(value, (int, float)) or value is None:
            json.dumps(value)  # an integer may have more digits than Python writes
            return value
    except Exception:  # noqa: BLE001  border: code of the user's value; a metric must not end the training
        return _text(value)
    return _text(value)


def _text(value: Any) -> str:
    """The value's text, shortened, whatever the value does."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:  # noqa: BLE001  border: as above
        text = f"<{type(value).__name__}>"
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."
