"""Pretended node programs, many in a process: they say what real ones say, as often, and of ranks that are not there.

Runs in: a process that ``fleet_engine`` starts. It ends when nobody is at the other end of its links any more.

What is real: the words, their sizes, and that a node reads its ranks' logs only as fast as its link takes them. What is not:
torch, the rendezvous, and what a network adds.
"""

from __future__ import annotations

import base64
import json
import os
import platform
import selectors
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from nb_elastic import machine
from nb_elastic.node import shipping

HEAD = struct.Struct(">II")
ALIVE_S, USAGE_S, LOGS_S = 1.5, 1.0, 0.1
MAX_OUT_BYTES = 64 << 10
"""A node whose link has so much to take reads no logs: a pipe's room."""
PIECE_BYTES = 20_000
LINE = b"step 001234 loss 0.123456 accuracy 0.912345 lr 0.000300 tokens/s 123456 mem 12.3\n"
MOST = PIECE_BYTES // len(LINE)
PIECES = [b""]
"""So many lines, as a piece carries them."""
PIECES += [base64.b64encode(LINE * count) for count in range(1, MOST + 1)]


@dataclass(slots=True, eq=False)
class Wire:
    """One link: what came, and what waits to go."""

    sock: socket.socket
    nodes: list[Pretended] = field(default_factory=list)
    inbound: bytearray = field(default_factory=bytearray)
    outbound: bytearray = field(default_factory=bytearray)
    is_gone: bool = False

    def flush(self) -> None:
        """Send what the link takes."""
        try:
            while self.outbound:
                del self.outbound[: self.sock.send(self.outbound[: 1 << 18])]
        except BlockingIOError:
            return
        except OSError:
            self.is_gone = True

    def frames(self) -> Iterator[dict[str, Any]]:
        """What the driver said since."""
        try:
            data = self.sock.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.is_gone = not data
        self.inbound += data
        while len(self.inbound) >= HEAD.size:
            json_bytes, blob_bytes = HEAD.unpack_from(self.inbound)
            end = HEAD.size + json_bytes + blob_bytes
            if len(self.inbound) < end:
                return
            yield json.loads(bytes(self.inbound[HEAD.size : HEAD.size + json_bytes]))
            del self.inbound[:end]


