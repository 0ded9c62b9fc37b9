"""The dashboard as it is saved with a notebook: HTML, text and JSON that need no kernel, no script and no network.

Runs in: the kernel. Everything that came from a rank is escaped; the whole stays below 200 kB however large the run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

from nb_elastic import report_failure, report_nodes, report_text, report_words
from nb_elastic.dashboard import messages, saved
from nb_elastic.model import STREAMS, RunState, Stream
from nb_elastic.render import html_extras, html_standstill, standstill
from nb_elastic.render.html_style import CELL, LINE, MONO, MUTED, RED, chip, code, pre
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import RunSnapshot, WorkerSnapshot, to_json

MIME = "application/vnd.nb-elastic.run.v1+json"
LIMIT_BYTES = 190_000
TAILS_CHARS = 60_000
"""Characters of log tails in the HTML, escaped, for all ranks together."""
REPORT_CHARS = 40_000
RANKS_SHOWN = (128, 64, 32, 16, 4)
"""So many ranks are shown; the largest number that stays below the limit."""
TAIL_LINES = 100
CELL_CHARS = 20_000
LIVE_RANKS, LIVE_LINES, LIVE_CHARS = 16, 8, 10_000
"""What the live tail shows: with the table below 20 kB."""

OUTPUTS = "<!-- outputs -->"

Extras = Mapping[str, Sequence[Mapping[str, Any]]]
Tails = Mapping[int, Mapping[Stream, Sequence[str]]]


def bundle(
    snapshot: RunSnapshot, folder: RunDir, *, now_ns: int, has_story: bool = True, has_report: bool = True
) -> dict[str, Any]:
    """Make the MIME bundle of a run: our own JSON, its HTML twin and its text.

    Args:
        snapshot: the run's state.
        folder: the run's folder, where logs are read.
        now_ns: the present, for a run that is not over.
        has_story: the text tells header, notes and rounds; False where they were told as they came.
        has_report: the text tells a failure whole, and the HTML unfolds it; False where an error will follow.
    """
    tails = read_tails(snapshot, folder)
    extras = {"metrics": saved.metrics(folder), "usage": saved.usage(folder), "outputs": saved.outputs(folder)}
    text = report_text.status_lines(snapshot, folder=folder, now_ns=now_ns, has_story=has_story, has_report=has_report)
    return {
        MIME: {
            **json_bundle(snapshot, tails, folder=folder),
            **{name: rows for name, rows in extras.items() if rows},
            "saved_ns": now_ns,
        },
        "text/html": page(snapshot, tails, extras, folder=folder, now_ns=now_ns, has_report=has_report),
        "text/plain": "\n".join(text),
    }


def display(snapshot: RunSnapshot, folder: RunDir, *, has_story: bool = True, has_report: bool = True) -> None:
    """Display the bundle under the running cell."""
    from IPython.display import display as show

    data = bundle(snapshot, folder, now_ns=time.time_ns(), has_story=has_story, has_report=has_report)
    show(data, raw=True)  # type: ignore[no-untyped-call]


def read_tails(
    snapshot: RunSnapshot, folder: RunDir, *, limit: int = TAILS_CHARS
) -> dict[int, dict[Stream, list[str]]]:
    """Read the last lines of each rank's logs, ``limit`` characters for all ranks together."""
    workers = snapshot.workers[: RANKS_SHOWN[0]]
    share = limit // max(1, 2 * len(workers))
    found: dict[int, dict[Stream, list[str]]] = {}
    for worker in workers:
        place = report_words.rank_dir(folder, node=worker.node, round_number=worker.round, local_rank=worker.local_rank)
        tails = {s: _fitting(report_words.tail(place, s, lines=TAIL_LINES), share) for s in STREAMS}
        found[worker.rank] = {s: lines for s, lines in tails.items() if lines}
    return found


