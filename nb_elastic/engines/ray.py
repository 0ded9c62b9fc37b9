"""Nodes on the machines of a Ray cluster: one actor a machine starts the node program there, and relays it.

Runs in: the kernel or the command line (``settle``, which imports nothing of Ray) and the driver (all else). The only file
that imports ray.

The first nodes are placed together, by a placement group (STRICT_SPREAD: all of them or none, each on a machine of its own);
those that join later one by one, each anywhere but where there is one. Where the group has lost a node, Ray keeps its place for
it, here or on another machine, so one is asked for there, too. What can't be placed yet stays asked for, so that a
cluster's autoscaler sees it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nb_elastic.engines import ray_actor, ray_settings, ray_shape
from nb_elastic.engines.base import Order, Settled, Wanted
from nb_elastic.engines.ray_link import Away, Gone, RayLink
from nb_elastic.engines.ray_local import LocalCluster, serve
from nb_elastic.engines.ray_words import is_refusal, words
from nb_elastic.errors import EngineError

NAMESPACE = "nb_elastic"
CALLS = 16
"""How many calls an actor takes at once: some may wait for a node program that reads nothing, or says nothing."""
CONNECT_S = 20.0
"""A head that is started again may take so long to answer."""
TELL_S = 3.0
LOOK_S = 0.5
GROW_S = 0.5
AVOID_S = 70.0
"""A machine whose node could not be ended isn't taken again for so long; by then Ray itself knows whether it is dead."""
OPEN_TO_ALL = (
    "This Ray cluster asks for no token: whoever reaches it can run programs as you. "
    "RAY_AUTH_MODE=token on all its machines closes it."
)


@dataclass(slots=True, kw_only=True, eq=False)
class _Placed:
    """An actor that was asked for; it has a link once its node program runs.

    Attributes:
        index: its place in the group; -1 for one outside.
        elsewhere: the machines that it was to avoid.
        node: id of its machine.
    """

    actor: Any
    started: Any
    index: int
    elsewhere: frozenset[str]
    node: str = ""
    link: RayLink | None = None
    avoided_until: float = 0.0

    @property
    def is_there(self) -> bool:
        """True unless it has had a node, and has lost it."""
        return self.link is None or self.link.is_alive


