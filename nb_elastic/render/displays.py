"""What rank 0 displays, shown where the cell's own displays stand: figures and tables in a notebook, text elsewhere.

Runs in: the kernel or command line, in the thread of the running cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nb_elastic.render.lines import clean

NOT_OURS = frozenset({"application/vnd.jupyter.widget-view+json", "application/vnd.nb-elastic.run.v1+json"})
"""Kinds that need a process which is not here: a widget of a rank has no kernel behind it."""
EMPTY = {"text/plain": ""}
Output = Mapping[str, Any]
"""One row of outputs.jsonl, as ``nb_elastic.dashboard.saved.output`` gives it."""
MOST = 200
"""So many displays stand under a cell at most; a rank that displays in a loop must not bury the notebook."""
LINES = 200


class Displays:
    """Shows outputs under the running cell of a kernel; an update changes what it names, a clear takes all away.

    A place that was cleared is used again, so that a loop of clear and display neither flickers nor grows.
    """

    def __init__(self, run_id: str) -> None:
        self._prefix = f"nb-elastic-{run_id}"
        self._places: dict[str, str] = {}
        self._free: list[str] = []
        self._blank: set[str] = set()
        self._count = 0
        self._hidden = 0
        self._has_count = False

    def show(self, outputs: Sequence[Output]) -> None:
        """Show new outputs."""
        was_hidden = self._hidden
        for output in outputs:
            if output["kind"] == "clear":
                self._free = [*self._places.values(), *self._free]
                self._places, self._hidden = {}, 0
            elif output["kind"] == "update":
                if place := self._places.get(output["display_id"]):
                    _display(_data(output), output["metadata"], place, is_update=True)
            else:
                self._add(output)
        for place in self._free:
            if place not in self._blank:
                self._blank.add(place)
                _display(EMPTY, {}, place, is_update=True)
        if self._hidden != was_hidden:
            self._count_hidden()

    def _count_hidden(self) -> None:
        """Once for all that came together: a loop of displays must not flood the notebook with counts."""
        more = f"({self._hidden:,} more displays of rank 0 are in the dashboard and in run.outputs)"
        text = {"text/plain": more} if self._hidden else EMPTY
        _display(text, {}, f"{self._prefix}-more", is_update=self._has_count)
        self._has_count = True

    def _add(self, output: Output) -> None:
        if self._free:
            place = self._free.pop(0)
            self._blank.discard(place)
            _display(_data(output), output["metadata"], place, is_update=True)
        elif self._count < MOST:
            self._count += 1
            place = f"{self._prefix}-{self._count}"
            _display(_data(output), output["metadata"], place, is_update=False)
        else:
            self._hidden += 1
            return
        self._places[output["display_id"] or place] = place


def text_lines(outputs: Sequence[Output]) -> list[str]:
    """Outputs in text, for faces that have no more; made harmless."""
    lines: list[str] = []
    for output in outputs:
        text = output["data"].get("text/plain")
        if output["kind"] == "display" and isinstance(text, str):
            lines += [clean(line) for line in text.splitlines()[:LINES]]
        if output["note"]:
            lines.append(f"({clean(output['note'])})")
    return lines


def _data(output: Output) -> dict[str, Any]:
    data = {kind: value for kind, value in output["data"].items() if kind not in NOT_OURS}
    if not output["note"]:
        return data or dict(EMPTY)
    text = f"{data.get('text/plain', '')}\n({output['note']})".strip()
    return {"text/plain": text} if set(data) <= {"text/plain"} else {**data, "text/plain": text}


def _display(data: Mapping[str, Any], metadata: Mapping[str, Any], place: str, *, is_update: bool) -> None:
    from IPython.display import display

    display(  # type: ignore[no-untyped-call]
        dict(data), metadata=dict(metadata), raw=True, display_id=place, update=is_update
    )