def json_bundle(snapshot: RunSnapshot, tails: Tails, *, folder: RunDir) -> dict[str, Any]:
    """What a front end needs to draw the run again; only the root cause keeps its traceback."""
    about = messages.about(folder, can_stop=False)
    about["cell"] = about["cell"][:CELL_CHARS]
    value: dict[str, Any] = {}
    hang = snapshot.hang and messages.slim_report(
        snapshot.hang, groups=messages.SAVED_GROUPS, frames=messages.SAVED_FRAMES
    )
    for ranks in RANKS_SHOWN:
        rounds = tuple(replace(r, failures=tuple(map(messages.brief, r.failures[:1]))) for r in snapshot.rounds[-20:])
        failures, notes = messages.slimmed(snapshot.failures[:ranks], whole=1), snapshot.notes[:20]
        reasons = messages.sentences(snapshot.reasons)
        slim = replace(snapshot, rounds=rounds, failures=failures, notes=notes, reasons=reasons, hang=hang)
        slim = replace(slim, workers=tuple(replace(w, holds=w.holds[-5:]) for w in snapshot.workers[:ranks]))
        value = {
            "version": 1,
            "run_id": snapshot.run_id or folder.run_id,
            "dir": str(folder.path),
            "about": about,
            "snapshot": to_json(slim),
            "tails": {str(rank): {s: list(lines) for s, lines in tails[rank].items()} for rank in list(tails)[:ranks]},
        }
        if len(json.dumps(value, ensure_ascii=False).encode()) < LIMIT_BYTES:
            break
    return value


def page(
    snapshot: RunSnapshot,
    tails: Tails,
    extras: Extras | None = None,
    *,
    folder: RunDir,
    now_ns: int,
    has_report: bool = True,
) -> str:
    """The whole dashboard as one HTML element; what ranks displayed comes on top of the limit, bounded by itself."""
    extras = extras or {}
    first = [header(snapshot, now_ns=now_ns), _notes(snapshot), html_standstill.held(snapshot)]
    if snapshot.state is RunState.FAILED:
        report = report_failure.failure_text(snapshot, folder=folder)
        first += [html_standstill.verdict(snapshot, told=report), _report(report, is_open=has_report)]
        first += [html_extras.values(f) for f in snapshot.failures[:1]]
    first += [html_standstill.lost(snapshot), html_standstill.hang(snapshot, folder=folder, now_ns=now_ns)]
    first.append(_rounds(snapshot))
    logs = f'<div style="{MUTED};font-size:12px;margin-top:6px">Logs: {code(str(folder.path))}</div>'
    whole = ""
    for ranks in RANKS_SHOWN:
        parts = [*first, nodes(snapshot), table(snapshot, now_ns=now_ns, ranks=ranks), _results(snapshot, ranks=ranks)]
        parts.append(html_extras.progress(extras.get("metrics", ()), ranks=ranks))
        parts += [_details(w, tails.get(w.rank, {}), snapshot) for w in snapshot.workers[:ranks]]
        inner = "\n".join(part for part in [*parts, OUTPUTS, logs] if part)
        style = f"border:{LINE};border-radius:6px;padding:8px 12px;margin:2px 0"
        whole = f'<div class="nb-elastic" style="{style}">\n{inner}\n</div>'
        if len(whole.encode()) < LIMIT_BYTES:
            break
    return whole.replace(OUTPUTS, html_extras.outputs(extras.get("outputs", ())), 1)


