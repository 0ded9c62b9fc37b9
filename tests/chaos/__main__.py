"""The chaos test: random runs, faults and stops from a printed seed, and after each the question whether all promises were kept.

Runs in: `make chaos`; ``python -m tests.chaos --minutes 10 --seed 7 --only interrupt --verbose``. ``--seed S --episode K``
plays one episode again: the same run, the same faults at the same moments; how fast the machine is, no seed can tell.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence

from nb_elastic import rundir
from tests.chaos import episode as episodes
from tests.chaos import faults, namespaces
from tests.chaos.episode import Plan, Record
from tests.chaos.oracle import Verdict, judge
from tests.chaos.world import World

BOOT_S = (0, 0, 3_600, 400 * 86_400, 40 * 365 * 86_400)
"""The clocks that count from boot may be ahead by so much: a machine that was never off, or one with an odd clock."""


def main(words: Sequence[str]) -> int:
    """Play for some minutes; 0 if no promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--episode", type=int, default=None, metavar="K", help="play this one only")
    parser.add_argument("--only", choices=sorted(faults.ACTS), default="", help="one kind of fault")
    parser.add_argument("--verbose", action="store_true", help="tell every episode's deeds")
    asked = parser.parse_args(words)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job, which all below would inherit
        signal.signal(signal.SIGINT, signal.default_int_handler)
    seed = random.SystemRandom().randrange(1_000_000) if asked.seed is None else asked.seed
    if not namespaces.is_apart():
        again = [*words, "--seed", str(seed)] if asked.seed is None else list(words)
        code = namespaces.enter("tests.chaos", again, boot_s=random.Random(seed).choice(BOOT_S))
        if code is not None:
            return code
        print("No namespaces here: sockets, shared memory and a full disk are left out.")
    return Chaos(seed, only=asked.only, is_verbose=asked.verbose).run(asked.minutes, only_number=asked.episode)


class Chaos:
    """Plays episode after episode and counts."""

    def __init__(self, seed: int, *, only: str, is_verbose: bool) -> None:
        self.seed, self.only, self.is_verbose = seed, only, is_verbose
        self.faults: Counter[str] = Counter()
        self.states: Counter[str] = Counter()
        self.broken = 0
        self.count = 0
        self.gone_s: list[float] = []

    def run(self, minutes: float, *, only_number: int | None) -> int:
        """Play until the time is up."""
        print(f"chaos, seed {self.seed}", flush=True)
        end = time.monotonic() + minutes * 60
        number = only_number if only_number is not None else 0
        with World() as world:
            if world.shim is None:
                print("No C compiler here: the clock does not jump, and the disk is never slow.")
            while only_number is not None or time.monotonic() < end:
                self._play(world, episodes.draw(self.seed, number, only=self.only))
                number += 1
                if only_number is not None:
                    break
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.faults.items())) or "none"
        states = ", ".join(f"{state} {count}" for state, count in sorted(self.states.items()))
        print(f"runs: {states}; all was gone after at most {max(self.gone_s, default=0):.1f} s (pace {world.pace:.1f})")
        print(f"{self.count} episodes; faults: {kinds}; broken promises: {self.broken}")
        return 1 if self.broken else 0

    def _play(self, world: World, plan: Plan) -> None:
        began = time.monotonic()
        world.prune()
        if plan.has_shim != world.has_shim:
            world.renew(has_shim=plan.has_shim)
        print(f"[{plan.number}] {plan}", flush=True)
        record = episodes.Episode(plan, world).play()
        verdict = judge(world, plan, record)
        self.count += 1
        self.faults.update(d.fault.kind for d in record.deeds if d.is_done and d.fault.stage != episodes.DRIVER)
        self.states[verdict.state or "no run"] += 1
        self.gone_s.append(verdict.gone_s)
        self.broken += len(verdict.broken)
        took = time.monotonic() - began
        print(f"    {verdict.state or 'no run'}, {record.error or 'no error'}; {took:.1f} s", flush=True)
        if self.is_verbose or verdict.broken:
            for deed in record.deeds:
                late = ", which was over" if deed.was_over else ""
                print(f"    {deed.at_s:7.3f} s  {deed.text}{late}")
        if verdict.broken:
            self._tell(plan, record, verdict)

    def _tell(self, plan: Plan, record: Record, verdict: Verdict) -> None:
        for one in verdict.broken:
            print(f"  BROKEN: {one}")
        only = f" --only {self.only!r}" if self.only else ""
        print(f"  again: python -m tests.chaos --seed {self.seed} --episode {plan.number}{only} --verbose")
        for line in record.more:
            print(f"  {line}")
        if folder := record.scene.folder:
            for path, lines in ((folder.journal, 12), (folder.supervisor_log, 15)):
                tail = rundir.read_whole(path).decode(errors="replace").splitlines()[-lines:]
                print(f"  {path.name}, its end:")
                for line in tail:
                    print(f"    {line[:400]}")
        print(f"  what its reader saw, the end:\n{record.text[-1500:]}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
