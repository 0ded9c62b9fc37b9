"""A real ipykernel, driven over its own protocol as a notebook front end drives it.

Runs in: the tests and benchmarks.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.manager import KernelManager

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Message:
    """One thing the kernel published for a cell, ``seconds`` after the cell was sent."""

    seconds: float
    kind: str
    content: Mapping[str, Any]

    @property
    def text(self) -> str:
        """What a reader sees of it as plain text, without colours."""
        if self.kind == "stream":
            found = self.content["text"]
        elif self.kind == "error":
            found = "\n".join(self.content["traceback"])
        else:
            found = self.content.get("data", {}).get("text/plain", "")
        return _COLOURS.sub("", found)


@dataclass
class Cell:
    """A cell that was sent: what came back so far, and, once it ended, how and after how many seconds.

    Attributes:
        sent: when, by ``time.monotonic``.
        sent_ns: the same moment in nanoseconds since the epoch, as journals tell time.
    """

    msg_id: str
    sent: float
    sent_ns: int = 0
    messages: list[Message] = field(default_factory=list)
    is_idle: bool = False
    seconds: float = 0.0
    reply: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """All text that the reader sees, in order."""
        return "".join(m.text for m in self.messages)

    @property
    def stdout(self) -> str:
        """What came as the cell's stdout."""
        return "".join(m.text for m in self.messages if m.kind == "stream" and m.content["name"] == "stdout")

    @property
    def is_ok(self) -> bool:
        """True if the cell ended without an error."""
        return self.reply.get("status") == "ok"

    @property
    def error(self) -> str:
        """Name and text of the error that ended the cell; empty if it ended well."""
        return "" if self.is_ok else f"{self.reply.get('ename')}: {self.reply.get('evalue')}"

    def first(self, needle: str) -> float | None:
        """Seconds until ``needle`` first stood in the cell's text; None if it never did."""
        seen = ""
        for message in self.messages:
            seen = (seen + message.text)[-10_000:]
            if needle in seen:
                return message.seconds
        return None


