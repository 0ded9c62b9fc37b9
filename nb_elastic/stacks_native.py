"""Native stacks by py-spy, where that is installed and may look into the process.

Runs in: the kernel or command line, and the supervisor. py-spy stops the process for a moment while it reads.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

from nb_elastic import untrusted

TIMEOUT_S = 10.0
MAX_FRAMES = 6


def note(pid: int) -> str:
    """One sentence with the innermost native frames of the main thread; "" where they can't be had."""
    program = shutil.which("py-spy")
    if not program:
        return ""
    try:
        done = subprocess.run(
            [program, "dump", "--native", "--json", "--pid", str(pid)],
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        threads = json.loads(done.stdout) if done.returncode == 0 else []
    except (OSError, subprocess.SubprocessError, ValueError, RecursionError):
        return ""
    return text_of(threads, pid)


def text_of(threads: Any, pid: int) -> str:
    """The sentence for what py-spy told, as JSON."""
    rows = [t for t in threads if isinstance(t, dict)] if isinstance(threads, list) else []
    main = next((t for t in rows if pid in {t.get("os_thread_id"), t.get("thread_id")}), None)
    main = main or next((t for t in rows if t.get("thread_name") == "MainThread"), None)
    frames = main.get("frames") if main else None
    names = []
    for frame in frames if isinstance(frames, list) else []:
        if not isinstance(frame, dict) or str(frame.get("filename", "")).endswith(".py"):
            break
        names.append(untrusted.text(frame.get("name"), limit=100) or "?")
        if len(names) == MAX_FRAMES:
            break
    return f"Native stack: {' < '.join(names)}." if names else ""
