"""Recognises from a rank's frames, its line's text and the kernel's words what its main thread waits for.

Runs in: the kernel or command line, and the supervisor.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nb_elastic import stacks_frames
from nb_elastic.model import Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """What a main thread is doing.

    Attributes:
        kind: one word of ``stacks_judge.KINDS``.
        doing: what it does, without the place: ``waits in all_reduce``.
        is_for_others: only other ranks can end this wait.
    """

    kind: str
    doing: str
    is_for_others: bool = False


C10D = "torch/distributed/distributed_c10d.py"
_INNER = frozenset({"wrapper", "inner_wrapper", "_store_based_barrier", "_new_process_group_helper"})
_BEGINNING = frozenset(
    {"init_process_group", "new_group", "split_group", "_store_based_barrier", "_env_rendezvous_handler", "rendezvous"}
)
_P2P = frozenset({"send", "recv", "isend", "irecv", "batch_isend_irecv"})

_CALLS: tuple[tuple[str, str, str, str], ...] = (
    # a file's end, a function ("" for any), kind, words; the first that fits a frame between the user's line and the innermost
    ("torch/utils/data/dataloader.py", "", "dataloader", "is in next(loader)"),
    ("torch/utils/data/_utils/pin_memory.py", "", "dataloader", "is in next(loader)"),
    ("torch/cuda/__init__.py", "synchronize", "gpu", "waits for the GPU"),
    ("torch/cuda/streams.py", "synchronize", "gpu", "waits for the GPU"),
    ("rankshell_hooks.py", "input", "input", "waits for input()"),
    ("/subprocess.py", "", "child", "waits for a child process"),
    ("/multiprocessing/popen_fork.py", "", "child", "waits for a child process"),
    ("/multiprocessing/process.py", "join", "child", "waits for a child process"),
    ("/concurrent/futures/_base.py", "", "thread", "waits for a future"),
    ("/queue.py", "", "queue", "waits at a queue"),
    ("/multiprocessing/queues.py", "", "queue", "waits at a queue"),
    ("/multiprocessing/managers.py", "", "queue", "waits for another process"),
    ("/multiprocessing/connection.py", "", "queue", "waits for another process"),
    ("/multiprocessing/synchronize.py", "", "lock", "waits for a lock"),
    ("/threading.py", "join", "thread", "waits for a thread to end"),
    ("/threading.py", "_wait_for_tstate_lock", "thread", "waits for a thread to end"),
    ("/threading.py", "_shutdown", "thread", "waits for its threads to end"),
    ("/threading.py", "", "lock", "waits for a lock"),
    ("/ssl.py", "", "socket", "waits for the network"),
    ("/socket.py", "", "socket", "waits for the network"),
    ("/asyncio/base_events.py", "", "socket", "waits in an event loop"),
    ("/selectors.py", "", "socket", "waits for a socket or pipe"),
)
_WORDS: tuple[tuple[re.Pattern[str], str, str, bool], ...] = (
    (
        re.compile(r"\bstore\w*(\(\))?\s*\.\s*(get|wait|multi_get|check|compare_set|add|set)\(", re.IGNORECASE),
        "store",
        "waits for a key of the store",
        True,
    ),
    (re.compile(r"\binput\(|\bstdin\b"), "input", "waits for input", False),
    (re.compile(r"\bsleep\("), "sleep", "sleeps", False),
    (
        re.compile(r"\.acquire\(|^(async )?with .*(lock|mutex|sem|cond)", re.IGNORECASE),
        "lock",
        "waits for a lock",
        False,
    ),
    (re.compile(r"\.synchronize\(|\.item\(\)|\.cpu\(\)|\.tolist\(\)"), "gpu", "waits for the GPU", False),
)
_KERNEL: tuple[tuple[str, str, str], ...] = (
    # how a function of the kernel begins, kind, words
    ("hrtimer_nanosleep", "sleep", "sleeps"),
    ("do_nanosleep", "sleep", "sleeps"),
    ("wait_for_partner", "file", "opens a named pipe that nobody else has opened"),
    ("fifo_open", "file", "opens a named pipe that nobody else has opened"),
    ("anon_pipe_read", "file", "waits to read from a pipe"),
    ("pipe_read", "file", "waits to read from a pipe"),
    ("pipe_wait", "file", "waits at a pipe"),
    ("anon_pipe_write", "file", "waits to write to a pipe that nobody reads"),
    ("pipe_write", "file", "waits to write to a pipe that nobody reads"),
    ("n_tty_read", "input", "waits for input at a terminal"),
    ("locks_lock_inode_wait", "file", "waits for a file's lock"),
    ("flock_lock_inode_wait", "file", "waits for a file's lock"),
    ("fcntl_setlk", "file", "waits for a file's lock"),
    ("do_wait", "child", "waits for a child process"),
    ("unix_stream", "socket", "waits for a socket"),
    ("sk_wait_data", "socket", "waits for the network"),
    ("inet_csk_accept", "socket", "waits for a connection"),
    ("wait_woken", "socket", "waits for the network"),
    ("poll_schedule", "socket", "waits for a socket or pipe"),
    ("do_sys_poll", "socket", "waits for a socket or pipe"),
    ("do_select", "socket", "waits for a socket or pipe"),
    ("ep_poll", "socket", "waits for a socket or pipe"),
    ("folio_wait", "file", "waits for the disk"),
    ("io_schedule", "file", "waits for the disk"),
    ("rpc_wait", "file", "waits for a network disk"),
    ("futex", "lock", "waits for a lock or another thread"),
)


def recognise(
    frames: Sequence[Frame], *, wchan: str, awaited: str, is_busy: bool, pending_op: str, has_gpu: bool
) -> Wait | None:
    """Say what a main thread does; None where nothing tells.

    Args:
        frames: outermost first, with texts where these are known.
        wchan: the kernel's function in which it waits, or "".
        awaited: the file or socket that it waits for, or "".
        pending_op: a collective that is not done, as the flight recorder tells, or "".
    """
    last = max((i for i, f in enumerate(frames) if stacks_frames.is_users(f)), default=-1)
    inner = frames[last + 1 :]
    if found := _collective(inner):
        return found
    for frame in inner:
        for end, name, kind, doing in _CALLS:
            if frame.file.replace(os.sep, "/").endswith(end) and name in {"", frame.name}:
                return Wait(kind=kind, doing=_with_file(kind, doing, awaited))
    text = frames[last].text if last >= 0 and not inner else ""
    if found := _by_text(text, wchan=wchan, awaited=awaited, is_busy=is_busy, has_gpu=has_gpu):
        return found
    if pending_op and not wchan.startswith(("hrtimer", "do_nanosleep", "wait_for_partner", "anon_pipe", "do_wait")):
        return Wait(kind="collective", doing=f"waits in {pending_op}", is_for_others=True)
    if is_busy:
        return None
    for begin, kind, doing in _KERNEL:
        if wchan.startswith(begin):
            return Wait(kind=kind, doing=_with_file(kind, doing, awaited))
    return None


def _collective(inner: Sequence[Frame]) -> Wait | None:
    """The collective that the user's line called: the outermost function of torch.distributed."""
    ours = [f for f in inner if "/torch/distributed/" in f.file.replace(os.sep, "/")]
    named = [f for f in ours if f.file.replace(os.sep, "/").endswith(C10D) and f.name not in _INNER]
    if any(f.name in _BEGINNING or f.file.endswith("rendezvous.py") for f in ours):
        op = next((f.name for f in named if f.name in _BEGINNING), "init_process_group")
        return Wait(kind="beginning", doing=f"waits in {op}", is_for_others=True)
    if not named:
        return None
    op = named[0].name
    kind = "p2p" if op in _P2P else "barrier" if "barrier" in op else "collective"
    return Wait(kind=kind, doing=f"waits in {op}", is_for_others=True)


