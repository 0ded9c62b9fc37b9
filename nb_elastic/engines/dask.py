"""Nodes on the workers of a Dask cluster: one long-running task a host starts the node program there, and relays it.

Runs in: the kernel or the command line (``settle``, which imports nothing of Dask) and the driver (all else). The only file
that imports distributed.

The task (``dask_there``) keeps the worker from being scaled away, and holds its resources; it leaves the worker's threads to
others. What the node program reads and writes goes over requests of a Dask client, straight to the worker where the driver
can reach it, else through the scheduler, which keeps nothing of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from nb_elastic.engines.base import Order, Settled, Wanted
from nb_elastic.engines.dask_link import DaskLink
from nb_elastic.engines.dask_settings import settle
from nb_elastic.engines.dask_workers import DaskWorker, choose, needs, read
from nb_elastic.errors import EngineError

CONNECT_S = 5.0
WATCH_S = 1.0
GROW_S = 2.0
SILENT_S = 15.0
"""How long the scheduler may be out of reach before its nodes are given up."""
BUSY_S = 2.0
"""A task that hasn't begun by then waits for the worker's resources: another host is tried, too."""
EARLY_S, AVOID_S = 10.0, 30.0
"""A worker whose node program ended so early isn't taken again for so long."""
MAX_CONNECTIONS = 8192
STRAIGHT_S = 3.0

