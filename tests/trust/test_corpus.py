"""Each failing program of the corpus gets its known verdict: what kind of failure, which rank first, and why.

A user would lose: the hours that go into the wrong rank's log, or into memory that was never short.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import corpus_run
from tests.support.corpus import CASES, Case
from tests.support.corpus_places import CannotHaveError

GROUPS = sorted({case.group for case in CASES})
AT_ONCE = 2
"""Programs that run side by side; each supervisor needs a core for a second or two."""


def _answer(case: Case) -> tuple[object, object, object] | None:
    """(kind, is the right rank named, has the report its word); None where the machine does not let it run."""
    try:
        told = corpus_run.ours(case)
    except CannotHaveError:
        return None
    is_right_rank = told.root in case.roots if case.roots else told.root is None
    return told.kind, is_right_rank or told.root, case.word in told.text or told.text


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_the_corpus_is_told_right(group):
    cases = [case for case in CASES if case.group == group and not case.why_not]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = dict(zip([c.name for c in cases], pool.map(_answer, cases), strict=True))
    expected = {c.name: (c.kind, True, True) for c in cases if answers[c.name] is not None}
    assert {name: answer for name, answer in answers.items() if answer is not None} == expected


def test_the_corpus_covers_every_kind():
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 45
    elsewhere = {corpus_run.FailureCategory.UNKNOWN, corpus_run.FailureCategory.LOST_NODE}  # the latter: tests/engines
    assert {case.kind for case in CASES} == {None, *corpus_run.FailureCategory} - elsewhere
