"""The one stdout of an srun with several tasks, taken apart into the lines that they wrote.

Runs in: the driver.

Slurm sends a task's output in pieces of at most 1,024 bytes; without ``--label``, pieces of long lines of several tasks
are mixed up. With it, each piece is a line that begins with its task's number: all but a line's last piece are of full size.
That size is a constant in Slurm's source, so each task first writes a line (its greeting) that is long enough to show it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

GREETING, GREETING_END = b"~at ", b"~"
LAST_WORD = b"~over "
UNKNOWN = -1
"""Exit status of a node program that Slurm calls over, without a word of its own."""
WIDTH = 40_000
"""Of the greeting: more than any line, which is at most 32 kB, so that a line longer than a piece shows what a piece is."""

SCRIPT = f"""
export NB_ELASTIC_NODE_PLACE="$SLURMD_NODENAME"
case "$SLURM_LAUNCH_NODE_IPADDR" in
  127.*|::1|"") ;;
  *) export NB_ELASTIC_DRIVER_ADDRESS="$SLURM_LAUNCH_NODE_IPADDR" ;;
esac
unset SLURM_PTY_PORT
printf '{GREETING.decode()}%s %s %s %{WIDTH}s{GREETING_END.decode()}\\n' "$SLURMD_NODENAME" "$SLURM_JOB_ID" "$SLURM_NNODES" ''
"$0" "$@"
code=$?
printf '\\n{LAST_WORD.decode()}%s\\n' "$code"
exit "$code"
"""
"""Run by sh on each node, with the node program's command as its arguments.

From where srun came is the best way back to it, unless that is this very machine: others don't come that way.
"""


@dataclass(slots=True, kw_only=True)
class Task:
    """One node program, as its output tells of it.

    Attributes:
        node: Slurm's name of the machine.
        job: in which it runs.
        nodes: how many its command started.
        code: its exit status, as a shell says it; None while it runs.
        heard_at: when it wrote last (monotonic).
    """

    node: str = ""
    job: str = ""
    nodes: int = 0
    code: int | None = None
    heard_at: float = 0.0
    _limit: int = 0
    _parts: list[bytes] = field(default_factory=list)

    def take(self, piece: bytes) -> bytes | None:
        """Take a piece of its output; returns a line, once it is whole."""
        self.heard_at = time.monotonic()
        self._parts.append(piece)
        if not self.node:
            if piece.endswith(GREETING_END):
                self._greet()
            return None
        if len(piece) == self._limit:
            return None
        line = piece if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        if line.startswith(LAST_WORD):
            self.code = int(line[len(LAST_WORD) :] or b"0")
            return None
        return line or None

    def _greet(self) -> None:
        self._limit = max(map(len, self._parts))
        text = b"".join(self._parts)
        self._parts = []
        # Before it may stand what a site's task prolog printed.
        words = text[text.rfind(GREETING) + len(GREETING) :].decode("utf-8", "replace").split()
        self.node, self.job, self.nodes = words[0], words[1], int(words[2])


class Merged:
    """Takes srun's labelled stdout apart."""

    def __init__(self) -> None:
        self.tasks: dict[int, Task] = {}
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Take what srun wrote; returns the lines that are whole by now, each of one task's."""
        *pieces, self._rest = (self._rest + data).split(b"\n")
        found = []
        for piece in pieces:
            label, separator, text = piece.partition(b": ")
            if not separator or not label.strip().isdigit():
                continue
            line = self.tasks.setdefault(int(label), Task()).take(text)
            if line is not None:
                found.append(line)
        return found

    def give_up(self, *, numbers: Iterable[int] = (), node: str = "") -> None:
        """Note that tasks are over, of which no last word may come."""
        for number, task in self.tasks.items():
            if task.code is None and (number in set(numbers) or (node and task.node == node)):
                task.code = UNKNOWN