CALL = """
import dask, distributed
_worker = distributed.get_worker()
_nanny_env = dask.config.get("distributed.nanny.pre-spawn-environ", {}) | {"PYTHONHASHSEED": "6640"}
hold(_worker, distributed.secede, order | {"nanny_env": _nanny_env if _worker.nanny else {}})
"""
"""What the task does with ``dask_there``. The nanny pins OMP_NUM_THREADS and others for Dask's tasks, not for ranks."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Held:
    """A worker that was asked to carry a node; it has a link once the node program runs."""

    ticket: str
    worker: DaskWorker
    future: Any
    since: float
    link: DaskLink | None = None

    @property
    def is_over(self) -> bool:
        return self.link is not None and not self.link.is_alive


class DaskEngine:
    """``--engine dask``. See ``nb_elastic.engines.base.Engine``."""

    def __init__(self) -> None:
        self._client: Any = None
        self._watched: Any = None
        self._address = ""
        self._topic = f"nb_elastic-{secrets.token_hex(6)}"
        self._held: dict[str, _Held] = {}
        self._events: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        self._avoided: dict[str, float] = {}
        self._placing = threading.Lock()
        self._doubt = asyncio.Event()
        self._is_closed = False

    def settle(self, wanted: Wanted, environ: Mapping[str, str]) -> Settled:
        """Find the scheduler that the settings, the notebook's own client or the environment name."""
        return settle(wanted.settings, environ)

    def open(self, order: Order) -> None:
        """Start a node program on one worker of each of so many hosts; waits for workers, and for their resources."""
        with self._placing:
            self._place(order, until=float("inf"))

    def grow(self, order: Order) -> None:
        """Start node programs on hosts that have none, for instance since a worker joined."""
        with self._placing:
            self._place(order, until=time.monotonic() + GROW_S)

    def close(self) -> None:
        """End what was started, and leave the cluster."""
        self._is_closed = True
        with self._placing:
            client, self._client = self._client, None
            if client is None:
                return
            links = [held.link for held in self._held.values() if held.link and held.link.is_alive]
            with contextlib.suppress(Exception):  # whatever Dask can't do now: its tasks end with its client
                client.sync(_end, links, callback_timeout=20)
            self._watched = None
            for link in links:
                link.finish("")
            for held in list(self._held.values()):
                self._let_go(held)
            with contextlib.suppress(Exception):
                client.close(timeout=5)

    def _place(self, order: Order, *, until: float) -> None:
        """Start node programs until there are enough, or it is time to stop."""
        self._connect(order)
        given, looked, told = 0, 0.0, ""
        begun = time.monotonic()
        while given < order.nodes and not (order.is_over.is_set() or self._is_closed):
            if (now := time.monotonic()) > until:
                break
            waiting = [held for held in self._held.values() if held.link is None]
            missing = order.nodes - given - sum(now - held.since < BUSY_S for held in waiting)
            if missing > 0 and now > looked + WATCH_S / 2:
                looked = now
                workers = self._workers(order)
                busy = {held.worker.key for held in self._held.values() if not held.is_over}
                chosen = list(islice(choose(workers, order.wanted, busy=busy), missing))
                for worker in chosen:
                    self._start(worker, order)
                if len(chosen) < missing and now > begun + WATCH_S and until == float("inf"):
                    told = _tell(order, told, n_workers=len(workers), n_given=given, n_waiting=len(waiting))
            given += self._hear(order)
        for held in [held for held in self._held.values() if held.link is None]:
            self._let_go(held)

    def _connect(self, order: Order) -> None:
        if self._client is not None and self._client.status != "running":
            lost, self._client = self._client, None
            with contextlib.suppress(Exception):  # it is of no use any more
                lost.close(timeout=1)
        if self._client is None:
            self._address = str(order.settled.value["address"])
            self._client = self._watched = _join(order.settled.value, order.is_over)
            self._client.loop.add_callback(self._watch, self._client)
        # Again each time: a client that had to connect anew has lost its subscriptions.
        self._client.subscribe_topic(self._topic, lambda event: self._events.put(event[1]))

    def _workers(self, order: Order) -> list[DaskWorker]:
        try:
            identity = self._client.sync(self._client.scheduler.identity, callback_timeout=CONNECT_S)
        except Exception as e:  # of many kinds: its connection broke, its loop was closed
            if self._client.status == "connecting":  # it tries by itself
                return []
            raise EngineError(f"The Dask scheduler at {self._address} is gone: {_reason(e)}.") from e
        workers = read(identity, is_one_per_worker=order.settled.value.get("per") == "worker")
        now = time.monotonic()
        return [worker for worker in workers if self._avoided.get(worker.address, 0.0) < now]

    def _start(self, worker: DaskWorker, order: Order) -> None:
        ticket = secrets.token_hex(6)
        namespace = {
            "__name__": "nb_elastic_dask_there",
            "order": {
                "ticket": ticket,
                "topic": self._topic,
                "arguments": list(order.arguments),
                "env": {
                    **order.env,
                    "NB_ELASTIC_NODE_ADDRESS": worker.host,
                    "NB_ELASTIC_NODE_PLACE": worker.name,
                },
            },
        }
        # A builtin and text: plain pickles, which neither scheduler nor worker needs nb_elastic for.
        future = self._client.submit(
            exec,
            Path(__file__).with_name("dask_there.py").read_text(encoding="utf-8") + CALL,
            namespace,
            key=f"nb_elastic-node-{ticket}",
            workers=[worker.address],
            allow_other_workers=False,
            resources=needs(order.wanted, worker) or None,
            priority=10,
            retries=0,
        )
        self._held[ticket] = _Held(ticket=ticket, worker=worker, future=future, since=time.monotonic())

    def _hear(self, order: Order) -> int:
        """Take what has started; waits a moment for it. Gives how many nodes that are."""
        for held in list(self._held.values()):
            if held.link is None and held.future.status in {"error", "cancelled", "lost"}:
                self._fail(held, f"its task ended ({held.future.status})")
        try:
            event = self._events.get(timeout=0.1)
        except queue.Empty:
            return 0
        begun = self._held.get(str(event.get("ticket")))
        if begun is None or begun.link is not None:  # of an earlier call, or of a task that Dask has run once more
            return 0
        if "operation" not in event:
            self._fail(begun, str(event.get("error")))
        path = _Path(self._client, begun.worker.address, str(event["operation"]), self._doubt)
        loop = self._client.loop.asyncio_loop
        begun.link = DaskLink(path.ask, loop, place=begun.worker.name, log=order.log)
        self._client.loop.add_callback(path.find_shorter)
        order.on_link(begun.link)
        return 1

    def _fail(self, held: _Held, why: str) -> None:
        self._avoided[held.worker.address] = time.monotonic() + AVOID_S
        self._let_go(held)
        raise EngineError(f"Dask worker {held.worker.name} can't start a node program: {why}.")

    def _let_go(self, held: _Held) -> None:
        """Give the worker back: a task that nobody holds is cancelled, and its relay then ends the node program."""
        self._held.pop(held.ticket, None)
        with contextlib.suppress(Exception):  # its client may be closed, which does the same
            held.future.release()

    async def _watch(self, client: Any) -> None:
        """Find links that are over because Dask lost their worker or their task; runs on the client's loop."""
        heard = time.monotonic()
        while self._watched is client:  # also while it is closed, when a lost worker would else be waited for
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._doubt.wait(), WATCH_S)
            self._doubt.clear()
            given = [held for held in list(self._held.values()) if held.link is not None]
            try:
                asked = client.scheduler.ncores(workers=[held.worker.address for held in given])
                known = await asyncio.wait_for(asked, CONNECT_S)
                heard = time.monotonic()
            except Exception:  # noqa: BLE001  of many kinds: what counts is how long it lasts
                known = {held.worker.address for held in given}
                if time.monotonic() > heard + SILENT_S:
                    known = set()
                await asyncio.sleep(0.2)
            for held in given:
                self._look(held, is_known=held.worker.address in known, is_heard=time.monotonic() < heard + SILENT_S)

    def _look(self, held: _Held, *, is_known: bool, is_heard: bool) -> None:
        link = held.link
        if link is None:
            return
        if not is_heard:
            link.finish(f"the Dask scheduler at {self._address} can't be reached")
        elif not is_known:
            link.finish(f"its Dask worker {held.worker.name} left the cluster")
        elif held.future.status in {"cancelled", "lost", "error"}:
            link.finish(f"Dask ended its task on worker {held.worker.name}")
        if not link.is_alive:
            if time.monotonic() < held.since + EARLY_S:
                self._avoided[held.worker.address] = time.monotonic() + AVOID_S
            self._let_go(held)


