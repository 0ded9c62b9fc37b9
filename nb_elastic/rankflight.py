"""Reads what torch knows of this rank's collectives: counters of each group and the flight recorder.

Runs in: a worker. Private names of torch's process groups stand here only; ``tests/unit/test_torch_names.py`` watches them.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from typing import Any

MODULE = "torch.distributed.distributed_c10d"
"""The module whose import ``watch`` waits for."""
NATIVE = "torch._C._distributed_c10d"
RECORDERS = ("_dump_fr_trace_json", "_dump_nccl_trace_json")
"""The flight recorders' readers: of gloo and of NCCL. Each takes (with collectives, only active ones)."""
HOOK = "_update_default_pg"
"""What torch calls whenever the default group is made (with the group) or destroyed (with None)."""

MAX_ENTRIES = 64
MAX_GROUPS = 64


def watch(module: Any, begin: Callable[[], None], end: Callable[[], None]) -> None:
    """Have ``begin`` called once there is a process group, and ``end`` when it is destroyed.

    No function that the user's code calls is changed, so no frame of ours stands in a traceback.
    """
    plain = getattr(module, HOOK)

    def changed(pg: Any) -> Any:
        done = plain(pg)
        begin() if pg is not None else end()
        return done

    setattr(module, HOOK, changed)


def read() -> dict[str, Any]:
    """Counters and last collectives of each group; empty where there is no process group.

    Returns:
        ``groups``: name, ranks and sequence number; ``entries``: the last collectives, oldest first.
    """
    module, native = sys.modules.get(MODULE), sys.modules.get(NATIVE)
    if module is None or native is None:
        return {}
    try:
        return {"groups": _groups(module), "entries": _entries(native)}
    except Exception:  # noqa: BLE001  border: another version of torch, in which nothing is where it was
        return {}


def _groups(module: Any) -> list[dict[str, Any]]:
    world = module._world  # noqa: SLF001
    found = []
    for pg in list(world.pg_map)[:MAX_GROUPS]:
        number = -1
        with contextlib.suppress(Exception):  # not every backend counts
            number = int(pg._get_sequence_number_for_group())  # noqa: SLF001
        ranks = [int(r) for r in world.pg_group_ranks.get(pg, {})]
        found.append({"name": str(world.pg_names.get(pg, "")), "ranks": ranks, "seq": number})
    return found


def _entries(native: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name in RECORDERS:
        if recorder := getattr(native, name, None):
            with contextlib.suppress(Exception):  # a recorder that is off may answer nothing at all
                told = json.loads(recorder(True, False))
                found += [_entry(one) for one in (told.get("entries") or [])[-MAX_ENTRIES:]]
    return found


def _entry(one: dict[str, Any]) -> dict[str, Any]:
    group = one.get("process_group") or ["", ""]
    is_p2p = bool(one.get("is_p2p"))
    return {
        "group": str(group[0]),
        "seq": int(one.get("p2p_seq_id" if is_p2p else "collective_seq_id") or 0),
        "is_p2p": is_p2p,
        "op": str(one.get("profiling_name") or "").partition(":")[2],
        "shapes": str(one.get("input_sizes") or ""),
        "types": str(one.get("input_dtypes") or ""),
        "is_done": bool(one.get("retired")) or one.get("state") == "completed",
    }
