"""What is told of the failing programs of the corpus, by nb_elastic and by torch's plain ``elastic_launch``: two tables.

Runs in: a person's hands: ``python -m tests.benchmarks.failures [PART OF A NAME...]`` for the table of verdicts,
``python -m tests.benchmarks.failures order [TIMES]`` for two ranks that fail 1, 5, 20 and 50 ms apart.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from nb_elastic.model import FailureCategory
from tests.benchmarks import failures_order
from tests.support import corpus_run
from tests.support.corpus import CASES, Case
from tests.support.corpus_places import CannotHaveError
from tests.support.corpus_run import Told

AT_ONCE = 2
SHORT = {
    FailureCategory.USER_ERROR: "user", FailureCategory.HOST_MEMORY: "memory", FailureCategory.GPU_MEMORY: "gpu",
    FailureCategory.KILLED: "killed", FailureCategory.NATIVE_CRASH: "crash", FailureCategory.LOST_PEER: "peer",
    FailureCategory.RENDEZVOUS: "rendezv", FailureCategory.IMPORT: "import", FailureCategory.TIMEOUT: "timeout",
    FailureCategory.UNKNOWN: "unknown", None: "nothing",
}  # fmt: skip
RIGHT, WRONG, NONE = "right", "wrong", "none"


def answers(ask: Callable[[Case], Told], cases: Sequence[Case]) -> dict[str, Told]:
    """What one side tells of each program; what this machine can't run is left out."""

    def one(case: Case) -> Told | None:
        try:
            told = ask(case)
        except CannotHaveError:
            return None
        print(f"{ask.__name__} on {case.name}: {SHORT[told.kind]}, rank {told.root}", file=sys.stderr, flush=True)
        return told

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return {c.name: t for c, t in zip(cases, pool.map(one, cases), strict=True) if t is not None}


def rank_verdict(case: Case, told: Told) -> str:
    """Was the right rank named as the first?"""
    if told.root is None:
        return NONE if case.roots else RIGHT
    return RIGHT if told.root in case.roots else WRONG


def kind_verdict(case: Case, told: Told) -> str:
    """Was the right category told?"""
    if told.kind is case.kind:
        return RIGHT
    return NONE if told.kind in {None, FailureCategory.UNKNOWN} else WRONG


def confusion(cases: Sequence[Case], told: dict[str, Told]) -> str:
    """Expected categories, a line each, against those told."""
    kinds = list(SHORT)
    counts = Counter((c.kind, told[c.name].kind) for c in cases if c.name in told)
    lines = ["expected".ljust(24) + "".join(SHORT[k].rjust(9) for k in kinds)]
    for expected in kinds:
        if any(counts[expected, k] for k in kinds):
            cells = [str(counts[expected, k] or ".").rjust(9) for k in kinds]
            lines.append((expected.value if expected else "nothing fails").ljust(24) + "".join(cells))
    return "\n".join(lines)


def summary(cases: Sequence[Case], told: dict[str, Told]) -> str:
    """One line on each question."""
    ran = [c for c in cases if c.name in told]
    lines = []
    for what, verdict in (("first rank", rank_verdict), ("category", kind_verdict)):
        counts = Counter(verdict(c, told[c.name]) for c in ran)
        lines.append(f"{what:<11} {counts[RIGHT]:>4} right {counts[WRONG]:>4} wrong {counts[NONE]:>4} not told")
    return "\n".join(lines)


def main(names: list[str]) -> int:
    """Print the tables; 0 if we told nothing wrong and fewer than 3 not at all."""
    if names[:1] == ["order"]:
        return failures_order.main(int(names[1]) if len(names) > 1 else 50)
    cases = [c for c in CASES if not c.why_not and (not names or any(n in c.name for n in names))]
    skipped = [f"{c.name} ({c.why_not})" for c in CASES if c.why_not]
    sides = {"nb_elastic": corpus_run.ours, "elastic_launch": corpus_run.torchs}
    told = {side: answers(ask, cases) for side, ask in sides.items()}
    width = max(len(c.name) for c in cases) + 2
    print(f"{'program':<{width}}{'expected':<24}{'nb_elastic':<30}elastic_launch")
    for case in cases:
        cells = []
        for found in told.values():
            if case.name not in found:
                cells.append("-")
                continue
            one = found[case.name]
            words = f"{SHORT[one.kind]}{'' if one.root is None else f', rank {one.root}'}"
            bad = {kind_verdict(case, one), rank_verdict(case, one)}
            cells.append(words + (" (wrong)" if WRONG in bad else " (short)" if NONE in bad else ""))
        print(f"{case.name:<{width}}{case.kind.value if case.kind else 'nothing fails':<24}{cells[0]:<30}{cells[1]}")
    for side, found in told.items():
        print(f"\n{side}: category told, of {len(found)} programs\n{confusion(cases, found)}\n{summary(cases, found)}")
    print(*[f"left out: {one}" for one in skipped], sep="\n")
    found = told["nb_elastic"]
    ran = [c for c in cases if c.name in found]
    wrong = [c.name for c in ran if WRONG in {rank_verdict(c, found[c.name]), kind_verdict(c, found[c.name])}]
    unknown = [c.name for c in ran if NONE in {rank_verdict(c, found[c.name]), kind_verdict(c, found[c.name])}]
    return 1 if wrong or len(unknown) >= 3 else 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="nbe-") as home:
        os.environ["NB_ELASTIC_HOME"] = home
        sys.exit(main(sys.argv[1:]))