class _Path:
    """How one relay is asked: through the scheduler, and straight as soon as that is known to work."""

    def __init__(self, client: Any, address: str, operation: str, doubt: asyncio.Event) -> None:
        self._client = client
        self._address = address
        self._operation = operation
        self._doubt = doubt
        self._is_straight = False

    async def ask(self, **question: Any) -> Any:
        """Ask once.

        Raises:
            OSError: if there was no answer.
        """
        ask = self._straight if self._is_straight else self._through_scheduler
        try:
            return await ask(**question)
        except Exception as e:  # of whatever kind the scheduler met with
            self._doubt.set()
            if self._is_straight:
                self._is_straight = False
                self._client.loop.add_callback(self.find_shorter)
            raise OSError(str(e)) from e

    async def find_shorter(self) -> None:
        """See whether the worker can be reached from here: behind a gateway, or out of Kubernetes, it can't."""
        with contextlib.suppress(Exception):  # then it is the long way, as before
            self._is_straight = await asyncio.wait_for(self._straight(), STRAIGHT_S) is not None

    def _straight(self, **question: Any) -> Awaitable[Any]:
        ask: Callable[..., Awaitable[Any]] = getattr(self._client.rpc(self._address), self._operation)
        return ask(**question)

    async def _through_scheduler(self, **question: Any) -> Any:
        message = {"op": self._operation, **question}
        answers = await self._client.scheduler.broadcast(msg=message, workers=[self._address])
        return answers[self._address]


def _join(value: Mapping[str, Any], is_over: threading.Event) -> Any:
    """Connect to the scheduler.

    Raises:
        EngineError: if it can't be reached, or doesn't take us.
    """
    import distributed

    names = {"ca": "tls_ca_file", "cert": "tls_client_cert", "key": "tls_client_key"}
    given = {names[name]: value[name] for name in names if value.get(name)}
    for is_last in (False, True):
        try:
            return distributed.Client(
                value["address"],
                security=distributed.Security(require_encryption=True, **given) if given else None,
                timeout=CONNECT_S,
                set_as_default=False,
                name="nb_elastic",
                direct_to_workers=False,
                connection_limit=MAX_CONNECTIONS,
            )
        except Exception as e:  # of many kinds: sockets, TLS, files, versions
            if is_last or is_over.is_set() or not isinstance(e, OSError):
                raise EngineError(f"The Dask scheduler at {value['address']} can't be joined: {_reason(e)}.") from e
    raise AssertionError


def _reason(e: BaseException) -> str:
    """What was at the bottom of it, in a line."""
    while e.__cause__ is not None:
        e = e.__cause__
    lines = str(e).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(e).__name__


def _tell(order: Order, told: str, *, n_workers: int, n_given: int, n_waiting: int) -> str:
    """Say what is waited for, when that has changed."""
    wanted, place = order.wanted, "workers" if order.settled.value.get("per") == "worker" else "hosts with a worker"
    gpus = f" and {wanted.gpus} GPUs free" if wanted.gpus > 0 else ""
    text = f"{order.settled.label}: waiting for {order.nodes} {place}{gpus}; {n_given} found"
    if n_waiting:
        text += f", {n_waiting} busy"
    text += f", of {n_workers} workers. Scale the cluster up, or ask for fewer nodes."
    if text != told:
        order.tell(text)
    return text


async def _end(links: list[DaskLink]) -> None:
    await asyncio.gather(*(link.end(10.0) for link in links), return_exceptions=True)
