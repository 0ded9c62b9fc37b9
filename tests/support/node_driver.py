"""A scripted driver: speaks frames to a real node program over pipes, and keeps what it says.

Runs in: the tests and benchmarks.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nb_elastic import wire
from nb_elastic.lifeline import ProcessId, descendants
from nb_elastic.model import Entrypoint, LaunchSpec, to_json
from nb_elastic.model_options import LaunchOptions
from nb_elastic.node import folder
from tests.support import supervise
from tests.support.until import until

ROOT = Path(__file__).parents[2]
PING_S = 0.5


class NodeProgram:
    """A node program that was started.

    Args:
        has_pings: it is told every half second that the driver lives.
        is_read: its lines are read; else they are left in the pipe until ``read``.
        env: variables beyond the test's own.
        prefix: words before its command line.
    """

    def __init__(
        self,
        *,
        has_pings: bool = True,
        is_read: bool = True,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.lines: list[dict[str, Any]] = []
        self.sizes: list[int] = []
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "nb_elastic.node"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "NB_ELASTIC_NODE_ADDRESS": "127.0.0.1", **(env or {})},
            start_new_session=True,
        )
        self.err = b""
        self.files: dict[tuple[str, str], bytearray] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._reader: threading.Thread | None = None
        self._begin(self._read_err)
        if is_read:
            self.read()
        if has_pings:
            self._begin(self._ping)

    def __enter__(self) -> NodeProgram:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        with self._lock:
            self._hang_up()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            for thread in self._threads:
                thread.join()
            self.process.stdout.close()  # type: ignore[union-attr]
            self.process.stderr.close()  # type: ignore[union-attr]

    def read(self) -> None:
        """Read its lines from now on."""
        self._reader = self._begin(self._read)

    def _begin(self, what: Callable[[], None]) -> threading.Thread:
        self._threads.append(threading.Thread(target=what, name="node-driver"))
        self._threads[-1].start()
        return self._threads[-1]

    def kill(self) -> None:
        """End it and all below it."""
        for pid in (*descendants(self.process.pid), self.process.pid):
            if found := ProcessId.of(pid):
                found.signal(9)
        self.process.wait(20)

    def send(self, kind: str, blob: bytes = b"", **data: Any) -> None:
        """Send one frame; nothing happens where it is gone."""
        with self._lock:
            try:
                self.process.stdin.write(wire.encode({"type": kind, **data}, blob))  # type: ignore[union-attr]
                self.process.stdin.flush()  # type: ignore[union-attr]
            except (OSError, ValueError):
                pass

    def hang_up(self) -> None:
        """End its stdin."""
        self._over.set()
        with self._lock:
            self._hang_up()

    def _hang_up(self) -> None:
        try:
            self.process.stdin.close()  # type: ignore[union-attr]
        except OSError:
            pass

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Lines of one type so far."""
        return [line for line in list(self.lines) if line["type"] == kind]

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Events of one kind so far."""
        return [line["event"] for line in self.of("event") if line["event"]["event"] == kind]

    def wait_for(self, kind: str, *, count: int = 1, timeout_s: float = 120.0) -> dict[str, Any]:
        """Wait for a line of a type."""
        return self._until(lambda: self.of(kind)[count - 1 : count], kind, timeout_s)

    def wait_for_event(self, kind: str, *, count: int = 1, timeout_s: float = 120.0) -> dict[str, Any]:
        """Wait for an event of a kind."""
        return self._until(lambda: self.events(kind)[count - 1 : count], kind, timeout_s)

    def _until(self, found: Any, kind: str, timeout_s: float) -> dict[str, Any]:
        def there() -> Any:
            if not found() and self.process.poll() is not None:
                if self._reader:  # it may have to read what was said last
                    self._reader.join(10)
                if not found():
                    raise RuntimeError(f"it ended without {kind}: {self.lines[-5:]}\n{self.err.decode()}")
            return found()

        try:
            result: dict[str, Any] = until(there, timeout_s, kind)[0]
        except AssertionError as e:
            raise AssertionError(f"{e}\nits last lines: {self.lines[-3:]}\n{self.err.decode()}") from None
        return result

    def run(
        self, entrypoint: Entrypoint | str, *argv: str, run_id: str, node: int = 0, nproc: int = 2, **more: Any
    ) -> None:
        """Have it run an entry (see ``supervise.entry``); ``more`` goes into the frame or, what is none of it, the options."""
        entry = supervise.entry(entrypoint, *argv) if isinstance(entrypoint, str) else entrypoint
        self.send("run", **run_frame(entry, run_id=run_id, node=node, nproc=nproc, **more))

    def text(self, run_id: str, path: str) -> str:
        """What was shipped of a file of a run until now."""
        return bytes(self.files.get((run_id, path), b"")).decode(errors="replace")

    def _read(self) -> None:
        for line in self.process.stdout:  # type: ignore[union-attr]
            record = json.loads(line)
            self.sizes.append(len(line))
            if record["type"] in {"piece", "whole"}:
                data = base64.b64decode(record.pop("data"))
                key = record["run_id"], record["path"]
                if record["type"] == "whole" and record["offset"] == 0:
                    self.files[key] = bytearray()
                held = self.files.setdefault(key, bytearray())
                if len(held) < record["offset"]:
                    held.extend(bytes(record["offset"] - len(held)))
                held[record["offset"] : record["offset"] + len(data)] = data
                record["bytes"] = len(data)
            self.lines.append(record)

    def _read_err(self) -> None:
        for line in self.process.stderr:  # type: ignore[union-attr]
            self.err += line

    def _ping(self) -> None:
        while not self._over.wait(PING_S):
            self.send("ping")


FRAME = {"endpoint": "", "address": "127.0.0.1", "key_hex": "5a" * 32, "min_nodes": 1, "max_nodes": 1, "env": {}}


def run_frame(
    entrypoint: Entrypoint, *, run_id: str, node: int, nproc: int, payload: str = "", **more: Any
) -> dict[str, Any]:
    """The words of a ``run``."""
    frame = {key: more.pop(key, value) for key, value in FRAME.items()}
    options = LaunchOptions(nproc_per_node=nproc, **{"numa_binding": "none", **more})
    spec = LaunchSpec(
        run_id=run_id,
        rdzv_id=run_id,
        run_dir="/nowhere",
        entrypoint=entrypoint,
        options=options,
        env={},
        cwd="/nowhere",
        sys_path=(str(ROOT), *[p for p in sys.path if p and p != str(ROOT)]),
        payload=payload,
        key_hex="11" * 32,
    )
    return {"run_id": run_id, "node": node, "spec": to_json(spec), **frame}


def folders(kind: str = "node") -> list[Path]:
    """Folders of node programs, or drivers, of this user now."""
    return sorted(folder.base().glob(f"{kind}-*"))