class Pretended:
    """One node.

    Args:
        lines_per_s: of each rank's log.
    """

    def __init__(self, number: int, wire: Wire, lines_per_s: float) -> None:
        self.token = f"{os.getpid() & 0xFFFF:04x}{number:04x}"
        self.longest_s = 0.0
        self._number, self._wire, self._lines_per_s = number, wire, lines_per_s
        self._heard_at = time.monotonic()
        self._run_id, self._nproc, self._node = "", 0, 0
        self._head = b""
        self._loud_at: float | None = None
        self._shipped: list[int] = []
        self._pause_s = LOGS_S
        self._usage_bytes = self._growth_bytes = 0
        share = number / 997 % 1
        self._alive_at, self._usage_at, self._logs_at = (self._heard_at + share * s for s in (ALIVE_S, USAGE_S, LOGS_S))

    def greet(self) -> None:
        """The first words."""
        torch, ours = metadata.version("torch"), metadata.version("nb-elastic")
        self._say(
            "hello", protocol=1, python=platform.python_version(), torch=torch, nb_elastic=ours, host=f"fleet-{self._number}",
            pid=os.getpid(), address="127.0.0.1", cpus=64, gpus=8, boot_id=machine.boot_id(), place=f"fleet-{self._number}",
        )  # fmt: skip

    def heed(self, message: Mapping[str, Any], now: float) -> None:
        """A frame came."""
        self.longest_s = max(self.longest_s, now - self._heard_at)
        self._heard_at = now
        if self.token not in message.get("to", (self.token,)):
            return
        kind = message["type"]
        if kind == "reach":
            self._say("reached", nonce=message["nonce"], ok=True, why="")
        elif kind == "run":
            self._begin({**message, **message["each"][self.token]})
        elif kind == "stop" and self._run_id:
            self._end("stopped")

    def tick(self, now: float, *, is_loud: bool) -> None:
        """Say what the time brings."""
        if now >= self._alive_at:
            self._alive_at += ALIVE_S
            self._wire.outbound += b'{"from":"%s","type":"alive"}\n' % self.token.encode()
        if not self._run_id:
            return
        if now >= self._usage_at:
            self._usage_at += USAGE_S
            self._ship_usage()
        if is_loud and now >= self._logs_at:
            self._logs_at += self._pause_s
            self._ship_logs(now)

    def _begin(self, message: Mapping[str, Any]) -> None:
        spec = message["spec"]
        self._run_id, self._node = message["run_id"], message["node"]
        self._nproc = nproc = int(spec["options"]["nproc_per_node"])
        self._head = b'{"from":"%s","type":"piece","run_id":"%s","path":"' % (
            self.token.encode(),
            self._run_id.encode(),
        )
        self._shipped = [0] * nproc
        self._pause_s = max(LOGS_S, shipping.pause_s(nproc * message["max_nodes"]))
        world = nproc * message["max_nodes"]
        self._tell("rendezvous_started", round=0, attempt=0, backend="c10d")
        self._tell(
            "rendezvous_finished", round=0, attempt=0, group_rank=self._node, group_world_size=message["max_nodes"],
            world_size=world, master_addr="127.0.0.1", master_port=1,
        )  # fmt: skip
        ranks = [{"round": 0, "rank": self._node * nproc + i, "local_rank": i} for i in range(nproc)]
        for rank in ranks:
            self._tell("worker_started", **rank, attempt=0, pid=1, start_ticks=1, start_method="warm")
        for rank in ranks:
            worker = {
                **rank, "pid": 1, "start_ticks": 1, "machine": "dc4c33c9-8cbd-4834-a178-977041f6869b 4026531836",
                "host": f"fleet-{self._number}", "cpus": list(range(8)), "device": "cuda:0", "ready_ns": time.time_ns(),
                "binding": "CPU binding is off: there is one NUMA node to run on.",
            }  # fmt: skip
            self._tell("worker_ready", **rank, worker=worker)
            self._ship_whole(rank["local_rank"], "worker.json", json.dumps(worker).encode())
        self._ship("processes.jsonl", 0, json.dumps({"processes": [[i, i] for i in range(nproc)]}).encode() + b"\n")

    def _end(self, state: str) -> None:
        for i in range(self._nproc):
            self._ship_whole(i, "result.pkl", b"\0" * 115)
            self._tell(
                "worker_exited", round=0, rank=self._node * self._nproc + i, local_rank=i, pid=1, exit_code=-2, signal="SIGINT",
                state=state, has_result=True, how="was interrupted", result={"text": "None", "size_bytes": 115, "error": ""},
            )  # fmt: skip
        self._tell("round_ended", round=0, attempt=0, cause=state, text="")
        self._say("done", run_id=self._run_id, state=state, text="", category="", reasons=[], root_rank=None, code=0)
        self._run_id = ""

    def _ship_usage(self) -> None:
        ranks = [
            {"rank": self._node * self._nproc + i, "local_rank": i, "cpu_percent": 98.7, "memory_bytes": 178618368}
            for i in range(self._nproc)
        ]
        line = json.dumps({"time_ns": time.time_ns(), "round": 0, "ranks": ranks}).encode() + b"\n"
        self._ship("usage.jsonl", self._usage_bytes, line)
        self._usage_bytes += len(line)

    def _ship_logs(self, now: float) -> None:
        self._loud_at = now if self._loud_at is None else self._loud_at
        made = int((now - self._loud_at) * self._lines_per_s)
        out = self._wire.outbound
        for i, shipped in enumerate(self._shipped):
            if (count := min(made - shipped, MOST)) <= 0 or len(out) > MAX_OUT_BYTES * len(self._wire.nodes):
                continue
            out += self._head + b'round_0/%d/stdout.log","offset":%d,"data":"%s"}\n' % (
                i,
                shipped * len(LINE),
                PIECES[count],
            )
            self._shipped[i] += count
        if any(self._shipped):
            sizes = {f"0/{i}/stdout": shipped * len(LINE) for i, shipped in enumerate(self._shipped)}
            line = json.dumps({"time_ns": time.time_ns(), "sizes": sizes}).encode() + b"\n"
            self._ship("growth.jsonl", self._growth_bytes, line)
            self._growth_bytes += len(line)

    def _ship(self, path: str, offset: int, data: bytes) -> None:
        self._say("piece", run_id=self._run_id, path=path, offset=offset, data=base64.b64encode(data).decode())

    def _ship_whole(self, local_rank: int, name: str, data: bytes) -> None:
        self._say(
            "whole", run_id=self._run_id, path=f"round_0/{local_rank}/{name}", offset=0, size=len(data),
            data=base64.b64encode(data).decode(), is_last=True,
        )  # fmt: skip

    def _tell(self, kind: str, **data: Any) -> None:
        self._say(
            "event", run_id=self._run_id, event={"event": kind, "time_ns": time.time_ns(), "node": self._node, **data}
        )

    def _say(self, kind: str, **more: Any) -> None:
        self._wire.outbound += json.dumps({"from": self.token, "type": kind, **more}).encode() + b"\n"


def serve(wires: list[Wire], loud: Path) -> None:
    """Speak for all nodes until nobody listens."""
    selector = selectors.DefaultSelector()
    for wire in wires:
        wire.sock.setblocking(False)  # noqa: FBT003  the socket's own word
        selector.register(wire.sock, selectors.EVENT_READ, wire)
        for node in wire.nodes:
            node.greet()
        wire.flush()
    look_at, is_loud = 0.0, False
    while wires:
        for key, _ in selector.select(0.01):
            wire = key.data
            for message in wire.frames():
                now = time.monotonic()
                for node in wire.nodes:
                    node.heed(message, now)
            if wire.is_gone:
                selector.unregister(wire.sock)
        wires = [wire for wire in wires if not wire.is_gone]
        now = time.monotonic()
        if now >= look_at:
            look_at, is_loud = now + 0.2, loud.exists()
        for wire in wires:
            for node in wire.nodes:
                node.tick(now, is_loud=is_loud)
            if wire.outbound:
                wire.flush()


def main() -> None:
    """Serve what stdin says, then leave what was seen."""
    asked = json.loads(sys.stdin.buffer.read())
    folder = Path(asked["folder"])
    nodes, wires = [], []
    for fd, numbers in asked["links"]:
        wire = Wire(socket.socket(fileno=fd))
        wire.nodes = [Pretended(number, wire, asked["lines"]) for number in numbers]
        nodes += wire.nodes
        wires.append(wire)
    serve(wires, folder / "loud")
    seen = {"silent_s": max(n.longest_s for n in nodes)}
    (folder / f"seen-{asked['number']}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