class RayEngine:
    """``--engine ray``. See ``nb_elastic.engines.base.Engine``."""

    def __init__(self) -> None:
        self._ray: Any = None
        self._cluster: LocalCluster | None = None
        self._group: Any = None
        self._places: set[int] = set()
        self._placed: list[_Placed] = []
        self._lock = threading.Lock()

    def settle(self, wanted: Wanted, environ: Mapping[str, str]) -> Settled:
        """Find the cluster that the settings, the notebook itself or the environment name."""
        return ray_settings.settle(wanted, environ)

    def open(self, order: Order) -> None:
        """Start so many node programs, each on a machine of its own, as soon as there is room for all."""
        with self._lock:
            self._join(order)
            bundle = self._bundle(order)
            if bundle is None or not self._reserve(order, bundle):
                return
            self._places = set(range(order.nodes))
            for index in self._places:
                self._ask(order, bundle, index=index)
            self._await(order, until=float("inf"))

    def grow(self, order: Order) -> None:
        """Start node programs on machines that have none, one after another; asks for them as long as it is called."""
        with self._lock:
            if self._ray is None or (bundle := self._bundle(order)) is None:
                return
            taken = self._taken()
            for one in self._waiting():
                if one.index < 0 and one.elsewhere != taken:
                    self._forget(one)
            for index in sorted(self._places - {one.index for one in self._placed if one.is_there}):
                self._ask(order, bundle, index=index)
            if all(one.index >= 0 for one in self._waiting()):
                self._ask(order, bundle, elsewhere=taken)
            if self._await(order, until=time.monotonic() + GROW_S) >= order.nodes:
                for one in self._waiting():
                    self._forget(one)

    def close(self) -> None:
        """End all nodes, give back what they took, and leave the cluster."""
        with self._lock:
            if self._ray is not None:
                threads = [
                    threading.Thread(target=one.link.close, name="nb_elastic-ray-close", daemon=True)
                    for one in self._placed
                    if one.link is not None
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(20.0)
                for one in self._waiting():
                    self._forget(one)
                with contextlib.suppress(Exception):  # whatever Ray can't do now: what is ours ends with its driver
                    if self._group is not None:
                        self._ray.util.remove_placement_group(self._group)
                with contextlib.suppress(Exception):
                    self._ray.shutdown()
                self._ray = None
            if self._cluster is not None:
                self._cluster.close()
                self._cluster = None

    # -- the cluster -------------------------------------------------------------------------

    def _join(self, order: Order) -> None:
        """Import Ray and connect, in a thread: either may take long when something is amiss, and then can't be stopped."""
        done: Future[Any] = Future()

        def work() -> None:
            try:
                done.set_result(self._connect(order))
            except BaseException as e:  # noqa: BLE001  handed on
                done.set_exception(e)

        threading.Thread(target=work, name="nb_elastic-ray-join", daemon=True).start()
        begun, has_told = time.monotonic(), False
        while not order.is_over.is_set():
            try:
                self._ray = done.result(0.2)
            except LateError:
                if not has_told and time.monotonic() > begun + 4 * TELL_S:
                    has_told = True
                    order.tell(f"Still connecting to {order.settled.label}.")
                continue
            except EngineError:
                raise
            except Exception as e:
                raise EngineError(f"{_named(order)} can't be joined: {words(e)}") from e
            if _has_no_token(order.settled.value):
                order.tell(OPEN_TO_ALL)
            return

    def _connect(self, order: Order) -> Any:
        value = order.settled.value
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = str(value["address"])
        if address == ray_settings.LOCAL:
            command = (sys.executable, "-m", __name__)
            self._cluster = LocalCluster(
                command, order.folder, order.log, nodes=int(value["nodes"]), nproc=order.wanted.nproc
            )
            address = self._cluster.start()
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")  # else Ray tries for 20 s what was refused at once
        import ray

        runtime_env = {"py_modules": [str(Path(ray_actor.__file__).parents[1])]} if value.get("ships") else None
        deadline = time.monotonic() + CONNECT_S
        while not ray.is_initialized():
            try:
                ray.init(
                    address=address,
                    namespace=NAMESPACE,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **({"runtime_env": runtime_env} if runtime_env else {}),
                )
            except Exception as e:
                if order.is_over.is_set() or time.monotonic() > deadline or is_refusal(e):
                    raise
        for module in (ray_actor, sys.modules[__name__]):
            ray.cloudpickle.register_pickle_by_value(module)
        return ray

    def _machines(self) -> dict[str, dict[str, Any]]:
        """The living machines by their ids, as Ray describes them."""
        return {machine["NodeID"]: machine for machine in self._ray.nodes() if machine["Alive"]}

    def _bundle(self, order: Order) -> dict[str, int] | None:
        try:
            resources = [machine["Resources"] for machine in self._machines().values()]
        except Exception as e:
            if order.is_over.is_set():
                return None
            raise EngineError(f"{_named(order)} does not answer: {words(e)}") from e
        return ray_shape.shape(order.wanted, resources, cpus=int(order.settled.value.get("cpus", 0)))

    def _waiting(self) -> list[_Placed]:
        return [one for one in self._placed if one.link is None]

    def _taken(self) -> frozenset[str]:
        """Ids of the machines that have a node, or must not get one."""
        self._placed = [one for one in self._placed if one.is_there or time.monotonic() < one.avoided_until]
        return frozenset(one.node for one in self._placed if one.link is not None)

    # -- placing -----------------------------------------------------------------------------

    def _reserve(self, order: Order, bundle: Mapping[str, int]) -> bool:
        """Wait for machines with so much to spare; False when nobody wants them any more."""
        from ray.util.placement_group import placement_group

        self._group = placement_group([dict(bundle)] * order.nodes, strategy="STRICT_SPREAD")
        begun, told = time.monotonic(), ""
        while not order.is_over.is_set():
            if self._group.wait(LOOK_S):
                return True
            if time.monotonic() > begun + TELL_S and (text := self._waits_for(order, bundle)) != told:
                told = text
                order.tell(text)
        return False

    def _waits_for(self, order: Order, bundle: Mapping[str, int]) -> str:
        machines = [machine["Resources"] for machine in self._machines().values()]
        fit = ray_shape.count_fit(bundle, machines)
        each = ray_shape.text(bundle)
        if fit < order.nodes:
            return f"Ray has {fit} of the {order.nodes} machines with {each} that the run needs; waiting for more."
        return f"Ray has no {order.nodes} machines with {each} free at once; waiting until others give theirs back."

    def _ask(
        self, order: Order, bundle: Mapping[str, int], *, index: int = -1, elsewhere: frozenset[str] = frozenset()
    ) -> None:
        where: dict[str, Any] = {}
        if index >= 0:
            where["scheduling_strategy"] = _in_group(self._group, index)
        elif elsewhere:
            where["label_selector"] = {"ray.io/node-id": f"!in({','.join(sorted(elsewhere))})"}
        actor = self._ray.remote(ray_actor.Relay).options(
            num_cpus=bundle["CPU"],
            num_gpus=bundle.get("GPU", 0),
            max_concurrency=CALLS,
            max_restarts=0,
            **where,
        ).remote()  # fmt: skip
        started = actor.start.remote(order.arguments, dict(order.env), _look)
        self._placed.append(_Placed(actor=actor, started=started, index=index, elsewhere=elsewhere))

    def _await(self, order: Order, *, until: float) -> int:
        """Make links of the actors that are up; how many."""
        n_links = 0
        while not order.is_over.is_set():
            waiting = {one.started: one for one in self._waiting()}
            if not waiting or time.monotonic() > until:
                break
            for started in self._ray.wait(list(waiting), timeout=0.2)[0]:
                n_links += self._greet(waiting[started], order)
        return n_links

    def _greet(self, one: _Placed, order: Order) -> bool:
        try:
            where = self._ray.get(one.started)
        except Exception as e:  # border: Ray's own errors, of many kinds
            self._forget(one)
            raise EngineError(f"No node could be started on {order.settled.label}: {words(e)}") from e
        if where["node"] in self._taken():  # its place in the group has moved to where there is a node by now
            self._places.discard(one.index)
            self._forget(one)
            return False
        one.node = where["node"]

        def on_over(*, is_certain: bool) -> None:
            one.avoided_until = 0.0 if is_certain else time.monotonic() + AVOID_S

        one.link = RayLink(_Actor(self._ray, one.actor), place=where["place"], log=order.log, on_over=on_over)
        order.on_link(one.link)
        return True

    def _forget(self, one: _Placed) -> None:
        with contextlib.suppress(Exception):  # border: it may be gone
            self._ray.kill(one.actor)
        self._placed.remove(one)


class _Actor:
    """See ``ray_link.Far``."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor

    def call(self, name: str, *arguments: Any) -> Future[Any]:
        with self._told():
            future: Future[Any] = getattr(self._actor, name).remote(*arguments).future()
            return future

    def answer(self, call: Future[Any], timeout_s: float | None = None) -> Any:
        with self._told():
            try:
                return call.result(timeout_s)
            except LateError:
                raise TimeoutError from None

    def kill(self) -> None:
        with contextlib.suppress(Exception):  # border: it may be gone, and Ray with it
            self._ray.kill(self._actor)

    @contextlib.contextmanager
    def _told(self) -> Any:
        """Ray's errors in our words."""
        errors = self._ray.exceptions
        try:
            yield
        except (TimeoutError, Away, Gone):
            raise
        except errors.ActorUnavailableError as e:
            raise Away(words(e)) from e
        except errors.RayActorError as e:
            raise Gone(words(e)) from e
        except (ConnectionError, CancelledError, errors.RayError) as e:
            raise Gone(words(e)) from e
        except Exception as e:  # border: what Ray's client and core raise when the connection is over
            raise Gone(words(e)) from e


def _in_group(group: Any, index: int) -> Any:
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    return PlacementGroupSchedulingStrategy(group, index)


def _look() -> tuple[str, str, str]:
    """Id, address and name of the machine; runs there, and travels by value."""
    import ray as there

    node = there.get_runtime_context().get_node_id()
    address = there.util.get_node_ip_address()
    name = next((m["NodeName"] for m in there.nodes() if m["NodeID"] == node), "")
    return node, address, name or address


def _has_no_token(value: Mapping[str, Any]) -> bool:
    return value["address"] != ray_settings.LOCAL and os.environ.get("RAY_AUTH_MODE", "").lower() != "token"


def _named(order: Order) -> str:
    """The cluster at the start of a sentence."""
    label = order.settled.label
    return label[:1].upper() + label[1:]


def main() -> None:
    """Have a cluster of this machine, as ``python -m nb_elastic.engines.ray``."""
    import ray._private.node
    import ray._private.parameter

    serve(ray)


if __name__ == "__main__":
    main()