def _by_text(text: str, *, wchan: str, awaited: str, is_busy: bool, has_gpu: bool) -> Wait | None:
    """What the user's own line says, where the kernel does not say otherwise."""
    for pattern, kind, doing, is_for_others in _WORDS:
        if not pattern.search(text):
            continue
        if kind == "gpu":
            if has_gpu:
                return Wait(kind=kind, doing=doing)
        elif is_busy:
            continue
        elif kind == "store":
            if not wchan or wchan.startswith(("poll_schedule", "do_sys_poll", "wait_woken", "sk_wait", "ep_poll")):
                return Wait(kind=kind, doing=doing, is_for_others=is_for_others)
        elif kind == "sleep":
            if not wchan.startswith(("futex", "wait_for_partner", "anon_pipe", "pipe")):
                return Wait(kind=kind, doing=doing)
        elif kind == "lock":
            if not wchan or wchan.startswith("futex"):
                return Wait(kind=kind, doing=doing)
        else:
            return Wait(kind=kind, doing=_with_file(kind, doing, awaited))
    return None


def _with_file(kind: str, doing: str, awaited: str) -> str:
    """Name the file that is waited for, where it has a name."""
    if kind == "file" and awaited.startswith("/"):
        return f"{doing} ({awaited})"
    return doing
