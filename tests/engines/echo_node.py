"""A small node program: says hello, and does what frames ask of it. Standard library only, and nothing of ours.

Runs in: a node of the engines' tests, as ``python echo_node.py MARK FOLDER [LEASE_S]``.

MARK stands in its command line, so that whatever is left of it can be found. In FOLDER it leaves ``TOKEN.eof`` when its stdin
ended. With LEASE_S it ends by itself when it has heard nothing for so long, as a real node program does.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

HEAD = struct.Struct(">II")
TOKEN = os.urandom(4).hex()
LOCK = threading.Lock()


def say(kind: str, **more: Any) -> None:
    """Write one line."""
    text = json.dumps({"from": TOKEN, "type": kind, **more}, separators=(",", ":"))
    with LOCK:
        sys.stdout.buffer.write(text.encode() + b"\n")
        sys.stdout.buffer.flush()


def read() -> tuple[dict[str, Any], bytes] | None:
    """Read one frame; None at the end."""
    head = sys.stdin.buffer.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    json_bytes, blob_bytes = HEAD.unpack(head)
    message = json.loads(sys.stdin.buffer.read(json_bytes))
    return message, sys.stdin.buffer.read(blob_bytes)


def line(count: int, number: int, size: int) -> dict[str, Any]:
    """Content of a line of about ``size`` bytes that can be checked."""
    return {"n": number, "of": count, "text": (f"{TOKEN}-{number}-" * (size // 8))[: max(0, size - 80)]}


def obey(message: dict[str, Any], blob: bytes) -> None:
    """Do what one frame asks."""
    kind = message["type"]
    if kind == "echo":
        say("echo", n=message["n"], size=len(blob), digest=hashlib.sha256(blob).hexdigest())
    elif kind == "lines":
        for number in range(message["count"]):
            say("line", **line(message["count"], number, message["size"]))
    elif kind == "env":
        say("env", values={name: os.environ.get(name) for name in message["names"]})
    elif kind == "deaf":  # reads nothing until a file is there
        say("deaf")
        while not Path(message["until"]).exists():
            time.sleep(0.02)
    elif kind == "stubborn":  # neither the end of stdin nor a polite signal ends it
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        global IS_STUBBORN
        IS_STUBBORN = True
        say("stubborn")
    elif kind == "mask":
        say("mask", blocked=sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    elif kind == "words":  # to stderr
        sys.stderr.write(message["text"] + "\n")
        sys.stderr.flush()
    elif kind == "die":
        if message.get("signal"):
            os.kill(os.getpid(), message["signal"])
        os._exit(message.get("code", 0))


IS_STUBBORN = False


def main() -> None:
    """Say hello, then obey until stdin ends."""
    folder = Path(sys.argv[2])
    heard = [time.monotonic()]
    if len(sys.argv) > 3:

        def watch() -> None:
            while time.monotonic() - heard[0] < float(sys.argv[3]):
                time.sleep(0.1)
            os._exit(9)

        threading.Thread(target=watch, daemon=True).start()
    say(
        "hello",
        host=socket.gethostname(),
        pid=os.getpid(),
        place=os.environ.get("NB_ELASTIC_NODE_PLACE", ""),
        address=os.environ.get("NB_ELASTIC_NODE_ADDRESS", ""),
        driver_address=os.environ.get("NB_ELASTIC_DRIVER_ADDRESS", ""),
        python=sys.executable,
    )
    while (frame := read()) is not None:
        heard[0] = time.monotonic()
        message, blob = frame
        if "to" not in message or TOKEN in message["to"]:
            obey(message, blob)
    (folder / f"{TOKEN}.eof").touch()
    while IS_STUBBORN:
        time.sleep(1)


if __name__ == "__main__":
    main()
