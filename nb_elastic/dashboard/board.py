"""The one thread that serves all dashboards of this kernel; there is one while there is a view, and none else.

Runs in: the kernel. Callbacks of comms, in whatever thread, only put into its queue.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nb_elastic.dashboard import messages
from nb_elastic.dashboard.errands import Errands
from nb_elastic.dashboard.live import LiveRun
from nb_elastic.dashboard.messages import EVERYBODY, Ask
from nb_elastic.dashboard.view import Door, View
from nb_elastic.errors import DescriptorsError
from nb_elastic.rundir import RunDir, read_at
from nb_elastic.wakes import Wakes

LOOK_S = 0.05
"""Time between two looks while something grows; what grows after a silence is seen at once."""
HURRY_S = 0.02
"""The same while a view has more to get: with messages of 1 MB, 50 MB/s, and some of the time is the kernel's."""
CALM_S = 0.005
"""Least time between any two looks."""
UNSURE_S = 0.05
"""Time between two looks where no wake can be relied on."""
MAX_VIEWS = 64
MAX_ASKS = 1_000
"""Of a page that asks faster than it is answered, the rest is not heard."""
IDLE_S = 10.0

Task = Callable[[], object]


class Board:
    """Serves views. Safe to call from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._hurry = threading.Event()
        self._tasks: deque[Task] = deque()
        self._thread: threading.Thread | None = None
        self._wakes: Wakes | None = None
        self._views: list[View] = []
        self._runs: dict[str, LiveRun] = {}
        self._chores: dict[Door, Callable[[], float]] = {}
        self._errands = Errands()
        self._opened: set[Path] = set()

    def hear(self, door: Door, content: Any) -> None:
        """A page behind the door has said something."""
        ask = messages.read(content)
        if ask is None or len(self._tasks) > MAX_ASKS:
            return
        self._do(functools.partial(self._answer, door, ask), is_urgent=ask.kind != "ack")

    def broadcast(self, door: Door) -> None:
        """Show the door's own run to whoever listens, until a page is heard."""
        self._do(functools.partial(self._begin_broadcast, door))

    def keep(self, door: Door, chore: Callable[[], float]) -> None:
        """Call ``chore`` in the board's thread now and then: it returns the seconds until the next time.

        A ConnectionError of it ends that.
        """
        self._do(functools.partial(self._chores.__setitem__, door, chore))

    def was_opened(self, folder: RunDir) -> bool:
        """True once a page has opened a view of this run."""
        return folder.path in self._opened

    def finish(self, folder: RunDir, timeout_s: float) -> bool:
        """Wait until every page that views this finished run was sent all of it; at most ``timeout_s``."""
        with self._lock:
            if self._thread is None:
                return True
        looked: list[bool] = []
        self._do(lambda: self._look_and_note(looked))

        def is_done() -> bool:
            mine = [v for v in self._views if v.run.folder == folder and not v.is_blind]
            return bool(looked) and all(v.is_over or v.is_gone for v in mine)

        with self._changed:
            return self._changed.wait_for(is_done, timeout_s)

    def leave(self, door: Door, timeout_s: float = 2.0) -> None:
        """Close a door: its views end, and if no other is left, the thread."""
        with self._lock:
            thread = self._thread
        if thread is None or thread.ident is None or thread is threading.current_thread():
            return
        left = threading.Event()
        self._do(functools.partial(self._leave, door, left))
        left.wait(timeout_s)
        with self._lock:
            is_last = not self._views and not self._chores and not self._tasks
        if is_last:
            thread.join(timeout_s)

    def _do(self, task: Task, *, is_urgent: bool = True) -> None:
        with self._lock:
            self._tasks.append(task)
            if is_urgent:
                self._hurry.set()
            self._wakes = self._wakes or Wakes()
            if self._thread is None or self._thread.ident is None:  # or an interrupt came before it began
                self._thread = threading.Thread(target=self._serve, name="nb-elastic-board", daemon=True)
                self._thread.start()
            else:
                self._wakes.wake()

    def _serve(self) -> None:
        looked_s = 0.0
        while self._thread is threading.current_thread():
            self._hurry.clear()
            while self._tasks:
                self._attempt(self._tasks.popleft())
            has_sent, has_more = self._look()
            due = self._do_chores()
            with self._changed:
                self._views = [v for v in self._views if not v.is_gone]
                self._changed.notify_all()
                if not (self._views or self._chores or self._tasks):
                    self._end()
                    return
            wait_s = min([IDLE_S, *(v.due_s() for v in self._views), *due])
            is_busy = has_sent or any(v.is_behind for v in self._views)
            pause_s = HURRY_S if has_more else LOOK_S if is_busy else CALM_S
            self._hurry.wait(max(0.0, looked_s + pause_s - time.monotonic()))
            if not has_more:
                self._wait(wait_s)
            looked_s = time.monotonic()

    def _wait(self, seconds: float) -> None:
        wakes = self._wakes
        if wakes is None:
            return
        is_live = any(not run.is_over for run in self._runs.values())
        wakes.wait(min(seconds, UNSURE_S) if is_live and not wakes.is_sure else seconds)

    def _look(self) -> tuple[bool, bool]:
        """One look at all runs, one step of all views: whether anything was sent, and whether there is more."""
        wanted = {v.run.folder.path.as_posix() for v in self._views}
        self._runs = {path: run for path, run in self._runs.items() if path in wanted}
        for run in self._runs.values():
            self._attempt(functools.partial(run.look, self._wakes.watch if self._wakes else None))
        sizes = [v.sent for v in self._views]
        more = [self._step(v) for v in self._views]
        return [v.sent for v in self._views] != sizes, any(more)

    @staticmethod
    def _step(view: View) -> bool:
        try:
            return view.step()
        except DescriptorsError:  # there may be some again later
            return False
        except Exception:  # noqa: BLE001  a thread's border: as below
            view.is_gone = True
            return False

    def _look_and_note(self, looked: list[bool]) -> None:
        self._look()
        looked.append(True)

    def _do_chores(self) -> list[float]:
        due: list[float] = []
        for door, chore in list(self._chores.items()):
            try:
                due.append(chore())
            except ConnectionError:  # nobody is behind the door any more; who comes will ask
                self._chores.pop(door, None)
            except Exception:  # noqa: BLE001  a thread's border: as below
                due.append(IDLE_S)
        return due

    def _end(self) -> None:
        """The lock is held."""
        self._thread = None
        self._runs = {}
        if self._wakes is not None:
            self._wakes.close()
            self._wakes = None
        self._errands.end()

    @staticmethod
    def _attempt(task: Task) -> None:
        try:
            task()
        except Exception:  # noqa: BLE001  a thread's border: one run or page that can't be served must not end the others
            return

    # -- what pages ask ------------------------------------------------------------------------

    def _answer(self, door: Door, ask: Ask) -> None:
        mine = [v for v in self._views if v.door is door and v.name == ask.view]
        for view in mine:
            view.hear(ask.seq)
        if ask.kind == "list":
            if door.on_list is not None:
                door.on_list()
            return
        if ask.kind == "close":
            self._drop(mine)
        elif ask.kind == "asset":
            door.send_charts(ask.view)
        elif ask.kind != "ack":
            self._serve_run(door, ask, mine)

    def _serve_run(self, door: Door, ask: Ask, mine: list[View]) -> None:
        folder = door.find(ask.run)
        if folder is None:
            text = f"There is no run {ask.run} on this machine any more."
            door.send({"view": ask.view, "run": ask.run, "type": "error", "text": text}, [])
            return
        to = {"view": ask.view, "run": folder.run_id}
        if ask.kind == "open":
            self._opened.add(folder.path)
            self._drop([*mine, *(v for v in self._views if v.is_blind and v.run.folder == folder)])
            self._open(door, ask, folder)
        elif ask.kind == "read":
            self._read(door, ask, folder, to)
        elif ask.kind == "saved":
            from nb_elastic.render import html

            live = self._run(folder)
            live.look()
            data = html.bundle(live.snapshot, folder, now_ns=time.time_ns())
            door.send({**to, "type": "saved", "bundle": data}, [])
        elif ask.kind == "stop":
            self._errands.stop(door, folder, ask.grace_s, to)
        elif ask.kind == "stacks":
            self._errands.stacks(door, folder, to)

    def _open(self, door: Door, ask: Ask, folder: RunDir) -> None:
        if len(self._views) >= MAX_VIEWS:
            text = f"{MAX_VIEWS} dashboards are open in this kernel: close some."
            door.send({"view": ask.view, "run": folder.run_id, "type": "error", "text": text}, [])
            return
        self._add(View(ask.view, door=door, run=self._looked(folder), have=ask.have))

    def _read(self, door: Door, ask: Ask, folder: RunDir, to: dict[str, str]) -> None:
        file = self._looked(folder).files.get(ask.file)
        data = read_at(file.path, ask.offset, ask.size) if file is not None else b""
        size = max(file.size, ask.offset + len(data) if data else 0) if file is not None else 0
        at = {"id": ask.id, "file": ask.file, "offset": ask.offset, "size_bytes": size}
        door.send({**to, "type": "bytes", **at}, [data])

    def _begin_broadcast(self, door: Door) -> None:
        folder = door.find("")
        if folder is not None and folder.path not in self._opened:
            self._add(View(EVERYBODY, door=door, run=self._looked(folder)))

    def _looked(self, folder: RunDir) -> LiveRun:
        run = self._run(folder)
        run.look(is_whole=True)
        return run

    def _run(self, folder: RunDir) -> LiveRun:
        return self._runs.setdefault(folder.path.as_posix(), LiveRun(folder))

    def _add(self, view: View) -> None:
        with self._lock:
            self._views = [*self._views, view]

    def _drop(self, views: list[View]) -> None:
        with self._lock:
            self._views = [v for v in self._views if v not in views]

    def _leave(self, door: Door, left: threading.Event) -> None:
        self._chores.pop(door, None)
        self._drop([v for v in self._views if v.door is door])
        left.set()


@functools.lru_cache(maxsize=1)
def shared() -> Board:
    """The board of this process; making it starts nothing."""
    return Board()
