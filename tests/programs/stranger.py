"""Another local user: tries to read, steer and break a run that isn't theirs, and tells what worked.

Runs in: a process of the tests: ``python -m tests.programs.stranger UID HOME RUN_DIR SUPERVISOR_PID PORT MARKER ACTION...``. It is
started by root, imports what it needs (the stranger may not read the Python of the tests), and becomes the stranger for good. Prints
a JSON object: action -> "done", or why not.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import pickle
import signal
import socket
import sys
from datetime import timedelta
from pathlib import Path

from nb_elastic import cli, cli_logs, cli_reap, cli_stacks, debugging, launching, payload, rundir, run as runs_module  # noqa: F401
from nb_elastic.render import choose, html, plain, terminal  # noqa: F401


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)


def main(uid, home, run_dir, pid, port, marker, actions):
    run_dir, pid, port = Path(run_dir), int(pid), int(port)
    if set(actions) & {"store_read", "store_write"}:
        from torch.distributed import TCPStore
    os.setgroups([])
    os.setresgid(int(uid), int(uid), int(uid))
    os.setresuid(int(uid), int(uid), int(uid))
    os.environ.update(NB_ELASTIC_HOME=home, HOME="/nonexistent")
    os.chdir("/")

    def command(*words):
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
            status = cli.main(list(words))
        if status or run_dir.name in out.getvalue():
            raise PermissionError(out.getvalue()[:200]) if status else AssertionError("shown: " + out.getvalue())
        raise PermissionError("nothing shown")

    def store():
        return TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=10))

    def store_write():
        one = store()
        for key in one.list_keys():
            one.set(key, base64.b64encode(pickle.dumps(Bomb(marker))).decode())

    def connect(name):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(name))

    tries = {
        "list_home": lambda: os.listdir(home),
        "list_run": lambda: os.listdir(run_dir),
        "read_log": lambda: (run_dir / "round_0/0/stdout.log").read_bytes(),
        "read_journal": lambda: (run_dir / "journal.jsonl").read_bytes(),
        "write_stop": lambda: (run_dir / "stop.json").write_text("{}"),
        "write_journal": lambda: open(run_dir / "journal.jsonl", "ab").write(b"x"),
        "plant_run": lambda: os.mkdir(Path(home) / "planted"),
        "exchange_run": lambda: os.rename(run_dir, f"{run_dir}.away"),
        "signal": lambda: os.kill(pid, signal.SIGINT),
        "memory": lambda: open(f"/proc/{pid}/mem", "rb").read(1),
        "environ": lambda: open(f"/proc/{pid}/environ", "rb").read(1),
        "descriptors": lambda: [open(f"/proc/{pid}/fd/{fd}", "rb") for fd in os.listdir(f"/proc/{pid}/fd")],
        "cli_runs": lambda: command("runs"),
        "cli_show": lambda: command("show", run_dir.name),
        "cli_logs": lambda: command("logs", run_dir.name),
        "cli_stop": lambda: command("stop", run_dir.name),
        "cli_attach": lambda: command("attach", run_dir.name),
        "debug_socket": lambda: connect(run_dir / "round_0/0/debug.sock"),
        "store_read": lambda: store().list_keys()[0],
        "store_write": store_write,
    }
    told = {}
    for action in actions or tries:
        try:
            tries[action]()
            told[action] = "done"
        except Exception as e:
            told[action] = type(e).__name__
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:7], sys.argv[7:])
