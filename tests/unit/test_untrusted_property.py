"""Whatever JSON a rank may have written, the reducer makes a sane state of it, and every face can draw that.

A user would lose: the dashboard and the cell's error, to one wrong byte in a file that a rank wrote.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nb_elastic import events, report_text, snapshot, untrusted
from nb_elastic.dashboard import messages, plainjson, saved
from nb_elastic.events import Event
from nb_elastic.model import RunState, WorkerState
from nb_elastic.render import html
from nb_elastic.rundir import RunDir
from nb_elastic.snapshot import EMPTY, RunSnapshot

EXAMPLES = int(os.environ.get("NB_TEST_EXAMPLES", "25"))
WORDS = (
    "round rank local_rank node attempt pid start_ticks exit_code signal state has_result how result worker failure failures frames values text "
    "size_bytes error device binding cpus start_method report groups ranks notes cause headline advice kind is_odd doing category reasons root_rank "
    "level name run_id rdzv_id nproc min_nodes max_nodes max_restarts entry target is_detached host torch python world_size by why time_ns error_type "
    "message traceback followed hint line file data metadata display_id rank address place gpus is_back"
).split()
STATES = [s.value for s in (*RunState, *WorkerState)]
TEXTS = st.one_of(
    st.text(max_size=20), st.sampled_from([*STATES, "\x1b]52;c;x\x07", "<script>", "../../x", "\ud800", "\0", "\u202e"])
)
NUMBERS = st.one_of(
    st.integers(-2, 9), st.integers(), st.floats(), st.sampled_from([2**63, -(2**63), 10**30, float("nan"), float("inf")]), st.booleans(), st.none()
)  # fmt: skip
KEYS = st.one_of(st.sampled_from(WORDS), st.text(max_size=5))
VALUES = st.recursive(
    NUMBERS | TEXTS, lambda more: st.lists(more, max_size=4) | st.dictionaries(KEYS, more, max_size=6), max_leaves=12
)
MEMBERS = st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=12).map(
    lambda d: {k: v for k, v in d.items() if k not in {"time_ns", "node"}}
)
PLACES = st.fixed_dictionaries({"round": st.integers(0, 3), "rank": st.integers(0, 3), "local_rank": st.integers(0, 3)})
EVENTS = st.builds(
    lambda kind, time_ns, node, place, data: Event(kind=kind, time_ns=time_ns, node=node, data={**place, **data}),
    st.sampled_from(sorted(snapshot._REDUCERS)),
    st.one_of(st.integers(0, 10**18), st.integers()),
    st.one_of(st.integers(0, 2), st.integers()),
    PLACES | st.just({}),
    MEMBERS,
)
FOLDER = RunDir(Path("/nonexistent/run"))


def check(now: RunSnapshot) -> None:
    """All that a state promises to those who draw it."""
    raw = json.dumps(snapshot.to_json(now), allow_nan=False)
    raw.encode()
    assert all(w.local_rank >= 0 and isinstance(w.pid, int) for w in now.workers)
    assert list(now.workers) == sorted(now.workers, key=lambda w: (w.node, w.local_rank))
    assert [r.number for r in now.rounds] == sorted({r.number for r in now.rounds})
    assert len(now.notes) <= snapshot.MAX_NOTES


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(EVENTS, max_size=12))
def test_any_journal_folds_into_a_state_that_every_face_can_draw(said: list[Event]):
    now = EMPTY
    for event in said:
        now = snapshot.fold(now, event)
        if now.state.is_final:
            assert snapshot.fold(now, events.make("run_lost", text="?")).state is now.state
    check(now)
    json.dumps(messages.snapshot_json(now), allow_nan=False)
    text = "\n".join(report_text.status_lines(now, folder=FOLDER, now_ns=1))
    page = html.page(now, {}, folder=FOLDER, now_ns=1)
    assert not {"\x1b]", "\x07", "\0", "\ud800", "\u202e"} & set(text) and "<script" not in page
    text.encode(), page.encode()


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_every_reader_of_a_rank_s_words_takes_any_value(value: Any):
    (
        untrusted.worker_fields(value),
        untrusted.result_fields(value),
        untrusted.stack_report(value),
        untrusted.texts(value),
    )
    untrusted.values(value), untrusted.compact_cpus(value), untrusted.text(value).encode()
    assert abs(untrusted.integer(value)) < 1 << 63
    line = json.dumps(value).encode()
    assert events.decode(line) is None or isinstance(events.decode(line), Event)
    for row in filter(None, [plainjson.row(line)]):
        json.dumps(row, allow_nan=False).encode()
        saved.output(row)
    messages.read(value)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_an_event_or_none(line: bytes):
    assert events.decode(line) is None or isinstance(events.decode(line), Event)


def test_of_very_many_workers_and_rounds_the_newest_are_kept(monkeypatch: pytest.MonkeyPatch):
    """A hostile journal may tell of them without end."""
    monkeypatch.setattr(snapshot, "MAX_WORKERS", 500)
    monkeypatch.setattr(snapshot, "MAX_ROUNDS", 300)
    now = EMPTY
    for n in range(1_000):
        n = n * 7 % 1_000  # in any order
        now = snapshot.fold(now, events.make("worker_started", time_ns=1, round=0, rank=n, local_rank=n, pid=n))
    now = snapshot.fold(now, events.make("worker_exited", time_ns=2, round=0, rank=7, local_rank=7, exit_code=3))
    check(now)
    assert (len(now.workers), [w.exit_code for w in now.workers if w.local_rank == 7]) == (500, [3])
    for n in range(1, 1_000):
        now = snapshot.fold(now, events.make("rendezvous_started", time_ns=1, round=n, attempt=0))
        now = snapshot.fold(now, events.make("round_ended", time_ns=1, round=n, cause="membership"))
    check(now)
    assert (len(now.rounds), now.round, {r.cause for r in now.rounds}) == (301, 999, {"membership"})
