"""What a saved notebook keeps of a run beside its state and log tails: metrics, usage and outputs, bounded.

Runs in: the kernel.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nb_elastic import report_words
from nb_elastic.dashboard import plainjson
from nb_elastic.rundir import RankDir, RunDir

METRIC_ROWS = 2_000
METRIC_BYTES = 400_000
USAGE_ROWS = 200
USAGE_BYTES = 200_000
OUTPUT_BYTES = 1_000_000
"""Bytes of JSON of all ranks' outputs together; what does not fit becomes a note."""
READ_BYTES = 24 << 20
"""Most bytes read of one rank's outputs: a little more than a rank may write."""
READ_ALL_BYTES = 128 << 20
NOTE_BYTES = 400
MAX_NOTES = 200
KINDS = frozenset({"display", "update", "clear"})


def metrics(folder: RunDir) -> list[dict[str, Any]]:
    """What the ranks reported, thinned out evenly: at most METRIC_ROWS rows of all ranks and rounds together."""
    paths = [place.metrics for _, place in _newest(folder) if plainjson.size_of(place.metrics)]
    if not paths:
        return []
    share = max(2, METRIC_ROWS // len(paths))
    found = [row for path in paths[: METRIC_ROWS // 2] for row in plainjson.sample(path, share)]
    found.sort(key=lambda row: row["time_ns"])
    return fitting(found, METRIC_BYTES)


def usage(folder: RunDir) -> list[dict[str, Any]]:
    """What the ranks used, thinned out: at most USAGE_ROWS rows of all nodes together."""
    paths = [path for _, path in usage_files(folder)]
    found = [row for path in paths for row in plainjson.sample(path, USAGE_ROWS // len(paths)) if _is_usage(row)]
    found.sort(key=lambda row: row["time_ns"])
    return fitting(found, USAGE_BYTES)


def usage_files(folder: RunDir) -> list[tuple[int, Path]]:
    """(node, file) of what each node's ranks used."""
    levels = (path.name.removeprefix("node_") for path in folder.path.glob("node_*"))
    found = [(0, folder.usage()), *((int(n), folder.usage(int(n))) for n in levels if n.isdecimal())]
    return [(node, path) for node, path in sorted(found) if plainjson.size_of(path)]


def outputs(folder: RunDir) -> list[dict[str, Any]]:
    """What the ranks display at the end, in order of time.

    Rank 0's have the first claim to the room there is, and of a rank's rounds the last one's.
    """
    by_rank: list[tuple[int, list[dict[str, Any]]]] = []
    left = READ_ALL_BYTES
    for local_rank, place in _newest(folder):
        if not (size := min(plainjson.size_of(place.outputs), READ_BYTES, left)):
            continue
        left -= size
        shown = displayed(plainjson.rows(place.outputs, limit_bytes=size))
        by_rank.append((shown[0]["rank"] if shown else local_rank, shown))
    by_rank.sort(key=lambda pair: pair[0])
    return sorted(_fitting_outputs([one for _, shown in by_rank for one in shown]), key=lambda one: one["time_ns"])


def output(value: Mapping[str, Any]) -> dict[str, Any] | None:
    """One row of outputs.jsonl in its full shape; None for what is none."""
    kind, data, metadata = value.get("kind"), value.get("data"), value.get("metadata")
    if not isinstance(kind, str) or kind not in KINDS or not isinstance(data, (dict, type(None))):
        return None
    rank, display_id, note = value.get("rank"), value.get("display_id"), value.get("note")
    return {
        "time_ns": value["time_ns"],
        "rank": rank if isinstance(rank, int) and not isinstance(rank, bool) else 0,
        "kind": kind,
        "display_id": display_id if isinstance(display_id, str) else "",
        "data": {kind: form for kind, form in (data or {}).items() if isinstance(form, str) or _is_json(kind)},
        "metadata": metadata if isinstance(metadata, dict) else {},
        "note": note if isinstance(note, str) else "",
    }


def displayed(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What one rank displays now: its rows with updates and clears applied."""
    shown: list[dict[str, Any]] = []
    newest: dict[str, dict[str, Any]] = {}
    for one in reversed(
        [*filter(None, map(output, rows))]
    ):  # backwards: the first update that is met is the one that counts
        if one["kind"] == "clear":
            break
        name = one["display_id"]
        if one["kind"] == "display":
            update = newest.get(name)
            shown.append(one if update is None else {**update, "kind": "display", "time_ns": one["time_ns"]})
        elif name:
            newest.setdefault(name, one)
    return shown[::-1]


def fitting(rows: Sequence[dict[str, Any]], limit_bytes: int) -> list[dict[str, Any]]:
    """The rows, thinned out until they fit."""
    kept = list(rows)
    while len(kept) > 1 and len(json.dumps(kept)) > limit_bytes:
        kept = plainjson.thinned(kept, len(kept) // 2)
    return kept


def _fitting_outputs(shown: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    room, notes = OUTPUT_BYTES, 0
    for one in shown:
        size = len(json.dumps(one))
        if size > room - NOTE_BYTES * min(notes + 1, MAX_NOTES):
            notes += 1
            if notes > MAX_NOTES:
                continue
            text = one["data"].get("text/plain")
            short = {"text/plain": report_words.first_line(text)} if isinstance(text, str) else {}
            note = f"An output of {size:,} bytes is left out here; it is kept in the run's folder (outputs.jsonl)."
            kept.append({**one, "data": short, "metadata": {}, "note": note})
        else:
            room -= size
            kept.append(one)
    return kept


def _newest(folder: RunDir) -> list[tuple[int, RankDir]]:
    """(local rank, folder) of all workers, those of the last round first."""
    found = sorted(folder.ranks(), key=lambda worker: -worker[1])
    return [(local_rank, place) for _, _, local_rank, place in found]


def _is_json(kind: str) -> bool:
    """True for what may be more than text in a notebook's file."""
    return kind == "application/json" or kind.endswith("+json")


def _is_usage(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("ranks"), list)