def live_tail(snapshot: RunSnapshot, folder: RunDir, *, now_ns: int, has: Callable[[int, Stream], bool]) -> str:
    """A run as it stands, small enough to be sent again and again: its table and each rank's last lines.

    Args:
        has: tells of a local rank and stream whether it is shown.
    """
    shown = snapshot.workers[:LIVE_RANKS]
    room = LIVE_CHARS // max(1, len(shown))
    parts = [header(snapshot, now_ns=now_ns), html_standstill.held(snapshot)]
    parts.append(html_standstill.hang(snapshot, folder=folder, now_ns=now_ns, has_frames=False))
    parts += [nodes(snapshot), table(snapshot, now_ns=now_ns, ranks=LIVE_RANKS)]
    for worker in shown:
        place = report_words.rank_dir(folder, node=worker.node, round_number=worker.round, local_rank=worker.local_rank)
        streams = [s for s in STREAMS if has(worker.local_rank, s)]
        lines = [line for s in streams for line in report_words.tail(place, s, lines=LIVE_LINES)]
        if lines := _fitting(lines, room):
            parts.append(f'<div style="{MUTED};font-size:12px">rank {worker.rank}</div>{pre(chr(10).join(lines))}')
    # The widget hides it where its script reaches the page: labextension/widget/src/widget.ts.
    return f'<div class="nb-elastic nbe-tail-of-{escape(snapshot.run_id)}">{"".join(parts)}</div>'


def header(snapshot: RunSnapshot, *, now_ns: int) -> str:
    """State, id, size and time of a run in one line."""
    words = [f"<b>{escape(snapshot.run_id)}</b>"]
    if snapshot.name:
        words.append(escape(report_words.first_line(snapshot.name, limit=60)))
    count = snapshot.world_size or len(snapshot.workers)
    if count:
        where = report_nodes.size_text(snapshot) if snapshot.nodes else ""
        words.append(escape(("1 rank" if count == 1 else f"{count} ranks") + where))
    words.append(report_words.elapsed_text(snapshot.elapsed_s(now_ns)))
    if snapshot.max_restarts:
        words.append(report_words.attempt_text(snapshot))
    if snapshot.stop_by and snapshot.state in {RunState.STOPPING, RunState.STOPPED}:
        words.append(f"stopped by {escape(report_words.first_line(snapshot.stop_by, limit=40))}")
    if snapshot.state is RunState.STOPPED and (ways := standstill.ways_text(snapshot.workers)):
        words.append(escape(ways))
    text = f' <span style="{MUTED}">&middot;</span> '.join(words)
    return f'<div style="margin-bottom:4px">{chip(snapshot.state.value)} {text}</div>'


def _report(text: str, *, is_open: bool) -> str:
    """The failure report, unfolded or not; cut in the middle where it is long."""
    lines = text.split("\n")
    while len(escape("\n".join(lines))) > REPORT_CHARS and len(lines) > 10:
        quarter = len(lines) // 3
        lines = [*lines[:quarter], "[... cut, see the log files ...]", *lines[-quarter:]]
    first, body = escape(lines[0]), pre("\n".join(lines[1:]).strip("\n"), style=f"border-left:3px solid {RED}")
    summary = f'<summary style="cursor:pointer;font-weight:600">{first}</summary>'
    return f'<details{" open" if is_open else ""} style="margin:4px 0">{summary}{body}</details>'


def _notes(snapshot: RunSnapshot) -> str:
    notes = [(level, report_words.first_line(text, limit=400)) for level, text in snapshot.notes[:20]]
    rows = [f"<b>Warning:</b> {escape(text)}" if level == "warning" else escape(text) for level, text in notes]
    return "".join(f'<div style="font-size:12px;{MUTED}">{row}</div>' for row in rows)


def _rounds(snapshot: RunSnapshot) -> str:
    ended = snapshot.rounds[:-1][-20:]
    rows = [escape(report_text.round_text(r, snapshot)) for r in ended]
    return "".join(f'<div style="font-size:12px">{row}</div>' for row in rows)


