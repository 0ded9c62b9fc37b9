"""Each failing program of the corpus gets its known verdict: what kind of failure, which rank first, and why.

A user would lose: the hours that go into the wrong rank's log, or into memory that was never short.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from nb_elastic.model import FailureCategory
from tests.support import corpus_run
from tests.support.corpus import CASES, Case
from tests.support.corpus_places import CannotHaveError

GROUPS = sorted({case.group for case in CASES})
AT_ONCE = 2
"""Programs that run side by side; each supervisor needs a core for a second or two."""


PLACED = [case for case in CASES if case.place]


def _answer(case: Case) -> tuple[object, object, object, object]:
    """(kind, is the right rank named, has the report its word, are there reasons where they are promised)."""
    told = corpus_run.ours(case)
    is_right_rank = told.root in case.roots if case.roots else told.root is None
    has_reasons = bool(told.reasons) or case.kind in {None, FailureCategory.USER_ERROR}
    return told.kind, is_right_rank or told.root, case.word in told.text or told.text, has_reasons


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_the_corpus_is_told_right(group):
    cases = [case for case in CASES if case.group == group and not (case.why_not or case.place)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = dict(zip([c.name for c in cases], pool.map(_answer, cases), strict=True))
    assert answers == {c.name: (c.kind, True, True, True) for c in cases}


@pytest.mark.slow
@pytest.mark.parametrize("case", PLACED, ids=lambda case: case.name)
def test_what_runs_short_of_something_is_told_right(case: Case):
    """Short of memory, of shared memory, of disk: in a place of its own."""
    if case.why_not:
        pytest.skip(case.why_not)
    try:
        answer = _answer(case)
    except CannotHaveError as e:
        pytest.skip(str(e))
    assert answer == (case.kind, True, True, True)


def test_the_corpus_covers_every_kind():
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 45
    elsewhere = {corpus_run.FailureCategory.UNKNOWN, corpus_run.FailureCategory.LOST_NODE}  # the latter: tests/engines
    assert {case.kind for case in CASES} == {None, *corpus_run.FailureCategory} - elsewhere
