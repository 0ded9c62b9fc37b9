"""A machine that joined by hand, as the driver sees it: its node program's stdin and stdout over one sealed connection.

Runs in: the driver.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from nb_elastic import sealed_stream
from nb_elastic.engines.outflow import Outflow
from nb_elastic.sealed_stream import BEAT, DATA, END, MAX_DATA_BYTES, START, SealedStream, StreamError

BEAT_S = 2.0
"""The other end hears something at least so often, so that it knows a cut cable from a quiet notebook."""
MAX_LINE_BYTES = 64 << 10
MAX_LINES_BYTES = 4 << 20
LAST_WORDS_S = 2.0


class JoinLink:
    """A node program on a machine that joined.

    Two threads, which end with the connection: one writes what is sent, so that a slow network holds nobody up; the
    other reads, and waits while nobody takes the lines.

    Args:
        stream: to the other end, which waits to be told to start.
        name: of that machine, for sentences.
    """

    nodes = 1

    def __init__(self, stream: SealedStream, *, name: str) -> None:
        self._stream = stream
        self.name = name
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._lines_bytes = 0
        self._rest = b""
        self._is_parting = self._is_over = False
        self._why = ""
        self._out: Outflow[tuple[int, bytes]] = Outflow(
            self._write,
            name=f"join-{name}",
            on_end=self._end,
            idle=lambda: stream.send(BEAT),
            idle_s=BEAT_S,
        )
        self._reader = threading.Thread(target=self._read, name=f"nb-elastic-join-from-{name}", daemon=True)

    def start(self, arguments: Sequence[str], env: Mapping[str, str]) -> None:
        """Have the node program started there; once, before all else."""
        self._put(START, json.dumps({"arguments": list(arguments), "env": dict(env)}).encode())
        self._out.start()
        self._reader.start()

    @property
    def is_alive(self) -> bool:
        """True while the connection is up."""
        return not self._is_over

    @property
    def why(self) -> str:
        """Why it is over; "" while it isn't."""
        return self._why

    def send(self, frame: bytes) -> None:
        """Send a frame; dropped when the machine is gone."""
        if not self._is_parting:
            self._put(DATA, frame)

    def lines(self) -> Iterator[bytes]:
        """Yield the node program's lines until it is over."""
        while True:
            with self._changed:
                while not self._lines and not self._is_over:
                    self._changed.wait()
                if not self._lines:
                    return
                line = self._lines.popleft()
                self._lines_bytes -= len(line)
                self._changed.notify_all()
            yield line

    def part(self, timeout_s: float) -> None:
        """Have the node program end, and killed if that takes longer, and don't wait for that."""
        with self._changed:
            is_first, self._is_parting = not self._is_parting, True
            self._changed.notify_all()
        if is_first:
            self._put(END, json.dumps({"timeout_s": timeout_s}).encode())

    def close(self, timeout_s: float = 10.0) -> None:
        """End the node program, and wait for that."""
        self.part(timeout_s)
        self.wait(timeout_s + LAST_WORDS_S)

    def wait(self, timeout_s: float) -> None:
        """Wait for the other end's last word, then hang up."""
        self._reader.join(max(0.0, timeout_s))
        self._end(f"{self.name} did not end in time")
        self._reader.join(LAST_WORDS_S)

    def _put(self, kind: int, data: bytes) -> None:
        self._out.put((kind, data), len(data))

    def _write(self, item: tuple[int, bytes]) -> None:
        kind, view = item[0], memoryview(item[1])
        for start in range(0, len(view) or 1, MAX_DATA_BYTES):
            self._stream.send(kind, view[start : start + MAX_DATA_BYTES])
            self._out.move()

    def _read(self) -> None:
        why = ""
        try:
            while (record := self._stream.receive()) is not None:
                kind, data = record
                if kind == END:
                    why = str(json.loads(data)["why"])
                    break
                if kind == DATA:
                    self._take(data)
        except StreamError as e:
            why = str(e)
        except (ValueError, KeyError, TypeError, RecursionError):
            why = "its last word makes no sense"
        self._end(why)
        self._out.join()
        self._stream.close()

    def _take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise StreamError(f"it sent a line of more than {MAX_LINE_BYTES} bytes")
        with self._changed:
            while self._lines_bytes > MAX_LINES_BYTES and not self._is_over and not self._is_parting:
                self._changed.wait()
            if self._lines_bytes <= MAX_LINES_BYTES:  # else nobody takes them any more
                self._lines.extend(lines)
                self._lines_bytes += sum(map(len, lines))
            self._changed.notify_all()

    def _end(self, why: str) -> None:
        with self._changed:
            if not self._is_over:
                self._is_over, self._why = True, why
            self._changed.notify_all()
        self._stream.cut()
        self._out.end()


def turn_away(stream: SealedStream) -> None:
    """Tell a machine that waits that it isn't wanted any more, and hang up."""
    try:
        stream.send(sealed_stream.END, json.dumps({"timeout_s": 0}).encode())
    except OSError:
        pass  # it is gone already
    stream.cut()
    stream.close()