def table(snapshot: RunSnapshot, *, now_ns: int, ranks: int = RANKS_SHOWN[0]) -> str:
    """The table of ranks."""
    if not snapshot.workers:
        return ""
    columns = report_text.worker_columns(snapshot, now_ns=now_ns)
    head = "".join(f'<th style="{CELL};font-weight:600">{escape(c)}</th>' for c in columns)
    rows: list[str] = []
    for worker, cells in zip(snapshot.workers, zip(*columns.values(), strict=True), strict=True):
        label = _state_chip(worker, snapshot)
        shown = [label if c == "state" else escape(t) for c, t in zip(columns, cells, strict=True)]
        rows.append("<tr>" + "".join(f'<td style="{CELL}">{cell}</td>' for cell in shown) + "</tr>")
    rest = len(rows) - ranks
    more = f'<div style="{MUTED}">and {rest} more ranks</div>' if rest > 0 else ""
    style = f"{MONO};border-collapse:collapse;margin:4px 0;border:none"
    body = "".join(rows[:ranks])
    return f'<table style="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}'


def nodes(snapshot: RunSnapshot) -> str:
    """The table of nodes; "" for a run of this machine alone."""
    columns = report_nodes.node_columns(snapshot)
    if not snapshot.nodes or not columns:
        return ""
    rows = list(zip(*columns.values(), strict=True))
    at = list(columns).index("state")
    body = ""
    for row in rows[: report_nodes.NODE_ROWS]:
        shown = [chip(t.split(" ")[0], text=t) if i == at else escape(t) for i, t in enumerate(row)]
        faded = "" if row[at].startswith("joined") else f";{MUTED}"
        body += "<tr>" + "".join(f'<td style="{CELL}{faded}">{cell}</td>' for cell in shown) + "</tr>"
    head = "".join(f'<th style="{CELL};font-weight:600">{escape(c)}</th>' for c in columns)
    rest = len(rows) - report_nodes.NODE_ROWS
    more = f'<div style="{MUTED}">and {rest} more nodes</div>' if rest > 0 else ""
    style = f"{MONO};border-collapse:collapse;margin:4px 0;border:none"
    return f'<table style="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}'


def _state_chip(worker: WorkerSnapshot, snapshot: RunSnapshot) -> str:
    """The worker's state; of those that failed, which did so first and which only followed."""
    failure = next((f for f in snapshot.failures if (f.node, f.local_rank) == (worker.node, worker.local_rank)), None)
    if failure is not None and failure is snapshot.root:
        return chip("failed", text="failed first" if len(snapshot.workers) > 1 else "failed")
    return chip("ended", text="followed") if failure is not None and failure.followed else chip(worker.state.value)


def _results(snapshot: RunSnapshot, *, ranks: int) -> str:
    lines = report_text.result_lines(snapshot)
    text = "\n".join(line.strip() for line in lines[1 : ranks + 1])
    return f'<div style="font-weight:600;margin-top:4px">Results</div>{pre(text)}' if lines else ""


def _details(worker: WorkerSnapshot, streams: Mapping[Stream, Sequence[str]], snapshot: RunSnapshot) -> str:
    if not streams:
        return ""
    parts: list[str] = []
    for stream, lines in streams.items():
        count = "last line" if len(lines) == 1 else f"last {len(lines)} lines"
        label = f'<div style="font-size:12px;{MUTED};margin-top:4px">{stream}, {count}</div>'
        parts.append(label + pre("\n".join(lines)))
    last = next((line for lines in streams.values() for line in reversed(lines) if line.strip()), "")
    hint = f'<span style="{MONO};{MUTED}">{escape(report_words.first_line(last, limit=80))}</span>'
    name = escape(report_nodes.rank_text(snapshot, worker))
    summary = f'<summary style="cursor:pointer">{name} {hint}</summary>'
    return f'<details style="margin-top:4px">{summary}{"".join(parts)}</details>'


def _fitting(lines: Sequence[str], limit: int) -> list[str]:
    """The last lines that fit into ``limit`` characters after escaping; at least the end of the last one."""
    kept: list[str] = []
    for line in reversed(lines):
        limit -= len(escape(line)) + 1
        if limit < 0:
            break
        kept.append(line)
    return kept[::-1] if kept or not lines else [lines[-1][:200]]
