"""A front end as the kernel meets it: pages that open views over the widget's comm or the monitor's, and keep what they get.

Runs in: the tests.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Any

from nb_elastic.dashboard.monitor import TARGET
from tests.support.kernel import Cell, Kernel, Message

PATIENCE_S = 120.0


class FrontEnd:
    """Drives one kernel: sends cells that may be asked, reads everything it publishes, and hands it to its pages."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._client = kernel._client
        self.subshell = kernel.subshell()
        self.pages: list[Page] = []
        self.comms: dict[str, str] = {}
        self.states: dict[str, dict[str, Any]] = {}
        self.closed: list[str] = []
        self.cell = Cell("", 0.0)

    def start(self, code: str, *, is_browser: bool = True) -> Cell:
        """Send a cell as JupyterLab does; or, without a browser, as nbclient does."""
        self.cell = Cell(self._client.execute(code, allow_stdin=is_browser), time.monotonic())
        return self.cell

    def run(self, code: str) -> Cell:
        """Run one cell to its end."""
        return self.end(self.start(code))

    def end(self, cell: Cell) -> Cell:
        """Read on until a cell has ended."""
        self.until(lambda: cell.is_idle, may_end=True)
        self.kernel.wait(cell)
        return cell

    def page(self, run: str = "", *, is_lab: bool = False, name: str = "") -> Page:
        """A new page with a view; a reload is one more."""
        page = Page(self, name or f"view-{len(self.pages)}", run, is_lab=is_lab)
        self.pages.append(page)
        return page

    def comm(self, target: str) -> str:
        """Id of the newest open comm of a target."""
        found = [c for c, t in self.comms.items() if t == target and c not in self.closed and self._is_view(c, target)]
        return found[-1] if found else ""

    def ask_comms(self) -> None:
        """Ask the kernel for its comms, as a page does that was reloaded."""
        message = self._client.session.msg("comm_info_request", {})
        message["header"]["subshell_id"] = self.subshell
        self._client.shell_channel.send(message)
        while True:
            reply = self._client.get_shell_msg(timeout=60)
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                break
            self.kernel._replies[reply["parent_header"].get("msg_id", "")] = reply["content"]
        self.comms |= {c: told["target_name"] for c, told in reply["content"]["comms"].items()}

    def say(self, comm: str, data: Any, *, kind: str = "comm_msg") -> None:
        """A page sends over a comm; it is heard while a cell is busy."""
        message = self._client.session.msg(kind, {"comm_id": comm, "data": data})
        message["header"]["subshell_id"] = self.subshell
        self._client.shell_channel.send(message)

    def until(self, condition: Callable[[], Any], *, may_end: bool = False) -> None:
        """Read what the kernel publishes until a condition holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert may_end or not self.cell.is_idle, f"the cell ended before {condition}:\n{self.cell.text}"
            self.read(max(0.1, deadline - time.monotonic()))
            assert time.monotonic() < deadline, f"still waiting for {condition}:\n{self.cell.text[-2000:]}"

    def read(self, timeout_s: float) -> None:
        """Take one message; none may come."""
        try:
            message = self._client.get_iopub_msg(timeout=timeout_s)
        except queue.Empty:
            return
        kind, content = message["msg_type"], message["content"]
        if kind == "comm_open":
            self.comms[content["comm_id"]] = content["target_name"]
            self.states[content["comm_id"]] = content["data"].get("state", {})
        elif kind == "comm_close":
            self.closed.append(content["comm_id"])
        elif kind == "comm_msg":
            self._comm_message(content, message["buffers"])
        elif message["parent_header"].get("msg_id") == self.cell.msg_id:
            if kind == "status" and content["execution_state"] == "idle":
                self.cell.is_idle = True
            elif kind not in {"status", "execute_input"}:
                self.cell.messages.append(Message(time.monotonic() - self.cell.sent, kind, content))

    def _comm_message(self, content: dict[str, Any], buffers: list[Any]) -> None:
        comm, data = content["comm_id"], content["data"]
        is_lab = self.comms.get(comm) == TARGET
        if not is_lab and data.get("method") != "custom":
            return
        for page in self.pages:
            if page.is_lab == is_lab and page.comm in {"", comm}:
                page.take(data if is_lab else data["content"], b"".join(map(bytes, buffers)))

    def _is_view(self, comm: str, target: str) -> bool:
        return target == TARGET or "_esm" in self.states.get(comm, {})


class Page:
    """One view as ``labextension/core/src/run/client.ts`` holds it, simplified: no gap is healed, each is noted.

    Attributes:
        is_deaf: does not acknowledge.
    """

    def __init__(self, front: FrontEnd, view: str, run: str, *, is_lab: bool) -> None:
        self.front, self.view, self.run, self.is_lab = front, view, run, is_lab
        self.comm = ""
        self.files: dict[str, bytearray] = {}
        self.chunks: list[dict[str, Any]] = []
        self.seqs: list[int] = []
        self.gaps: list[dict[str, Any]] = []
        self.others: list[dict[str, Any]] = []
        self.bytes: list[bytes] = []
        self.about: dict[str, Any] = {}
        self.snapshot: dict[str, Any] = {}
        self.is_over = False
        self.is_deaf = False
        self.has_opened = False

    def open(self, have: dict[str, int] | None = None) -> None:
        """Open the view on the newest comm of its kind."""
        self.comm = self.front.comm(TARGET if self.is_lab else "jupyter.widget")
        assert self.comm, f"no comm for {self.view}: {self.front.comms}"
        self.has_opened, self.seqs = True, []
        self.say({"type": "open", "have": have or {}})

    def say(self, message: dict[str, Any]) -> None:
        """Send a message of this view."""
        data = {"view": self.view, "run": self.run, **message}
        self.front.say(self.comm, data if self.is_lab else {"method": "custom", "content": data})

    def text(self, file: str) -> str:
        """What came of a file."""
        return self.files.get(file, b"").decode(errors="replace")

    @property
    def kinds(self) -> list[str]:
        """Types of what is not numbered, in order."""
        return [m["type"] for m in self.others]

    def take(self, message: dict[str, Any], data: bytes) -> None:
        """Take one message from the kernel."""
        if message.get("view", self.view) not in {self.view, "" if self.has_opened else "*"}:
            return
        if "seq" not in message:
            self.others.append(message)
            self.bytes.append(data)
            self.about = message.get("about", self.about)
            return
        self.seqs.append(message["seq"])
        if message["type"] == "state":
            self.snapshot = message["snapshot"]
        elif message["type"] == "beat":
            self.is_over = self.is_over or message["is_over"]
        else:
            self._take_chunks(message["chunks"], data)
        if self.has_opened and not self.is_deaf and (message["seq"] % 10 == 0 or message["type"] != "chunks"):
            self.say({"type": "ack", "seq": message["seq"]})

    def _take_chunks(self, chunks: list[dict[str, Any]], data: bytes) -> None:
        at = 0
        for chunk in chunks:
            held = self.files.setdefault(chunk["file"], bytearray())
            if chunk["offset"] - chunk["skipped"] != len(held):
                self.gaps.append(chunk)
            held += b"\0" * chunk["skipped"] + data[at : at + chunk["size"]]
            at += chunk["size"]
            self.chunks.append(chunk)
        assert at == len(data)
