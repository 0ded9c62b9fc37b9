"""The nodes that have a share of a run: sends each its share, and what stops it.

Runs in: the driver, in its main thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from nb_elastic import wire
from nb_elastic.driver import descriptors, log, share
from nb_elastic.driver.fleet import Node, Route
from nb_elastic.driver.job import Job
from nb_elastic.driver.mirror import Mirror
from nb_elastic.driver.post import Delivery
from nb_elastic.driver.story import Story
from nb_elastic.driver.verdict import Member


class Roster:
    """The members of one run.

    Attributes:
        members: in the order in which they joined.
    """

    def __init__(self, job: Job, story: Story) -> None:
        self.members: list[Member] = []
        self._of: dict[Node, Member] = {}
        self._job, self._story = job, story
        self._key = os.urandom(32)
        self._variables = share.variables(job.spec)

    def __contains__(self, node: object) -> bool:
        """True for a node that has a share, or had."""
        return node in self._of

    def member(self, node: Node) -> Member | None:
        """What is known of this node's share."""
        return self._of.get(node)

    @property
    def active(self) -> Iterator[Member]:
        """Those whose share lasts."""
        return (m for m in self.members if m.is_active)

    def begin(self, nodes: Sequence[Node], endpoint: str) -> None:
        """Send these nodes their share.

        Args:
            endpoint: where they meet.
        """
        most_open = descriptors.of_each(self._job.spec.options.max_nodes)
        is_late = bool(self.members)
        for node in nodes:
            member = Member(len(self.members), node, is_late=is_late)
            self.members.append(member)
            self._of[node] = member
            node.mirror = Mirror(self._job.folder, member.index, most_open=most_open)
            self.tell_joined(member, is_back=False)
        shares = _by_route(self._of[node] for node in nodes)
        for route, members in shares:
            route.post.deliver(
                Delivery(
                    run_id=self._job.spec.run_id,
                    tokens=[m.node.token for m in members],
                    parcels=self._job.parcels,
                    frame=self._frame(members, endpoint),
                    links=len(shares),
                )
            )

    def tell_joined(self, member: Member, *, is_back: bool) -> None:
        """Tell that a node takes part."""
        hello = member.node.hello
        if hello is None:
            return
        log.write(f"{member.name} {'is back' if is_back else 'takes part'}")
        asked = self._job.spec.options.nproc_per_node
        found = hello.gpus if asked == "gpu" or (asked == "auto" and hello.gpus) else hello.cpus
        self._story.tell(
            "node_joined",
            node=member.index,
            host=hello.host,
            address=hello.address,
            place=hello.place,
            nproc=asked if isinstance(asked, int) else found,
            gpus=hello.gpus,
            pid=hello.pid,
            is_back=is_back,
        )

    def tell_of_gaps(self) -> None:
        """What a node sent and found no room here is lost; its user must not take it for never written."""
        for member in self.members:
            if member.node.mirror is not None and (why := member.node.mirror.failure):
                text = f"Logs, metrics or results of {member.name} may have gaps from here on: {why}."
                self._story.note(text, level="warning")

    def stop(self, *, by: str, grace_s: float) -> None:
        """Stop all whose share lasts; those that never heard of it are done."""
        run_id = self._job.spec.run_id
        for route, members in _by_route(self.active):
            unheard = set(route.post.take_back(run_id))
            tokens = []
            for member in members:
                if member.node.token in unheard:
                    member.done = {"state": "stopped", "text": "it had not begun"}
                else:
                    tokens.append(member.node.token)
            if tokens:
                route.post.urge({"type": "stop", "run_id": run_id, "to": tokens, "by": by, "grace_s": grace_s})

    def ask(self, nonce: str) -> None:
        """Ask all whose share lasts where their ranks stand."""
        for route, members in _by_route(self.active):
            to = [m.node.token for m in members]
            route.post.urge({"type": "stacks", "run_id": self._job.spec.run_id, "nonce": nonce, "to": to})

    def close(self) -> list[Node]:
        """The run is over; returns the nodes that were lost in it."""
        self.tell_of_gaps()
        for member in self.members:
            if member.node.mirror is not None:
                member.node.mirror.close()
                member.node.mirror = None
        return [m.node for m in self.members if m.lost]

    def _frame(self, members: Sequence[Member], endpoint: str) -> bytes:
        each = {
            m.node.token: {"node": m.index, "address": m.node.hello.address if m.node.hello else ""} for m in members
        }
        message = share.frame(self._job.spec, each, endpoint=endpoint, key=self._key, variables=self._variables)
        return wire.encode(message)


def _by_route(members: Iterable[Member]) -> list[tuple[Route, list[Member]]]:
    """Each link with those of its nodes: what is alike for them goes over it once."""
    found: dict[Route, list[Member]] = {}
    for member in members:
        found.setdefault(member.node.route, []).append(member)
    return list(found.items())
