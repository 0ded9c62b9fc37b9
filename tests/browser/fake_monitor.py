"""A kernel's half of the protocol, from fixed data: the lab extension is tested without torch, supervisor or run folder.

Runs in: a notebook's kernel, in the tests. Its one run prints numbered lines until somebody stops it.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from comm import create_comm
from IPython.display import display

MIME = "application/vnd.nb-elastic.run.v1+json"
FILE = "0/0/0/stdout"


class FakeRun:
    """A run that says ``lines`` lines, and then one more a beat, until it is stopped."""

    def __init__(self, run_id: str = "fake-1", *, lines: int = 1000, beat_s: float = 0.2) -> None:
        self.run_id, self.beat_s = run_id, beat_s
        self.log = b"".join(b"line %d\n" % n for n in range(lines))
        self.state = "running"
        self.stopped = threading.Event()
        self.created_ns = time.time_ns()
        self.cell = ""

    def snapshot(self) -> dict[str, Any]:
        worker = {
            "node": 0, "local_rank": 0, "rank": 0, "round": 0, "state": "running" if self.state == "running" else "stopped", "pid": 4242,
            "device": "", "cpus": "0-1", "binding": "", "start_method": "warm", "started_ns": self.created_ns, "ended_ns": 0,
            "exit_code": None, "signal": "", "has_result": False, "result_text": "", "result_size_bytes": 0, "result_error": "",
        }  # fmt: skip
        is_over = self.state != "running"
        return {
            "run_id": self.run_id, "name": "fake", "state": self.state, "entry": "cell Cell In[2]", "nproc": 1, "world_size": 1, "min_nodes": 1,
            "max_nodes": 1, "attempt": 0, "max_restarts": 0, "round": 0, "is_detached": False, "created_ns": self.created_ns,
            "started_ns": self.created_ns, "finished_ns": time.time_ns() if is_over else 0, "workers": [worker], "rounds": [], "failures": [],
            "root_rank": None, "notes": [], "last_ns": time.time_ns(), "text": "", "host": "here", "torch": "", "python": "",
            "stop_by": "dashboard" if is_over else "", "nodes": [],
        }  # fmt: skip

    def about(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id, "dir": "/nowhere", "torchrun": "", "label": "Cell In[2]", "cell": self.cell, "grace_s": 5.0, "can_stop": True,
        }  # fmt: skip

    def row(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id, "name": "fake", "state": self.state, "entry": "cell Cell In[2]", "world_size": 1, "created_ns": self.created_ns,
            "finished_ns": 0, "dir": "/nowhere", "host": "here", "is_own": True, "is_detached": False, "can_stop": True,
        }  # fmt: skip

    def bundle(self) -> dict[str, Any]:
        saved = {
            "version": 1, "run_id": self.run_id, "dir": "/nowhere", "about": self.about(), "snapshot": self.snapshot(),
            "tails": {"0": {"stdout": ["a saved line"]}}, "saved_ns": time.time_ns(),
        }  # fmt: skip
        return {MIME: saved, "text/html": f"<p>html of {self.run_id}</p>", "text/plain": f"text of {self.run_id}"}


class FakeMonitor:
    """Opens the comm and serves views of one run."""

    def __init__(self, run: FakeRun | None = None) -> None:
        self.run = run or FakeRun()
        self.heard: list[dict[str, Any]] = []
        self._views: dict[str, list[int]] = {}  # [seq, offset]
        self._lock = threading.RLock()
        self.open()
        threading.Thread(target=self._beat, name="fake-monitor", daemon=True).start()

    def open(self) -> None:
        self.comm = create_comm(target_name="nb_elastic.monitor", data={"version": 1})
        if hasattr(type(self.comm), "_reply_subshell_for"):
            self.comm._reply_subshell_for = None
        self.comm.on_msg(self._hear)

    def show_and_wait(self, timeout_s: float = 60.0, *, is_replaced: bool = True) -> None:
        """What a launch's cell does: shows the run and blocks until it is over."""
        handle = display(self.run.bundle(), raw=True, display_id=True)
        self.wait(timeout_s)
        if is_replaced:
            handle.update(self.run.bundle(), raw=True)

    def wait(self, timeout_s: float = 60.0) -> None:
        end_s = time.monotonic() + timeout_s
        while not self.run.stopped.wait(0.05) and time.monotonic() < end_s:
            pass

    def _beat(self) -> None:
        while True:
            time.sleep(self.run.beat_s)
            with self._lock:
                if self.run.state == "running":
                    self.run.log += b"and one more\n"
                for view in list(self._views):
                    self._send_log(view)
                    self._number(view, "beat", is_over=self.run.state != "running")

    def _hear(self, message: dict[str, Any]) -> None:
        ask = message["content"]["data"]
        with self._lock:
            self.heard.append(ask)
            kind, view = ask["type"], ask["view"]
            if kind == "list":
                self._tell_runs()
            elif ask.get("run") != self.run.run_id:
                self.comm.send({"view": view, "type": "error", "text": "no such run"})
            elif kind == "open":
                self._views[view] = [0, ask["have"].get(FILE, 0)]
                self.comm.send(
                    {"view": view, "type": "hello", "version": 1, "about": self.run.about(), "time_ns": time.time_ns()}
                )
                self._number(view, "state", snapshot=self.run.snapshot())
                self._send_log(view)
            elif kind == "stop":
                self.run.state = "stopped"
                self.comm.send({"view": view, "type": "stopping", "ok": True, "text": ""})
                for one in list(self._views):
                    self._number(one, "state", snapshot=self.run.snapshot())
                self._tell_runs()
                self.run.stopped.set()
            elif kind == "saved":
                self.comm.send({"view": view, "type": "saved", "bundle": self.run.bundle()})
            elif kind == "close":
                self._views.pop(view, None)

    def _tell_runs(self) -> None:
        self.comm.send({"type": "runs", "runs": [self.run.row()]})

    def _number(self, view: str, kind: str, **content: Any) -> None:
        self._views[view][0] += 1
        self.comm.send({"view": view, "type": kind, "seq": self._views[view][0], "time_ns": time.time_ns(), **content})

    def _send_log(self, view: str) -> None:
        seq, offset = self._views[view]
        new = self.run.log[offset:]
        if not new:
            return
        self._views[view] = [seq + 1, offset + len(new)]
        chunk = {
            "file": FILE, "kind": "stdout", "node": 0, "round": 0, "local_rank": 0, "rank": 0, "offset": offset, "size": len(new),
            "time_ns": time.time_ns(), "skipped": 0,
        }  # fmt: skip
        message = {"view": view, "type": "chunks", "seq": seq + 1, "chunks": [chunk], "time_ns": time.time_ns()}
        self.comm.send(message, buffers=[new])