class Kernel:
    """One kernel process. Use it as a context manager, or call ``close``."""

    def __init__(
        self,
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        python: str = "",
        prefix: Sequence[str] = (),
    ) -> None:
        """Start the kernel and wait until it answers.

        Args:
            cwd: its working folder; the present one where None.
            env: added to this process's environment.
            python: interpreter; this one where empty.
            prefix: words before the interpreter's: a program that sets something and then executes it.
        """
        self._sockets = tempfile.mkdtemp(prefix="nbe-")
        self._manager = KernelManager(transport="ipc", ip=f"{self._sockets}/k")
        self._manager.kernel_spec.argv = [
            *prefix, python or sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}",
        ]  # fmt: skip
        self._manager.start_kernel(cwd=str(cwd or Path.cwd()), env={**os.environ, **(env or {})})
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=120)
        self._replies: dict[str, Mapping[str, Any]] = {}

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Pid of the kernel process."""
        return int(self._manager.provisioner.process.pid)

    def run(self, code: str, timeout_s: float = 180.0) -> Cell:
        """Run one cell to its end."""
        return self.wait(self.start(code), timeout_s)

    def ok(self, code: str, timeout_s: float = 180.0) -> Cell:
        """Run one cell that must end well."""
        cell = self.run(code, timeout_s)
        assert cell.is_ok, f"the cell ended with {cell.error}\n{cell.text}"
        return cell

    def start(self, code: str, *, can_answer: bool = False) -> Cell:
        """Send a cell and return at once.

        Args:
            can_answer: the front end lets the cell ask (``asked``, ``answer``).
        """
        sent, sent_ns = time.monotonic(), time.time_ns()
        return Cell(self._client.execute(code, allow_stdin=can_answer), sent, sent_ns)

    def asked(self, cell: Cell, timeout_s: float = 60.0) -> str:
        """Wait until the cell asks, and return its prompt; what it published before stands in the cell.

        Raises:
            AssertionError: if the cell ended, or the time passed, without a question.
        """
        deadline = time.monotonic() + timeout_s
        poller = zmq.Poller()
        for channel in (self._client.stdin_channel, self._client.iopub_channel):
            poller.register(channel.socket, zmq.POLLIN)
        while True:
            left = deadline - time.monotonic()
            assert left > 0, f"no question within {timeout_s:g} s:\n{cell.text}"
            ready = dict(poller.poll(left * 1000))
            if self._client.iopub_channel.socket in ready:
                self._receive(cell, deadline)
                assert not cell.is_idle, f"the cell ended without a question:\n{cell.text}"
            elif ready:
                return str(self._client.get_stdin_msg(timeout=1)["content"]["prompt"])

    def answer(self, text: str) -> None:
        """Answer what the cell asked."""
        self._client.input(text)

    def dialogue(self, cell: Cell, *lines: str) -> str:
        """Answer one question after the other; returns the prompts and answers, as a reader would see them."""
        shown = ""
        for line in lines:
            shown += f"{self.asked(cell)}{line}\n"
            self.answer(line)
        return shown

    def wait(self, cell: Cell, timeout_s: float = 180.0) -> Cell:
        """Wait until a cell has ended and its last message is here."""
        deadline = time.monotonic() + timeout_s
        while not cell.is_idle:
            self._receive(cell, deadline)
        while cell.msg_id not in self._replies:
            self._take_reply(max(0.1, deadline - time.monotonic()))
        cell.reply = self._replies.pop(cell.msg_id)
        return cell

    def has_ended(self, cell: Cell, timeout_s: float) -> bool:
        """Take what comes for a cell for so long; True as soon as it has ended, whose reply ``wait`` then has at once."""
        deadline = time.monotonic() + timeout_s
        while not cell.is_idle and time.monotonic() < deadline:
            with contextlib.suppress(AssertionError):
                self._receive(cell, deadline)
        return cell.is_idle

    def wait_for(self, cell: Cell, needle: str, timeout_s: float = 60.0) -> Cell:
        """Wait until ``needle`` stands in a cell's text; the cell may still run.

        Raises:
            AssertionError: if the cell ended, or the time passed, without it.
        """
        deadline = time.monotonic() + timeout_s
        while needle not in cell.text:
            assert not cell.is_idle, f"the cell ended without {needle!r}:\n{cell.text}"
            self._receive(cell, deadline)
        return cell

    def subshell(self) -> str:
        """Make a subshell: where front ends ask what should be answered while a cell runs (ipykernel 7 or newer)."""
        self._client.control_channel.send(self._client.session.msg("create_subshell_request", {}))
        return str(self._client.get_control_msg(timeout=60)["content"]["subshell_id"])

    def complete(self, code: str, cell: Cell, *, subshell: str, timeout_s: float = 60.0) -> float:
        """Ask for completions while a cell runs, reading what the cell publishes meanwhile; seconds until the answer."""
        request = self._client.session.msg("complete_request", {"code": code, "cursor_pos": len(code)})
        request["header"]["subshell_id"] = subshell
        poller = zmq.Poller()
        for channel in (self._client.shell_channel, self._client.iopub_channel):
            poller.register(channel.socket, zmq.POLLIN)
        sent = time.monotonic()
        self._client.shell_channel.send(request)
        while request["header"]["msg_id"] not in self._replies:
            left = sent + timeout_s - time.monotonic()
            assert left > 0, f"no answer within {timeout_s:g} s"
            ready = dict(poller.poll(left * 1000))
            if self._client.shell_channel.socket in ready:
                self._take_reply(1.0)
            elif ready:
                self._receive(cell, time.monotonic() + 1)
        seconds = time.monotonic() - sent
        assert self._replies.pop(request["header"]["msg_id"])["status"] == "ok"
        return seconds

    def interrupt(self) -> None:
        """What the stop button does."""
        self._manager.interrupt_kernel()

    def kill(self) -> None:
        """SIGKILL, as the OOM killer would."""
        os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the kernel as the front end does, and free every socket."""
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=not self._manager.is_alive())
        self._client.context.destroy(linger=0)
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _take_reply(self, timeout_s: float) -> None:
        message = self._client.get_shell_msg(timeout=timeout_s)
        self._replies[message["parent_header"].get("msg_id", "")] = message["content"]

    def _receive(self, cell: Cell, deadline: float) -> None:
        try:
            message = self._client.get_iopub_msg(timeout=max(0.1, deadline - time.monotonic()))
        except queue.Empty:
            raise AssertionError(
                f"the cell still runs after {time.monotonic() - cell.sent:.0f} s:\n{cell.text}"
            ) from None
        if message["parent_header"].get("msg_id") != cell.msg_id:
            return
        kind, content = message["msg_type"], message["content"]
        if kind == "status":
            if content["execution_state"] == "idle":
                cell.is_idle, cell.seconds = True, time.monotonic() - cell.sent
        elif kind != "execute_input":
            cell.messages.append(Message(time.monotonic() - cell.sent, kind, content))
